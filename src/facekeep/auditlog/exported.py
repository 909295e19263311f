"""Reading an exported log back: static tiles, believed only under a checkpoint (SPEC §10.7).

Needs nothing of the vault. The directory may be hostile: files are read up to the size they may have,
and never through a link, a pipe or a device.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from facekeep.auditlog.merkle import EMPTY_ROOT, Frontier, leaf_hash
from facekeep.auditlog.tilehash import TileHashes, tile_root
from facekeep.errors import IntegrityError, StoreError
from facekeep.formats import tiles
from facekeep.formats.checkpoint import Checkpoint
from facekeep.formats.note import MAX_BYTES
from facekeep.formats.tiles import HASH_LEN, WIDTH, Bundle, Tile
from facekeep.limits import LIMITS

CHECKPOINT: Final = "checkpoint"
Progress = Callable[[int, int], None]

_TILE_MAX: Final = WIDTH * HASH_LEN
_BUNDLE_MAX: Final = WIDTH * (LIMITS.entry_bytes + 2)


class ExportDirectory:
    """Files of one export, by name."""

    def __init__(self, path: Path) -> None:
        """Read below ``path``."""
        self.path = path

    def checkpoint(self) -> bytes:
        """Bytes of the newest checkpoint; StoreError if there is none."""
        data = self._read(CHECKPOINT, MAX_BYTES)
        if data is None:
            raise StoreError(
                f"there is no file {CHECKPOINT!r} in the export", next="name the directory of an export"
            )
        return data

    def tile(self, tile: Tile) -> list[bytes]:
        """Hashes of a tile; out of the full tile where the partial one is gone."""
        data = self._read(tile.path, _TILE_MAX)
        if data is not None:
            return tiles.decode_hashes(data, tile.width)
        full = self._read(tile.full.path, _TILE_MAX) if tile.width < WIDTH else None
        if full is None:
            raise IntegrityError(f"{tile.path} is missing in the export")
        return tiles.decode_hashes(full, tile.width, wider=True)

    def bundle(self, bundle: Bundle) -> list[bytes]:
        """Entries of a bundle; out of the full bundle where the partial one is gone."""
        data = self._read(bundle.path, _BUNDLE_MAX)
        if data is not None:
            return tiles.decode_bundle(data, bundle.width)
        full = self._read(bundle.full.path, _BUNDLE_MAX) if bundle.width < WIDTH else None
        if full is None:
            raise IntegrityError(f"{bundle.path} is missing in the export")
        return tiles.decode_bundle(full, bundle.width, wider=True)

    def entries(self, start: int, stop: int) -> Iterator[bytes]:
        """Yield the entries of a stretch of a log of ``stop`` entries, not authenticated."""
        for n in range(start // WIDTH, -(-stop // WIDTH)):
            found = self.bundle(Bundle(n, tiles.width_at(stop, 0, n)))
            yield from found[max(0, start - n * WIDTH) :]

    def hashes(self, size: int) -> TileHashes:
        """Return a hash reader for a tree of ``size``: verify every proof that is made of it."""
        return TileHashes(size, self.tile)

    def _read(self, name: str, limit: int) -> bytes | None:
        """Bytes of a regular file of at most ``limit``, or None where there is none."""
        try:
            descriptor = os.open(self.path / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StoreError(f"{name} in the export: {error.strerror}") from error
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size > limit:
                raise IntegrityError(f"{name} in the export is no file, or too long for what it should be")
            with open(descriptor, "rb", closefd=False) as file:
                return file.read(limit + 1)
        except OSError as error:
            raise StoreError(f"{name} in the export: {error.strerror}") from error
        finally:
            os.close(descriptor)


class ExportedTree:
    """An export under one checkpoint: its tiles are checked at once, its entries as they are read."""

    def __init__(self, directory: ExportDirectory, checkpoint: Checkpoint) -> None:
        """Check all tiles above the leaves against the root; IntegrityError names what does not fit.

        The checkpoint must come from ``signed.open_checkpoint``.
        """
        self.directory = directory
        self.checkpoint = checkpoint
        self._groups: list[bytes] = []  # authentic level-1 hashes: one for each full bundle
        self._tail: list[bytes] = []  # authentic leaf hashes of the partial bundle
        self._load()
        self._check_upper(self._groups)

    def entries(self, start: int = 0, progress: Progress | None = None) -> Iterator[bytes]:
        """Yield the exact bytes of entries from ``start`` on, each authenticated before it is given out.

        Raises IntegrityError naming the first entry or tile that is not what the checkpoint says.
        """
        size = self.checkpoint.size
        for n in range(start // WIDTH, -(-size // WIDTH)):
            found = self._bundle(n)
            yield from found[max(0, start - n * WIDTH) :]
            if progress is not None:
                progress(min(size, (n + 1) * WIDTH), size)

    def _bundle(self, n: int) -> list[bytes]:
        width = tiles.width_at(self.checkpoint.size, 0, n)
        found = self.directory.bundle(Bundle(n, width))
        leaves = [leaf_hash(entry) for entry in found]
        stored = self._tail if width < WIDTH else self.directory.tile(Tile(0, n))
        for at, (leaf, expected) in enumerate(zip(leaves, stored, strict=True)):
            if leaf != expected:
                raise IntegrityError(f"log entry {n * WIDTH + at}: its bytes are not those of its leaf hash")
        if width == WIDTH and tile_root(leaves) != self._groups[n]:
            raise IntegrityError(f"{Tile(0, n).path} is not what the checkpoint commits to")
        return found

    def _load(self) -> None:
        size = self.checkpoint.size
        whole, rest = divmod(size, WIDTH)
        for n in range(-(-whole // WIDTH)):
            self._groups += self.directory.tile(Tile(1, n, tiles.width_at(size, 1, n)))
        if rest:
            self._tail = self.directory.tile(Tile(0, whole, rest))
        frontier = Frontier()
        for group in self._groups:
            frontier.append(group)
        grown = Frontier(whole * WIDTH, frontier.hashes())
        for leaf in self._tail:
            grown.append(leaf)
        root = grown.root() if size else EMPTY_ROOT
        if root != self.checkpoint.root:
            raise IntegrityError("the tiles of the export do not lead to the checkpoint's root")

    def _check_upper(self, below: Sequence[bytes]) -> None:
        """Compare the tiles of level 2 and above with what level 1 gives."""
        for level in range(2, tiles.LEVELS):
            hashes = [tile_root(below[at : at + WIDTH]) for at in range(0, len(below) - WIDTH + 1, WIDTH)]
            for n in range(-(-len(hashes) // WIDTH)):
                part = hashes[n * WIDTH : (n + 1) * WIDTH]
                tile = Tile(level, n, len(part))
                if self.directory.tile(tile) != part:
                    raise IntegrityError(f"{tile.path} is not what the tiles below it give")
            below = hashes
