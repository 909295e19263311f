"""Subtree roots out of tiles: eight levels of the Merkle tree in each (SPEC §10.7). No I/O."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

from facekeep.auditlog.merkle import node_hash
from facekeep.errors import IntegrityError
from facekeep.formats.tiles import HEIGHT, WIDTH, Tile, width_at

_CACHED: Final = 64  # tiles kept, 16 KiB each with the levels inside


class TileHashes:
    """A ``proofs.HashReader`` for a tree of ``size`` leaves over a function that fetches tiles."""

    def __init__(self, size: int, fetch: Callable[[Tile], Sequence[bytes]]) -> None:
        """``fetch`` returns the hashes of a tile that such a tree has; it may raise."""
        self._size = size
        self._fetch = fetch
        self._cache: OrderedDict[tuple[int, int], list[list[bytes]]] = OrderedDict()

    def subtree(self, height: int, n: int) -> bytes:
        """Root of the perfect subtree; IntegrityError outside the tree."""
        if height < 0 or n < 0 or (n + 1) << height > self._size:
            raise IntegrityError("a hash outside the tree was asked for")
        level, above = divmod(height, HEIGHT)
        first = n << above
        levels = self._levels(level, first // WIDTH)
        return levels[above][(first % WIDTH) >> above]

    def _levels(self, level: int, n: int) -> list[list[bytes]]:
        levels = self._cache.get((level, n))
        if levels is None:
            tile = Tile(level, n, width_at(self._size, level, n))
            hashes = list(self._fetch(tile))
            if len(hashes) != tile.width:
                raise IntegrityError(f"{tile.path} holds another number of hashes than its width")
            levels = self._cache[level, n] = inner_levels(hashes)
            if len(self._cache) > _CACHED:
                self._cache.popitem(last=False)
        else:
            self._cache.move_to_end((level, n))
        return levels


def inner_levels(hashes: list[bytes]) -> list[list[bytes]]:
    """Return the perfect subtrees over a tile: its hashes, pairs, fours, ... up to 128s or 256s."""
    levels = [hashes]
    while len(levels[-1]) > 1:
        below = levels[-1]
        levels.append([node_hash(below[at], below[at + 1]) for at in range(0, len(below) - 1, 2)])
    return levels


def tile_root(hashes: Sequence[bytes]) -> bytes:
    """Root over a full tile: one hash of the level above."""
    if len(hashes) != WIDTH:
        raise IntegrityError("a partial tile was about to be hashed into the level above")
    return inner_levels(list(hashes))[HEIGHT][0]
