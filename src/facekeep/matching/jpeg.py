"""JPEG files (ITU-T T.81), read up to their end before a decoder sees them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from facekeep.limits import LIMITS

_SOI, _EOI, _SOS, _APP1, _TEM = 0xD8, 0xD9, 0xDA, 0xE1, 0x01
_FRAMES: Final = range(0xC0, 0xD0)
_TABLES: Final = frozenset({0xC4, 0xDB, 0xDD})  # DHT, DQT, DRI
_SEQUENTIAL, _PROGRESSIVE = frozenset({0xC0, 0xC1}), 0xC2  # arithmetic coding has no end that can be told
_KEPT: Final = (b"JFIF\0", b"Adobe", b"ICC_PROFILE\0")
_FILL: Final = re.compile(
    rb"\xff{2,}"
)  # means one FF, and is read anew from its start by whoever runs out of data
_MARKER: Final = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")  # all but RSTn, which stand inside of scans
_RESTART: Final = re.compile(rb"(\xff[\xd0-\xd7])")
_JUNK: Final = bytes(range(0xFE, 0, -3))  # begins with ones: a decoder without data reads zeros


class TooMuch(Exception):
    """More scans, segments or restarts than LIMITS allow."""


class Unsupported(Exception):
    """A process of JPEG whose result, or whose end, is not sure; says which."""


@dataclass(slots=True)
class Jpeg:
    """What was read: ``data`` decodes to the picture, and so does ``control`` if the picture is whole.

    In ``control`` junk follows each piece of entropy-coded data. A decoder that has a whole picture does not
    read on; one that has not makes pixels of the junk, where it would have made grey ones of nothing.
    """

    exif: bytes = b""
    _kept: list[bytes] = field(default_factory=lambda: [b"\xff\xd8"])
    _control: list[bytes] = field(default_factory=lambda: [b"\xff\xd8"])
    _frame: int = 0
    _missing: dict[int, list[int]] = field(
        default_factory=dict
    )  # component -> a number of bits for each of 64
    _scans: int = 0
    _restarts: int = 0
    _adobe: bool = False

    @property
    def data(self) -> bytes:
        """Tables, frame, scans and colour profile, up to the first EOI."""
        return b"".join(self._kept)

    @property
    def control(self) -> bytes:
        """The same with junk."""
        return b"".join(self._control)

    @classmethod
    def read(cls, data: bytes) -> Jpeg:
        """Raise ValueError, IndexError or KeyError for half a file, TooMuch, Unsupported."""
        found, at = cls(), 2
        for _ in range(LIMITS.image_parts):
            match = _MARKER.search(data, at)
            if match is None:
                raise ValueError("no end")
            marker, at = match[1][0], match.end()
            if marker == _EOI:
                found._end()
                return found
            if marker not in (_SOI, _TEM):
                size = max(2, int.from_bytes(data[at : at + 2], "big"))
                found._segment(marker, data[at + 2 : at + size])
                at += size
            if marker == _SOS:
                match = _MARKER.search(data, at)
                if match is None:
                    raise ValueError("no end")
                found._coded(_FILL.sub(b"\xff", data[at : match.start()]).rstrip(b"\xff"))
                at = match.start()
        raise TooMuch

    def _segment(self, marker: int, body: bytes) -> None:
        if marker == _APP1 and body.startswith(b"Exif\0\0"):
            self.exif = self.exif or body
        if marker in _FRAMES and marker not in _TABLES:
            self._begin(marker, body)
        elif marker == _SOS:
            self._scan(body)
        elif marker not in _TABLES and not body.startswith(_KEPT):
            return
        self._adobe = self._adobe or body.startswith(b"Adobe")
        self._add(b"\xff" + bytes([marker]) + (len(body) + 2).to_bytes(2, "big") + body)

    def _add(self, part: bytes) -> None:
        self._kept.append(part)
        self._control.append(part)

    def _begin(self, marker: int, body: bytes) -> None:
        """Frame header (B.2.2)."""
        eight, high = body[0] == 8, int.from_bytes(body[1:3], "big")  # noqa: PLR2004 - bits
        if self._frame or not (marker in _SEQUENTIAL or marker == _PROGRESSIVE) or not eight or not high:
            raise Unsupported("a JPEG of this process")
        self._frame = marker
        self._missing = {body[6 + 3 * each]: [14] * 64 for each in range(body[5])}

    def _scan(self, body: bytes) -> None:
        """Scan header (B.2.3): which coefficients it brings, up to which bit."""
        self._scans += 1
        if self._scans > LIMITS.image_scans:
            raise TooMuch
        first, last, low = body[-3], body[-2], body[-1] & 15
        if self._frame in _SEQUENTIAL:
            first, last, low = 0, 63, 0
        for each in range(body[0]):
            bits = self._missing[body[1 + 2 * each]]
            bits[first : last + 1] = [low] * (last + 1 - first)

    def _coded(self, data: bytes) -> None:
        """Entropy-coded data of a scan. One restart too many is met only where one is missing."""
        restarts = sum(1 for _ in islice(_RESTART.finditer(data), LIMITS.image_parts + 1))
        self._restarts += restarts
        if self._restarts > LIMITS.image_parts:
            raise TooMuch
        further = bytes([0xFF, 0xD0 + restarts % 8]) if restarts else b""
        self._kept.append(data)
        self._control += [_RESTART.sub(lambda each: _JUNK + each[1], data), _JUNK, further, _JUNK]

    def _end(self) -> None:
        if not self._missing or any(any(bits) for bits in self._missing.values()):
            raise ValueError("scans are missing")
        if len(self._missing) == 4 and not self._adobe:  # noqa: PLR2004 - CMYK
            raise Unsupported("a CMYK JPEG that does not say which way its ink is counted")
        self._add(b"\xff\xd9")
