"""vault.db: one row a grant, and nothing a row needs beyond itself (SPEC §5, §8).

The same schema serves data backups. Everything here is sealed or pseudonymous; nothing is trusted
until the gate has authenticated it.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sqlite_utils import Database as SqliteUtils

from facekeep.formats.ids import SLOT_BITS, to_ranges
from facekeep.store.bulk import Column, insert_columns
from facekeep.store.maskedterms import TermsMask
from facekeep.store.sealedrows import (
    MODEL,
    SealedRows,
    WholeRows,
    ahead,
    bounded_columns,
    whole_windows,
    windows,
)
from facekeep.store.sqlite import Database, filled, translated


def _first(db: SqliteUtils) -> None:
    table = db.table("grants")
    table.create(
        {
            "slot": int,
            "grant_id": bytes,
            "tag": bytes,
            "model": str,
            "terms": bytes,
            "commitment": bytes,
            "templates": bytes,
            "record": bytes,
        },
        pk="slot",
        not_null={"grant_id", "tag", "model", "terms", "commitment", "templates", "record"},
        strict=True,
    )
    table.create_index(["tag"])


MIGRATIONS = (_first,)
_META_BYTES = 2**20
_CHUNK = 1_000  # rows fetched at a time
_COLUMNS = "slot, grant_id, tag, model, terms, commitment, templates, record"
_ROW = f"slot, {bounded_columns()}"  # what is no column of ours is read as empty: it authenticates nowhere
_INSERT = f"INSERT OR REPLACE INTO grants ({_COLUMNS})"  # what stands in a fresh slot is nobody's


class GrantRow(NamedTuple):
    """A row. ``templates`` and ``record`` are sealed blobs; ``terms`` 88 bytes, in clear here."""

    slot: int
    grant_id: bytes
    tag: bytes
    model: str
    terms: bytes
    commitment: bytes
    templates: bytes
    record: bytes


def without_records(rows: Iterable[GrantRow]) -> SealedRows:
    """Return what a gallery opens of these rows."""
    return SealedRows.of(
        [
            (
                row.slot,
                row.grant_id + row.tag + row.terms + row.commitment,
                row.model.encode("utf-8"),
                row.templates,
            )
            for row in rows
        ]
    )


class VaultStore:
    """The narrow interface to vault.db (or to a backup of it)."""

    def __init__(self, database: Database, mask: TermsMask | None = None) -> None:
        """Wrap an open database of kind ``vault`` or ``backup``; without a mask, terms stay as they stand."""
        self.database = database
        self.mask = mask

    def add(self, rows: Iterable[GrantRow]) -> None:
        """Insert rows, each in the place of whatever stands in its slot, in one durable transaction."""
        with self.database.transaction() as connection:
            self._insert(connection, list(rows))

    @contextlib.contextmanager
    def adding(self) -> Iterator[Callable[[Sequence[GrantRow]], None]]:
        """Give a function that inserts rows, in one thread at a time; all are durable on leaving, or none."""
        with self.database.transaction() as connection:
            yield partial(self._insert, connection)

    @contextlib.contextmanager
    def exchanging(self, dead: Sequence[int]) -> Iterator[Callable[[Sequence[Column]], None]]:
        """``adding``, of columns in the order of ``GrantRow``; rows of dead slots go in the same transaction.

        What is added takes the pages that they leave.
        """
        with self.database.transaction() as connection:
            _delete(connection, dead)
            yield partial(self._insert_columns, connection)

    def merge(self, rows: Iterable[GrantRow]) -> None:
        """Insert rows, replacing a row that stands in the same slot, in one durable transaction."""
        with self.database.transaction() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO grants VALUES (?,?,?,?,?,?,?,?)", self._masked(list(rows))
            )

    def _masked(self, rows: Sequence[GrantRow]) -> Sequence[GrantRow]:
        """Mask rows, or unmask them."""
        return rows if self.mask is None else self.mask.rows(rows)

    def _insert(self, connection: sqlite3.Connection, rows: Sequence[GrantRow]) -> None:
        if rows:
            self._insert_columns(connection, list(zip(*rows, strict=True)))

    def _insert_columns(self, connection: sqlite3.Connection, columns: Sequence[Column]) -> None:
        insert_columns(connection, _INSERT, columns if self.mask is None else self.mask.columns(columns))

    def delete(self, slots: Sequence[int]) -> None:
        """Delete the rows of these slots, which are dead, in one transaction; durable with the next one.

        Nothing opens them any more: after a power failure they may be there again, until ``maintain``.
        """
        with self.database.unhurried() as connection:
            _delete(connection, slots)

    def slots_of(self, tag: bytes, spans: Iterable[tuple[int, int]], most: int) -> list[int]:
        """Slots with a row of one subject tag, by slot: in each (low, high) the newest ``most``.

        Reads an index alone, and of that nothing outside the spans.
        """
        sql = "SELECT slot FROM grants WHERE tag = ? AND slot >= ? AND slot < ? ORDER BY slot DESC LIMIT ?"
        with translated(self.database.name):
            connection = self.database.connection()
            found = [connection.execute(sql, (tag, low, high, most)).fetchall() for low, high in spans]
        return sorted({slot for rows in found for (slot,) in rows})

    def by_slots(self, slots: Sequence[int]) -> list[GrantRow]:
        """Rows of these slots that exist, by slot."""
        found: list[GrantRow] = []
        with translated(self.database.name):
            connection = self.database.connection()
            for slot in sorted(set(slots)):
                row = connection.execute(f"SELECT {_ROW} FROM grants WHERE slot = ?", (slot,)).fetchone()
                if row is not None:
                    found.append(_typed(row))
        return list(self._masked(found))

    def rows(self, low: int = -(2**63), high: int = 2**63) -> Iterator[GrantRow]:
        """Rows with ``low <= slot < high`` by slot, each slot once, streamed from one read snapshot."""
        last = low - 1
        with translated(self.database.name):
            cursor = self.database.connection().execute(
                f"SELECT {_ROW} FROM grants WHERE slot BETWEEN ? AND ? ORDER BY slot", (low, high - 1)
            )
            while some := cursor.fetchmany(_CHUNK):
                for row in self._masked([_typed(row) for row in some]):
                    if row.slot > last:  # else it stands twice, or out of its order
                        yield row
                        last = row.slot

    def of_model(self, model: str) -> Generator[GrantRow, None, None]:
        """Rows of one model id, as it stands there, from the highest slot on, read one by one."""
        sql = f"SELECT {_ROW} FROM grants WHERE model = ? ORDER BY slot DESC"
        with translated(self.database.name):
            for row in self.database.connection().execute(sql, (model,)):
                yield from self._masked([_typed(row)])

    def models(self, low: int, high: int) -> Iterator[str]:
        """Model id of each row with ``low <= slot < high``, as it stands there."""
        with translated(self.database.name):
            cursor = self.database.connection().execute(
                f"SELECT {MODEL} FROM grants WHERE slot >= ? AND slot < ?", (low, high)
            )
            for (model,) in cursor:
                yield _text(model)

    def branch_rows(self, branch: int, width: int, given_out: int = 1 << SLOT_BITS) -> Iterator[SealedRows]:
        """Rows of one branch by slot, without records, of ``width`` slots at a time: what a gallery opens.

        Only those of its first ``given_out`` slots.
        """
        yield from ahead(self._branch_rows(branch, width, given_out))

    def _branch_rows(self, branch: int, width: int, given_out: int) -> Iterator[SealedRows]:
        with translated(self.database.name):
            low = branch << SLOT_BITS
            for rows in windows(self.database.connection(), low, low + given_out, width):
                yield rows if self.mask is None else self.mask.heads(rows)

    def whole_rows(self, low: int, high: int, width: int) -> Iterator[WholeRows]:
        """Rows with ``low <= slot < high``, records too, ``width`` slots from ``low`` on at a time."""
        with translated(self.database.name):
            for rows, records in whole_windows(self.database.connection(), low, high, width):
                yield WholeRows(rows if self.mask is None else self.mask.heads(rows), records)

    def slots(self) -> list[int]:
        """Every slot that has a row, ascending."""
        return [int(slot) for slot in self.slot_array()]

    def slot_array(self) -> npt.NDArray[np.int64]:
        """Every slot that has a row, once, ascending, int64 of shape (n,): 0.3 s for a million."""
        with translated(self.database.name):
            cursor = self.database.connection().execute("SELECT slot FROM grants")  # reads an index only
            return np.unique(np.fromiter((row[0] for row in cursor), np.int64))

    def count(self) -> int:
        """Count the rows."""
        with translated(self.database.name):
            return int(self.database.connection().execute("SELECT count(*) FROM grants").fetchone()[0])

    def top_rows(self, low: int, high: int, most: int) -> list[GrantRow]:
        """Return the ``most`` highest rows with ``low <= slot < high``, from the highest on."""
        sql = f"SELECT {_ROW} FROM grants WHERE slot >= ? AND slot < ? ORDER BY slot DESC LIMIT ?"
        with translated(self.database.name):
            found = self.database.connection().execute(sql, (low, high, most)).fetchall()
        return list(self._masked([_typed(row) for row in found]))

    def copy_to(self, target: Path, meta: Mapping[str, bytes]) -> int:
        """Write one state of the rows into a new file of kind ``backup``, with ``meta``; return their count.

        The caller makes it durable.
        """
        source, vault = self.database, self.database.vault_id
        with translated(target.name), filled(target, "backup", vault, MIGRATIONS) as copied:
            copied.execute("ATTACH ? AS source", (source.path.as_uri() + "?mode=ro",))
            indexes = copied.execute(
                "SELECT name, sql FROM main.sqlite_schema WHERE type = 'index'"
            ).fetchall()
            made = [(name, sql) for name, sql in indexes if sql is not None]
            copied.execute("BEGIN")
            for name, _ in made:
                copied.execute(f"DROP INDEX main.{name}")
            try:
                rows = copied.execute("INSERT INTO main.grants SELECT * FROM source.grants").rowcount
            except sqlite3.IntegrityError:  # a row stands twice in vault.db: the first of each, as ``rows``
                copied.execute("DELETE FROM main.grants")
                rows = copied.execute(
                    "INSERT OR IGNORE INTO main.grants SELECT * FROM source.grants ORDER BY slot"
                ).rowcount
            for _, sql in made:  # at once is faster than row by row
                copied.execute(sql)
            copied.executemany("INSERT INTO main.meta VALUES (?, ?)", meta.items())
            copied.execute("COMMIT")
            source.check_identity()
        return rows

    def meta(self, key: str) -> bytes | None:
        """Return a value of the meta table, None where it is missing, no blob or longer than any of ours."""
        sql = "SELECT value FROM meta WHERE key = ? AND length(value) <= ?"
        with translated(self.database.name):
            row = self.database.connection().execute(sql, (key, _META_BYTES)).fetchone()
        return row[0] if row is not None and type(row[0]) is bytes else None

    def quick_check(self) -> str:
        """SQLite's own verdict on the file: ``ok`` or its first complaint."""
        with translated(self.database.name):
            found = str(self.database.connection().execute("PRAGMA integrity_check(1)").fetchone()[0])
            return " ".join(found.split())


def _delete(connection: sqlite3.Connection, slots: Sequence[int]) -> None:
    spans = [(first, first + count - 1) for first, count in to_ranges(list(slots))]
    connection.executemany("DELETE FROM grants WHERE slot BETWEEN ? AND ?", spans)


def _typed(row: Sequence[object]) -> GrantRow:
    """Row with every column of its type: one of another type becomes empty, which authenticates nowhere."""
    slot, grant_id, tag, model, terms, commitment, templates, record = row
    return GrantRow(
        slot if type(slot) is int else -1,
        _blob(grant_id),
        _blob(tag),
        _text(model),
        _blob(terms),
        _blob(commitment),
        _blob(templates),
        _blob(record),
    )


def _text(value: object) -> str:
    return value.decode("ascii") if type(value) is bytes and value.isascii() else ""


def _blob(value: object) -> bytes:
    return value if type(value) is bytes else b""
