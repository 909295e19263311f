"""A certificate for people, made from a verified shredding proof: one HTML page that needs nothing else.

It says no more than the proof does, and lists what is not proved as plainly as what is.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from html import escape
from typing import Final

from facekeep.audit.proven import Proven
from facekeep.audit.report import Verdict
from facekeep.formats.canonical import JsonObject

_OPS: Final = {
    "shred": "erased",
    "withdraw": "consent withdrawn",
    "renew": "replaced by new terms",
    "reseal": "replaced by a new sealing",
    "expire": "consent expired",
    "void": "never completed, voided",
}
_ACTIONS: Final = {
    "promoted": "the new root key put in force",
    "destroyed": "the old root key destroyed",
    "lost": "given up as lost: nothing was destroyed by it",
}
_LIMITS: Final = {
    "copied_file": "whoever copied the root key's file before keeps that root key",
    "filesystem_snapshot": "a snapshot or backup of the file system may keep the old blocks",
    "flash_remanence": "flash storage may keep overwritten blocks until it collects them",
    "tpm_firmware": "the TPM's maker, or who can change its firmware, may read keys and set counters",
    "tpm_state_copy": "a copy of the state of a virtual TPM keeps its keys and its counter",
    "token_clone": "a cloned hardware token keeps the old key",
    "server_snapshot": "a snapshot of a key server keeps the old key",
    "exportable_key": "the key server let the old key be exported or backed up in clear",
    "outer_layer": "a layer around another holder: destroys nothing by itself",
    "holder_lost": "what became of the old root key with a holder that was given up is not known",
    "offline_key": "whoever holds the private recovery key and an old copy of the vault's files "
    "can open what was erased since that copy",
}
_NOWHERE: Final = "ZZ"  # SPEC §5.3
_STYLE: Final = """
:root { color-scheme: light; }
body { font: 15px/1.5 Georgia, "Times New Roman", serif; color: #1a1a1a; background: #fff;
  max-width: 46rem; margin: 2.5rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.9rem; font-weight: normal; margin: 0; letter-spacing: .01em; }
