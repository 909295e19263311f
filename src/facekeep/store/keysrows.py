"""Rows of keys.db: its schema, its values, and what a swap does to it (SPEC §8.1)."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from sqlite_utils import Database as SqliteUtils

from facekeep.errors import IntegrityError
from facekeep.formats.nodes import row_id, row_span
from facekeep.store.bulk import COUNTED, COUNTER, insert_many
from facekeep.store.sqlite import translated

_BATCH: Final = 128  # node rows a statement: about half a megabyte
_INDEX_BATCH: Final = 4_096  # rows of the subject index a statement


@dataclass(frozen=True, slots=True)
class TopRow:
    """The root node as stored: its epoch, the fingerprint of the root that opens it, the sealed blob."""

    epoch: int
    fingerprint: bytes
    blob: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A stored node at levels 1 to 3: its place, the epoch it was sealed in, the sealed blob."""

    branch: int
    level: int
    index: int
    epoch: int
    blob: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class NodeDrop:
    """A wholly dead node: its row, and any below it, are deleted."""

    branch: int
    level: int
    index: int


@dataclass(frozen=True, slots=True)
class PrincipalRow:
    """A sealed principal record: slot id, principal id (8 bytes), grant id (16), commitment (32), blob."""

    slot: int
    principal: bytes
    grant_id: bytes
    commitment: bytes
    sealed: bytes = field(repr=False)


SwapRow: TypeAlias = TopRow | NodeRow | NodeDrop


@dataclass(frozen=True, slots=True)
class SwapWrites:
    """All that one swap writes. ``rows`` is a stream, read once: any order, exactly one TopRow.

    ``previous`` is the fingerprint the swap was planned on, None for the first epoch: both root-node rows of
    every file must have it, so a swap planned on an old tree fails beside the smallest trace of a newer one.
    """

    previous: bytes | None
    rows: Iterator[SwapRow]
    principals: Sequence[int] = ()  # slots of principal rows to delete
    index_hashes: Sequence[bytes] = ()  # subject-index rows to delete
    index: Iterator[tuple[bytes, bytes]] | None = None  # the whole subject index anew, read once


_SCHEMA_1: Final = """
CREATE TABLE top (
  copy INTEGER PRIMARY KEY CHECK (copy IN (0, 1)),
  epoch INTEGER NOT NULL, fingerprint BLOB NOT NULL, blob BLOB NOT NULL
) STRICT;
CREATE TABLE node (id INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, blob BLOB NOT NULL) STRICT;
CREATE TABLE subject_index (hash BLOB PRIMARY KEY, sealed BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE principal (
  slot INTEGER PRIMARY KEY, principal BLOB NOT NULL UNIQUE,
  grant_id BLOB NOT NULL, commitment BLOB NOT NULL, sealed BLOB NOT NULL
) STRICT;
INSERT INTO meta VALUES ('generation', 0)
"""


def _first_schema(database: SqliteUtils) -> None:
    for statement in _SCHEMA_1.split(";"):
        database.execute(statement)


MIGRATIONS: Final = (_first_schema,)
_PUT_NODE = "INSERT OR REPLACE INTO node VALUES (?, ?, ?)"
_PUT_TOP = "INSERT OR REPLACE INTO top VALUES (?, ?, ?, ?)"
PUT_INDEX = "INSERT OR REPLACE INTO subject_index (hash, sealed)"
_DROP_NODES = "DELETE FROM node WHERE id BETWEEN ? AND ?"
DROP_INDEX = "DELETE FROM subject_index WHERE hash = ?"
PUT_PRINCIPAL = "INSERT OR REPLACE INTO principal VALUES (?, ?, ?, ?, ?)"  # the id is unique, too
DROP_PRINCIPAL = "DELETE FROM principal WHERE slot = ?"
#: Anybody can write it: what is no plausible number counts as 0.
GENERATION: Final = (
    "SELECT ifnull((SELECT value FROM meta WHERE key = 'generation' AND typeof(value) = 'integer'"
    " AND value BETWEEN 0 AND 9007199254740991), 0)"
)
STEP = f"INSERT OR REPLACE INTO meta SELECT 'generation', 1 + ({GENERATION})"


def _bounded(column: str, most: int) -> str:
    """Return SQL for a blob, or empty where it is none, or too long to be ours: SQLite need not read it."""
    return f"CASE WHEN typeof({column}) = 'blob' AND length({column}) <= {most} THEN {column} ELSE x'' END"


