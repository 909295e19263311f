"""Models, reference templates and distances. Models never mix, and no dimension is hard-coded."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from facekeep.arguments import checks_arguments
from facekeep.crypto.memory import Scratch
from facekeep.errors import UsageError
from facekeep.formats.ids import check_model_id
from facekeep.formats.matching import SHAPES
from facekeep.limits import LIMITS
from facekeep.matching.average import check_not_average

Metric: TypeAlias = Literal["l2", "cosine"]
Floats: TypeAlias = npt.NDArray[np.float32]

_NAME = re.compile(r"[a-z0-9._:-]+\Z")
_LEAST, _MOST = 1e-30, 1e30  # squared length: beyond, squares of float32 vanish or overflow
_GAPS: Final = 2**18  # components compared at a time: a mebibyte of differences
_scratch = Scratch()


def check_shape(model_id: str, dimension: int | None, metric: str) -> None:
    """Raise UsageError where a calibrated model is said to be another one; dimension None: not said."""
    known = SHAPES.get(model_id)
    if known is not None and (known[0] if dimension is None else dimension, metric) != known:
        raise UsageError(
            f"the model {model_id} has {known[0]} dimensions and is compared by {known[1]}",
            next="give a model of your own a name of its own, such as raw:NAME/VERSION",
        )


@checks_arguments
@dataclass(frozen=True, slots=True)
class Model:
    """What made an embedding: ``dimension`` components, compared by ``metric``.

    ``l2`` is the Euclidean distance, ``cosine`` one minus the cosine similarity. A service that brings its
    own embeddings names its model ``raw:...``.
    """

    name: str
    version: str
    dimension: int
    metric: Metric

    def __post_init__(self) -> None:
        """Refuse what could not stand in a log entry; raises UsageError."""
        if not _NAME.match(self.name) or not _NAME.match(self.version) or len(self.id) > 40:  # noqa: PLR2004 - SPEC §2
            raise UsageError("a model's name and version are up to 39 characters of a-z 0-9 . _ : -")
        check_model_id(self.id)
        if not 1 <= self.dimension <= LIMITS.dimension:
            raise UsageError(f"a model has 1 to {LIMITS.dimension} dimensions")
        if self.metric not in ("l2", "cosine"):
            raise UsageError("a model's metric is l2 or cosine")
        check_shape(self.id, self.dimension, self.metric)

    @property
    def id(self) -> str:
        """``name/version``: what stands in rows, associated data and log entries."""
        return f"{self.name}/{self.version}"

    def check(self, vector: npt.ArrayLike) -> Floats:
        """Return one embedding as float32 of shape (d,); raises UsageError for anything else."""
        array = real_numbers(vector)
        with np.errstate(over="ignore"):
            if (
                array.dtype == np.float32
                and array.shape == (self.dimension,)
                and _LEAST < array @ array < _MOST
            ):
                check_not_average(self.id, self.metric, array[None])
                return array
        return np.asarray(self.check_many(array[None])[0])

    def check_rows(self, vectors: npt.ArrayLike) -> Floats:
        """Return one embedding (d,) or several (n, d) as ``check_many`` does."""
        return self.check_many(np.atleast_2d(real_numbers(vectors)))

    def check_many(self, vectors: npt.ArrayLike) -> Floats:
        """Return embeddings as float32 of shape (n, d): finite, none of them zero or everybody's average."""
        array = real_numbers(vectors)
        if array.ndim != 2 or array.shape[1] != self.dimension:  # noqa: PLR2004 - axes
            raise UsageError(f"an embedding of {self.id} is {self.dimension} numbers")
        with np.errstate(over="ignore"):
            array = np.ascontiguousarray(array, np.float32)
            norms = np.einsum("ij,ij->i", array, array, dtype=np.float64)
        if not ((norms > _LEAST) & (norms < _MOST)).all():  # not-a-number is neither
            raise UsageError("an embedding has a number that is not finite, or is all but zero or endless")
        check_not_average(self.id, self.metric, array)
        return array


