"""Reading the whole log again: the slow, complete check of log.db (SPEC §6.3)."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import cast

from facekeep.auditlog.head import Head
from facekeep.auditlog.keyed import LogKey
from facekeep.auditlog.merkle import EMPTY_ROOT
from facekeep.auditlog.rules import State
from facekeep.auditlog.voids import check_voids
from facekeep.errors import FacekeepError, IntegrityError
from facekeep.formats import entries
from facekeep.formats.canonical import JsonObject
from facekeep.store import logdb
from facekeep.store.logdb import Row

Progress = Callable[[int, int], None]
Pin = tuple[int, bytes, bytes]
_STEP = 10_000  # entries between two calls of the progress function


class Replay:
    """One pass over rows 0 to ``head.size - 1``."""

    def __init__(self, connection: sqlite3.Connection, key: LogKey, pin: Pin | None) -> None:
        """Read through ``connection``; ``pin`` is (size, root, chain) the log must have passed through."""
        self._connection = connection
        self._key = key
        self._pin = pin
        self._state = State(Head.empty(key.start))
        self._slots = 0
        self._destroy: list[JsonObject] = []

    def run(self, head: Head, progress: Progress | None) -> Head:
        """Replay up to ``head``; raises IntegrityError naming the first bad index."""
        self._check_pin()
        for row in logdb.rows_between(self._connection, 0, head.size):
            self._row(row)
            if progress is not None and (row.idx + 1) % _STEP == 0:
                progress(row.idx + 1, head.size)
        size = self._state.frontier.size
        if size != head.size:
            raise IntegrityError(f"log entry {size} is missing")
        if self._state.head() != head:
            raise IntegrityError(f"the head of log.db is not what its {size} entries lead to")
        if progress is not None:
            progress(size, size)
        return head

    def finish(self) -> None:
        """Check the projection as a whole; to be called in the same snapshot."""
        if logdb.count_slots(self._connection) != self._slots:
            raise IntegrityError("log.db lists slots that no entry opened")

    def _row(self, row: Row) -> None:
        state = self._state
        index = state.frontier.size
        if row.idx != index:
            raise IntegrityError(f"log entry {index} is missing")
        try:
            entry = self._key.open_row(row, state.chain)
        except FacekeepError as error:
            raise IntegrityError(_named(index, str(error))) from error
        if entry["type"] == "decision" and state.unfinished() is None and index and self._timely(entry):
            state.add_decision(cast("int", entry["time_ms"]), row.leaf, row.chain)
        else:
            state.add(entry, row.leaf, row.chain, self._key.control(index, state.control_chain, row.leaf))
            self._across(index, entry)
        if self._pin is not None and self._pin[0] == index + 1:
            self._check_pin()

    def _timely(self, entry: JsonObject) -> bool:
        return cast("int", entry["time_ms"]) >= self._state.high_ms

    def _across(self, index: int, entry: JsonObject) -> None:
        """Check what needs other rows: the projection, and that a void names every slot."""
        for slot in entries.slots_of(entry):
            self._slots += 1
            if logdb.index_of_slot(self._connection, slot) != index:
                raise IntegrityError(f"log entry {index}: log.db does not lead from slot {slot} to it")
        if entry["type"] == "destroy":
            self._destroy.append(entry)
            if self._state.unfinished() is None:
                check_voids(self._destroy, self._entry_at)
                self._destroy.clear()

    def _entry_at(self, index: int) -> JsonObject:
        row = logdb.row_at(self._connection, index)
        if row is None:
            raise IntegrityError(f"log entry {index} is missing")
        return entries.parse(self._key.body(row))

    def _check_pin(self) -> None:
        """Compare with the pin where the log reaches its size."""
        state = self._state
        if self._pin is None or self._pin[0] != state.frontier.size:
            return
        size, root, chain = self._pin
        if size == 0:
            if root not in (EMPTY_ROOT, bytes(32)):
                raise IntegrityError("the pin of an empty log has a root")
        elif state.frontier.root() != root or state.chain != chain:
            raise IntegrityError(f"log entry {size - 1}: the log up to here is not the one the key tree pins")


def _named(index: int, message: str) -> str:
    return message if message.startswith("log entry") else f"log entry {index}: {message}"
