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
