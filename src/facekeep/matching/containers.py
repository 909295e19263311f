"""The files that photographs come in, read before a decoder sees them (docs/adr/0002-extraction.md).

Each reader goes through the parts of a file once and hands on those that pixels are made of. What a decoder
would spend hours on never reaches it: thousands of scans, comments, texts, directories that overlap.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from facekeep.errors import ImageError
from facekeep.limits import LIMITS
from facekeep.matching import directories
from facekeep.matching.jpeg import Jpeg, TooMuch, Unsupported

_HEIF: Final = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
_AVIF: Final = frozenset({b"avif", b"avis"})
_EXIF_ITEM: Final = re.compile(rb"(infe[\x02\x03].{7,9})Exif", re.DOTALL)  # ISO/IEC 14496-12 §8.11.6
_CHUNKS: Final = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
_ADAM7: Final = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
_GAP: Final = rb"(?:\s|#[^\n]*\n)+"
_NETPBM: Final = re.compile(rb"P([56])" + _GAP + rb"(\d+)" + _GAP + rb"(\d+)" + _GAP + rb"(\d+)\s")
# None, LZW, deflate (both numbers), PackBits. A JPEG in a TIFF may break off unnoticed; faxes have one bit.
_COMPRESSIONS: Final = frozenset({1, 5, 8, 32773, 32946})
# Photometric interpretation -> what it is. YCbCr, LAB and the rest are not read as they are meant.
_PHOTOMETRIC: Final = {0: "white is zero", 1: "black is zero", 2: "RGB", 3: "palette", 5: "CMYK"}
_UNSIGNED: Final = 1
_SAMPLES: Final = 6  # as many as Pillow takes


@dataclass(frozen=True, slots=True)
class Source:
    """A picture and nothing beside it.

    ``kind`` is Pillow's name of the format, ``control`` see ``Jpeg``. ``inverted`` is 16-bit grey in which
    white was zero, and has to be turned round. ``exif`` and ``icc`` are None where the decoder tells.
    """

    kind: str
    data: bytes
    control: bytes | None = None
    inverted: bool = False
    exif: bytes | None = None
    icc: bytes | None = None


def read(data: bytes, name: str) -> Source:
    """Read a photograph's file; raises ImageError with its ``name``."""
    try:
        return _reader(data)(data)
    except Unsupported as error:
        raise unsupported(name, str(error)) from error
    except TooMuch as error:
        raise ImageError(
            f"{name}: a file of too many parts", reason="too_large", next="save it anew as a JPEG or PNG"
        ) from error
    except SeveralPictures as error:
        raise several(name) from error
    except UnknownFormat as error:
        raise ImageError(f"{name}: not a photograph in a known format", reason="not_a_photograph") from error
    except (IndexError, KeyError, ValueError, struct.error, zlib.error) as error:
        raise damaged(name) from error


class SeveralPictures(Exception):
    """An animation, or a file of several pages."""


class UnknownFormat(Exception):
    """No photograph, or none that is read here."""


def damaged(name: str) -> ImageError:
    """Error for a file that breaks off or makes no sense."""
    return ImageError(f"{name}: damaged or cut short", reason="damaged")


def unsupported(name: str, what: str) -> ImageError:
    """Error for a file whose meaning, or whose end, cannot be told for sure."""
    return ImageError(
        f"{name}: {what} is not supported", reason="unsupported", next="save it as an RGB JPEG or PNG"
    )


def several(name: str) -> ImageError:
    """Error for ``SeveralPictures``."""
    return ImageError(
        f"{name}: holds several pictures",
        reason="several_pictures",
        next="save the one that is meant as a JPEG or PNG",
    )


def _reader(data: bytes) -> Callable[[bytes], Source]:
    for start, reader in _READERS.items():
        if data.startswith(start):
            return reader
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return lambda data: Source("WEBP", data)
    if data[4:8] == b"ftyp":
        return _iso
    raise UnknownFormat


def _jpeg(data: bytes) -> Source:
    found = Jpeg.read(data)
    return Source("JPEG", found.data, found.control, exif=found.exif)


def _png(data: bytes) -> Source:
    """ISO/IEC 15948: critical chunks and transparency; EXIF and profile are taken out."""
    kept, exif, icc, at = [data[:8]], b"", b"", 8
    for _ in range(LIMITS.image_parts):
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        body, whole = data[at + 8 : at + 8 + size], data[at : at + 12 + size]
        if len(whole) != size + 12:
            raise ValueError("no end")
        if kind in _CHUNKS:
            kept.append(whole)
        elif kind == b"acTL" and int.from_bytes(body[:4], "big") > 1:
            raise SeveralPictures
        elif kind == b"eXIf":
            exif = body
        elif kind == b"iCCP":
            icc = _inflated(body.partition(b"\0")[2][1:])
        if kind == b"IEND":
            _check_rows(kept)
            return Source("PNG", b"".join(kept), exif=exif, icc=icc)
        at += len(whole)
    raise TooMuch


