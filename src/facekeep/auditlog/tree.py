"""The log's Merkle tree with its inner hashes kept, so that proofs cost O(log n) (SPEC §10.7).

Leaf hashes stand in the rows of log.db; of the levels above, every eighth is kept in tiles that are
built when a checkpoint, proof or export is made, and only from rows that authenticate. Nothing is
believed for being stored: every root and proof is verified against the authenticated head before it
leaves here, and where that fails the tiles are built again from the rows.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar

from facekeep.auditlog import proofs
from facekeep.auditlog.head import Head
from facekeep.auditlog.keyed import LogKey
from facekeep.auditlog.merkle import EMPTY_ROOT, HASH_LEN, Frontier
from facekeep.auditlog.reader import Reader
from facekeep.auditlog.tiled import Tiled, is_signing
from facekeep.auditlog.tilehash import TileHashes, tile_root
from facekeep.errors import IntegrityError
from facekeep.formats import entries
from facekeep.formats.canonical import JsonObject
from facekeep.formats.tiles import WIDTH, Tile
from facekeep.store import logtiles
from facekeep.store.sqlite import Database, translated

Progress = Callable[[int, int], None]
_CHUNK: Final = WIDTH * WIDTH  # entries between two transactions
_T = TypeVar("_T")


class LogTree:
    """The tree of one log.db. Not for several threads at once; several processes may build at once."""

    def __init__(self, database: Database, key: bytes, vault_id: bytes, head: Callable[[], Head]) -> None:
        """Read and extend ``database``, a handle of its own on log.db.

        ``key`` is the log key (system slot 0), ``head`` is ``AuditLog.head``.
        """
        self._database = database
        self._key = LogKey(key, vault_id)
        self._head = head
        self._reader = Reader(database, self._key, head)

    def snapshot(self, progress: Progress | None = None) -> Snapshot:
        """Bring the tiles up to the present head and return the tree as of it.

        Authenticates every row since the last time, and that all rows lead to the head's frontier; raises
        IntegrityError. ``progress`` is called with (entries done, entries in all).
        """
        head = self._head()
        try:
            return self._snapshot(head, progress)
        except IntegrityError:
            self.forget()
            return self._snapshot(head, progress)

    def forget(self) -> None:
        """Drop the tiles; the next snapshot builds them again."""
        with self._database.transaction() as connection:
            logtiles.clear(connection)

    def bodies(self, start: int, stop: int) -> Iterator[bytes]:
        """Yield the exact bytes of a stretch of entries, each authenticated; raises IntegrityError."""
        for row, previous in self._reader.rows(start, stop):
            yield self._key.check_row(row, previous)

    def entry(self, index: int) -> JsonObject:
        """Return one entry, authenticated."""
        return self._reader.entry(index)

    def leaf(self, index: int) -> bytes:
        """Return one leaf hash, authenticated."""
        return self._reader.row(index).leaf

    def fetch(self, tile: Tile) -> Sequence[bytes]:
        """Return the hashes of a tile as stored, at most as many as its width."""
        with translated(self._database.name):
            connection = self._database.connection()
            if tile.level == 0:
                start = tile.n * WIDTH
                return logtiles.read_leaves(connection, start, start + tile.width)
            return _hashes(logtiles.read_tile(connection, tile.level, tile.n))[: tile.width]

    def _snapshot(self, head: Head, progress: Progress | None) -> Snapshot:
        built = self._load()
        whole = head.size - head.size % WIDTH
        while built.size < whole:
            built = self._extend(built, min(built.size + _CHUNK, whole))
            if progress is not None:
                progress(min(built.size, head.size), head.size)
        if built.size > whole:  # another process saw a newer head
            built = self._known(built, whole)
        frontier, signing = Frontier(built.size, built.frontier), list(built.signing)
        for row, previous in self._reader.rows(built.size, head.size):
            body = self._key.check_row(row, previous)
            frontier.append(row.leaf)
            if is_signing(body):
                signing.append(row.idx)
        if frontier.hashes() != head.frontier:
            raise IntegrityError(f"the {head.size} entries of log.db do not lead to its head")
        return Snapshot(self, head, tuple(signing))

    def _known(self, built: Tiled, size: int) -> Tiled:
        """Cut what was built down to a smaller size, a multiple of 256."""
        hashes = TileHashes(built.size, self.fetch)
        heights = [bit for bit in reversed(range(size.bit_length())) if size >> bit & 1]
        frontier, low = [], 0
        for height in heights:
            frontier.append(hashes.subtree(height, low >> height))
            low += 1 << height
        return Tiled(size, tuple(frontier), tuple(idx for idx in built.signing if idx < size))

    def _load(self) -> Tiled:
        with translated(self._database.name):
            stored = logtiles.read_state(self._database.connection())
        if stored is None:
            return Tiled()
        if type(stored) is not bytes:
            raise IntegrityError("log.db is damaged: a column is of another type")
        return Tiled.decode(self._key.tiles.open(stored))

    def _extend(self, built: Tiled, stop: int) -> Tiled:
        """Add whole tiles' worth of entries; return what is built then, by us or by another process."""
        groups, leaves, signing = [], [], list(built.signing)
        for row, previous in self._reader.rows(built.size, stop):
            body = self._key.check_row(row, previous)
            leaves.append(row.leaf)
            if is_signing(body):
                signing.append(row.idx)
            if len(leaves) == WIDTH:
                groups.append(tile_root(leaves))
                leaves = []
        frontier = Frontier(built.size // WIDTH, built.frontier)  # of the groups: the same hashes
        for group in groups:
            frontier.append(group)
        grown = Tiled(stop, frontier.hashes(), tuple(signing))
        with self._database.transaction() as connection:
            if self._load() != built:
                return self._load()
            _add(connection, 1, built.size // WIDTH, groups)
            logtiles.write_state(connection, self._key.tiles.seal(grown.encode()))
        return grown


class Snapshot:
    """The tree as of one head. Roots and proofs that leave here have been verified against that head."""

    def __init__(self, tree: LogTree, head: Head, signing: tuple[int, ...]) -> None:
        """Made by ``LogTree.snapshot``."""
        self.tree = tree
        self.head = head
        self.signing = signing  # indices of the entries of type ``signing``, ascending
        self.hashes = TileHashes(head.size, tree.fetch)

    @property
    def size(self) -> int:
        """Number of entries."""
        return self.head.size

    def root(self, size: int | None = None) -> bytes:
        """Root of the first ``size`` entries (all of them); raises IntegrityError, UsageError."""
        if size is None or size == self.size:
            return self.head.root()
        return self._mended(lambda: self._old_root(size))

    def inclusion(self, index: int, size: int | None = None) -> tuple[bytes, ...]:
        """Proof that entry ``index`` is in the tree of ``size`` entries (all of them)."""
        return self._mended(lambda: self._inclusion(index, self.size if size is None else size))

    def consistency(self, old: int, size: int | None = None) -> tuple[bytes, ...]:
        """Proof that the tree of ``size`` entries (all of them) begins with that of ``old``."""
        return self._mended(lambda: self._consistency(old, self.size if size is None else size))

    def _old_root(self, size: int) -> bytes:
        if size == 0:
            return EMPTY_ROOT
        path = proofs.consistency_proof(self.hashes, size, self.size)
        root = proofs.tree_root(self.hashes, size)
        proofs.verify_consistency(size, root, self.size, self.head.root(), path)
        return root

    def _inclusion(self, index: int, size: int) -> tuple[bytes, ...]:
        path = proofs.inclusion_proof(self.hashes, index, size)
        proofs.verify_inclusion(self.tree.leaf(index), index, size, path, self.root(size))
        return path

    def _consistency(self, old: int, size: int) -> tuple[bytes, ...]:
        path = proofs.consistency_proof(self.hashes, old, size)
        proofs.verify_consistency(old, self.root(old), size, self.root(size), path)
        return path

    def _mended(self, make: Callable[[], _T]) -> _T:
        """Build the tiles again, once, where what they lead to does not verify."""
        try:
            return make()
        except IntegrityError:
            self.tree.forget()
            self.tree.snapshot()
            self.hashes = TileHashes(self.size, self.tree.fetch)
            return make()


def _add(connection: sqlite3.Connection, level: int, first: int, hashes: Sequence[bytes]) -> None:
    """Append hashes ``first`` and on of a level, and the level above where a tile becomes full."""
    above: list[bytes] = []
    first_above = first // WIDTH
    while hashes:
        n, at = divmod(first, WIDTH)
        stored = logtiles.read_tile(connection, level, n)
        if len(stored) != at * HASH_LEN:
            raise IntegrityError("a tile of log.db has another width than it should")
        taken, hashes = hashes[: WIDTH - at], hashes[WIDTH - at :]
        tile = stored + b"".join(taken)
        logtiles.write_tile(connection, level, n, tile)
        if at + len(taken) == WIDTH:
            above.append(tile_root(_hashes(tile)))
        first += len(taken)
    if above:
        _add(connection, level + 1, first_above, above)


def _hashes(blob: bytes) -> list[bytes]:
    return [blob[at : at + HASH_LEN] for at in range(0, len(blob), HASH_LEN)]


def signing_entries(snapshot: Snapshot) -> Iterator[tuple[int, JsonObject]]:
    """Yield (index, entry) of the log's ``signing`` entries, authenticated."""
    for index in snapshot.signing:
        entry = snapshot.tree.entry(index)
        if not is_signing(entries.encode(entry)):
            raise IntegrityError(f"log entry {index} is not of type signing")
        yield index, entry
