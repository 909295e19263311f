"""Files of photographs made by hand, byte by byte."""

from __future__ import annotations

import struct
import zlib

PNG = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(side: int, rows: bytes, *others: bytes, interlaced: bool = False) -> bytes:
    """Grey PNG of 8 bits; ``rows`` have their filter bytes."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, interlaced))
    return b"".join([PNG, header, *others, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")])


def tiff(entries: list[tuple[int, int, int, int]], beside: bytes = b"") -> bytes:
    """Little-endian TIFF of (tag, type, count, value or offset), followed by ``beside``."""
    rows = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + rows + bytes(4) + beside


def grey_profile(gamma: float) -> bytes:
    """ICC profile of a grey display (ICC.1:2010 §8.3.4): a white point and one curve."""
    white = struct.pack(">iii", 63_190, 65_536, 54_061)
    curve = b"curv\0\0\0\0" + struct.pack(">IHxx", 1, round(gamma * 256))
    text = b"text\0\0\0\0none\0\0\0\0"
    name = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"grey\0" + bytes(79)
    parts = {b"wtpt": b"XYZ \0\0\0\0" + white, b"kTRC": curve, b"cprt": text, b"desc": name}
    at, table = 128 + 4 + 12 * len(parts), struct.pack(">I", len(parts))
    for tag, part in parts.items():
        table += tag + struct.pack(">II", at, len(part))
        at += len(part)
    head = (
        struct.pack(">I4sI4s4s4s", at, b"lcms", 0x02400000, b"mntr", b"GRAY", b"XYZ ") + bytes(12) + b"acsp"
    )
    return (head + bytes(28) + white).ljust(128, b"\0") + table + b"".join(parts.values())


def segment(marker: int, body: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body


def many_scans(side: int, scans: int) -> bytes:
    """Progressive grey JPEG; all scans but the first are empty (LJT-01-003 of libjpeg-turbo)."""
    blocks = ((side + 7) // 8) ** 2
    runs = -(-blocks // 16_384)
    parts = [b"\xff\xd8", segment(0xDB, b"\0" + b"\x01" * 64)]
    parts.append(segment(0xC2, struct.pack(">BHHB", 8, side, side, 1) + b"\x01\x11\0"))
    parts.append(segment(0xC4, b"\x00" + bytes([1] + [0] * 15) + b"\0"))
    parts.append(segment(0xC4, b"\x10" + bytes([1] + [0] * 15) + b"\xe0"))
    parts += [segment(0xDA, b"\x01\x01\x00\x00\x00\x00"), _bits("0" * blocks)]
    scan = segment(0xDA, b"\x01\x01\x00\x01\x3f\x00") + _bits(("0" + "0" * 14) * runs)
    return b"".join([*parts, scan * scans, b"\xff\xd9"])


def _bits(text: str) -> bytes:
    text += "1" * (-len(text) % 8)
    return bytes(int(text[at : at + 8], 2) for at in range(0, len(text), 8)).replace(b"\xff", b"\xff\0")
