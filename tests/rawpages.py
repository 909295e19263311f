"""Bytes of a SQLite file, as somebody edits them who asks no constraint: https://www.sqlite.org/fileformat2.html."""

from __future__ import annotations

import contextlib
import sqlite3
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

_INNER = {2: 12, 5: 12}  # kinds of page -> length of the header
_LEAVES = {10: 8, 13: 8}


class Leaf:
    """A leaf page in ``data``, which begins at ``base``."""

    def __init__(self, data: bytearray, base: int) -> None:
        self.data, self.base = data, base
        self.head = base + (100 if base == 0 else 0)
        self.first = self.head + 8

    @property
    def count(self) -> int:
        return int(struct.unpack_from(">H", self.data, self.head + 3)[0])

    def pointers(self) -> list[int]:
        return list(struct.unpack_from(f">{self.count}H", self.data, self.first))

    def cell(self, at: int) -> tuple[int, bytes]:
        """Key of a row (0 in an index), and its payload as far as it stands in this page."""
        place = self.base + self.pointers()[at]
        size, place = _varint(self.data, place)
        key = 0
        if self.data[self.head] == 13:
            key, place = _varint(self.data, place)
        return key, bytes(self.data[place : place + min(size, 1_000)])

    def write(self, pointers: list[int]) -> None:
        content = struct.unpack_from(">H", self.data, self.head + 5)[0] or 65_536
        assert self.first + 2 * len(pointers) <= self.base + content, "no room for one more pointer"
        struct.pack_into(">H", self.data, self.head + 3, len(pointers))
        struct.pack_into(f">{len(pointers)}H", self.data, self.first, *pointers)


def twice(path: Path, name: str, which: Callable[[int, bytes], bool]) -> None:
    """Have the first row of a table (or entry of an index) that ``which`` accepts stand twice."""

    def edit(leaf: Leaf, at: int) -> None:
        pointers = leaf.pointers()
        leaf.write([*pointers[: at + 1], *pointers[at:]])

    _edit(path, name, which, edit)


def turned(path: Path, name: str, which: Callable[[int, bytes], bool]) -> None:
    """Have a row stand after the one that follows it, too."""

    def edit(leaf: Leaf, at: int) -> None:
        pointers = leaf.pointers()
        leaf.write([*pointers[: at + 2], pointers[at], *pointers[at + 2 :]])

    _edit(path, name, which, edit)


def replaced(path: Path, name: str, old: bytes, new: bytes) -> None:
    """Replace bytes in every leaf of a table or an index."""
    assert len(old) == len(new)

    def edit(data: bytearray, size: int, leaves: Iterator[Leaf]) -> None:
        places = [leaf.base for leaf in leaves]
        count = 0
        for base in places:
            page = bytes(data[base : base + size])
            count += page.count(old)
            data[base : base + size] = page.replace(old, new)
        assert count, "the bytes were not found"

    _with_leaves(path, name, edit)


def _edit(
    path: Path, name: str, which: Callable[[int, bytes], bool], edit: Callable[[Leaf, int], None]
) -> None:
    def first(_data: bytearray, _size: int, leaves: Iterator[Leaf]) -> None:
        leaf, at = next((leaf, at) for leaf in leaves for at in range(leaf.count) if which(*leaf.cell(at)))
        edit(leaf, at)

    _with_leaves(path, name, first)


def _with_leaves(path: Path, name: str, edit: Callable[[bytearray, int, Iterator[Leaf]], None]) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        root = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (name,)).fetchone()[0]
        size = connection.execute("PRAGMA page_size").fetchone()[0]
    data = bytearray(path.read_bytes())
    edit(data, size, _leaves(data, size, root))
    with path.open("r+b") as file:
        file.write(data)


def _leaves(data: bytearray, size: int, page: int) -> Iterator[Leaf]:
    base = (page - 1) * size
    head = base + (100 if base == 0 else 0)
    if data[head] in _LEAVES:
        yield Leaf(data, base)
        return
    count = struct.unpack_from(">H", data, head + 3)[0]
    below = [
        struct.unpack_from(">I", data, base + pointer)[0]
        for pointer in struct.unpack_from(f">{count}H", data, head + _INNER[data[head]])
    ]
    for each in (*below, struct.unpack_from(">I", data, head + 8)[0]):
        yield from _leaves(data, size, each)


def _varint(data: bytearray, at: int) -> tuple[int, int]:
    value = 0
    for place in range(at, at + 8):
        value = value << 7 | data[place] & 127
        if not data[place] & 128:
            return value, place + 1
    return value << 8 | data[at + 8], at + 9
