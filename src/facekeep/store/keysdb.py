"""keys.db: the stored nodes of the key tree, the subject index, the principals; and its live copies.

Narrow methods over rows; nothing here can open a blob. Every write goes to the primary and then to each
copy, and adds one to ``generation`` in the meta table, by which a copy that was away is known to be behind.
Schema: SPEC §8.1.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self

from facekeep.errors import ErasurePending, FacekeepError, IntegrityError
from facekeep.formats.nodes import row_id
from facekeep.store.bulk import insert_many
from facekeep.store.connect import Use
from facekeep.store.keyscopies import Copies, CopyState, stand_of
from facekeep.store.keysrows import (
    DROP_INDEX,
    DROP_PRINCIPAL,
    MIGRATIONS,
    PUT_INDEX,
    PUT_PRINCIPAL,
    SELECT_ALL,
    SELECT_FINGERPRINTS,
    SELECT_INDEX,
    SELECT_MANY,
    SELECT_NODE,
    SELECT_PRINCIPAL,
    SELECT_TOP,
    STEP,
    NodeDrop,
    NodeRow,
    PrincipalRow,
    SwapRow,
    SwapWrites,
    TopRow,
    apply_swap,
    blob_value,
    node_row,
    principal_row,
    put_node,
    put_top,
    top_row,
)
from facekeep.store.sqlite import Database, translated

__all__ = [
    "CopyState",
    "KeysStore",
    "NodeDrop",
    "NodeRow",
    "PrincipalRow",
    "SwapRow",
    "SwapWrites",
    "TopRow",
]


_PIECE = 4_096  # rows read at a time
_FINDINGS = 2**31 - 1  # of a check, one in memory at a time
_TYPED = re.compile(r"(NULL|NUMERIC|TEXT|non-[A-Z]+) value in \w+\.\w+")
_STRANGE = 16  # rows in slots that were never given out, that are read to be named


class KeysStore:
    """keys.db and its live copies. Writers hold the writer lock (SPEC §7); reading needs none."""

    def __init__(self, primary: Database, vault_id: bytes, copies: Sequence[Path] = ()) -> None:
        """Use an opened ``primary``; ``copies`` are paths, opened anew for every write."""
        self._primary = primary
        self._vault_id = vault_id
        self._writing = threading.RLock()
        self.copies = Copies(primary, copies, self._open_copy)

    @classmethod
    def create(cls, path: Path, vault_id: bytes, copies: Sequence[Path] = ()) -> Self:
        """Make an empty keys.db; the copies are made by ``resync_copies``."""
        return cls(Database.create(path, "keys", vault_id, MIGRATIONS), vault_id, copies)

    @classmethod
    def open(cls, path: Path, vault_id: bytes, copies: Sequence[Path] = (), *, use: Use = "write") -> Self:
        """Open an existing keys.db; for a look whosever it says it is."""
        return cls(Database(path, "keys", vault_id, MIGRATIONS, use=use), vault_id, copies)

    @property
    def vault_id(self) -> bytes:
        """The vault these keys belong to, 16 bytes."""
        return self._vault_id

    def close(self) -> None:
        """Close every connection."""
        self._primary.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close every connection."""
        self.close()

    def fresh(self) -> Iterator[KeysStore]:
        """Yield the primary, then each copy, on connections of its own, closed when the next is taken."""
        yield from self._fresh((self._primary.path, *self.copies.paths))

    def fresh_copies(self) -> Iterator[KeysStore]:
        """``fresh`` without the primary."""
        yield from self._fresh(self.copies.paths)

    def _fresh(self, paths: Iterable[Path]) -> Iterator[KeysStore]:
        for path in paths:
            with KeysStore.open(path, self._vault_id, use="look") as store:
                yield store

    @contextlib.contextmanager
    def again(self) -> Iterator[KeysStore]:
        """Give keys.db opened anew, as ``Database.again``, in one state of it."""
        with self._primary.again() as database:
            with translated(database.name):
                database.connection().execute("BEGIN")
            yield KeysStore(database, self._vault_id)

    # -- the tree

    def read_top(self) -> tuple[TopRow | None, TopRow | None]:
        """Both copies of the root node; None for one that is missing or unreadable."""
        self._primary.check_identity()
        rows = self._both(SELECT_TOP + " WHERE copy IN ({})", (0, 1))
        return top_row(rows[0]), top_row(rows[1])

    def read_fingerprints(self) -> tuple[bytes, ...]:
        """Fingerprints standing in the two root-node rows: one value, unless a row is damaged."""
        rows = self._read(SELECT_FINGERPRINTS)
        return tuple(row[0] for row in rows if isinstance(row[0], bytes))

    def read_node(self, branch: int, level: int, index: int) -> tuple[NodeRow | None, ...]:
        """Read the copies of a stored node: two at level 1, else one; None where missing or unreadable.

        They are authentic under the root node alone, which ``read_top`` read from the file that was opened.
        """
        first = row_id(branch, level, index)
        rows = self._both(
            SELECT_NODE + " WHERE id IN ({})",
            (first, first + 1) if level == 1 else (first,),
        )
        return tuple(node_row(branch, level, index, row) for row in rows)

    def write_swap(self, writes: SwapWrites) -> None:
        """Write one swap in one transaction, on the primary and then on every copy.

        Raises ErasurePending with nothing changed if a copy cannot take it, and ErasurePending with the
        primary changed if a copy fails at its very commit; ``copies.state`` tells them apart.
        """
        self.require_copies()
        committed = False
        try:
            with contextlib.ExitStack() as stack:
                others = [self._begin_copy(stack, path) for path in self.copies.paths]
                with self._transaction() as connection:  # commits before the copies do
                    apply_swap([(self._primary.name, connection), *others], writes)
                committed = True
        except FacekeepError as error:
            if not committed or isinstance(error, ErasurePending):
                raise
            raise ErasurePending(f"a copy of keys.db did not take the swap: {error}") from error

    def mend_top(self, row: TopRow) -> None:
        """Write both copies of the root node anew from the one that was opened."""
        self._write(lambda connection: put_top(connection, row))

    def mend_node(self, row: NodeRow) -> None:
        """Write a node's row anew, both of them at level 1, from one that was opened."""
        self._write(lambda connection: put_node(connection, row))

    def _begin_copy(self, stack: contextlib.ExitStack, path: Path) -> tuple[str, sqlite3.Connection]:
        try:
            database = stack.enter_context(contextlib.closing(self._open_copy(path)))
            return str(path), stack.enter_context(database.transaction())
        except FacekeepError as error:
            raise ErasurePending(f"the copy of keys.db at {path} cannot be written: {error}") from error

    def check_identity(self) -> None:
        """Raise IntegrityError if keys.db was removed or replaced since it was opened."""
        self._primary.check_identity()

    # -- the subject index

    def index_get(self, row_key: bytes) -> bytes | None:
        """Sealed value under a keyed hash (32 bytes), or None."""
        row = self._one(SELECT_INDEX, (row_key,))
        return None if row is None else blob_value(row[0])

    def index_get_many(self, row_keys: Sequence[bytes]) -> list[bytes | None]:
        """Sealed values under many keyed hashes (32 bytes each), in order; None where there is none."""
        self._primary.check_identity()
        with translated(self._primary.name):
            parameters = {"count": len(row_keys), "hashes": b"".join(row_keys)}
            found = dict(self._primary.connection().execute(SELECT_MANY, parameters)) if row_keys else {}
        return [blob_value(found[at]) if at in found else None for at in range(len(row_keys))]

    def index_put_many(
        self, rows: Iterable[tuple[bytes, bytes]], ready: Callable[[], object] = lambda: None
    ) -> None:
        """Put (keyed hash, sealed value) rows in one transaction; replaces those that stand.

        ``ready`` is called before the commit: it waits for what must be durable first, or raises.
        """
        kept = sorted(rows)  # neighbours in the index follow one another: each page is sought once

        def apply(connection: sqlite3.Connection) -> None:
            insert_many(connection, PUT_INDEX, kept)
            ready()

        self._write(apply)

    def index_delete(self, hashes: Iterable[bytes]) -> None:
        """Delete rows; those that are not there are no error."""
        kept = [(each,) for each in hashes]
        self._write(lambda connection: connection.executemany(DROP_INDEX, kept))

    def index_replace(self, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Make ``rows`` the whole index, in one transaction (a rebuild, or a new index key)."""
        kept = list(rows)

        def apply(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM subject_index")
            insert_many(connection, PUT_INDEX, kept)

        self._write(apply)

    def node_count(self) -> int:
        """Count the stored nodes; a branch node counts twice."""
        return self._count("node")

    def node_ids(self, *, other_than: int | None = None) -> Iterator[int]:
        """Yield the row number of every stored node, or of those of another epoch; a branch node has two."""
        with translated(self._primary.name):
            cursor = self._primary.connection().execute(
                "SELECT id FROM node WHERE ?1 IS NULL OR epoch IS NOT ?1", (other_than,)
            )
            while rows := cursor.fetchmany(_PIECE):
                yield from (row[0] for row in rows)

    def node_delete(self, ids: Iterable[int]) -> None:
        """Delete the rows of these numbers; those that are not there are no error."""
        kept = [(each,) for each in ids]
        self._write(lambda connection: connection.executemany("DELETE FROM node WHERE id = ?", kept))

    def index_rows(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield (keyed hash, sealed value) of every row, by keyed hash."""
        for row_key, sealed in self._read(SELECT_ALL + " ORDER BY hash"):
            yield blob_value(row_key), blob_value(sealed)

    def index_pieces(self) -> Iterator[list[tuple[bytes, bytes]]]:
        """Yield every row as ``index_rows`` does, unchecked, thousands at a time from one snapshot."""
        self._primary.check_identity()
        with translated(self._primary.name):
            cursor = self._primary.connection().execute(SELECT_ALL)
            while rows := cursor.fetchmany(_PIECE):
                yield rows

    def index_count(self) -> int:
        """Count the rows of the subject index."""
        return self._count("subject_index")

    # -- principals

    def principal_get(self, principal: bytes) -> PrincipalRow | None:
        """Row of a principal id (8 bytes), or None."""
        row = self._one(SELECT_PRINCIPAL + " WHERE principal = ? LIMIT 1", (principal,))
        return None if row is None else principal_row(row)

    def principal_at(self, slot: int) -> PrincipalRow | None:
        """Row of a slot, or None."""
        row = self._one(SELECT_PRINCIPAL + " WHERE slot = ?", (slot,))
        return None if row is None else principal_row(row)

    def principal_put(self, row: PrincipalRow) -> None:
        """Put a row in the place of whatever stands in its slot, or under its id in another one."""
        values = (row.slot, row.principal, row.grant_id, row.commitment, row.sealed)
        self._write(lambda connection: connection.execute(PUT_PRINCIPAL, values))

    def principal_list(self, span: tuple[int, int] = (0, 2**53)) -> tuple[PrincipalRow, ...]:
        """Rows of the slots from the first up to the second, and a few of those that stand elsewhere."""
        rows = self._read(SELECT_PRINCIPAL + " WHERE slot >= ? AND slot < ? ORDER BY slot", span)
        rows += self._read(SELECT_PRINCIPAL + " WHERE slot < ? OR slot >= ? LIMIT ?", (*span, _STRANGE))
        return tuple(principal_row(row) for row in rows)

    def principal_count(self) -> int:
        """Count the rows of principals, whatever their slots."""
        return self._count("principal")

    def principals_outside(self, span: tuple[int, int]) -> list[PrincipalRow]:
        """Every row of a slot outside a span."""
        rows = self._read(SELECT_PRINCIPAL + " WHERE slot < ? OR slot >= ?", span)
        return [principal_row(row) for row in rows]

    def principal_delete(self, slots: Iterable[int]) -> None:
        """Delete the rows of these slots; those that are not there are no error."""
        kept = [(slot,) for slot in slots]
        self._write(lambda connection: connection.executemany(DROP_PRINCIPAL, kept))

    # -- the whole file

    def generation(self) -> int:
        """Count of write transactions this file has seen."""
        with translated(self._primary.name):
            return stand_of(self._primary.connection()).generation

    def stand(self) -> int:
        """Return a number that moves when anything but this object has written to keys.db."""
        with self._writing, translated(self._primary.name):
            return int(self._primary.shared().execute("PRAGMA data_version").fetchone()[0])

    def copies_state(self) -> tuple[CopyState, ...]:
        """How each copy stands to the primary; reads only."""
        return self.copies.state()

    def resync_copies(self, *, create: bool = True) -> tuple[CopyState, ...]:
        """Bring each reachable copy up to date; ``create`` also makes those whose file is missing.

        Raises IntegrityError for a copy that is newer, of another tree, or damaged: it is never overwritten.
        """
        return self.copies.resync(create=create)

    def other_copies(self, paths: Sequence[Path]) -> Copies:
        """Return copies at paths that are not among this store's own."""
        return Copies(self._primary, paths, self._open_copy)

    def require_copies(self) -> None:
        """Catch up copies that are behind; raises ErasurePending or IntegrityError unless all are current."""
        self.copies.require()

    def integrity(self) -> None:
        """Run SQLite's quick_check; raises IntegrityError with its first finding.

        Not for a value of another type: it is read as empty, and whoever reads it says so.
        """
        self._primary.check_identity()
        with translated(self._primary.name):
            for row in self._primary.connection().execute(f"PRAGMA quick_check({_FINDINGS})"):
                if row[0] != "ok" and not _TYPED.fullmatch(row[0]):
                    raise IntegrityError(f"{self._primary.name} is damaged: {row[0]}")

    def _open_copy(self, path: Path) -> Database:
        return Database(path, "keys", self._vault_id, MIGRATIONS)

    def _write(self, apply: Callable[[sqlite3.Connection], object]) -> None:
        """One transaction on the primary; copies that cannot follow stay behind, as their state then says."""

        def step(connection: sqlite3.Connection) -> None:
            apply(connection)
            connection.execute(STEP)

        with self._transaction() as connection:
            before = stand_of(connection)
            step(connection)
        self.copies.follow(before, step)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All writes go through one connection, whichever thread makes them: see ``stand``."""
        with self._writing, translated(self._primary.name):
            shared = self._primary.shared()
            with self._primary.transaction(shared) as connection:
                yield connection

    def _read(self, sql: str, values: Sequence[object] = ()) -> list[tuple[object, ...]]:
        self._primary.check_identity()
        return self._rows(sql, values)

    def _rows(self, sql: str, values: Sequence[object]) -> list[tuple[object, ...]]:
        with translated(self._primary.name):
            return self._primary.connection().execute(sql, values).fetchall()

    def _count(self, table: str) -> int:
        with translated(self._primary.name):
            row = self._primary.connection().execute(f"SELECT count(*) FROM {table}").fetchone()
            return int(row[0])

    def _one(self, sql: str, values: Sequence[object]) -> tuple[object, ...] | None:
        rows = self._read(sql, values)
        return rows[0] if rows else None

    def _both(self, sql: str, ids: Sequence[int]) -> list[tuple[object, ...] | None]:
        """Read one row for each id, None for an unreadable one; raises only if all are unreadable.

        ``sql`` begins with the id. One by one only where they cannot be read together.
        """
        with contextlib.suppress(FacekeepError):
            found = {row[0]: row[1:] for row in self._rows(sql.format(",".join("?" * len(ids))), ids)}
            return [found.get(each) for each in ids]
        rows: list[tuple[object, ...] | None] = []
        errors: list[FacekeepError] = []
        for each in ids:
            try:
                found_rows = self._rows(sql.format("?"), (each,))
                rows.append(found_rows[0][1:] if found_rows else None)
            except FacekeepError as error:
                rows.append(None)
                errors.append(error)
        if len(errors) == len(ids):
            raise errors[0]
        return rows
