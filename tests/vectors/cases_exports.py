"""Exports: tiles, consistency with an older checkpoint, watching (SPEC §10.7, §11.1, §11.2, §12.5)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from cases_log import enrolled
from cases_rotations import SECOND_KEYS, turned
from making import BOTH, ED25519, Vectors, bodies, signed_log, signed_text
from run import unpacked

from audit_help import ALICE, SIGNER, VAULT, Book, founded, item, v
from facekeep.auditlog.merkle import leaf_hash
from facekeep.auditlog.signed import LogSigner
from facekeep.formats.checkpoint import Checkpoint
from facekeep.formats.tiles import encode_bundle
from restart_help import Restarted, begun

LONG = 258  # entries: a full tile of level 0, one of level 1 with one hash, a partial tile of two
STRANGER = LogSigner(b"x" * 32, VAULT)
OTHER_LOG = LogSigner(b"k" * 32, b"w" * 16)


def long() -> Book:
    """A log that is published again and again, which takes the shortest entries."""
    book = founded()
    while len(book.entries) < LONG:
        book.published()
    return book


def flipped(data: bytes, at: int) -> bytes:
    """Change one bit."""
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


class Exports:
    """Exports that the cases share, and single files in place of theirs."""

    def __init__(self, to: Vectors) -> None:
        self.to = to
        self.long, self.book = to.tree("export/long", long()), long()
        self.files = json.loads((to.directory / self.long).read_bytes())
        self.small = to.tree("export/small", enrolled(), both=False)
        self.turned = to.tree("export/turned", turned(SIGNER, SECOND_KEYS), SECOND_KEYS)
        self.anew = to.tree("export/anew", anew(begun()))
        self.pinned = to.tree("export/pinned", anew(begun(pin=(5, b"p" * 32))))
        self.later = "log-2.txt"
        self.foreign = signed_text(Checkpoint(OTHER_LOG.origin, 5, bytes(32)).encode(), OTHER_LOG)

    def other(self, name: str, path: str, data: bytes | None) -> str:
        """Another file in place of one of an export, or none."""
        return self.to.pack(f"export/{name}", {path: data})

    def note(
        self, made: Book, size: int | None = None, signer: LogSigner = SIGNER, *, both: bool = False
    ) -> bytes:
        """A checkpoint of the first entries of a log under the Ed25519 key, or under both."""
        return signed_log(bodies(made)[:size], signer, both=both)


def anew(first: Any) -> Restarted:  # noqa: ANN401
    """A log that was begun anew."""
    book = Restarted()
    book.epoch = 3
    book.add(first)
    book.adopt_people()
    book.grant("adopt", item(v(3), ALICE))
    book.end()
    return book


def tiles(to: Vectors, made: Exports) -> None:
    files = {path: unpacked(data) for path, data in made.files.items()}
    full, part, one = (files[f"tile/{name}"] for name in ("0/000", "0/001.p/2", "1/000.p/1"))
    rest, note = files["tile/entries/001.p/2"], files["checkpoint"]
    length = 2 + int.from_bytes(rest[:2], "big")
    to.add(
        "export",
        "long",
        f"an export of {LONG} entries",
        "L1",
        "L2",
        "L3",
        "L4",
        keys=BOTH,
        export=[made.long],
    )
    to.add("export", "small", "an export without a full tile", "L1", "L2", "L3", export=[made.small])
    older = made.other("older", "checkpoint", made.note(made.book, 200))
    more = "an older checkpoint: the first hashes and entries of the full tile"
    to.add("export", "older_checkpoint", more, "L1", "L2", "L3", export=[made.long, older])
    for name, path, data, step, why in (
        (
            "ml_dsa_44_cut",
            "checkpoint",
            note[: note.rindex("— ".encode())],
            "L1",
            "the ML-DSA-44 line is missing",
        ),
        (
            "signature",
            "checkpoint",
            flipped(note, note.index(b" ", 80) + 20),
            "L1",
            "a signature was altered",
        ),
        ("level_1", "tile/1/000.p/1", flipped(one, 3), "L2", "a byte of level 1 was altered"),
        (
            "level_0_partial",
            "tile/0/001.p/2",
            flipped(part, 40),
            "L2",
            "a byte of the last leaf hash was altered",
        ),
        ("level_1_longer", "tile/1/000.p/1", one + bytes(32), "L2", "a tile with a hash more than its width"),
        ("level_1_gone", "tile/1/000.p/1", None, "L2", "a tile is missing"),
        ("level_0_full", "tile/0/000", flipped(full, 33), "L3", "a byte of a leaf hash was altered"),
        ("last_entry", "tile/entries/001.p/2", flipped(rest, 60), "L3", "a byte of an entry was altered"),
        ("swapped", "tile/entries/001.p/2", rest[length:] + rest[:length], "L3", "two entries are swapped"),
        ("cut", "tile/entries/001.p/2", rest[:-1], "L3", "a bundle ends inside an entry"),
        ("fewer", "tile/entries/001.p/2", rest[:length], "L3", "a bundle with an entry less than its width"),
        ("bundle_gone", "tile/entries/000", None, "L3", "a bundle is missing"),
    ):
        export = [made.long, made.other(f"{name}_fail", path, data)]
        to.add("export", f"{name}_fail", why, step, export=export, **{"keys": BOTH} if step == "L1" else {})
    entry = made.book.bodies()[255].replace(b'"size":255', b'"size":254')
    other = [*made.book.bodies()[:255], entry]
    both = {"tile/entries/000": encode_bundle(other), "tile/0/000": b"".join(map(leaf_hash, other))}
    export = [made.long, to.pack("export/entry_and_tile_fail", both)]
    why = "an entry was altered together with its leaf hash, and level 1 was not"
    to.add("export", "entry_and_tile_fail", why, "L3", export=export)


def continued(to: Vectors, made: Exports) -> None:
    def add(name: str, old: bytes, export: str, why: str, *steps: str, **more: Any) -> None:  # noqa: ANN401
        file = to.once(f"consistency/{name}.older", old)
        over = [more.pop("over")] if "over" in more else []
        to.add("consistency", name, why, *steps, old=file, export=[export, *over], **more)

    every = ("C1", "C2", "C3", "C4", "C5")
    small, turn = enrolled(), founded()
    add("export", made.note(made.book, 200), made.long, "an export continues 200 entries", *every)
    add("export_same", made.note(small), made.small, "an export continues its own size", *every)
    old, new = made.note(turn, both=True), made.note(turn, None, SECOND_KEYS, both=True)
    for name, keys, why in (("first", BOTH, "the first keys"), ("later", made.later, "the later keys")):
        add(
            f"export_turned_{name}",
            old,
            made.turned,
            f"over a rotation of the keys: {why} are given",
            *every,
            keys=keys,
        )
    foreign = made.note(small, 5, STRANGER)
    add("export_older_key_fail", foreign, made.small, "another key signed the older checkpoint", "C1")
    add("export_older_none_fail", b"none\n", made.small, "the older checkpoint is none", "C1")
    stranger = made.other("stranger_fail", "checkpoint", made.note(small, None, STRANGER))
    add(
        "export_newer_key_fail",
        made.note(small, 5),
        made.small,
        "another key signed the newer checkpoint",
        "C2",
        over=stranger,
    )
    both = to.keys("log-and-other.txt", [SIGNER.keys[0], OTHER_LOG.keys[0]])
    add(
        "export_other_log_fail",
        made.foreign,
        made.small,
        "the newer checkpoint is of another log",
        "C2",
        keys=both,
        origin=OTHER_LOG.origin,
    )
    add("export_smaller_fail", longer(made), made.small, "the export is of fewer entries", "C3")
    add("export_fork_fail", forked(made), made.small, "the log was cut off and went on otherwise", "C4")
    tile = "export/level_0_full_fail.json"
    add(
        "export_tile_fail",
        made.note(made.book, 200),
        made.long,
        "a leaf hash was altered",
        "C4",
        over=tile,
    )
    entry = "export/last_entry_fail.json"
    add("export_entry_fail", made.note(made.book, 200), made.long, "an entry was altered", "C5", over=entry)
    level = "export/level_1_fail.json"
    add(
        "export_level_1_fail",
        made.note(made.book, 200),
        made.long,
        "a byte of level 1 was altered",
        "C5",
        over=level,
    )
    two = to.keys("log-and-stranger.txt", [SIGNER.keys[0], STRANGER.keys[0]])
    why = "two keys are given and each signed one, but no entry replaces one by the other"
    add("export_unsaid_keys_fail", made.note(small, 5), made.small, why, "C5", over=stranger, keys=two)
    away = made.other("old_keys_fail", "checkpoint", signed_log(turned(SIGNER, SECOND_KEYS), both=True))
    add(
        "export_old_keys_fail",
        old,
        made.turned,
        "the newer is under keys that were rotated away",
        "C5",
        over=away,
        keys=BOTH,
    )
    add(
        "export_early_keys_fail",
        new,
        made.turned,
        "the older is under keys that were not in force yet",
        "C5",
        keys=made.later,
    )


def longer(made: Exports) -> bytes:
    """A checkpoint of the small log when it had one entry more."""
    book = enrolled()
    book.published()
    return made.note(book)


def forked(made: Exports) -> bytes:
    """A checkpoint of a log that begins as the small one."""
    book = founded()
    book.published()
    return made.note(book)


def watched(to: Vectors, made: Exports) -> None:
    def add(name: str, state: bytes | None, export: str, why: str, *steps: str, **more: Any) -> None:  # noqa: ANN401
        given = {} if state is None else {"state": to.once(f"watch/{name}.state", state)}
        over = [more.pop("over")] if "over" in more else []
        to.add("watch", name, why, *steps, export=[export, *over], **given, **more)

    every = ("W1", "W2", "W3", "W4", "W5", "W6")
    small, turn = enrolled(), founded()
    old, new = made.note(turn, both=True), made.note(turn, None, SECOND_KEYS, both=True)
    add("first", None, made.small, "a first look", "W2", "W3", "W6")
    add("second", made.note(made.book, 200), made.long, "200 entries were seen", *every)
    add("same", made.note(small), made.small, "nothing is new", *every)
    add("turned", old, made.turned, "the keys were rotated meanwhile", *every, keys=made.later)
    anew = {"restarted": True, "keys": BOTH}
    begun_anew = ("W1", "W2", "W3", "W5", "W6")
    add("restarted", old, made.anew, "the log was begun anew, and that is accepted", *begun_anew, **anew)
    add("state_key_fail", made.note(small, 5, STRANGER), made.small, "another key signed what was seen", "W1")
    add("state_none_fail", b"", made.small, "the state is empty, which is no first look", "W1")
    stranger = made.other("stranger_fail", "checkpoint", made.note(small, None, STRANGER))
    add("key_fail", old, made.small, "another key signed the checkpoint", "W2", over=stranger)
    add("first_key_fail", None, made.small, "at the first look another key signed it", "W2", over=stranger)
    add(
        "other_log_fail",
        made.foreign,
        made.small,
        "another log was seen",
        "W2",
        keys="log-and-other.txt",
        origin=OTHER_LOG.origin,
    )
    level = "export/level_1_fail.json"
    add(
        "tile_fail",
        made.note(made.book, 200),
        made.long,
        "a byte of level 1 was altered",
        "W3",
        over=level,
    )
    why = "two keys are given and each signed one, but no entry replaces one by the other"
    unsaid = {"over": stranger, "keys": "log-and-stranger.txt"}
    add("unsaid_keys_fail", made.note(small, 5), made.small, why, "W6", **unsaid)
    add("smaller_fail", longer(made), made.small, "the log is smaller than it was", "W4")
    add("fork_fail", forked(made), made.small, "the log was cut off and went on otherwise", "W5")
    add("anew_fail", old, made.anew, "the log was begun anew, and nobody accepted that", "W5", keys=BOTH)
    add(
        "not_anew_fail",
        forked(made),
        made.small,
        "the log is said to be begun anew, and is not",
        "W5",
        restarted=True,
    )
    add(
        "anew_fork_fail",
        old,
        made.pinned,
        "the restart names another log of the size that was seen",
        "W5",
        **anew,
    )
    away = made.other("old_keys_fail", "checkpoint", signed_log(turned(SIGNER, SECOND_KEYS), both=True))
    add(
        "old_keys_fail",
        old,
        made.turned,
        "it is under keys that were rotated away",
        "W6",
        over=away,
        keys=BOTH,
    )
    add(
        "early_keys_fail",
        new,
        made.turned,
        "what was seen is under keys that were not in force",
        "W6",
        keys=made.later,
    )


PAGES: tuple[Callable[[Vectors, Exports], None], ...] = (tiles, continued, watched)


def everything(to: Vectors) -> None:
    """Add all cases of this page."""
    to.given = {"keys": ED25519}
    made = Exports(to)
    for page in PAGES:
        page(to, made)
