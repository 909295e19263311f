"""``facekeep audit``: what the log shows to people who trust nobody. Needs the role auditor or dpo."""

from __future__ import annotations

from pathlib import Path

import click

from facekeep.audit.certificate import render
from facekeep.audit.inputs import read_file, write_new
from facekeep.cli import output
from facekeep.cli.opened import now_ms, open_vault
from facekeep.cli.options import State, common, with_state
from facekeep.cli.progress import Progress
from facekeep.cli.times import moment_ms, span_ms, written
from facekeep.errors import ConsentError, FormatError, UsageError
from facekeep.formats import note, opening
from facekeep.formats.canonical import JsonObject
from facekeep.formats.entryrules import FIELDS, Reason
from facekeep.formats.ids import TAG_LEN, from_hex
from facekeep.formats.terms import Scope, scopes_of
from facekeep.vault import Filter, Opening, Said

_SHOWN = 50  # entries, unless another limit is asked for
_WORDS = ("op", "what", "reason", "scope", "region", "result")
_NUMBERS = (
    "of", "epoch", "slot", "count", "rows", "merged", "generation", "size", "left", "principal",
)  # fmt: skip


@click.group("audit", short_help="Keys, checkpoints, exports and proofs for auditors.")
@common
def command() -> None:
    """Keys, checkpoints, exports and proofs for auditors.

    They are checked with 'facekeep-audit', on any machine, without this vault. Publish keys and checkpoints;
    an export holds pseudonyms, and is for auditors.
    """


@command.command("key", short_help="Print the log's verifier keys.")
@click.option("--all", "every", is_flag=True, help="Those of every generation, the oldest first.")
@common
@with_state
def key_command(state: State, every: bool) -> None:
    """Print the log's verifier keys, one a line: Ed25519 and ML-DSA-44 (C2SP vkey).

    The fingerprint of each goes to standard error: read it to the auditor, who has the same from
    'facekeep-audit fingerprint'.
    """
    with open_vault(state) as vault, Progress("reading the log") as progress:
        found = vault.audit_keys(every=every, progress=progress)
    if state.json:
        told = {"fingerprints": [key.fingerprint() for key in found]}
        output.json_line({"keys": [key.encode() for key in found], **told})
        return
    for key in found:
        output.line(key.encode())
        output.say(f"fingerprint, {key.type.label}: {key.fingerprint()}")


@command.command("checkpoint", short_help="Sign the log as it stands.")
@click.option("-o", "--output", "target", metavar="FILE", help="Write it to a new file.")
@click.option("--since", metavar="FILE", help="Prove that it continues this earlier checkpoint.")
@common
@with_state
def checkpoint_command(state: State, target: str | None, since: str | None) -> None:
    """Sign the log as it stands: a C2SP checkpoint, to be published.

    With --since the file is a consistency proof: what a C2SP witness is sent.
    """
    old = None if since is None else read_file(Path(since), note.MAX_BYTES)
    with open_vault(state) as vault, Progress("reading the log") as progress:
        made = vault.audit_checkpoint(progress) if old is None else vault.audit_consistency(old, progress)
    if target is not None:
        write_new(Path(target), made)
    if state.json:
        output.json_line({"file": target, "note": made.decode()})
    elif target is None:
        for each in made.decode().split("\n")[:-1]:
            output.line(each)
    else:
        output.data("written", target)


@command.command("export", short_help="Write the log as static tiles, or what is new.")
@click.argument("directory", metavar="DIR")
@common
@with_state
def export_command(state: State, directory: str) -> None:
    """Write the log as static C2SP tiles, or what is new since the last time.

    No file there is replaced but the checkpoint: the directory can be served, archived or synchronised.
    """
    with open_vault(state) as vault, Progress("exporting") as progress:
        made = vault.audit_export(directory, progress)
    if state.json:
        told = {"before": made.before, "files": made.files, "root": made.checkpoint.root.hex()}
        output.json_line({"size": made.checkpoint.size, **told})
        return
    count = output.counted(made.checkpoint.size, "entry", "entries")
    output.line(f"{count}, {made.before} of them exported before; {output.counted(made.files, 'new file')}")