def _check_rows(chunks: list[bytes]) -> None:
    """Raise ValueError unless the compressed data has a byte for each pixel: Pillow leaves out the rest."""
    if [each[4:8] for each in chunks].index(b"IHDR") != 1 or sum(each[4:8] == b"IHDR" for each in chunks) > 1:
        raise ValueError("not one header, at the beginning")
    width, high, bits, colour = struct.unpack_from(">IIBB", chunks[1], 8)
    passes = _ADAM7 if chunks[1][20] else ((0, 0, 1, 1),)
    depth = bits * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    sizes = [(-(-(width - x) // across), -(-(high - y) // down)) for x, y, across, down in passes]
    wanted = sum(rows * (1 + -(-columns * depth // 8)) for columns, rows in sizes if columns > 0 and rows > 0)
    if width * high > LIMITS.image_pixels:
        return  # the caller says so
    stream = zlib.decompressobj()
    data = b"".join(each[8:-4] for each in chunks if each[4:8] == b"IDAT")
    while wanted > 0:
        rows = stream.decompress(data, 2**20)
        data, wanted = stream.unconsumed_tail, wanted - len(rows)
        if not rows:
            raise ValueError("rows are missing")


def _inflated(data: bytes) -> bytes:
    """At most one byte more than a profile may have."""
    try:
        return zlib.decompressobj().decompress(data, LIMITS.image_profile_bytes + 1)
    except zlib.error:
        return b""


def _gif(data: bytes) -> Source:
    """GIF 89a: one picture, with its colours and transparency."""
    at = 13 + _colours(data[10])
    kept, pictures, blocks = [data[:at]], 0, 0
    while data[at] != 0x3B:  # noqa: PLR2004 - trailer
        start = at
        picture, at = data[at] == 0x2C, at + 2  # noqa: PLR2004 - image descriptor
        if picture:
            at += 9 + _colours(data[at + 7])
        elif data[start] != 0x21:  # noqa: PLR2004 - extension
            raise ValueError("no block")
        while data[at]:
            at, blocks = at + data[at] + 1, blocks + 1
            if blocks > LIMITS.image_parts * 4:
                raise TooMuch
        at += 1
        pictures += picture
        if pictures > 1:
            raise SeveralPictures
        if picture or data[start + 1] == 0xF9:  # noqa: PLR2004 - graphic control
            kept.append(data[start:at])
    return Source("GIF", b"".join([*kept, b";"]), exif=b"", icc=b"")


def _colours(packed: int) -> int:
    """Bytes of a colour table that follows."""
    return 3 << (packed & 7) + 1 if packed & 0x80 else 0


def _tiff(data: bytes) -> Source:
    plain, found = directories.plain_tiff(data)
    photometric, bits = found.number(262, -1), found.shorts(258, data)
    if found.next:
        raise SeveralPictures
    if found.number(259, 1) not in _COMPRESSIONS:
        raise Unsupported("a TIFF of this compression")
    if photometric not in _PHOTOMETRIC or set(found.shorts(339, data)) - {_UNSIGNED}:
        raise Unsupported("a TIFF whose numbers mean something else than grey, RGB or CMYK")
    if found.number(284, 1) != 1 or len(set(bits)) > 1 or set(bits) - {1, 2, 4, 8, 16}:
        raise Unsupported("a TIFF of planes, or of this depth")
    if found.number(277, 1) > _SAMPLES:
        raise Unsupported("a TIFF of so many samples a pixel")
    if found.number(322, 0) * found.number(323, 0) > LIMITS.image_pixels:
        raise TooMuch
    inverted = photometric == 0 and bits == (16,)
    if inverted:  # Pillow does not turn words round, and knows no big-endian ones of this kind
        at = plain.rindex(found.entries[262]) + 8
        plain = plain[:at] + struct.pack(found.order + "HH", 1, 0) + plain[at + 4 :]
    return Source("TIFF", plain, inverted=inverted, exif=data)


def _bmp(data: bytes) -> Source:
    return Source("BMP", data, exif=b"", icc=b"")


def _netpbm(data: bytes) -> Source:
    """Binary PGM and PPM of 8 bits, PGM of 16; other ranges and texts take Pillow minutes."""
    found = _NETPBM.match(data[:1_000])
    if found is None or (found[1] + found[4]) not in (b"5255", b"6255", b"565535"):
        raise Unsupported("a Netpbm file of this kind")
    header = b"P%b %b %b %b\n" % found.groups()
    return Source("PPM", header + data[found.end() :], exif=b"", icc=b"")


def _jpeg_2000(_: bytes) -> Source:
    raise Unsupported("JPEG 2000")


def _iso(data: bytes) -> Source:
    """HEIF, and AVIF by brand, of the file type box (ISO/IEC 14496-12 §4.3).

    A property turns the picture, never its EXIF, which libavif and Pillow read all the same, judge and copy.
    """
    box = data[8 : min(int.from_bytes(data[:4], "big"), 512)]
    brands = {box[start : start + 4] for start in range(0, len(box), 4)}
    if not brands & (_AVIF | _HEIF):
        raise UnknownFormat
    plain = _EXIF_ITEM.sub(rb"\1free", data)
    return Source("AVIF", plain) if brands & _AVIF else Source("HEIF", plain, exif=b"")


_READERS: Final[dict[bytes, Callable[[bytes], Source]]] = {
    b"\xff\xd8\xff": _jpeg,
    b"\x89PNG\r\n\x1a\n": _png,
    b"GIF8": _gif,
    b"II*\0": _tiff,
    b"MM\0*": _tiff,
    b"BM": _bmp,
    b"P5": _netpbm,
    b"P6": _netpbm,
    b"\0\0\0\x0cjP  ": _jpeg_2000,
    b"\xff\x4f\xff\x51": _jpeg_2000,
}
