"""Embeddings that a service brings itself: from arrays, ``.npy`` and JSON files."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Final

import numpy as np

from facekeep.arguments import checked
from facekeep.errors import UsageError
from facekeep.matching.model import Floats, Metric, Model

FILE_BYTES: Final = 64 * 1024 * 1024
_NPY: Final = b"\x93NUMPY"  # how every .npy file begins
# What NumPy and json say of objects, huge numbers, deep nesting, and a header that promises terabytes.
_UNREADABLE: Final = (ValueError, TypeError, OverflowError, RecursionError, MemoryError)


@checked
def raw_model(text: str) -> Model:
    """Model of ``raw:NAME/VERSION:DIMENSION:METRIC``; raises UsageError."""
    head, _, metric = text.rpartition(":")
    head, _, dimension = head.rpartition(":")
    name, _, version = head.partition("/")
    if not name.startswith("raw:") or not dimension.isascii() or not dimension.isdigit():
        raise UsageError("write a model as raw:NAME/VERSION:DIMENSION:METRIC, such as raw:arc/3:512:cosine")
    if metric not in ("l2", "cosine"):
        raise UsageError("a model's metric is l2 or cosine")
    chosen: Metric = "l2" if metric == "l2" else "cosine"
    return Model(name, version, int(dimension), chosen)


def load_embeddings(given: Path | bytes, model: Model) -> Floats:
    """Embeddings of a ``.npy`` or JSON file, or its bytes, as float32 of shape (k, d); raises UsageError.

    Pickled objects are never loaded.
    """
    named = repr(given.name) if isinstance(given, Path) else "standard input"
    try:
        raw = given if isinstance(given, bytes) else _read(given)
        if len(raw) > FILE_BYTES:
            raise UsageError(f"{named} is too large for one subject's embeddings")
        array = np.load(io.BytesIO(raw), allow_pickle=False) if raw.startswith(_NPY) else json.loads(raw)
    except (OSError, EOFError, *_UNREADABLE) as error:
        raise UsageError(f"{named} holds no embedding that can be read") from error
    return model.check_rows(array)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(FILE_BYTES + 1)
