"""TIFF directories, in which EXIF is written too, read without believing them."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from facekeep.limits import LIMITS

_SIZES: Final = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
}  # TIFF 6.0, page 15
_ORIENTATION: Final = 0x0112
# Sizes, bits, compression, photometric interpretation, fill order, strips, samples, planes, predictor,
# colours, tiles, ink, further samples, sample format, colour profile.
_KEPT: Final = frozenset(
    {
        256,
        257,
        258,
        259,
        262,
        266,
        273,
        277,
        278,
        279,
        284,
        317,
        320,
        322,
        323,
        324,
        325,
        332,
        338,
        339,
        34675,
    }
)

_SINGLE: Final = frozenset({256, 257, 259, 262, 266, 277, 278, 284, 317, 322, 323, 332})  # one SHORT or LONG


class Directory(NamedTuple):
    """The first directory: ``entries`` by tag, 12 bytes each."""

    order: str  # "<" or ">"
    entries: dict[int, bytes]
    next: int

    def number(self, tag: int, default: int) -> int:
        """First value of a SHORT or LONG that stands in its entry, and the default otherwise."""
        entry = self.entries.get(tag, bytes(12))
        kind, count = struct.unpack_from(self.order + "HI", entry, 2)
        if kind not in (3, 4) or count != 1:
            return default
        return int(struct.unpack_from(self.order + ("H" if kind == 3 else "I"), entry, 8)[0])  # noqa: PLR2004 - SHORT

    def shorts(self, tag: int, data: bytes) -> tuple[int, ...]:
        """Up to eight SHORTs of the file's ``data``, (1,) where there are none; raises ValueError."""
        entry = self.entries.get(tag, bytes(12))
        kind, count, at = struct.unpack_from(self.order + "HII", entry, 2)
        if not entry[0] and not entry[1]:
            return (1,)
        if kind != 3 or not 1 <= count <= 8:  # noqa: PLR2004 - SHORT, samples
            raise ValueError("no numbers")
        held = entry[8:] if count <= 2 else data[at : at + 2 * count]  # noqa: PLR2004 - what four bytes hold
        return struct.unpack(f"{self.order}{count}H", held[: 2 * count].ljust(2 * count, b"\xff"))


def first(data: bytes) -> Directory:
    """Read the first directory; raises ValueError for what is none."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None:
        raise ValueError("no TIFF header")
    try:
        (at,) = struct.unpack_from(order + "I", data, 4)
        (count,) = struct.unpack_from(order + "H", data, at)
        rows = [data[at + 2 + 12 * each : at + 14 + 12 * each] for each in range(count)]
        (following,) = struct.unpack_from(order + "I", data, at + 2 + 12 * count)
        tags = [struct.unpack_from(order + "H10x", row)[0] for row in rows]
    except struct.error:
        raise ValueError("a directory beyond the end") from None
    return Directory(order, dict(zip(tags, rows, strict=True)), following)


def orientation(exif: bytes) -> int:
    """EXIF orientation, 1 to 8. EXIF that cannot be read says nothing: the picture stands as it is."""
    try:
        value = first(exif.removeprefix(b"Exif\0\0")).number(_ORIENTATION, 1)
    except ValueError:
        return 1
    return value if 1 <= value <= 8 else 1  # noqa: PLR2004 - the table of EXIF


def plain_tiff(data: bytes) -> tuple[bytes, Directory]:
    """Return the file with one directory that has only what pixels are made of, and that directory.

    Raises ValueError where it names what the file has not, or anything but one number where one is meant:
    decoders write about these to standard error, and each takes another value.
    """
    found = first(data)
    rows = [found.entries[tag] for tag in sorted(found.entries.keys() & _KEPT)]
    for row in rows:
        _check_entry(struct.unpack(found.order + "HHII", row), len(data))
    at = len(data) + len(data) % 2
    table = struct.pack(found.order + "H", len(rows)) + b"".join(rows) + bytes(4)
    whole = data[:4] + struct.pack(found.order + "I", at) + data[8:].ljust(at - 8, b"\0") + table
    return whole, found


def _check_entry(entry: tuple[int, int, int, int], end: int) -> None:
    tag, kind, count, at = entry
    size = _SIZES.get(kind, 0) * count
    if not size or size > end or (size > 4 and at + size > end):  # noqa: PLR2004 - what an entry holds itself
        raise ValueError("an entry beyond the end")
    if tag in _SINGLE and (kind not in (3, 4) or count != 1):
        raise ValueError("an entry that is not one number")
    if count > LIMITS.image_parts and kind not in (1, 7):
        raise ValueError("an entry of too many values")
