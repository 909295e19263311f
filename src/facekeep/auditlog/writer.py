"""Appending: one batch of requests, one durable transaction (SPEC §6.3, §7).

One connection serves every leader, so its page cache stays warm whichever thread leads.
"""

from __future__ import annotations

import itertools
import sqlite3
import threading
from collections.abc import Callable, Sequence
from typing import cast

from facekeep.auditlog.brake import Bodies, Brake
from facekeep.auditlog.copies import Batch, Copies
from facekeep.auditlog.group import ControlMoved, ControlRequest, DecisionRequest, Request
from facekeep.auditlog.keyed import LogKey
from facekeep.auditlog.merkle import leaf_hash
from facekeep.auditlog.rules import State, clock_exempt, too_early
from facekeep.auditlog.strays import delete_strays
from facekeep.auditlog.voids import check_voids
from facekeep.auditlog.watch import Seen, Watch
from facekeep.clock import Clock
from facekeep.errors import Busy, ClockError, FacekeepError, IntegrityError, StoreError
from facekeep.formats import entries
from facekeep.formats.canonical import JsonObject
from facekeep.formats.matching import Matching
from facekeep.store import logdb
from facekeep.store.logdb import Row
from facekeep.store.sqlite import translated


class Writer:
    """Makes batches durable. ``commit`` is called by one thread at a time (``group``)."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        name: str,
        check_schema: Callable[[sqlite3.Connection], None],
        key: LogKey,
        clock: Clock,
        watch: Watch,
        copies: Copies,
    ) -> None:
        """Write through ``connection``, which nobody else uses."""
        self._connection = connection
        self._name = name
        self._check_schema = check_schema
        self._key = key
        self._clock = clock
        self._watch = watch
        self._copies = copies
        self.exclusive = threading.Lock()  # held while the connection is in use
        self.guard: Callable[[], None] = _no_objection
        self.brake = Brake(Matching())
        self.bodies: Bodies | None = None  # authenticated entries, for the brake

    def commit(self, batch: Sequence[Request], waiting: Callable[[], None]) -> None:
        """Append what may be appended; sets each request's ``first`` or ``error`` once it is durable.

        ``waiting`` is called right before it waits for the disk.

        A failure other than a lock timeout stops the log: whether the batch is on disk is then unknown.
        """
        with self.exclusive:
            self._watch.writable()
            self._begin()
            try:
                self._append(batch, waiting)
            except BaseException as error:
                self._abort(error)
                raise

    def _begin(self) -> None:
        try:
            with translated(self._name):
                self._connection.execute("BEGIN IMMEDIATE")
                self._check_schema(self._connection)
        except StoreError as error:
            if getattr(error.__cause__, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
                raise Busy("another process kept log.db locked; it was not written to") from error
            self._watch.stop(error)
            raise
        except FacekeepError as error:
            self._abort(error)
            raise

    def _abort(self, error: BaseException) -> None:
        self.brake.forget()
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error as failure:
            self._watch.stop(StoreError(f"{self._name}: {failure}"))
        if isinstance(error, FacekeepError):
            self._watch.stop(error)
        elif isinstance(error, Exception):
            self._watch.stop(StoreError(f"the log could not be written ({type(error).__name__})"))

    def _append(self, batch: Sequence[Request], waiting: Callable[[], None]) -> None:
        with translated(self._name):
            before = self._watch.head(self._connection).head
            if logdb.last_index(self._connection) >= before.size:
                delete_strays(self._connection, self._key, before)
            decisions = [each for each in batch if isinstance(each, DecisionRequest)]
            allowing = any(each.allow for each in decisions)
            braked = any(each.asked is not None for each in decisions)
            now_ms = self._clock.now_ms()
            if braked and self.bodies is not None:
                self.brake.follow(self.bodies, before.size, now_ms)
            pass_ = _Pass(
                self._connection,
                self._key,
                State(before),
                now_ms,
                self.brake,
                may_allow=allowing and self._unobjected(),
            )
            placed = [(request, pass_.place(request)) for request in batch]
            if braked:
                self.brake.seen = pass_.state.frontier.size
            if not pass_.rows:
                self._connection.execute("ROLLBACK")
                return
            seen = self._write(pass_)
            waiting()
            self._connection.execute("COMMIT")
            self._watch.writable()
            self._watch.advance(seen)
        for request, first in placed:
            request.first = first
        try:
            self._copies.push(Batch(pass_.rows, pass_.slots, before.chain, seen.sealed))
        except IntegrityError:  # the log that it was written to is an old one: no answer counts
            for request, _ in placed:
                request.first = -1
            raise

    def _unobjected(self) -> bool:
        try:
            self.guard()
        except Exception:  # noqa: BLE001 - nothing was written: the log need not stop, whatever was wanting
            return False
        return True

    def _write(self, pass_: _Pass) -> Seen:
        logdb.insert_rows(self._connection, pass_.rows)
        if pass_.slots:
            logdb.insert_slots(self._connection, pass_.slots)
        head = pass_.state.head()
        seen = Seen(head, self._key.seal_head(head))
        logdb.write_head(self._connection, seen.sealed)
        self._watch.prepare(seen)
        return seen


class _Pass:
    """One walk over a batch inside its transaction: rows to write, and the state they lead to."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        key: LogKey,
        state: State,
        now_ms: int,
        brake: Brake,
        *,
        may_allow: bool,
    ) -> None:
        self.state = state
        self.rows: list[Row] = []
        self.slots: list[tuple[int, int]] = []
        self._connection = connection
        self._key = key
        self._now_ms = now_ms
        self._brake = brake
        self._may_allow = may_allow

    def place(self, request: Request) -> int:
        """Return the index of the request's first entry; -1 if it was refused, and its ``error`` is set."""
        if isinstance(request, DecisionRequest):
            return self._decision(request)
        return self._control(cast("ControlRequest", request))

    def _decision(self, request: DecisionRequest) -> int:
        state, asked = self.state, request.asked
        if request.control_seq != state.control_seq or self._now_ms >= request.valid_until_ms:
            request.error = ControlMoved()
            return -1
        if request.allow and not self._may_allow:
            request.error = ControlMoved()
            return -1
        if request.allow and too_early(state.high_ms, request.time_ms):
            request.error = behind(state.high_ms, request.time_ms)
            return -1
        if asked is not None:
            if self._brake.refuses(asked.by, asked.about, request.time_ms):
                request.error = ControlMoved()
                return -1
            self._brake.note(asked, request.time_ms)
        index = state.frontier.size
        leaf = leaf_hash(request.body)
        chain = self._key.chain(index, state.chain, leaf)
        state.add_decision(request.time_ms, leaf, chain)
        self.rows.append(self._key.row(index, 0, request.body, leaf, chain))
        return index

    def _control(self, request: ControlRequest) -> int:
        if request.control_seq not in (None, self.state.control_seq):
            request.error = ControlMoved()
            return -1
        before, rows, slots = self.state.head(), len(self.rows), len(self.slots)
        try:
            for entry, body in request.items:
                self._entry(entry, body)
            if self.state.unfinished() is not None:
                raise IntegrityError("the parts of an operation were not appended together")
            self._check_voids(request.items)
        except FacekeepError as error:
            request.error = error
            self.state = State(before)
            del self.rows[rows:], self.slots[slots:]
            return -1
        return before.size

    def _entry(self, entry: JsonObject, body: bytes) -> None:
        state, time_ms = self.state, cast("int", entry["time_ms"])
        if too_early(state.high_ms, time_ms) and not clock_exempt(entry):
            raise behind(state.high_ms, time_ms)
        index = state.frontier.size
        leaf = leaf_hash(body)
        chain = self._key.chain(index, state.chain, leaf)
        state.add(entry, leaf, chain, self._key.control(index, state.control_chain, leaf))
        self.rows.append(self._key.row(index, int(entry["type"] != "decision"), body, leaf, chain))
        if entry["type"] == "clock":
            self._brake.forget()
        self.slots.extend(zip(entries.slots_of(entry), itertools.repeat(index)))

    def _check_voids(self, items: Sequence[tuple[JsonObject, bytes]]) -> None:
        appended = {row.idx: row for row in self.rows}

        def entry_at(index: int) -> JsonObject:
            if index in appended:
                return entries.parse(self._key.body(appended[index]))
            row = logdb.row_at(self._connection, index)
            previous = logdb.chain_at(self._connection, index - 1)
            if row is None or previous is None:
                raise IntegrityError(f"log entry {index} is missing")
            return self._key.open_row(row, previous)

        check_voids([entry for entry, _ in items], entry_at)


def _no_objection() -> None:
    """Stand for a guard that nobody set."""


def behind(high_ms: int, time_ms: int) -> ClockError:
    """Error for an entry whose time is before what the log has seen."""
    return ClockError(
        f"the clock stands {(high_ms - time_ms) // 1000} s behind the log; nothing was recorded"
    )
