"""Many rows by one statement: SQLite works on them without the interpreter's lock, and other threads go on.

``executemany`` gives the lock back and takes it again for every row, and beside a busy thread it waits each
time. Here the columns are bound whole, and SQLite cuts the rows out of them itself.
"""

from __future__ import annotations

import itertools
import os
import sqlite3
from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from facekeep.errors import IntegrityError

MANY: Final = 32  # rows from which it pays
_MOST: Final = 1 << 28  # bytes bound at once: far below SQLITE_MAX_LENGTH
_DIGITS: Final = 16  # of a whole number below 10^16
#: Name of the table that ``COUNTER`` makes: nothing planted in a file can have it.
COUNTED: Final = f"n{os.urandom(8).hex()}"
#: Rows 0 to ``:count`` - 1 of a table ``COUNTED``.
COUNTER: Final = (
    f"WITH RECURSIVE {COUNTED}(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM {COUNTED} WHERE i + 1 < :count) "
)

#: One value a row: as they are, uint8 of shape (n, w) for n blobs of w bytes, or int64 of shape (n,).
Column: TypeAlias = Sequence[object] | npt.NDArray[np.uint8] | npt.NDArray[np.int64]


class _Column(NamedTuple):
    """An SQL expression of row number ``i``, and its parameters."""

    expression: str
    values: dict[str, object]


def insert_many(connection: sqlite3.Connection, into: str, rows: Sequence[Sequence[object]]) -> None:
    """Insert rows of integers, bytes and text in their order; ``into`` is ``INSERT INTO table (columns)``.

    Few rows, and rows of other or mixed types, go one by one.
    """
    if rows:
        insert_columns(connection, into, list(zip(*rows, strict=True)))


def insert_columns(connection: sqlite3.Connection, into: str, given: Sequence[Column]) -> None:
    """``insert_many`` of columns of the same length."""
    count = len(given[0])
    if not count:
        return
    before = connection.total_changes
    _insert(connection, into, given, count)
    if connection.total_changes - before != count:
        raise IntegrityError("rows were not written as they were given: the file's schema was changed")


def _insert(connection: sqlite3.Connection, into: str, given: Sequence[Column], count: int) -> None:
    columns = _columns(given) if count >= MANY else None
    if columns is None:
        rows = zip(*map(_singly, given), strict=True)
        connection.executemany(f"{into} VALUES ({','.join('?' * len(given))})", rows)
        return
    select = ", ".join(column.expression for column in columns)
    values: dict[str, object] = {"count": count}
    for column in columns:
        values |= column.values
    connection.execute(f"{COUNTER}{into} SELECT {select} FROM {COUNTED}", values)


def _singly(column: Column) -> Sequence[object]:
    if isinstance(column, np.ndarray):
        return [row.tobytes() for row in column] if column.ndim > 1 else column.tolist()
    return column


def _columns(given: Sequence[Column]) -> list[_Column] | None:
    """Columns to bind, None where some value has no place in them."""
    columns: list[_Column] = []
    size = 0
    for number, values in enumerate(given):
        name = f"c{number}"
        column = _array(values, name) if isinstance(values, np.ndarray) else _column(tuple(values), name)
        if column is None:
            return None
        columns.append(column)
        size += sum(len(value) for value in column.values.values() if isinstance(value, bytes))
    return columns if size <= _MOST else None


def _array(values: npt.NDArray[np.uint8] | npt.NDArray[np.int64], name: str) -> _Column | None:
    if values.ndim > 1:
        width = values.shape[1]
        return _Column(f"substr(:{name}, {width} * i + 1, {width})", {name: values.tobytes()})
    if bool((np.diff(values) == 1).all()):
        return _Column(f":{name} + i", {name: int(values[0])})
    return _integers(tuple(values.tolist()), name)


def _column(values: tuple[object, ...], name: str) -> _Column | None:
    kinds = set(map(type, values))
    if kinds == {bytes}:
        return _blobs(values, name)  # type: ignore[arg-type] # as was just seen
    if kinds <= {str, int} and len(set(values)) == 1:
        return _Column(f":{name}", {name: values[0]})
    if kinds == {int}:
        return _integers(values, name)  # type: ignore[arg-type] # as was just seen
    return None


def _integers(values: tuple[int, ...], name: str) -> _Column | None:
    if min(values) < 0 or max(values) >= 10**_DIGITS:
        return None
    return _Column(_integer(name), {name: _digits(values)})


def _blobs(values: tuple[bytes, ...], name: str) -> _Column:
    whole, lengths = b"".join(values), [len(value) for value in values]
    width = lengths[0]
    if not whole:
        return _Column("x''", {})
    if lengths.count(width) == len(lengths):
        return _Column(f"substr(:{name}, {width} * i + 1, {width})", {name: whole})
    starts, sizes = f"{name}_starts", f"{name}_sizes"
    places = _digits(tuple(itertools.accumulate(lengths[:-1], initial=1)))
    return _Column(
        f"substr(:{name}, {_integer(starts)}, {_integer(sizes)})",
        {name: whole, starts: places, sizes: _digits(tuple(lengths))},
    )


def _digits(values: tuple[int, ...]) -> bytes:
    """Numbers of one width, one after another: as a blob, in which SQLite need not count characters."""
    return (f"%0{_DIGITS}d" * len(values) % values).encode("ascii")


def _integer(name: str) -> str:
    return f"CAST(substr(:{name}, {_DIGITS} * i + 1, {_DIGITS}) AS INTEGER)"
