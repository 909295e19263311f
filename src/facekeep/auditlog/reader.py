"""Authenticated reads of log.db: every entry that leaves here has been checked against its chain value."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from facekeep.auditlog.head import Head
from facekeep.auditlog.keyed import LogKey
from facekeep.auditlog.rules import NO_CONTROL
from facekeep.crypto.primitives import compare
from facekeep.errors import IntegrityError
from facekeep.formats import entries
from facekeep.formats.canonical import JsonObject
from facekeep.store import logdb
from facekeep.store.sqlite import Database, translated

_MARKS = 16


class Mark(NamedTuple):
    """How many control entries stand before an index, and the control chain after them."""

    entries: int
    chain: bytes


_FIRST = Mark(0, NO_CONTROL)


class Reader:
    """Reads with the calling thread's connection, up to the head that ``head`` returns."""

    def __init__(self, database: Database, key: LogKey, head: Callable[[], Head]) -> None:
        """Read ``database``; ``head`` returns the present, authenticated head."""
        self._database = database
        self._key = key
        self._head = head
        self._marks: dict[int, Mark] = {0: _FIRST}  # index -> the control entries before it, verified
        self._guard = threading.Lock()

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        with translated(self._database.name):
            yield self._database.connection()

    def entry(self, idx: int) -> JsonObject:
        """Return entry ``idx``; raises IntegrityError if it is not there or was altered."""
        return self._row(idx)[1]

    def row(self, idx: int) -> logdb.Row:
        """Return row ``idx``, authenticated."""
        return self._row(idx)[0]

    def _row(self, idx: int) -> tuple[logdb.Row, JsonObject]:
        if not 0 <= idx < self._head().size:
            raise IntegrityError(f"log entry {idx} does not exist")
        with self._connected() as connection:
            row = logdb.row_at(connection, idx)
            previous = self._chain_before(connection, idx)
        if row is None:
            raise IntegrityError(f"log entry {idx} is missing")
        return row, self._key.open_row(row, previous)

    def _chain_before(self, connection: sqlite3.Connection, idx: int) -> bytes:
        previous = logdb.chain_at(connection, idx - 1) if idx else self._key.start
        if previous is None:
            raise IntegrityError(f"log entry {idx - 1} is missing")
        return previous

    def entry_of_slot(self, slot: int) -> tuple[int, JsonObject] | None:
        """Return (index, entry) of the grant or principal that opened a slot, or None if none did.

        A projection row that leads elsewhere is an IntegrityError; one that was deleted looks like a slot
        never opened, which nobody can use.
        """
        with self._connected() as connection:
            idx = logdb.index_of_slot(connection, slot)
        if idx is None:
            return None
        entry = self.entry(idx)
        if slot not in entries.slots_of(entry):
            raise IntegrityError(f"log.db leads from slot {slot} to entry {idx}, which did not open it")
        return idx, entry

    def entries(self, start: int, stop: int) -> Iterator[tuple[int, JsonObject]]:
        """Yield (index, entry) for start <= index < stop, or IntegrityError at the first wrong one."""
        for row, previous in self.rows(start, min(stop, self._head().size)):
            yield row.idx, self._key.open_row(row, previous)

    def bodies(self, start: int, stop: int) -> Iterator[bytes]:
        """Yield the canonical bytes of a stretch, authenticated but not parsed."""
        for row, previous in self.rows(start, stop):
            yield self._key.check_row(row, previous)

    def rows(self, start: int, stop: int) -> Iterator[tuple[logdb.Row, bytes]]:
        """Yield every row of a stretch with the chain value before it; not yet authenticated."""
        with self._connected() as connection:
            previous = self._chain_before(connection, start)
            for row in logdb.rows_between(connection, start, stop):
                if row.idx != start:
                    break
                yield row, previous
                start, previous = row.idx + 1, row.chain
        if start < stop:
            raise IntegrityError(f"log entry {start} is missing")

    def control_since(self, idx: int = 0) -> Iterator[tuple[int, JsonObject]]:
        """Yield (index, entry) of all entries from ``idx`` on that are not decisions.

        Raises IntegrityError at an altered one, and at the end if the count or the control chain is not the
        head's: then a mark was flipped, a row removed, or rows of another history put in. Do not act on
        them before the end.
        """
        for row, previous in self._since(idx):
            yield row.idx, self._key.open_row(row, previous)

    def control_bodies(self, idx: int = 0) -> Iterator[tuple[int, bytes]]:
        """``control_since``, but the canonical bytes instead of the parsed entry: for a million grants."""
        for row, previous in self._since(idx):
            yield row.idx, self._key.check_row(row, previous)

    def control_after(self, idx: int, mark: Mark) -> Iterator[tuple[int, bytes, bytes]]:
        """Yield (index, canonical bytes, control chain after it) from ``idx`` on; ``mark`` stands before it.

        A mark of another history does not lead to the head, and raises at the end: see ``control_since``.
        """
        for row, previous, chain in self._control_rows(self._head(), idx, mark):
            yield row.idx, self._key.check_row(row, previous), chain

    def _since(self, idx: int) -> Iterator[tuple[logdb.Row, bytes]]:
        """Control rows from ``idx`` on, each with the chain value before it, by whichever chain is shorter.

        A process that has just begun knows no mark near the end of a long log, and the control chain would
        lead it through every grant there is.
        """
        head, idx = self._head(), max(idx, 0)
        if head.size - idx < head.control_seq - self._mark_before(idx)[1].entries:
            return self._tail(idx, head)
        return ((row, previous) for row, previous, _ in self._control_rows(head, idx))

    def _tail(self, idx: int, head: Head) -> Iterator[tuple[logdb.Row, bytes]]:
        """Yield control rows by the chain of all entries from ``idx`` on, which leads to the head."""
        chain = head.chain if idx >= head.size else b""
        for row, previous in self.rows(idx, head.size):
            self._key.check_row(row, previous)
            chain = row.chain
            if row.control:
                yield row, previous
        if not compare(chain, head.chain):
            raise IntegrityError("the last entries of log.db are not those that its head commits to")

    def _mark_before(self, idx: int) -> tuple[int, Mark]:
        """Index and mark of the nearest verified place up to ``idx``."""
        start = max(at for at in tuple(self._marks) if at <= idx)
        mark = self._marks.get(start, _FIRST)
        return (0, _FIRST) if mark is _FIRST else (start, mark)

    def _control_rows(
        self, head: Head, idx: int, mark: Mark | None = None
    ) -> Iterator[tuple[logdb.Row, bytes, bytes]]:
        """Yield (row, chain value before it, control chain after it), from ``idx`` on."""
        start = idx
        if mark is None:
            start, mark = self._mark_before(max(idx, 0))
        seen, chain, last = mark.entries, mark.chain, start - 1
        with self._connected() as connection:
            for row, previous in logdb.control_rows(connection, start, head.size):
                if previous is None and row.idx:
                    raise IntegrityError(f"log entry {row.idx - 1} is missing")
                seen, chain, last = seen + 1, self._key.control(row.idx, chain, row.leaf), row.idx
                if row.idx >= idx:
                    yield row, previous if previous is not None and row.idx else self._key.start, chain
        if seen != head.control_seq:
            raise IntegrityError(
                f"log.db marks {seen} entries as control entries before entry {head.size}, "
                f"its head counts {head.control_seq}"
            )
        if not compare(chain, head.control_chain):
            raise IntegrityError("the control entries of log.db are not those that its head commits to")
        for at in {last + 1, head.size}:
            self._mark(at, Mark(seen, chain))

    def _mark(self, idx: int, mark: Mark) -> None:
        """Remember what was verified; nothing is remembered of a pass that failed."""
        with self._guard:
            self._marks.pop(idx, None)
            self._marks[idx] = mark
            if len(self._marks) > _MARKS:
                self._marks.pop(next(at for at in self._marks if at), None)
