"""What the log shows to the outside: keys, checkpoints, consistency proofs, exports, a listing.

Every function needs the action LOG (auditor, DPO). Nothing here changes the vault.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from facekeep.access.core import LOG_KEY_SLOT, Core
from facekeep.access.roles import Action
from facekeep.access.session import Session
from facekeep.arguments import callers, checks_arguments, time_ms
from facekeep.auditlog import export as exporting
from facekeep.auditlog.checkpoints import Checkpoints
from facekeep.auditlog.export import Exported
from facekeep.auditlog.signed import LogSigner
from facekeep.auditlog.tree import LogTree, Snapshot
from facekeep.errors import IntegrityError, UsageError
from facekeep.formats import entries
from facekeep.formats.canonical import JsonObject
from facekeep.formats.ids import slot_id
from facekeep.formats.note import Note, VerifierKey
from facekeep.store import logdb

Progress = Callable[[int, int], None]
SIGNING_KEY_SLOT = slot_id(0, 2)
_STRETCH = 4_096  # entries between two looks


@contextlib.contextmanager
def signing(core: Core) -> Iterator[Checkpoints]:
    """Give the log's tree and its signing keys, on a handle of its own."""
    view = core.view()
    with contextlib.closing(logdb.open_log(core.path / "log.db", core.vault_id)) as database:
        tree = LogTree(database, core.slot_key(view, LOG_KEY_SLOT), core.vault_id, core.log.head)
        yield Checkpoints(tree, core.slot_key(view, SIGNING_KEY_SLOT), core.vault_id)


def signer(core: Core, checkpoints: Checkpoints, snapshot: Snapshot) -> LogSigner:
    """Return the private keys in force, to sign what is no checkpoint."""
    generation = len(checkpoints.all_keys(snapshot)) // 2
    found = LogSigner(core.slot_key(core.view(), SIGNING_KEY_SLOT), core.vault_id, generation)
    if found.keys != checkpoints.keys(snapshot):
        raise IntegrityError("the log names other signing keys than the key tree gives")
    return found


def keys(
    core: Core, session: Session, *, every: bool = False, progress: Progress | None = None
) -> tuple[VerifierKey, ...]:
    """Return the verifier keys in force (Ed25519, ML-DSA-44), or those of all generations, oldest first."""
    session.require(Action.LOG)
    with signing(core) as checkpoints:
        snapshot = checkpoints.snapshot(progress)
        return checkpoints.all_keys(snapshot) if every else checkpoints.keys(snapshot)


def checkpoint(core: Core, session: Session, progress: Progress | None = None) -> bytes:
    """Sign the log as it stands."""
    session.require(Action.LOG)
    with signing(core) as checkpoints:
        return checkpoints.make(checkpoints.snapshot(progress), core.clock.now_ms())


def consistency(core: Core, session: Session, old: bytes, progress: Progress | None = None) -> bytes:
    """Prove that the log continues an earlier checkpoint of it; raises IntegrityError if it does not."""
    session.require(Action.LOG)
    with callers("give an earlier checkpoint of this log, as it was made"):
        Note.parse(old)
    with signing(core) as checkpoints:
        snapshot = checkpoints.snapshot(progress)
        before = checkpoints.check_own(snapshot, old)
        note = checkpoints.make(snapshot, core.clock.now_ms())
        return checkpoints.consistency(snapshot, before.size, note).encode()


def export(core: Core, session: Session, directory: Path, progress: Progress | None = None) -> Exported:
    """Write the log as static tiles, or what is new since the last time."""
    session.require(Action.LOG)
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"{directory.name} is no directory", next="name a new or empty one, or an export")
    with signing(core) as checkpoints:
        checkpoints.snapshot(progress)
        return exporting.export(directory, checkpoints, time_ms=core.clock.now_ms(), progress=progress)


