"""Embeddings that a service brings itself: from arrays, ``.npy`` and JSON files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np

from facekeep.arguments import checked
from facekeep.errors import UsageError
from facekeep.matching.model import Floats, Metric, Model

_FILE_BYTES: Final = 64 * 1024 * 1024
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


def load_embeddings(path: Path, model: Model) -> Floats:
    """Embeddings in a ``.npy`` or ``.json`` file as float32 of shape (k, d); raises UsageError.

    Pickled objects are never loaded.
    """
    try:
        if path.stat().st_size > _FILE_BYTES:
            raise UsageError(f"{path.name!r} is too large for one subject's embeddings")
        array = np.load(path, allow_pickle=False) if path.suffix == ".npy" else _from_json(path)
    except (OSError, EOFError, *_UNREADABLE) as error:
        raise UsageError(f"{path.name!r} holds no embedding that can be read") from error
    return model.check_rows(array)


def _from_json(path: Path) -> Any:  # noqa: ANN401 - whatever stands there
    return json.loads(path.read_text(encoding="utf-8"))
