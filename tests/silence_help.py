"""Damaged photographs of every format, and odd arrays: ``python -W always silence_help.py MODELS``.

Prints how many of each format were refused; a test reads what came on standard error: nothing should.
"""

from __future__ import annotations

import random
import struct
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
from PIL import Image

from facekeep.errors import ImageError
from facekeep.matching import directories
from facekeep.matching.dlib_extractor import DlibExtractor
from facekeep.matching.extractor import Extractor
from facekeep.matching.images import RgbImage, load_rgb
from facekeep.matching.sface_extractor import SFaceExtractor
from matching_help import encoded, heic, hopper

EACH = 80  # damaged files of a kind
SMALL = hopper().crop((150, 60, 278, 178))
TAGS = (256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 317, 320, 322, 323, 325, 332, 338, 339, 34675)
NUMBERS = (0, 1, 2, 3, 5, 6, 8, 9, 16, 100, 5_000, 65_535, 2**31, 2**32 - 1)


def wholes() -> Iterator[tuple[str, bytes]]:
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits"):
        for mode in ("RGB", "L", "P", "1", "CMYK", "RGBA"):
            yield "TIFF", encoded(SMALL.convert(mode), "TIFF", compression=compression)
        yield "TIFF", encoded(Image.fromarray(words()), "TIFF", compression=compression)
    for compression in ("tiff_lzw", "tiff_adobe_deflate"):
        yield "TIFF", encoded(SMALL, "TIFF", compression=compression, tiffinfo={317: 2})
    for kind in ("JPEG", "PNG", "WEBP", "BMP", "PPM", "AVIF"):
        yield kind, encoded(SMALL, kind)
    yield "JPEG", encoded(SMALL, "JPEG", progressive=True, restart_marker_rows=1)
    yield "JPEG", encoded(SMALL.convert("CMYK"), "JPEG")
    yield "WEBP", encoded(SMALL, "WEBP", lossless=True)
    for kind in ("PNG", "GIF"):
        yield kind, encoded(SMALL.quantize(64), kind)
    yield "HEIF", heic(SMALL)


def words() -> npt.NDArray[np.uint16]:
    return np.asarray(SMALL.convert("L")).astype(np.uint16) * 257


def damaged(kind: str, whole: bytes, chance: random.Random) -> bytes:
    """Cut, some bytes replaced, a run zeroed, or a TIFF's entry rewritten."""
    data, way = bytearray(whole), chance.randrange(5 if kind == "TIFF" else 3)
    if way == 0:
        return whole[: chance.randrange(8, len(whole))]
    if way == 1:
        for _ in range(chance.choice((1, 3, 30))):
            data[chance.randrange(len(data))] = chance.randrange(256)
    elif way == 2:
        at = chance.randrange(len(data))
        data[at : at + 500] = bytes(len(data[at : at + 500]))
    else:
        entry = chance.choice(list(directories.first(whole).entries.values()))
        at, (form, values) = whole.index(entry), chance.choice(FIELDS)
        struct.pack_into(
            form, data, at + (0 if values is TAGS else 2 if form == "<H" else 4), chance.choice(values)
        )
    return bytes(data)


FIELDS: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("<H", TAGS),
    ("<H", tuple(range(14))),
    ("<I", NUMBERS),
    ("<xxxxI", NUMBERS),
)


def decode(number: int, kind: str, whole: bytes) -> Counter[str]:
    chance, found = random.Random(number), Counter[str]()
    for _ in range(EACH):
        try:
            load_rgb(damaged(kind, whole, chance))
            found[f"{kind} taken"] += 1
        except ImageError:
            found[f"{kind} refused"] += 1
    return found


def arrays() -> Iterator[npt.NDArray[np.uint8]]:
    noise = np.random.default_rng(3)
    for shape in ((1, 1), (1, 999), (999, 1), (3, 1_000), (31, 33), (200, 200)):
        yield np.full((*shape, 3), 128, np.uint8)
        yield noise.integers(0, 256, (*shape, 3), np.uint8)
    for turns in range(4):
        yield np.ascontiguousarray(np.rot90(np.asarray(SMALL), turns))


def extract(extractor: Extractor) -> Counter[str]:
    found = Counter[str]()
    for array in arrays():
        try:
            extractor.extract(RgbImage(array))
            found[f"{extractor.model.id} taken"] += 1
        except ImageError:
            found[f"{extractor.model.id} refused"] += 1
    return found


def main() -> None:
    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(decode, number, *each) for number, each in enumerate(wholes())]
        runs += [pool.submit(extract, each) for each in (DlibExtractor(), SFaceExtractor(sys.argv[1]))]
        print(dict(sum((each.result() for each in runs), Counter[str]())))  # noqa: T201 - read by the test


if __name__ == "__main__":
    main()