h2 { font-size: 1.05rem; margin: 1.8rem 0 .4rem; border-bottom: 1px solid #999; padding-bottom: .15rem; }
p { margin: .5rem 0; }
.lead { font-size: 1.1rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .22rem .6rem .22rem 0; }
.facts th { font-weight: normal; color: #555; width: 13rem; }
.list th { border-bottom: 1px solid #999; font-weight: bold; }
.list td { border-bottom: 1px solid #ddd; }
code { font: .82rem/1.4 ui-monospace, "DejaVu Sans Mono", Menlo, monospace; overflow-wrap: anywhere; }
ul { margin: .3rem 0; padding-left: 1.2rem; }
.not { border: 1.5px solid #1a1a1a; padding: .2rem 1rem .6rem; margin-top: 1.8rem; }
.not h2 { border: 0; margin-top: .6rem; }
.sign { display: flex; gap: 2rem; margin-top: 3rem; }
.sign div { flex: 1; border-top: 1px solid #1a1a1a; padding-top: .2rem; font-size: .8rem; color: #555; }
footer { margin-top: 2rem; font-size: .8rem; color: #555; }
@media (max-width: 40rem) { .facts th { width: 7rem; } .list { display: block; overflow-x: auto; } }
@media print { body { margin: 0; max-width: none; font-size: 10.5pt; }
  h2, tr, .not, .sign { break-inside: avoid; } h2 { break-after: avoid; } @page { margin: 18mm; } }
"""


def render(proven: Proven) -> str:
    """Return the page; ``proven`` is what ``audit.bundle.verify`` returned."""
    return "".join(
        (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; ',
            "style-src 'unsafe-inline'\">",
            f"<title>{_title(proven)}, log entry {proven.erasure}</title>",
            f"<style>{_STYLE}</style></head><body>\n",
            *_sections(proven),
            "</body></html>\n",
        )
    )


def _sections(proven: Proven) -> Iterable[str]:
    yield f"<h1>{_title(proven)}</h1>\n"
    yield _lead(proven)
    yield _section("What was erased", _table(_erased(proven)))
    yield _section("Sanitization statement of the operator", _table(_sanitization(proven)))
    yield _section("The grants and their ends", _grants(proven))
    yield _section("The root key", _table(_root(proven)) + _receipts(proven))
    yield _section("Copies, as the operator states", _table(_copies(proven)))
    yield _not_proved(proven)
    yield _section("How this was verified", _verified(proven))
    yield (
        '<div class="sign"><div>name and position</div><div>place and date</div><div>signature</div></div>\n'
    )
    yield (
        f"<footer>Made from the shredding proof of {_time(proven.made_ms)} "
        "after every step above was verified. The proof, not this page, is the evidence.</footer>\n"
    )


def _title(proven: Proven) -> str:
    return "Certificate of withdrawal" if proven.scopes else "Certificate of erasure"


def _lead(proven: Proven) -> str:
    whose = "of one person" if proven.subject is None else f"of <strong>{escape(proven.subject)}</strong>"
    count = len(proven.grants)
    number = {1: "the only key", 2: "both keys"}.get(count, f"all {count} keys")
    known = "" if proven.complete else " named in the proof"
    if proven.scopes:
        known += f" that consent to {escape(' and '.join(proven.scopes))} had given"
    return (
        f'<p class="lead">The log of this vault records that by {_time(proven.completed_ms)} {number}{known} '
        f"to the face templates {whose} had been destroyed, and the root key above them replaced.</p>\n"
    )


def _erased(proven: Proven) -> Iterable[tuple[str, str]]:
    if proven.subject is not None:
        yield "person", escape(proven.subject)
    yield "subject tag (a pseudonym)", _code(proven.tag.hex())
    yield "vault", _code(proven.vault.hex())
    if proven.scopes:
        yield "consent withdrawn for", escape(", ".join(proven.scopes))
    yield "erasure", f"log entry {proven.erasure}: {escape(_OPS.get(proven.op, proven.op))}"
    yield "begun", _time(proven.requested_ms)
    yield "completed", f"{_time(proven.completed_ms)}, log entry {proven.completion}"


#: What is the same in every certificate (SPEC §12.1).
_FIXED: Final = {
    "standard": "NIST SP 800-88r2",
    "method": "Cryptographic Erase",
    "target": "every sealed template and record of the grants below, in vault.db and in every copy and "
    "backup of it",
    "cipher": "AES-256-GCM, one 256-bit key for each grant",
    "verification": "the new key tree was read back on fresh connections and every destroyed slot found dead "
    "before the old root key was destroyed",
}


def _sanitization(proven: Proven) -> Iterable[tuple[str, str]]:
    said = proven.statement
    yield from _FIXED.items()
    yield "media", escape(said.media)
    yield "tool", escape(f"facekeep {said.version}")
    yield "organization", escape(said.organization)
    yield "responsible role", escape(said.role)


def _grants(proven: Proven) -> str:
    rows = "".join(
        "<tr>"
        + "".join(
            f"<td>{cell}</td>"
            for cell in (
                escape(grant.scope),
                escape(grant.model),
                _day(grant.granted_ms),
                f"{_day(grant.not_before_ms)} to {_day(grant.expires_at_ms)}, "
                + escape(
                    ", ".join("no region stated" if each == _NOWHERE else each for each in grant.regions)
                ),
                f"{_day(grant.ended_ms)}: {escape(_OPS.get(grant.ended_op, grant.ended_op))}",
                str(grant.slot),
            )
        )
        + "</tr>\n"
        for grant in proven.grants
    )
    head = "".join(f"<th>{word}</th>" for word in ("scope", "model", "granted", "valid", "destroyed", "slot"))
    return f'<table class="list"><tr>{head}</tr>\n{rows}</table>\n'


def _root(proven: Proven) -> Iterable[tuple[str, str]]:
    yield "before", f"epoch {proven.before.epoch}, {_code(proven.before.fingerprint.hex())}"
    yield "after", f"epoch {proven.after.epoch}, {_code(proven.after.fingerprint.hex())}"


def _receipts(proven: Proven) -> str:
    lines = "".join(f"<li>{escape(_receipt(each))}</li>" for each in proven.receipts)
    words: list[str] = []
    for each in proven.receipts:
        limits = each["limits"]
        words += [str(word) for word in limits] if isinstance(limits, list) else []
    limits = "".join(f"<li>{escape(_LIMITS.get(word, word))}</li>" for word in dict.fromkeys(words))
    said = f"<p>Their limits, in the holders' own words:</p><ul>{limits}</ul>\n" if limits else ""
    return f"<p>Receipts of the root key's holders:</p><ul>{lines}</ul>\n{said}"


def _receipt(receipt: JsonObject) -> str:
    action = str(receipt["action"])
    return f"{receipt['scheme']} ({receipt['class']}): {_ACTIONS.get(action, action)}"


def _copies(proven: Proven) -> Iterable[tuple[str, str]]:
    said = proven.statement
    yield "live second copies", str(said.live)
    yield "mirrors of the root key", str(said.mirrors)
    yield "recovery keys", str(said.recovery_keys)
    yield "backups the log knows", str(said.backups)
    yield "exported copies", escape(said.exported)


def _not_proved(proven: Proven) -> str:
    lines = "".join(f"<li>{escape(str(text))}</li>" for text in proven.not_proved().values())
    return f'<div class="not"><h2>What is not proved</h2><ul>{lines}</ul></div>\n'


def _verified(proven: Proven) -> str:
    rows = "".join(
        f"<tr><td>{escape(step.id)}</td><td>{escape(step.text)}</td><td>{_verdict(step.verdict)}</td></tr>\n"
        for step in proven.report.steps
    )
    seen = proven.checkpoint
    facts: list[tuple[str, str]] = [
        ("log", _code(seen.origin)),
        ("checkpoint", f"{seen.size} entries, root {_code(seen.root.hex())}"),
    ]
    if proven.signed_at_s is not None:
        facts.append(("signed by the log", _time(proven.signed_at_s * 1000)))
    facts += [(f"{key.type.label} key, fingerprint", _code(key.fingerprint())) for key in proven.keys]
    command = "facekeep-audit verify-proof FILE --key VKEY"
    return (
        f'<table class="list"><tr><th>step</th><th>what holds</th><th>verdict</th></tr>\n{rows}</table>\n'
        f"{_table(facts)}<p>Anybody can repeat it, offline: {_code(command)}</p>\n"
    )


def _verdict(verdict: Verdict) -> str:
    return escape(verdict.value)


def _section(title: str, body: str) -> str:
    return f"<h2>{escape(title)}</h2>\n{body}"


def _table(rows: Iterable[tuple[str, str]]) -> str:
    """Two columns; the second is HTML already."""
    lines = "".join(f"<tr><th>{escape(name)}</th><td>{value}</td></tr>\n" for name, value in rows)
    return f'<table class="facts">{lines}</table>\n'


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"


def _day(time_ms: int) -> str:
    return _time(time_ms)[:10]


def _time(time_ms: int) -> str:
    try:
        return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return f"{time_ms} ms"
