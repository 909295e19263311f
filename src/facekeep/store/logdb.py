"""log.db: rows and schema (SPEC §8). What the rows must say is ``auditlog``'s business."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from sqlite_utils import Database as SqliteUtils

from facekeep.errors import IntegrityError
from facekeep.limits import LIMITS
from facekeep.store.bulk import insert_many
from facekeep.store.connect import Use
from facekeep.store.sqlite import Database, Migration

KIND: Final = "log"
CHUNK: Final = 1_000  # rows fetched at a time: no cursor stays open between chunks


class Row(NamedTuple):
    """One row of ``entry``."""

    idx: int
    control: int  # 1 for every type but decision
    sealed: bytes  # the entry, under the log key
    leaf: bytes
    chain: bytes


def _row(values: Sequence[object]) -> Row:
    """Row of a SELECT; raises IntegrityError for a column of another type."""
    idx, control, sealed, leaf, chain = values
    if (
        type(idx) is int
        and type(control) is int
        and type(sealed) is bytes
        and type(leaf) is bytes
        and type(chain) is bytes
    ):
        return Row(idx, control, sealed, leaf, chain)
    raise _damaged()


def _damaged() -> IntegrityError:
    return IntegrityError("log.db is damaged: a column is of another type")


def _tables(database: SqliteUtils) -> None:
    database.execute(
        "CREATE TABLE entry (idx INTEGER PRIMARY KEY, control INTEGER NOT NULL, sealed BLOB NOT NULL,"
        " leaf BLOB NOT NULL, chain BLOB NOT NULL) STRICT"
    )
    database.execute("CREATE INDEX entry_control ON entry (idx) WHERE control = 1")
    database.execute("CREATE TABLE head (id INTEGER PRIMARY KEY CHECK (id = 1), sealed BLOB NOT NULL) STRICT")
    database.execute("CREATE TABLE grant_entry (slot INTEGER PRIMARY KEY, idx INTEGER NOT NULL) STRICT")


def _tiles(database: SqliteUtils) -> None:
    """Hashes above the leaves (SPEC §10.7): rebuilt from the entries when in doubt; copies have none."""
    database.execute("CREATE TABLE tile (id INTEGER PRIMARY KEY, hashes BLOB NOT NULL) STRICT")
    database.execute(
        "CREATE TABLE tiled (id INTEGER PRIMARY KEY CHECK (id = 1), sealed BLOB NOT NULL) STRICT"
    )


def _pages(database: SqliteUtils) -> None:
    """Pages of the ledger (SPEC §6.5): read again from the entries when in doubt; copies have none."""
    database.execute("CREATE TABLE page (first INTEGER PRIMARY KEY, sealed BLOB NOT NULL) STRICT")


MIGRATIONS: Final[Sequence[Migration]] = (_tables, _tiles, _pages)

_COLUMNS = "idx, control, sealed, leaf, chain"
_SEALED_BYTES: Final = LIMITS.entry_bytes + 1_024  # at most: an entry, padded and sealed
_READ = ", ".join(  # a column longer than any of ours is read as empty: SQLite need not read it
    f"CASE WHEN length({column}) <= {most} THEN {column} ELSE x'' END"
    for column, most in (("sealed", _SEALED_BYTES), ("leaf", 32), ("chain", 32))
)
_HEAD_BYTES: Final = 2**20
_OUTSIDE: Final = "WHERE idx < 0 OR idx >= ?"
_SELECT_HEAD: Final = "SELECT sealed FROM head WHERE id = 1 AND length(sealed) <= ?"
_READ_OF_E = _READ.replace("(", "(e.").replace("THEN ", "THEN e.")


def create_log(path: Path, vault_id: bytes) -> Database:
    """Make an empty log.db."""
    return Database.create(path, KIND, vault_id, MIGRATIONS)


def open_log(path: Path, vault_id: bytes, *, use: Use = "write") -> Database:
    """Open log.db; for a look whosever it says it is."""
    return Database(path, KIND, vault_id, MIGRATIONS, use=use)


def read_head(connection: sqlite3.Connection) -> bytes | None:
    """Return the stored head, sealed; None in an empty log."""
    row = connection.execute(_SELECT_HEAD, (_HEAD_BYTES,)).fetchone()
    if row is not None and type(row[0]) is not bytes:
        raise _damaged()
    return None if row is None else row[0]


def write_head(connection: sqlite3.Connection, sealed: bytes) -> None:
    """Store the head. An UPDATE is the hot path: a REPLACE costs twice as much."""
    if connection.execute("UPDATE head SET sealed = ? WHERE id = 1", (sealed,)).rowcount == 0:
        connection.execute("INSERT INTO head (id, sealed) VALUES (1, ?)", (sealed,))


def insert_rows(connection: sqlite3.Connection, rows: Sequence[Sequence[object]]) -> None:
    """Append entry rows."""
    insert_many(connection, f"INSERT INTO entry ({_COLUMNS})", rows)


def insert_slots(connection: sqlite3.Connection, pairs: Sequence[tuple[int, int]]) -> None:
    """Append (slot, idx) pairs to the projection. A planted row in their place gives way: it stops nobody."""
    insert_many(connection, "INSERT OR REPLACE INTO grant_entry (slot, idx)", pairs)


def row_at(connection: sqlite3.Connection, idx: int) -> Row | None:
    """Return the row at one index, or None."""
    row = connection.execute(f"SELECT idx, control, {_READ} FROM entry WHERE idx = ?", (idx,)).fetchone()
    return None if row is None else _row(row)


def chain_at(connection: sqlite3.Connection, idx: int) -> bytes | None:
    """Chain value stored at one index, or None."""
    row = connection.execute("SELECT chain FROM entry WHERE idx = ?", (idx,)).fetchone()
    if row is not None and type(row[0]) is not bytes:
        raise _damaged()
    return None if row is None else row[0]


def last_index(connection: sqlite3.Connection) -> int:
    """Greatest index, -1 in an empty log."""
    value: int | None = connection.execute("SELECT max(idx) FROM entry").fetchone()[0]
    if value is not None and type(value) is not int:
        raise _damaged()
    return -1 if value is None else value


def count_rows(connection: sqlite3.Connection) -> int:
    """Count the entries: reads the whole table."""
    return int(connection.execute("SELECT count(*) FROM entry").fetchone()[0])


def count_outside(connection: sqlite3.Connection, size: int) -> int:
    """Count the rows whose index is none of the first ``size``."""
    return int(connection.execute(f"SELECT count(*) FROM entry {_OUTSIDE}", (size,)).fetchone()[0])


def delete_outside(connection: sqlite3.Connection, size: int) -> int:
    """Delete the rows whose index is none of the first ``size``; returns how many."""
    return connection.execute(f"DELETE FROM entry {_OUTSIDE}", (size,)).rowcount


def rows_between(connection: sqlite3.Connection, start: int, stop: int) -> Iterator[Row]:
    """Rows with start <= idx < stop, strictly ascending; IntegrityError for one that is not."""
    while start < stop:
        rows = connection.execute(
            f"SELECT idx, control, {_READ} FROM entry WHERE idx >= ? AND idx < ? ORDER BY idx LIMIT ?",
            (start, stop, CHUNK),
        ).fetchall()
        if not rows:
            return
        for row in map(_row, rows):
            _in_order(row, start)
            yield row
            start = row.idx + 1


def links_between(connection: sqlite3.Connection, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
    """Index and leaf hash of each row with start <= idx < stop, ascending."""
    while start < stop:
        rows = connection.execute(
            "SELECT idx, leaf FROM entry WHERE idx >= ? AND idx < ? ORDER BY idx LIMIT ?",
            (start, stop, CHUNK),
        ).fetchall()
        if not rows or any(type(leaf) is not bytes for _, leaf in rows):
            return
        yield from rows
        start = rows[-1][0] + 1


def control_rows(connection: sqlite3.Connection, start: int, stop: int) -> Iterator[tuple[Row, bytes | None]]:
    """Rows marked control with start <= idx < stop, each with the chain value stored before it."""
    while start < stop:
        rows = connection.execute(
            f"SELECT e.idx, e.control, {_READ_OF_E}, p.chain"
            " FROM entry AS e INDEXED BY entry_control LEFT JOIN entry AS p ON p.idx = e.idx - 1"
            " WHERE e.control = 1 AND e.idx >= ? AND e.idx < ? ORDER BY e.idx LIMIT ?",
            (start, stop, CHUNK),
        ).fetchall()
        if not rows:
            return
        for *values, previous in rows:
            if previous is not None and type(previous) is not bytes:
                raise _damaged()
            row = _row(values)
            _in_order(row, start)
            yield row, previous
            start = row.idx + 1


def _in_order(row: Row, start: int) -> None:
    """Raise IntegrityError for a row before the next one that is due: no file keeps an order by itself."""
    if row.idx < start:
        raise IntegrityError(f"log entry {row.idx} stands twice in log.db, or out of its order")


def index_of_slot(connection: sqlite3.Connection, slot: int) -> int | None:
    """Index of the entry that opened a slot, as the projection has it, or None."""
    row = connection.execute("SELECT idx FROM grant_entry WHERE slot = ?", (slot,)).fetchone()
    if row is not None and type(row[0]) is not int:
        raise _damaged()
    return None if row is None else row[0]


def slots_between(connection: sqlite3.Connection, start: int, stop: int) -> list[tuple[int, int]]:
    """(slot, idx) pairs of the projection with start <= idx < stop, by slot: reads the whole table."""
    query = "SELECT slot, idx FROM grant_entry WHERE idx >= ? AND idx < ? ORDER BY slot"
    return connection.execute(query, (start, stop)).fetchall()


def count_slots(connection: sqlite3.Connection) -> int:
    """Count the projection's rows."""
    return int(connection.execute("SELECT count(*) FROM grant_entry").fetchone()[0])