@checks_arguments
@dataclass(frozen=True, slots=True)
class Filter:
    """Which entries to show; None: any. From ``since`` on and before ``until``, each a time or in ms.

    A time is a datetime with a time zone, or a timedelta back from now.
    ``tag``, 32 bytes: what names that subject tag, or a slot that was ever granted to it.
    """

    types: frozenset[str] = frozenset()
    ops: frozenset[str] = frozenset()
    reasons: frozenset[str] = frozenset()
    since_ms: int | None = None
    until_ms: int | None = None
    tag: bytes | None = None
    since: datetime | timedelta | None = None
    until: datetime | timedelta | None = None

    def settled(self, now_ms: int) -> Filter:
        """Return it with times in ms; raises UsageError."""
        since, until = self.since, self.until
        since, until = (-each if isinstance(each, timedelta) else each for each in (since, until))
        return replace(
            self,
            since_ms=time_ms("since", since, self.since_ms, now_ms),
            until_ms=time_ms("until", until, self.until_ms, now_ms),
            since=None,
            until=None,
        )

    def passes(self, body: bytes) -> JsonObject | None:
        """Return the parsed entry if it passes all but ``tag``, which takes the entries before it."""
        entry = entries.parse(body)
        time_ms = int(str(entry["time_ms"]))
        wanted = (
            (not self.types or entry["type"] in self.types)
            and (not self.ops or entry.get("op") in self.ops)
            and (not self.reasons or entry.get("reason") in self.reasons)
            and (self.since_ms is None or time_ms >= self.since_ms)
            and (self.until_ms is None or time_ms < self.until_ms)
        )
        return entry if wanted else None


def show(
    core: Core,
    session: Session,
    wanted: Filter,
    *,
    limit: int | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[int, JsonObject]]:
    """Yield (index, entry) of what passes a settled filter, authenticated; with a limit, the last so many."""
    session.require(Action.LOG)
    size = core.log.head().size
    with signing(core) as checkpoints:
        tree = checkpoints.tree
        about = None if wanted.tag is None else _About.of(core, wanted.tag)
        if limit is None:
            yield from _passing(tree, wanted, about, range(size), progress)
            return
        found: list[tuple[int, JsonObject]] = []
        stop = size
        while stop and len(found) < limit:  # from the end, in stretches
            start = max(0, stop - _STRETCH)
            found = [*_passing(tree, wanted, about, range(start, stop), None), *found]
            stop = start
            if progress is not None:
                progress(size - stop, size)
        yield from found[max(0, len(found) - limit) :]


@dataclass(frozen=True, slots=True)
class _About:
    """What concerns one subject tag: itself, its slots, and the operations that name either."""

    tag: str
    slots: frozenset[int]
    operations: frozenset[int]  # by first entry
    needles: tuple[bytes, ...]

    @staticmethod
    def of(core: Core, tag: bytes) -> _About:
        """Look through the control entries."""
        told, slots, operations = tag.hex(), set[int](), set[int]()
        for index, body in core.log.control_bodies(0):
            if b'"type":"grant"' not in body and b'"type":"destroy"' not in body:
                continue
            entry: Any = entries.parse(body)
            mine = {each["slot"] for each in entry.get("grants", ()) if each["tag"] == told}
            slots |= mine
            if mine or told in entry.get("tags", ()) or _within(slots, entry.get("slots", ())):
                operations.add(index - entry["part"] + 1)
        needles = (told.encode(), b'"of":', b'"type":"destroy"', *(str(each).encode() for each in slots))
        return _About(told, frozenset(slots), frozenset(operations), needles)

    def concerns(self, body: bytes) -> bool:
        """Whether an entry names the tag, one of its slots, or completes an operation that does."""
        if not any(needle in body for needle in self.needles):
            return False
        entry: Any = entries.parse(body)
        named = {entry.get("slot"), *(entry.get("candidates") or ())} & self.slots
        spans = [*(entry.get("slots") or ()), *(entry.get("omitted") or ())]
        return bool(
            self.tag.encode() in body
            or entry.get("of") in self.operations
            or named
            or _within(self.slots, spans)
        )


def _within(slots: Collection[int], spans: Iterable[Sequence[int]]) -> bool:
    return any(first <= slot < first + count for first, count in spans for slot in slots)


def _passing(
    tree: LogTree, wanted: Filter, about: _About | None, indices: range, progress: Progress | None
) -> Iterator[tuple[int, JsonObject]]:
    bodies = tree.bodies(indices.start, indices.stop)
    for index, body in zip(indices, bodies, strict=True):
        if progress is not None and index % _STRETCH == 0:
            progress(index, indices.stop)
        if about is not None and not about.concerns(body):
            continue
        entry = wanted.passes(body)
        if entry is not None:
            yield index, entry
