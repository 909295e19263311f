"""Putting damaged rows of log.db and of its live copies right from each other (SPEC §8.3).

Only the holder of the log key makes a row that follows from the one before it, so whatever row authenticates
at its place is the row. One that authenticates and differs is of another history: nothing is written over it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Final

from facekeep.auditlog.keyed import LogKey
from facekeep.crypto.primitives import compare
from facekeep.errors import FacekeepError, IntegrityError
from facekeep.formats import entries
from facekeep.store import logdb
from facekeep.store.logdb import Row

_PUT: Final = "INSERT OR REPLACE INTO entry (idx, control, sealed, leaf, chain) VALUES (?, ?, ?, ?, ?)"


class OtherHistory(IntegrityError):
    """A copy has authentic entries that log.db has not: one of the two was rolled back or forked."""


def mend_rows(
    target: sqlite3.Connection, sources: Sequence[sqlite3.Connection], key: LogKey, size: int, chain: bytes
) -> list[int]:
    """Write each damaged or missing row below ``size`` of ``target`` anew; returns their indices.

    The caller holds the writer lock: nothing but decisions is appended meanwhile, and no slot is given out.
    Raises IntegrityError, with nothing written, where no source has a row that follows from the one before,
    or the rows do not lead to ``chain``. The list of slots is made anew where it is not what they say (-1).
    """
    mended: list[Row] = []
    slots: list[tuple[int, int]] = []
    previous = key.start
    found = _indexed(target, size)
    for index in range(size):
        row = next(found)
        body = _followed(row, previous, key)
        if row is None or body is None:
            row, body = _from(sources, index, previous, key)
            mended.append(row)
        slots.extend((slot, index) for slot in (entries.slots_in(body) if row.control else ()))
        previous = row.chain
    if not compare(previous, chain):
        raise IntegrityError("the rows of log.db do not lead to its head")
    slots.sort()
    projected = target.execute("SELECT slot, idx FROM grant_entry ORDER BY slot").fetchall()
    if mended or projected != slots:
        _write(target, mended, slots if projected != slots else None)
    return [row.idx for row in mended] or ([] if projected == slots else [-1])


def mend_copy(copy: sqlite3.Connection, primary: sqlite3.Connection, key: LogKey, size: int) -> int:
    """Write each row of a copy that is damaged anew from the primary, which has ``size`` whole entries.

    Returns how many.

    Raises OtherHistory, with nothing written, where a row is another history's, or the primary has fewer.
    """
    held = logdb.last_index(copy) + 1
    if held > size:
        raise OtherHistory("it has entries that log.db lacks")
    mended: list[Row] = []
    previous = key.start
    for own, row in zip(logdb.rows_between(primary, 0, held), _indexed(copy, held), strict=True):
        if row != own:
            if _followed(row, previous, key) is not None:
                raise OtherHistory(f"its entry {own.idx} is of another history than log.db")
            mended.append(own)
        previous = own.chain
    slots = logdb.slots_between(primary, 0, held)
    projected = copy.execute("SELECT slot, idx FROM grant_entry ORDER BY slot").fetchall()
    if mended or projected != slots:
        _write(copy, mended, slots if projected != slots else None)
    return len(mended) + (projected != slots)


def _indexed(connection: sqlite3.Connection, size: int) -> Iterator[Row | None]:
    """Yield the row of each index, None where it is missing or has a column of another type."""
    start = 0
    while start < size:
        stop = min(start + logdb.CHUNK, size)
        try:
            rows = {row.idx: row for row in logdb.rows_between(connection, start, stop)}
            yield from (rows.get(index) for index in range(start, stop))
        except IntegrityError:
            yield from (_readable(connection, index) for index in range(start, stop))
        start = stop


def _readable(connection: sqlite3.Connection, index: int) -> Row | None:
    try:
        return logdb.row_at(connection, index)
    except IntegrityError:
        return None


def _followed(row: Row | None, previous: bytes, key: LogKey) -> bytes | None:
    """Return the entry of a row that follows from the chain value before it, or None."""
    try:
        return None if row is None else key.check_row(row, previous)
    except FacekeepError:
        return None


def _from(
    sources: Sequence[sqlite3.Connection], index: int, previous: bytes, key: LogKey
) -> tuple[Row, bytes]:
    for row in (_readable(source, index) for source in sources):
        body = _followed(row, previous, key)
        if row is not None and body is not None:
            return row, body
    raise IntegrityError(
        f"log entry {index} is damaged, and no live copy has it whole",
        next="keep every file; put a live copy back that 'facekeep check' accepts",
    )


def _write(target: sqlite3.Connection, rows: Sequence[Row], slots: list[tuple[int, int]] | None) -> None:
    target.execute("BEGIN IMMEDIATE")
    try:
        target.executemany(_PUT, rows)
        if slots is not None:
            target.execute("DELETE FROM grant_entry")
            logdb.insert_slots(target, slots)
        target.execute("COMMIT")
    except BaseException:
        if target.in_transaction:
            target.execute("ROLLBACK")
        raise