def real_numbers(given: npt.ArrayLike) -> npt.NDArray[Any]:
    """Return integers or floating-point numbers as an array.

    Raises UsageError for anything else: text, truth values, dates, complex or masked numbers, rows of several
    lengths. NumPy would make numbers of some of them, and drop a mask.
    """
    parts = given if isinstance(given, list | tuple) else [given]
    if not any(isinstance(each, np.ma.MaskedArray) for each in parts):
        with contextlib.suppress(Exception):  # an object's own conversion may raise anything
            array = np.asarray(given)
            if array.dtype.kind in "fiu":
                return array
    raise UsageError("embeddings are rows of real numbers, all of one length")


def mean_template(model: Model, templates: Floats) -> Floats:
    """Mean of (k, d) templates as (d,): arithmetic for l2; for cosine of unit vectors, of unit length."""
    out = np.empty(model.dimension, np.float32)
    fill_mean(model, templates, out)
    return out


def fill_mean(model: Model, templates: Floats, out: Floats) -> None:
    """Write ``mean_template`` into ``out``; what it is computed from and with stays in locked memory."""
    count, dimension = templates.shape
    view = _scratch.take(8 * (count + 1) * dimension)
    try:
        table = np.frombuffer(view, np.float64).reshape(count + 1, dimension)
        wide, mean = table[:count], table[count]
        wide[:] = templates
        if model.metric == "cosine":
            wide /= np.sqrt(np.einsum("ij,ij->i", wide, wide))[:, None]
        np.mean(wide, axis=0, out=mean)
        length = float(np.sqrt(mean @ mean))
        if length == 0:
            raise UsageError("the photographs of one subject cancel each other out")
        if model.metric == "cosine":
            mean /= length
        out[:] = mean
    finally:
        view[:] = bytes(len(view))


def reference_stack(model: Model, templates: Floats) -> Floats:
    """Return what is sealed for (k, d) templates: itself for one, else (k + 1, d) with the mean in row 0.

    Row 0 is the reference and is compared alone; a threshold has a value of its own for means.
    """
    if len(templates) == 1:
        return model.check(templates[0])[None]
    checked = model.check_many(templates)
    if len(checked) == 0:
        raise UsageError("a subject needs one embedding at least")
    return np.concatenate((mean_template(model, checked)[None], checked))


def distance(model: Model, probe: Floats, reference: Floats) -> float:
    """Distance of a probe (d,) to one reference (d,); raises UsageError as ``distances`` does."""
    if model.metric != "l2" or probe.shape != reference.shape:
        return float(distances(model, probe, reference[None])[0])
    with _gaps(1, len(reference)) as gaps:
        gap = np.subtract(reference, probe, out=gaps[0])
        return float(np.sqrt(gap @ gap))


@contextlib.contextmanager
def _gaps(count: int, dimension: int) -> Iterator[Floats]:
    """Room for template minus probe, which gives the template away: (count, dimension) in locked memory."""
    view = _scratch.take(4 * count * dimension)
    try:
        yield np.frombuffer(view, np.float32).reshape(count, dimension)
    finally:
        view[:] = bytes(len(view))


def score(found: float) -> float:
    """Distance as it may leave: in steps of 0.01. What that hides, and what not, is in docs/THREATS.md."""
    return round(found, 2)


def distances(model: Model, probe: Floats, gallery: Floats) -> Floats:
    """Distance of a probe (d,) to each row of a gallery (n, d): float32 of shape (n,), exact, in chunks.

    L2 sums squared differences: the expansion |a|^2 - 2ab + |b|^2 is faster but loses every digit for near
    duplicates, which are the matches. Raises UsageError for a probe of another dimension than the gallery's,
    which NumPy would otherwise stretch to fit.
    """
    if gallery.ndim != 2 or probe.shape != gallery.shape[1:]:  # noqa: PLR2004 - axes
        raise UsageError(f"an embedding of {model.id} is {model.dimension} numbers")
    out = np.empty(len(gallery), np.float32)
    step = max(1, _GAPS // len(probe))
    with _gaps(min(step, len(gallery)), len(probe)) as gaps:
        for start in range(0, len(gallery), step):
            rows = gallery[start : start + step]
            if model.metric == "l2":
                gap = np.subtract(rows, probe, out=gaps[: len(rows)])
                out[start : start + step] = np.sqrt(np.einsum("ij,ij->i", gap, gap))
            else:
                lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows)) * np.sqrt(probe @ probe)
                out[start : start + step] = 1 - (rows @ probe) / lengths
    return out
