"""What is compared, and by which threshold: a photograph, or numbers that a service brings itself."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click
import numpy as np

from facekeep.errors import UsageError
from facekeep.limits import LIMITS
from facekeep.matching.model import Floats, Model
from facekeep.matching.raw import FILE_BYTES, load_embeddings, raw_model
from facekeep.matching.threshold import Threshold

P = ParamSpec("P")
R = TypeVar("R")

_THRESHOLD_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Probe:
    """A probe with its model (None: the extractor's) and threshold (None: the model's own)."""

    image: Path | bytes | Floats
    model: Model | None
    threshold: Threshold | None


def extractor_option(function: Callable[P, R]) -> Callable[P, R]:
    """Add --extractor."""
    return click.option(
        "--extractor", type=click.Choice(["dlib", "sface"]), help="What turns photographs into templates."
    )(function)


def embedding_options(function: Callable[P, R]) -> Callable[P, R]:
    """Add --embedding and --model."""
    for option in (
        click.option(
            "--model", "model_text", metavar="raw:NAME/V:DIM:METRIC",
            help="Model of the embedding, for example raw:arc/3:512:cosine; the other metric is l2.",
        ),
        click.option(
            "--embedding", metavar="FILE",
            help="Ready numbers (.npy or .json) in place of a photograph; - for standard input.",
        ),
    ):  # fmt: skip
        function = option(function)
    return function


def probe_options(function: Callable[P, R]) -> Callable[P, R]:
    """Add what verify and identify share; they take it as keyword arguments and give it to ``read_probe``."""
    for option in (
        click.option("--with-score", is_flag=True, help="Tell the distance too."),
        click.option("--region", metavar="CC", help="Country of processing, if not the vault's own."),
        click.option(
            "--threshold", "threshold_file", metavar="FILE.json",
            help="Threshold with the evidence of your own measurement; - for standard input.",
        ),
    ):  # fmt: skip
        function = option(function)
    return extractor_option(embedding_options(function))


def read_model(text: str | None) -> Model:
    """Model of ``raw:NAME/V:DIM:METRIC``; raises UsageError."""
    if text is None:
        raise UsageError("an embedding needs its model", next="name it as --model raw:NAME/V:DIM:METRIC")
    return raw_model(text)


def read_embeddings(named: str, model_text: str | None) -> tuple[Floats, Model]:
    """Embeddings of a file, shape (k, d), and their model; raises UsageError."""
    model = read_model(model_text)
    return load_embeddings(_given(named, FILE_BYTES), model), model


def read_probe(
    image: str | None, embedding: str | None, model_text: str | None, threshold_file: str | None
) -> Probe:
    """Probe of exactly one photograph or one embedding; raises UsageError."""
    if (image is None) == (embedding is None):
        raise UsageError("give either a photograph or --embedding", next="see --help")
    check_standard_input(image, embedding, threshold_file)
    threshold = None if threshold_file is None else read_threshold(threshold_file)
    if image is not None:
        return Probe(read_image(image), None, threshold)
    rows, model = read_embeddings(str(embedding), model_text)
    if len(rows) != 1:
        raise UsageError("a probe is one embedding", next="give a file with one row")
    return Probe(np.asarray(rows[0]), model, threshold)


def read_image(named: str) -> Path | bytes:
    """Photograph of that name, from standard input for ``-``; how large it may be is looked at later."""
    return _given(named, LIMITS.image_file_bytes)


def check_standard_input(*named: str | None) -> None:
    """Raise UsageError where more than one thing is to be read from standard input."""
    if named.count("-") > 1:
        raise UsageError("standard input is one photograph or one file", next="write - once")


def _given(named: str, limit: int) -> Path | bytes:
    """File of that name; for ``-`` the bytes on standard input, one more than ``limit`` at the most."""
    return sys.stdin.buffer.read(limit + 1) if named == "-" else Path(named)


def read_threshold(named: str) -> Threshold:
    """Threshold of a JSON file such as ``facekeep verify --json`` prints; raises UsageError."""
    given = _given(named, _THRESHOLD_BYTES)
    name = given.name if isinstance(given, Path) else "on standard input"
    try:
        value: Any = json.loads(given if isinstance(given, bytes) else _read(given))
    except OSError as error:
        raise UsageError(f"the threshold {name} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise UsageError(f"the threshold {name} is not JSON") from None
    return Threshold.from_json(value)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_THRESHOLD_BYTES)
