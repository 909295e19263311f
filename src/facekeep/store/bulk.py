"""Many rows by one statement: SQLite works on them without the interpreter's lock, and other threads go on.

``executemany`` gives the lock back and takes it again for every row, and beside a busy thread it waits each
time. Here the columns are bound whole, and SQLite cuts the rows out of them itself.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Sequence
from typing import Final, NamedTuple

MANY: Final = 32  # rows from which it pays
_MOST: Final = 1 << 28  # bytes bound at once: far below SQLITE_MAX_LENGTH
_DIGITS: Final = 16  # of a whole number below 10^16
#: Rows 0 to ?1 - 1 of a table ``n``.
COUNTER: Final = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?1) "


class _Column(NamedTuple):
    """An SQL expression of row number ``i``, and what its parameters are bound to."""

    expression: str
    values: tuple[object, ...]


def insert_many(connection: sqlite3.Connection, into: str, rows: Sequence[Sequence[object]]) -> None:
    """Insert rows of integers, bytes and text in their order; ``into`` is ``INSERT INTO table (columns)``.

    Few rows, and rows of other or mixed types, go one by one.
    """
    columns = _columns(list(zip(*rows, strict=True))) if len(rows) >= MANY else None
    if columns is None:
        marks = ",".join("?" * len(rows[0])) if rows else ""
        if rows:
            connection.executemany(f"{into} VALUES ({marks})", rows)
        return
    select = ", ".join(column.expression for column in columns)
    values = [value for column in columns for value in column.values]
    connection.execute(f"{COUNTER}{into} SELECT {select} FROM n", (len(rows), *values))


def _columns(given: list[tuple[object, ...]]) -> list[_Column] | None:
    """Columns to bind, None where some value has no place in them."""
    columns: list[_Column] = []
    number, size = 2, 0
    for values in given:
        column = _column(values, number)
        if column is None:
            return None
        columns.append(column)
        number += len(column.values)
        size += sum(len(value) for value in column.values if isinstance(value, bytes))
    return columns if size <= _MOST else None


def _column(values: tuple[object, ...], number: int) -> _Column | None:
    kinds = set(map(type, values))
    if kinds == {bytes}:
        return _blobs(values, number)  # type: ignore[arg-type] # as was just seen
    if len(set(values)) == 1 and kinds <= {str, int}:
        return _Column(f"?{number}", values[:1])
    if kinds == {int}:
        return _integers(values, number)  # type: ignore[arg-type] # as was just seen
    return None


def _integers(values: tuple[int, ...], number: int) -> _Column | None:
    if min(values) < 0 or max(values) >= 10**_DIGITS:
        return None
    return _Column(_integer(number), (_digits(values),))


def _blobs(values: tuple[bytes, ...], number: int) -> _Column:
    whole, lengths = b"".join(values), [len(value) for value in values]
    width = lengths[0]
    if not whole:
        return _Column("x''", ())
    if lengths.count(width) == len(lengths):
        return _Column(f"substr(?{number}, {width} * i + 1, {width})", (whole,))
    starts = itertools.accumulate(lengths[:-1], initial=1)
    place = f"substr(?{number}, {_integer(number + 1)}, {_integer(number + 2)})"
    return _Column(place, (whole, _digits(tuple(starts)), _digits(tuple(lengths))))


def _digits(values: tuple[int, ...]) -> bytes:
    """Numbers of one width, one after another: as a blob, in which SQLite need not count characters."""
    return (f"%0{_DIGITS}d" * len(values) % values).encode("ascii")


def _integer(number: int) -> str:
    return f"CAST(substr(?{number}, {_DIGITS} * i + 1, {_DIGITS}) AS INTEGER)"
