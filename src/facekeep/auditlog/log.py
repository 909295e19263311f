"""The audit log of one open vault: append, decide, read, verify (SPEC §6, §7).

Thread-safe; several processes may share one log.db. Any doubt about the file (rolled back, replaced,
removed, an I/O error while appending) stops the log: every later call raises until it is opened again.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import cast

from facekeep.auditlog import restarting
from facekeep.auditlog.brake import Asked, Brake
from facekeep.auditlog.copies import Copies, CopyState
from facekeep.auditlog.group import ControlMoved, ControlRequest, DecisionRequest, Group
from facekeep.auditlog.head import Head, Open
from facekeep.auditlog.keyed import Kind, LogKey
from facekeep.auditlog.mending import mend_copy
from facekeep.auditlog.merkle import leaf_hash
from facekeep.auditlog.pages import Pages
from facekeep.auditlog.pending import Pending, Ranges
from facekeep.auditlog.reader import Mark, Reader
from facekeep.auditlog.replay import Pin, Progress, Replay
from facekeep.auditlog.rules import NO_CONTROL, State
from facekeep.auditlog.strays import refuse_rolled_back
from facekeep.auditlog.watch import Seen, Watch, leads
from facekeep.auditlog.writer import Writer
from facekeep.clock import Clock
from facekeep.errors import IntegrityError, UsageError
from facekeep.formats import entries
from facekeep.formats.canonical import JsonObject
from facekeep.formats.grantparts import Part
from facekeep.formats.matching import Matching
from facekeep.store import logdb
from facekeep.store.sqlite import Database, translated

__all__ = ["AuditLog", "ControlMoved", "CopyState", "Pending"]


class AuditLog:
    """log.db under its key; see the module."""

    def __init__(
        self, database: Database, copies: Sequence[Path], key: bytes, vault_id: bytes, clock: Clock
    ) -> None:
        """Take over an open log.db and authenticate its head; raises IntegrityError.

        Call ``check_pin`` and ``resync_copies`` next: only they notice what happened while it was closed.
        """
        self._database = database
        self._vault_id = vault_id
        self._key = LogKey(key, vault_id)
        self._watch = Watch(database, self._key)
        self._own = logdb.open_log(database.path, vault_id)
        database.check_identity()
        connection = self._own.shared()
        self._copies = Copies(database, connection, vault_id, self._key, copies)
        self._writer = Writer(
            connection,
            database.name,
            self._own.check_schema,
            self._key,
            clock,
            self._watch,
            self._copies,
        )
        self._group = Group(self._writer.commit)
        self._reader = Reader(database, self._key, self.head)
        self._writer.bodies = self._reader.bodies
        self.pages = Pages(database, self._key)
        self._pin: Pin | None = None
        self._pending: tuple[int, Pending] | None = None
        self._spans: dict[Open, list[tuple[int, int]]] = {}
        self._sought: dict[Open, tuple[bytes, bytes]] = {}
        self._pending_guard = threading.Lock()
        with self._snapshot():
            self._watch.writable()

    @classmethod
    def create(
        cls,
        database: Database,
        copies: Sequence[Path],
        key: bytes,
        vault_id: bytes,
        clock: Clock,
        *,
        genesis: JsonObject,
    ) -> AuditLog:
        """Write entry 0 (genesis, or restart) into an empty log.db, make the copies, open it."""
        log_key = LogKey(key, vault_id)
        body = entries.encode(genesis)
        leaf = leaf_hash(body)
        with database.transaction() as connection:
            if logdb.last_index(connection) >= 0 or logdb.read_head(connection) is not None:
                raise IntegrityError("log.db is not empty: a log is begun only once")
            state = State(Head.empty(log_key.start))
            chain, control = log_key.chain(0, log_key.start, leaf), log_key.control(0, NO_CONTROL, leaf)
            state.add(genesis, leaf, chain, control)
            logdb.insert_rows(connection, [log_key.row(0, 1, body, leaf, state.chain)])
            logdb.write_head(connection, log_key.seal_head(state.head()))
        log = cls(database, copies, key, vault_id, clock)
        log.resync_copies()
        return log

    def is_under(self, key: bytes) -> bool:
        """Whether ``key`` (32 bytes) is the one that this log is authenticated with."""
        return self._key.is_key(key)

    def head(self) -> Head:
        """Return the present head, read afresh; a few microseconds while nothing moved."""
        return self._seen().head

    def guard(self, check: Callable[[], None]) -> None:
        """Have ``check`` called before an allowing decision is appended: if it raises, evaluate again."""
        self._writer.guard = check

    def limit(self, matching: Matching) -> None:
        """Hold decisions that have ``asked`` to these limits."""
        self._writer.brake = Brake(matching)

    def refuses(self, by: str, about: str, time_ms: int) -> bool:
        """Whether the brake holds by what was read so far; the append decides."""
        return self._writer.brake.refuses(by, about, time_ms)

    def _seen(self) -> Seen:
        self._watch.alive()
        with translated(self._database.name):
            return self._watch.head(self._database.connection())

    def append(self, items: Sequence[JsonObject], control_seq: int | None = None) -> list[int]:
        """Append entries in one durable transaction, in order; return their indices.

        With ``control_seq`` they are what was found out in that state: ControlMoved where it is not the
        head's any more, whoever has which lock. Raises FormatError, ClockError or IntegrityError (a broken
        rule) with nothing written; StoreError when it is unknown whether they were, and the log has stopped.
        """
        return self.append_parts([Part(entry, entries.encode(entry)) for entry in items], control_seq)

    def append_parts(self, parts: Sequence[Part], control_seq: int | None = None) -> list[int]:
        """``append`` of entries that are encoded already, by ``formats.grantparts``."""
        if not parts:
            return []
        self._watch.alive()  # in a forked child a lock may be held for ever
        first = self._group.submit(ControlRequest(parts, control_seq))
        return list(range(first, first + len(parts)))

    def decide(
        self,
        decision: JsonObject | bytes,
        *,
        control_seq: int,
        valid_until_ms: int,
        allow: bool,
        asked: Asked | None = None,
    ) -> int:
        """Append one decision made by ``formats.decisions``, durably; return its index. Shares commits.

        ``asked`` is what the brake counts of it, None for a denial and for whom no limits bind.

        Raises ControlMoved if ``control_seq`` is no longer the head's, the clock has reached
        ``valid_until_ms``, the guard objects, or the brake holds: evaluate again. ClockError for an allowing
        decision before the log's time.
        """
        body = decision if isinstance(decision, bytes) else entries.decision_body(decision)
        time_ms = entries.decision_time_ms(body)
        if entries.decision_allow(body) is not allow:
            raise UsageError("a decision's bytes and its caller do not agree on allow")
        self._watch.alive()  # in a forked child a lock may be held for ever
        return self._group.submit(DecisionRequest(body, time_ms, allow, control_seq, valid_until_ms, asked))

    def pending(self, head: Head | None = None) -> Pending:
        """Slots of open operations, now or at a ``head``; rebuilt only when a control entry was appended."""
        head = head or self.head()
        known = self._pending
        if known is not None and known[0] == head.control_seq:
            return known[1]
        with self._pending_guard:
            spans = self._spans_of(head.operations)
            self._spans = spans
            pending = Pending(
                Ranges(
                    each
                    for operation, found in spans.items()
                    if operation.type != "destroy"
                    for each in found
                ),
                Ranges(
                    each
                    for operation, found in spans.items()
                    if operation.type == "destroy"
                    for each in found
                ),
                {each.first: found for each, found in self._sought.items() if each in spans},
            )
            self._pending = (head.control_seq, pending)
            return pending

    def _spans_of(self, operations: Sequence[Open]) -> dict[Open, list[tuple[int, int]]]:
        """(first, count) of each operation's slots, from the control entries as the head commits to them."""
        spans = {each: self._spans[each] for each in operations if each in self._spans}
        fresh = [each for each in operations if each not in spans]
        if not fresh:
            return spans
        found: dict[Open, list[tuple[int, int]]] = {each: [] for each in fresh}
        places = {at: each for each in fresh for at in range(each.first, each.first + each.parts)}
        for index, body in self._reader.control_bodies(fresh[0].first):
            operation = places.get(index)
            if operation is None:
                continue
            if operation.type == "destroy":
                entry = entries.parse(body)
                ranges = cast("list[list[int]]", entry["slots"])
                found[operation].extend((first, count) for first, count in ranges)
                if "sought" in entry:
                    named = str(entry["nonce"]), str(entry["sought"])
                    self._sought[operation] = bytes.fromhex(named[0]), bytes.fromhex(named[1])
            else:
                found[operation].extend((slot, 1) for slot in entries.slots_in(body))
        return spans | found

    def entry(self, idx: int) -> JsonObject:
        """Return entry ``idx``, authenticated; IntegrityError."""
        return self._reader.entry(idx)

    def entry_of_slot(self, slot: int) -> tuple[int, JsonObject] | None:
        """Return (index, entry) of the grant or principal that opened a slot, authenticated, or None."""
        return self._reader.entry_of_slot(slot)

    def verified(self, wanted: Collection[int]) -> dict[int, JsonObject]:
        """Those of the entries that are no decisions, by index: they lead to the head, or IntegrityError.

        ``entry`` is authenticated by its neighbour in the file alone, and may be of a history rolled back.
        """
        found = self._reader.control_since(min(wanted, default=0)) if wanted else ()
        return {index: entry for index, entry in found if index in wanted}

    def entries(self, start: int, stop: int) -> Iterator[tuple[int, JsonObject]]:
        """Yield (index, entry) of a stretch, authenticated; IntegrityError at the first wrong one."""
        return self._reader.entries(start, stop)

    def control_since(self, idx: int = 0) -> Iterator[tuple[int, JsonObject]]:
        """Yield (index, entry) of what is no decision; see ``Reader.control_since``."""
        return self._reader.control_since(idx)

    def control_bodies(self, idx: int = 0) -> Iterator[tuple[int, bytes]]:
        """Yield (index, canonical bytes) of what is no decision; see ``Reader.control_since``."""
        return self._reader.control_bodies(idx)

    def control_after(self, idx: int, mark: Mark) -> Iterator[tuple[int, bytes, bytes]]:
        """Yield (index, canonical bytes, control chain); see ``Reader.control_after``."""
        return self._reader.control_after(idx, mark)

    @property
    def manifests(self) -> Kind:
        """What seals and opens the manifests of backups, under the log key (SPEC §8.2)."""
        return self._key.manifests

    def check_pin(self, size: int, root: bytes, chain: bytes) -> None:
        """Check that the log passed through a pin: its size and chain now, its root in ``verify``.

        Raises IntegrityError, and the log stops: it was rolled back behind the last swap, or forked.
        """
        if size and self._restarted_at(size, root):
            size = 0  # nothing of the lost log is here to be compared
        with self._snapshot() as (connection, head):
            passed = not size or leads(connection, self._key, size, chain, head)
        if not passed:
            error = IntegrityError(
                f"log.db does not contain the log of {size} entries that the key tree pins",
                next="put the newest copy of log.db back and run 'facekeep check'",
            )
            self._watch.stop(error)
            raise error
        self._pin = (size, root, chain) if size else None

    def _restarted_at(self, size: int, root: bytes) -> bool:
        """Whether this log was begun anew in the place of one that had come to this pin (SPEC §6.6)."""
        first = self._reader.entry(0)
        return first["type"] == restarting.TYPE and restarting.named(first, "pin") == (size, root)

    def go_on_from(self, other: AuditLog) -> None:
        """Know what another handle of this log saw; raise IntegrityError where it does not lead on."""
        before = other.head()
        with self._snapshot() as (connection, head):
            if leads(connection, self._key, before.size, before.chain, head):
                return
        error = IntegrityError(
            f"log.db was put back while it was opened again: it had {before.size} entries",
            next="stop every process; put the newest copy of log.db back and run 'facekeep check'",
        )
        self._watch.stop(error)
        raise error

    def verify(self, progress: Progress | None = None) -> Head:
        """Replay every entry; return the head, or raise IntegrityError naming the first bad index.

        ``progress`` is called with (entries done, entries in all). Reads one snapshot; appends go on.
        """
        with self._snapshot() as (connection, head):
            verdict = " ".join(str(connection.execute("PRAGMA quick_check(1)").fetchone()[0]).split())
            if verdict != "ok":
                raise IntegrityError(f"log.db is damaged: {verdict}")
            replay = Replay(connection, self._key, self._pin)
            replay.run(head, progress)
            replay.finish()
            return head

    def check_identity(self) -> None:
        """Raise what the log stopped at, or IntegrityError if log.db was removed or replaced."""
        self._watch.alive()

    @contextlib.contextmanager
    def again(self) -> Iterator[Callable[[bytes, Clock], AuditLog]]:
        """Open log.db anew, as ``Database.again``; give what makes a log of it under a key."""
        with self._database.again() as database:
            yield lambda key, clock: AuditLog(database, (), key, self._vault_id, clock)

    def strays(self) -> int:
        """Count the rows at indices of no entry, which are nobody's; a scrub deletes them."""
        with self._snapshot() as (connection, head):
            return logdb.count_outside(connection, head.size)

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[tuple[sqlite3.Connection, Head]]:
        """Give one unchanging state of log.db, which no entry follows."""
        self._watch.alive()
        with translated(self._database.name):
            connection = self._database.connection()
            connection.execute("BEGIN")
            try:
                head = self._watch.head(connection).head
                refuse_rolled_back(connection, self._key, head)
                yield connection, head
            finally:
                connection.execute("COMMIT")

    def copies_state(self) -> tuple[CopyState, ...]:
        """How each second copy stands to the log."""
        with self._writer.exclusive, translated(self._database.name):
            return self._copies.states()

    def resync_copies(self, *, create: bool = True) -> tuple[CopyState, ...]:
        """Append to each copy what it lacks; make a missing one if its directory is there.

        Raises IntegrityError naming a copy that is ahead or of another history: the log may have been
        rolled back, and the error says how to restore it from the copy.
        """
        self.head()
        with self._writer.exclusive, translated(self._database.name):
            return self._copies.resync(create=create)

    def mend_copy(self, path: Path) -> int:
        """Put damaged rows of a copy right from this log, which is whole; returns how many."""
        size = self.head().size
        with (
            self._writer.exclusive,
            translated(str(path)),
            contextlib.closing(logdb.open_log(path, self._vault_id)) as copy,
        ):
            return mend_copy(copy.connection(), self._own.shared(), self._key, size)

    @contextlib.contextmanager
    def other_copies(self, paths: Sequence[Path]) -> Iterator[Copies]:
        """Give copies at paths that are not among the log's own; nothing is appended meanwhile."""
        self.head()
        with self._writer.exclusive, translated(self._database.name):
            copies = Copies(self._database, self._own.shared(), self._vault_id, self._key, paths)
            try:
                yield copies
            finally:
                copies.close()

    def close(self) -> None:
        """Close log.db and its copies; in a forked child they are left alone."""
        if self._database.is_inherited:
            return
        with self._writer.exclusive:
            self._copies.close()
            self._own.close()
        self._database.close()
