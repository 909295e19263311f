"""A search of files for what must not stand in them: texts, runs of an embedding, bytes of a photograph.

A find is a text anywhere in any case, or two neighbouring words of an embedding or a photograph at any
offset: a chance find is less likely than one in 10^9 a search.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.unsignedinteger]

_DISTINCT = 6  # different bytes of 8: runs of one colour and empty space are nobody's


@dataclass(frozen=True, slots=True)
class Needles:
    """What is looked for; words are sorted."""

    texts: tuple[bytes, ...]
    embeddings: tuple[Words, ...]
    photographs: Words


@dataclass(slots=True)
class Found:
    """Files and bytes searched, and in which files what was found."""

    files: int = 0
    size: int = 0
    texts: list[str] = field(default_factory=list)
    embeddings: list[str] = field(default_factory=list)
    photographs: list[str] = field(default_factory=list)

    @property
    def nothing(self) -> bool:
        """Whether nothing was found."""
        return not (self.texts or self.embeddings or self.photographs)

    @property
    def everything(self) -> bool:
        """Whether each kind was found."""
        return bool(self.texts and self.embeddings and self.photographs)


def needles(
    texts: Iterable[str], embeddings: Sequence[npt.NDArray[np.float32]], photographs: Iterable[bytes]
) -> Needles:
    """Collect needles: texts in four spellings, floats in four forms, photographs in blocks of 8 bytes."""
    floats = np.concatenate([each.ravel() for each in embeddings])
    forms = [floats.astype(form) for form in ("<f4", ">f4", "<f8", ">f8")]
    words: tuple[Words, ...] = tuple(
        np.unique(form[form != 0].view(f"<u{form.dtype.itemsize}")) for form in forms
    )
    blocks = np.concatenate([_blocks(photo) for photo in photographs])
    spelled = [spelling for text in texts for spelling in _spellings(text)]
    return Needles(tuple(spelled), words, np.unique(blocks))


def search(files: Iterable[Path], what: Needles) -> Found:
    """Search whole files."""
    found = Found()
    for path in files:
        raw = path.read_bytes()
        found.files += 1
        found.size += len(raw)
        lowered = raw.lower()
        if any(text in lowered for text in what.texts):
            found.texts.append(path.name)
        if any(_has_run(raw, words) for words in what.embeddings):
            found.embeddings.append(path.name)
        if _has_run(raw, what.photographs):
            found.photographs.append(path.name)
    return found


def _spellings(text: str) -> list[bytes]:
    raw = text.encode("utf-8")
    spelled = [
        raw,
        text.encode("utf-16-le"),
        raw.hex().encode("ascii"),
        base64.b64encode(raw).rstrip(b"=")[:-1],
    ]
    return [each.lower() for each in spelled]


def _blocks(photo: bytes) -> npt.NDArray[np.uint64]:
    table = np.frombuffer(photo[: len(photo) // 8 * 8], np.uint8).reshape(-1, 8)
    ordered = np.sort(table, axis=1)
    distinct = 1 + (np.diff(ordered, axis=1) != 0).sum(axis=1)
    return np.ascontiguousarray(table[distinct >= _DISTINCT]).view("<u8").ravel()


def _has_run(raw: bytes, words: Words) -> bool:
    """Whether two neighbouring words of a file, at any offset, are both among ``words``."""
    width = words.dtype.itemsize
    for offset in range(width):
        count = (len(raw) - offset) // width
        if count < 2 or not len(words):  # noqa: PLR2004 - a run is two
            continue
        here = np.frombuffer(raw, words.dtype, count, offset)
        hits = words[np.minimum(np.searchsorted(words, here), len(words) - 1)] == here
        if (hits[:-1] & hits[1:]).any():
            return True
    return False
