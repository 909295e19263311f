"""Shredding proofs (SPEC §12.1 to §12.4), over the logs of tests/proof_help.py."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable
from typing import Any

from making import Vectors, signed_log

from auditlog_help import BY, FINGERPRINT, NOW, decision
from facekeep.auditlog.rotation import signing_entry
from facekeep.formats import canonical, entries
from facekeep.formats.canonical import JsonObject
from facekeep.formats.note import Note, Signature
from proof_help import (
    IDENTIFY_SLOT,
    KEYS,
    OPENING,
    OTHER,
    OTHER_SLOT,
    VERIFY_SLOT,
    Log,
    destroy,
    destroyed,
    forge,
    grant,
    granted,
    item,
    story,
)
from restart_help import begun
from tree_help import OTHER_VAULT, signer

EVERY = tuple(f"P{number}" for number in range(1, 12))
ED25519, BOTH, LATER = "proof-ed25519.txt", "proof.txt", "proof-2.txt"
made = functools.partial(forge, both=False)
again = functools.partial(destroyed, epoch=3, previous=b"g" * 32, fingerprint=b"h" * 32)


def withdrawal(*slots: int) -> JsonObject:
    """A withdrawal of slots."""
    return destroy(*slots, op="withdraw", tags=())


def altered(change: Callable[[dict[str, Any]], object], data: bytes | None = None) -> bytes:
    """A bundle with a change that keeps it canonical JSON; it is not signed again."""
    value: dict[str, Any] = json.loads(data or made(story()))
    change(value)
    return canonical.dumps(value)


def accepted(to: Vectors) -> None:
    log = story()
    two = [*log[:3], withdrawal(VERIFY_SLOT), destroyed(3), destroy(IDENTIFY_SLOT), again(5)]
    ends = [*log[:3], withdrawal(IDENTIFY_SLOT), destroyed(3)]
    every = [*log[:3], withdrawal(VERIFY_SLOT, IDENTIFY_SLOT), destroyed(3)]
    to.case("proof", "erased", forge(log), "an erasure of two grants", *EVERY, keys=BOTH)
    for name, data, why in (
        ("one_key", made(log), "one key is given, and the other signature not looked at"),
        ("twice", made(two, (0, 1, 3, 4, 5, 6), erasure=5), "a withdrawal, then an erasure of what was left"),
        ("withdrawn_whole", made(every), "the withdrawal of every scope is an erasure"),
        ("withdrawn", made(ends, scopes=("identify",)), "one scope was withdrawn, and the other lives on"),
        ("restarted", made(restarted()), "the log was begun anew"),
    ):
        to.case("proof", name, data, why, *EVERY)


def restarted() -> Log:
    """The story in a log that was begun anew: its roots go on from epoch 3."""
    first = begun(signer=signer())
    previous = bytes.fromhex(str(first["fingerprint"]))
    return [first, *story()[1:4], destroyed(3, epoch=4, previous=previous)]


CHANGES: tuple[tuple[str, str, str, Callable[[dict[str, Any]], object]], ...] = (
    ("version", "P1", "another version", lambda value: value.update(v=2)),
    ("more", "P1", "a key that is none", lambda value: value.update(more=1)),
    (
        "not_proved",
        "P1",
        "what is not proved is not all there",
        lambda value: value["not_proved"].remove("kept_keys"),
    ),
    (
        "entry_form",
        "P1",
        "an entry of no form",
        lambda value: value["entries"][1]["entry"].update(op="steal"),
    ),
    (
        "size",
        "P2",
        "the checkpoint names another size",
        lambda value: value.update(checkpoint=value["checkpoint"].replace("\n5\n", "\n6\n")),
    ),
    ("vault", "P2", "another vault's id", lambda value: value.update(vault=OTHER_VAULT.hex())),
    ("beyond", "P3", "an entry beyond the tree", lambda value: value["entries"][3].update(index=99)),
    ("hash_missing", "P3", "a hash of a proof is missing", lambda value: value["entries"][1]["proof"].pop()),
    ("entry", "P3", "an entry was altered", lambda value: value["entries"][3]["entry"].update(epoch=9)),
    ("erasure", "P5", "the erasure is no destruction", lambda value: value.update(erasure=1)),
    ("tag", "P5", "another subject tag", lambda value: value.update(tag=OTHER.hex())),
    (
        "statement",
        "P11",
        "the operator's statement was altered",
        lambda value: value["statement"]["copies"].update(backups=7),
    ),
    (
        "signature",
        "P11",
        "the Ed25519 signature is another",
        lambda value: value["signatures"].__setitem__(0, "A" * 86 + "=="),
    ),
)


def forms(to: Vectors) -> None:
    for name, step, why, change in CHANGES:
        to.case("proof", f"{name}_fail", altered(change), why, step)
    good = made(story())
    to.case("proof", "space_fail", good.replace(b",", b", ", 1), "a space: not canonical", "P1")
    to.case("proof", "scopes_fail", made(story(), scopes=("verify", "identify")), "scopes out of order", "P1")
    to.case("proof", "key_fail", good, "keys of another generation are given", "P2", keys=LATER)
    spoilt = altered(lambda value: value["signatures"].__setitem__(1, "A" * 3224 + "AAA="), forge(story()))
    to.case(
        "proof",
        "ml_dsa_44_signature_fail",
        spoilt,
        "the ML-DSA-44 signature is another",
        "P11",
        keys=BOTH,
        lenient=["go-verifier"],
    )
    one = forge(story(), both=False)
    to.case(
        "proof",
        "ml_dsa_44_stripped_fail",
        one,
        "both keys are given, one signed the checkpoint",
        "P2",
        keys=BOTH,
    )


def facts(to: Vectors) -> None:
    log = story()
    foreign, unsigned = log[0] | {"vault": OTHER_VAULT.hex()}, restarted()
    unsigned[0] = unsigned[0] | {"epoch": 2}
    bad = item(VERIFY_SLOT, terms=b"z" * 88)
    uncompleted = [*log[:3], withdrawal(VERIFY_SLOT), destroy(IDENTIFY_SLOT), destroyed(4)]
    lived = [*log[:3], withdrawal(VERIFY_SLOT), destroyed(3), destroy(IDENTIFY_SLOT), again(5)]
    others = [
        *log[:3],
        withdrawal(VERIFY_SLOT, IDENTIFY_SLOT),
        destroyed(3),
        withdrawal(OTHER_SLOT),
        again(5),
    ]
    parts = [withdrawal(VERIFY_SLOT) | {"parts": 2}, destroy(IDENTIFY_SLOT) | {"part": 2, "parts": 2}]
    mixed = [*log[:3], *parts, destroyed(3)]
    early = [*log[:3], destroyed(4), log[3]]
    poor = [*log[:3], withdrawal(VERIFY_SLOT), destroyed(3, receipts=()), destroy(IDENTIFY_SLOT), again(5)]
    for name, step, data, why in (
        ("ops", "P5", made(mixed, (0, 1, 3, 4, 5)), "the parts of the erasure are of two ops"),
        ("early", "P6", made(early, (0, 1, 3, 4), erasure=4), "the completion stands before the erasure"),
        ("slot_receipt", "P9", made(poor, (0, 1, 3, 4, 5, 6), erasure=5), "there is no receipt for one slot"),
        ("no_genesis", "P4", made(log, (1, 3, 4)), "the genesis entry is not there"),
        ("other_genesis", "P4", made([foreign, *log[1:]]), "the genesis entry is another vault's"),
        ("restart_altered", "P4", made(unsigned), "the restart was altered after it was signed"),
        (
            "other_erasure",
            "P5",
            made(with_(3, destroy(VERIFY_SLOT, IDENTIFY_SLOT, tags=(OTHER,)))),
            "the erasure is somebody else's",
        ),
        ("scopes_of_erasure", "P5", made(log, scopes=("identify",)), "an erasure, shown as a withdrawal"),
        ("not_completed", "P6", made(log, (0, 1, 3)), "the erasure was announced only"),
        ("no_receipt", "P6", made(with_(4, destroyed(3, receipts=()))), "there is no receipt"),
        (
            "root_unknown",
            "P7",
            made(with_(4, destroyed(3, previous=b"?" * 32))),
            "nothing shows the root before",
        ),
        ("root_same", "P7", made(with_(4, destroyed(3, fingerprint=FINGERPRINT))), "the root is the same"),
        ("no_grant", "P8", made(log, (0, 3, 4)), "there is no grant of the subject"),
        (
            "granted_after",
            "P8",
            made([*log, grant(item(VERIFY_SLOT + 7))], (0, 1, 3, 4, 5)),
            "a grant after the erasure",
        ),
        ("terms", "P8", made(with_(1, grant(bad, item(IDENTIFY_SLOT)))), "terms that are none"),
        (
            "slot_twice",
            "P8",
            made([log[0], grant(item(VERIFY_SLOT)), *[grant(item(VERIFY_SLOT))], *log[3:]], range(5)),
            "a slot is granted twice",
        ),
        ("slot_left", "P9", made(with_(3, destroy(VERIFY_SLOT))), "one slot was not destroyed"),
        (
            "slot_uncompleted",
            "P9",
            made(uncompleted, (0, 1, 3, 4, 5), erasure=4),
            "the destruction of one slot was announced only",
        ),
        (
            "scope_lived",
            "P9",
            made(lived, (0, 1, 3, 4, 5, 6), scopes=("identify", "verify")),
            "one scope lived on after the withdrawal",
        ),
        ("dated_back", "P9", made(lived, (0, 1, 3, 4, 5, 6)), "one slot was destroyed after the erasure"),
        (
            "others_erasure",
            "P9",
            made(others, (0, 1, 3, 4, 5, 6), erasure=5),
            "the erasure names none of the slots",
        ),
        ("padding", "P10", made(log, range(5)), "an entry that nothing needs"),
    ):
        to.case("proof", f"{name}_fail", data, why, step)


def with_(at: int, entry: JsonObject) -> Log:
    """The story with another entry."""
    log = story()
    log[at] = entry
    return log


def openings(to: Vectors) -> None:
    good = OPENING.to_json()
    for name, changed, why in (
        ("opened", {}, "the opening leads to the tag"),
        ("subject_fail", {"subject": "eve"}, "the opening is another person's"),
        ("salt_fail", {"salt": "00" * 32}, "the opening has another salt"),
    ):
        opening = to.put(f"proof/{name}.opening", json.dumps({**good, **changed}).encode())
        to.case("proof", name, made(story()), why, "P12", opening=opening)


# --- P13 -------------------------------------------------------------------------------------------


def exported(to: Vectors) -> None:
    log = story()
    bundle = made(log)

    def tree(name: str, *more: JsonObject, begin: Iterable[JsonObject] = log) -> str:
        return to.tree(
            f"proof/{name}", [entries.encode(each) for each in (*begin, *more)], signer(), both=False
        )

    second = [grant(item(VERIFY_SLOT + 5)), granted(5)]
    for name, export, why in (
        ("exported", tree("log-same"), "an export of the same size"),
        ("exported_more", tree("log-more", decision(reason="scope")), "the log went on"),
    ):
        to.case("proof", name, bundle, why, "P13", export=[export])
    other = tree("log-other", *log[1:], begin=[log[0] | {"nonce": "f" * 32}])
    left = [*log[:3], *second, destroy(VERIFY_SLOT, IDENTIFY_SLOT, VERIFY_SLOT + 5), destroyed(5)]
    short = made(left, (0, 1, 5, 6), erasure=5)
    for name, export, data, why in (
        ("other_history", other, bundle, "the export is another history"),
        (
            "granted_again",
            tree("log-again", *second),
            bundle,
            "the export has a grant of the tag after the erasure",
        ),
        (
            "grant_left_out",
            tree("log-left", begin=left),
            short,
            "the export has a grant that the bundle lacks",
        ),
        (
            "used",
            tree("log-used", decision(slot=VERIFY_SLOT)),
            bundle,
            "a decision after the erasure has one of the slots",
        ),
    ):
        to.case("proof", f"{name}_fail", data, why, "P13", export=[export])
    turned(to)


def turned(to: Vectors) -> None:
    """The log's keys were rotated after the proof was made."""
    log = story()
    turn = [*log, entries.rotation("signing", "scheduled", by=BY, time_ms=NOW)]
    turn.append(signing_entry(signer(), signer(2), by=BY, time_ms=NOW))
    bodies = [entries.encode(each) for each in turn]
    given = {"export": [to.tree("proof/log-turned", bodies, signer(2))]}
    bundle = forge(log)
    to.case(
        "proof",
        "turned",
        bundle,
        "the keys were rotated since; the later ones are given",
        "P2",
        "P13",
        keys=LATER,
        **given,
    )
    to.case(
        "proof",
        "turned_first_keys",
        bundle,
        "the keys were rotated since; the first are given",
        "P2",
        "P13",
        keys=BOTH,
        **given,
    )
    spoilt = altered(lambda value: value.update(checkpoint=swapped(value["checkpoint"])), bundle)
    to.case(
        "proof",
        "turned_signature_fail",
        spoilt,
        "another signature under the keys that the export names",
        "P2",
        keys=LATER,
        **given,
    )
    old = to.pack("proof/log-old-keys", {"checkpoint": signed_log(bodies, signer(), both=True)})
    why = "the export is under keys that were rotated away"
    to.case("proof", "old_keys_fail", bundle, why, "P13", keys=BOTH, export=[*given["export"], old])


def swapped(note: str) -> str:
    """Put another Ed25519 signature into a checkpoint's first line."""
    found = Note.parse(note.encode())
    first = found.signatures[0]
    forged = Signature(first.name, first.key_id, bytes(64))
    return Note(found.text, (forged, *found.signatures[1:])).encode().decode()


def everything(to: Vectors) -> None:
    """Add all cases of this page."""
    to.keys(BOTH, KEYS)
    to.keys(LATER, signer(2).keys)
    to.given = {"keys": to.keys(ED25519, KEYS[:1])}
    for page in (accepted, forms, facts, openings, exported):
        page(to)