@command.command("proof", short_help="Make a shredding proof.")
@click.argument("erased", metavar="SUBJECT_OR_ERASURE")
@click.option("-o", "--output", "target", required=True, metavar="FILE", help="A new file.")
@click.option("--certificate", metavar="HTML", help="Write a certificate for people as well.")
@click.option("--organization", metavar="TEXT", help="Who answers for the erasure.")
@click.option("--role", metavar="TEXT", help="Responsible role, such as: data protection officer.")
@click.option("--media", metavar="TEXT", help="The root key's medium, in more words.")
@click.option("--exported", metavar="TEXT", help="What you know of copies outside: none, or which.")
@click.option(
    "--scope", "scopes", multiple=True, type=click.Choice([scope.word for scope in Scope]),
    help="Of a withdrawal: prove it of this scope alone; repeat it.",
)  # fmt: skip
@common
@with_state
def proof_command(
    state: State,
    erased: str,
    target: str,
    certificate: str | None,
    organization: str | None,
    role: str | None,
    media: str | None,
    exported: str | None,
    scopes: tuple[str, ...],
) -> None:
    """Make a shredding proof (SPEC §12), or with --scope one of a withdrawal.

    SUBJECT_OR_ERASURE is the log entry that 'shred' printed, the subject tag, or the file of the person's
    receipt: the id alone leads nowhere once the person is erased. The texts are your statement, and signed.
    """
    for name in (target, certificate):
        if name is not None and (Path(name).exists() or Path(name).is_symlink()):
            raise UsageError(f"{Path(name).name} already exists", next="choose another name")
    found = _named(erased)
    said = Said(organization=organization, role=role, media=media, exported=exported)
    with open_vault(state) as vault, Progress("reading the log") as progress:
        made = vault.audit_proof(found, said, progress, scopes=scopes_of(scopes))
    write_new(Path(target), made.data)
    if certificate is not None:
        write_new(Path(certificate), render(made.proven).encode())
    if state.json:
        told = made.proven.to_json()
        output.json_line({"bytes": len(made.data), "file": target, "proven": told})
        return
    grants = output.counted(len(made.proven.grants), "grant")
    output.line(f"{grants} destroyed by log entry {made.proven.erasure}; {len(made.data)} bytes, {target}")
    output.say("it names others' pseudonyms where people were enrolled together; give it to whom it concerns")


def _named(erased: str) -> str | Opening:
    """Return the opening out of a receipt's file; anything else as it is."""
    path = Path(erased)
    try:
        is_file = path.is_file()
    except (OSError, ValueError):
        is_file = False
    return opening.Opening.parse(read_file(path, opening.MAX_BYTES)) if is_file else erased


@command.command("show", short_help="List log entries.")
@click.option("--type", "types", multiple=True, type=click.Choice(sorted(FIELDS)), help="Repeat it.")
@click.option(
    "--op", "ops", multiple=True, metavar="WORD", help="Such as verify, enroll or shred; repeat it."
)
@click.option("--reason", "reasons", multiple=True, type=click.Choice([str(each) for each in Reason]))
@click.option("--since", metavar="TIME", help="2027-05-01, or 30d for the last thirty days.")
@click.option("--until", metavar="TIME", help="Before that time.")
@click.option("--receipt", metavar="FILE", help="Only what names this person's tag.")
@click.option("--tag", metavar="HEX", help="Only what names this subject tag.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=None, help=f"The last so many; {_SHOWN} by default."
)
@click.option("--all", "every", is_flag=True, help="Without a limit, from the first on.")
@common
@with_state
def show_command(
    state: State,
    types: tuple[str, ...],
    ops: tuple[str, ...],
    reasons: tuple[str, ...],
    since: str | None,
    until: str | None,
    receipt: str | None,
    tag: str | None,
    limit: int | None,
    every: bool,
) -> None:
    """List log entries: index, time, type, by whom, and what it says.

    With --json one object a line, which has the entry as it is and its index.
    """
    if tag is not None and receipt is not None:
        raise UsageError("name a tag or a receipt, not both")
    wanted = Filter(
        types=frozenset(types),
        ops=frozenset(ops),
        reasons=frozenset(reasons),
        since_ms=_moment(since),
        until_ms=_moment(until),
        tag=_tag(tag, receipt),
    )
    with open_vault(state) as vault, Progress("reading the log") as progress:
        last = None if every else limit or _SHOWN
        for index, entry in vault.audit_log(wanted, limit=last, progress=progress):
            progress.clear()
            if state.json:
                output.json_line({"entry": entry, "index": index})
            else:
                _tell(index, entry)


def _moment(text: str | None) -> int | None:
    """Read a date, or a span counted back from now."""
    if text is None:
        return None
    try:
        return now_ms() - span_ms(text)
    except UsageError:
        try:
            return moment_ms(text, now_ms(), "that")
        except ConsentError as error:
            raise UsageError(str(error), next=error.next) from None


def _tag(tag: str | None, receipt: str | None) -> bytes | None:
    if receipt is not None:
        return opening.parse_tag(read_file(Path(receipt), opening.MAX_BYTES))
    try:
        return None if tag is None else from_hex(tag, TAG_LEN, "a subject tag")
    except FormatError as error:
        raise UsageError(str(error)) from None


def _tell(index: int, entry: JsonObject) -> None:
    output.data(
        index, written(int(str(entry["time_ms"]))), entry["type"], entry["by"] or "-", ", ".join(_said(entry))
    )


def _said(entry: JsonObject) -> list[str]:
    """Return the entry's own words, shortened."""
    found = [str(entry[key]) for key in _WORDS if entry.get(key)]
    if isinstance(entry.get("part"), int) and entry["parts"] != 1:
        found.append(f"part {entry['part']} of {entry['parts']}")
    grants, slots, tags = entry.get("grants"), entry.get("slots"), entry.get("tags")
    if isinstance(grants, list):
        found.append(output.counted(len(grants), "grant"))
    if isinstance(slots, list):
        count = sum(int(str(span[1])) for span in slots if isinstance(span, list))
        found.append(output.counted(count, "slot"))
    if isinstance(tags, list) and tags:
        found.append(output.counted(len(tags), "subject"))
    found += [f"{key} {entry[key]}" for key in _NUMBERS if entry.get(key) is not None]
    if isinstance(entry.get("tag"), str):
        found.append(f"tag {str(entry['tag'])[:8]}")
    return found
