"""Photographs that every machine with the test extra has, and figures over the shared ones."""

from __future__ import annotations

import io
from importlib.resources import files
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pillow_heif
from PIL import Image

from facekeep.errors import ImageError
from facekeep.matching.extractor import Extractor
from facekeep.matching.images import ImageInput
from facekeep.matching.model import distances

HOPPER = Path(str(files("matplotlib") / "mpl-data" / "sample_data" / "grace_hopper.jpg"))
ASTRONAUT = Path(str(files("skimage") / "data" / "astronaut.png"))


def hopper() -> Image.Image:
    return Image.open(HOPPER).convert("RGB")


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def heic(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    pillow_heif.from_pillow(image).save(file, quality=95, **options)
    return file.getvalue()


def two_people(scale: float) -> Image.Image:
    """Two faces in one picture: the second one's is ``scale`` times as wide as the first one's."""
    first = hopper().crop((100, 40, 440, 460))
    second = Image.open(ASTRONAUT).convert("RGB").crop((130, 10, 310, 240))
    factor = scale * 187 / 91  # widths of the faces in the originals
    second = second.resize((round(second.width * factor), round(second.height * factor)))
    both = Image.new("RGB", (first.width + second.width, max(first.height, second.height)), "white")
    both.paste(first, (0, 0))
    both.paste(second, (first.width, 0))
    return both


def gap(extractor: Extractor, first: ImageInput, second: ImageInput) -> float:
    rows = extractor.extract(second)[None]
    return float(distances(extractor.model, extractor.extract(first), rows)[0])


def rates(extractor: Extractor, folder: Path, people: int, photos: int, threshold: float) -> list[float]:
    """True match rate, false match rate and share of accepted photographs."""
    vectors: list[npt.NDArray[np.float32]] = []
    who: list[int] = []
    for person in range(1, people + 1):
        for photo in range(1, photos + 1):
            try:
                vectors.append(extractor.extract(folder / f"person-{person:03}" / f"{photo}.jpg"))
            except ImageError:
                continue
            who.append(person)
    stack, labels = np.stack(vectors), np.array(who)
    near = np.stack([distances(extractor.model, each, stack) for each in vectors]) <= threshold
    same = labels[:, None] == labels
    other = ~np.eye(len(who), dtype=bool)
    return [near[same & other].mean(), near[~same].mean(), len(who) / (people * photos)]