_SEALED_TAG: Final = _bounded("sealed", 62)  # SPEC §5.7, the tag and §1's overhead
_NODE: Final = _bounded("blob", 4_096)
SELECT_INDEX = f"SELECT {_SEALED_TAG} FROM subject_index WHERE hash = ?"
SELECT_MANY = (
    f"{COUNTER}SELECT i, {_SEALED_TAG} FROM {COUNTED} CROSS JOIN subject_index"
    " ON hash = substr(:hashes, 32 * i + 1, 32)"
)
SELECT_ALL = f"SELECT {_bounded('hash', 32)}, {_SEALED_TAG} FROM subject_index"
SELECT_TOP = f"SELECT copy, epoch, {_bounded('fingerprint', 32)}, {_bounded('blob', 8_192)} FROM top"
SELECT_FINGERPRINTS = f"SELECT {_bounded('fingerprint', 32)} FROM top WHERE copy IN (0, 1)"
SELECT_STAND = (
    f"SELECT epoch, {_bounded('fingerprint', 32)} FROM top"
    " WHERE typeof(epoch) = 'integer' AND typeof(fingerprint) = 'blob' ORDER BY epoch DESC LIMIT 1"
)
SELECT_NODE = f"SELECT id, epoch, {_NODE} FROM node"
SELECT_PRINCIPAL = (
    f"SELECT slot, {_bounded('principal', 8)}, {_bounded('grant_id', 16)}, {_bounded('commitment', 32)},"
    f" {_bounded('sealed', 4_096)} FROM principal"
)


def apply_swap(targets: Sequence[tuple[str, sqlite3.Connection]], writes: SwapWrites) -> None:
    """Write one swap to every target (its name, its connection in a transaction); raises IntegrityError."""
    for name, connection in targets:
        with translated(name):
            found = connection.execute("SELECT copy, fingerprint FROM top ORDER BY copy").fetchall()
            if found != ([(copy, writes.previous) for copy in (0, 1)] if writes.previous else []):
                raise IntegrityError(f"{name} is not at the epoch this swap was planned on")
    tops = 0
    for batch in _batches(writes.rows):
        tops += sum(isinstance(row, TopRow) for row in batch)
        for name, connection in targets:
            with translated(name):
                _apply_rows(connection, batch)
    if tops != 1:
        raise IntegrityError("a swap must write exactly one root node")
    _replace_index(targets, writes.index)
    for name, connection in targets:
        with translated(name):
            connection.executemany(DROP_PRINCIPAL, [(slot,) for slot in writes.principals])
            connection.executemany(DROP_INDEX, [(each,) for each in writes.index_hashes])
            connection.execute(STEP)


def _replace_index(
    targets: Sequence[tuple[str, sqlite3.Connection]], index: Iterator[tuple[bytes, bytes]] | None
) -> None:
    if index is None:
        return
    for name, connection in targets:
        with translated(name):
            connection.execute("DELETE FROM subject_index")
    while batch := list(itertools.islice(index, _INDEX_BATCH)):
        for name, connection in targets:
            with translated(name):
                insert_many(connection, PUT_INDEX, batch)


def _apply_rows(connection: sqlite3.Connection, batch: Sequence[SwapRow]) -> None:
    nodes: list[tuple[int, int, bytes]] = []
    drops: list[tuple[int, int]] = []
    for row in batch:
        if isinstance(row, TopRow):
            put_top(connection, row)
        elif isinstance(row, NodeDrop):
            drops.extend(row_span(row.branch, row.level, row.index))
        else:
            nodes.extend(_node_values(row))
    connection.executemany(_DROP_NODES, drops)
    connection.executemany(_PUT_NODE, nodes)


def _node_values(row: NodeRow) -> list[tuple[int, int, bytes]]:
    first = row_id(row.branch, row.level, row.index)
    return [(first + copy, row.epoch, row.blob) for copy in range(2 if row.level == 1 else 1)]


def put_node(connection: sqlite3.Connection, row: NodeRow) -> None:
    """Write a node, a branch node twice."""
    connection.executemany(_PUT_NODE, _node_values(row))


def put_top(connection: sqlite3.Connection, row: TopRow) -> None:
    """Write both copies of the root node."""
    connection.executemany(_PUT_TOP, [(copy, row.epoch, row.fingerprint, row.blob) for copy in (0, 1)])


def _batches(rows: Iterator[SwapRow]) -> Iterator[list[SwapRow]]:
    while batch := list(itertools.islice(rows, _BATCH)):
        yield batch


def blob_value(value: object) -> bytes:
    """Check a column that must be a blob; raises IntegrityError."""
    if not isinstance(value, bytes):
        raise IntegrityError("keys.db is damaged: a column has a value of another type")
    return value


def top_row(row: tuple[object, ...] | None) -> TopRow | None:
    """Root node of a row (epoch, fingerprint, blob); None for a damaged one."""
    if row is None or not isinstance(row[0], int):
        return None
    return TopRow(row[0], row[1], row[2]) if isinstance(row[1], bytes) and isinstance(row[2], bytes) else None


def node_row(branch: int, level: int, index: int, row: tuple[object, ...] | None) -> NodeRow | None:
    """Node of a row (epoch, blob); None for a damaged one."""
    if row is None or not isinstance(row[0], int) or not isinstance(row[1], bytes):
        return None
    return NodeRow(branch, level, index, row[0], row[1])


def principal_row(row: tuple[object, ...]) -> PrincipalRow:
    """Principal of a row; a value of another type becomes empty, which authenticates nowhere."""
    slot, *values = row
    blobs = (value if isinstance(value, bytes) else b"" for value in values)
    return PrincipalRow(slot if isinstance(slot, int) else -1, *blobs)
