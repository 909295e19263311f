"""C2SP tlog-tiles: which tiles a tree has, their paths, and entry bundles (SPEC §10.7)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from facekeep.errors import FormatError
from facekeep.formats.text import NUMBER_MAX, check_number
from facekeep.limits import LIMITS

WIDTH: Final = 256  # hashes of a full tile
HEIGHT: Final = 8  # levels of the Merkle tree in a tile
HASH_LEN: Final = 32
LEVELS: Final = 8  # a tree below 2^63 leaves has no more levels of tiles

_PATH: Final = re.compile(
    r"tile/(?P<level>entries|[0-7])/(?P<n>(?:x[0-9]{3}/){0,6}[0-9]{3})"
    r"(?:\.p/(?P<width>[1-9][0-9]{0,2}))?\Z",
    re.ASCII,
)


class Tile(NamedTuple):
    """One tile: level 0 holds leaf hashes; ``width`` is 256 where it is full."""

    level: int
    n: int
    width: int = WIDTH

    @property
    def path(self) -> str:
        """Path below the log's prefix."""
        return f"tile/{self.level}/{_number_path(self.n, self.width)}"

    @property
    def full(self) -> Tile:
        """The same tile grown full: what a reader takes where the partial one is gone."""
        return self._replace(width=WIDTH)


class Bundle(NamedTuple):
    """The entries under one level-0 tile."""

    n: int
    width: int = WIDTH

    @property
    def path(self) -> str:
        """Path below the log's prefix."""
        return f"tile/entries/{_number_path(self.n, self.width)}"

    @property
    def full(self) -> Bundle:
        """The same bundle grown full."""
        return self._replace(width=WIDTH)


def _number_path(n: int, width: int) -> str:
    check_number(n, "a tile's number")
    if not 1 <= width <= WIDTH:
        raise FormatError("a tile's width is not 1 to 256")
    digits = str(n).rjust((len(str(n)) + 2) // 3 * 3, "0")
    groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
    path = "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])
    return path if width == WIDTH else f"{path}.p/{width}"


def parse_path(path: str) -> Tile | Bundle:
    """Parse the one canonical path of a tile or bundle; raises FormatError."""
    match = _PATH.match(path)
    if match is None:
        raise FormatError("a path is not that of a tile")
    n = int(match["n"].replace("/", "").replace("x", ""))
    width = int(match["width"] or WIDTH)
    if n > NUMBER_MAX or width > WIDTH:
        raise FormatError("a tile's number or width is out of range")
    tile = Bundle(n, width) if match["level"] == "entries" else Tile(int(match["level"]), n, width)
    if tile.path != path:
        raise FormatError("a tile's path is not in its canonical form")
    return tile


def width_at(size: int, level: int, n: int) -> int:
    """Width of tile ``n`` of a level in a tree of ``size`` leaves; 0 where there is none."""
    return max(0, min(WIDTH, (size >> HEIGHT * level) - n * WIDTH))


def tiles_between(old: int, new: int) -> Iterator[Tile]:
    """Tiles that a tree of ``new`` leaves has and one of ``old`` had not, level by level.

    Those are the full tiles completed since, and the rightmost partial ones; empty tiles do not exist.
    """
    for level in range(LEVELS):
        before, after = old >> HEIGHT * level, new >> HEIGHT * level
        if not after:
            return
        if before == after:
            continue
        for n in range(before // WIDTH, -(-after // WIDTH)):
            yield Tile(level, n, width_at(new, level, n))


def bundles_between(old: int, new: int) -> Iterator[Bundle]:
    """Entry bundles that a tree of ``new`` leaves has and one of ``old`` had not."""
    if old < new:
        for n in range(old // WIDTH, -(-new // WIDTH)):
            yield Bundle(n, width_at(new, 0, n))


def encode_bundle(entries: Sequence[bytes]) -> bytes:
    """Return ``u16 length || entry`` of each of 1 to 256 entries."""
    if not 1 <= len(entries) <= WIDTH or any(len(item) > LIMITS.entry_bytes for item in entries):
        raise FormatError("a bundle does not hold 1 to 256 entries of at most 65,535 bytes")
    return b"".join(part for item in entries for part in (len(item).to_bytes(2, "big"), item))


def decode_bundle(data: bytes, width: int, *, wider: bool = False) -> list[bytes]:
    """Entries of a bundle of exactly ``width``; with ``wider`` the first ``width`` of a full one."""
    entries, at = [], 0
    while at < len(data):
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        if at + 2 > len(data) or end > len(data):
            raise FormatError("an entry bundle ends inside an entry")
        entries.append(data[at + 2 : end])
        at = end
    if len(entries) != (WIDTH if wider else width):
        raise FormatError("an entry bundle holds another number of entries than its width")
    return entries[:width]


def decode_hashes(data: bytes, width: int, *, wider: bool = False) -> list[bytes]:
    """Hashes of a tile of exactly ``width``; with ``wider`` the first ``width`` of a full one."""
    if len(data) != HASH_LEN * (WIDTH if wider else width):
        raise FormatError("a tile has another length than its width")
    return [data[at : at + HASH_LEN] for at in range(0, width * HASH_LEN, HASH_LEN)]
