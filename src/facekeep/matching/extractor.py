"""What turns a photograph into a template, and how to get one by name."""

from __future__ import annotations

import os
import threading
from importlib import import_module
from typing import Final, Protocol, cast, runtime_checkable

import numpy as np
import numpy.typing as npt

from facekeep.errors import UsageError
from facekeep.matching.images import ImageInput
from facekeep.matching.model import Model

DEFAULT: Final = "dlib"
# Imported on demand: the core works where neither dlib nor OpenCV is installed.
_EXTRACTORS: Final = {
    "dlib": ("facekeep.matching.dlib_extractor", "DlibExtractor"),
    "sface": ("facekeep.matching.sface_extractor", "SFaceExtractor"),
}


_MODELS: Final = "FACEKEEP_MODELS"  # where model files are looked for
_loaded: dict[tuple[str, str | None], Extractor] = {}
_loading = threading.Lock()


@runtime_checkable
class Extractor(Protocol):
    """Turns a photograph of one person into one template. Safe to share between threads.

    Where the face is, an extractor finds out itself: with a location from outside, a grey square has an
    embedding too.
    """

    @property
    def model(self) -> Model:
        """What the templates are comparable with."""
        ...

    def extract(self, image: ImageInput) -> npt.NDArray[np.float32]:
        """Template of shape (d,); raises ImageError unless there is exactly one face to speak of."""
        ...


def get_extractor(name: str | None = None) -> Extractor:
    """Return the extractor of that name, ``dlib`` where none is given: one for the process, loaded once.

    Raises UsageError for an unknown name, MissingDependency where its packages or model files are missing,
    IntegrityError where a model file is not the expected one.
    """
    try:
        module, kind = _EXTRACTORS[DEFAULT if name is None else name]
    except KeyError as error:
        known = " and ".join(repr(each) for each in _EXTRACTORS)
        raise UsageError(f"there is no extractor {name!r}; there are {known}") from error
    with _loading:
        found = _loaded.get((kind, os.environ.get(_MODELS)))
        if found is None:
            found = cast("Extractor", getattr(import_module(module), kind)())
            _loaded[kind, os.environ.get(_MODELS)] = found
        return found


def _unlock() -> None:
    """Let a child load what its parent was loading when it was forked."""
    global _loading  # noqa: PLW0603 - a lock that nobody in the child holds
    _loading = threading.Lock()


os.register_at_fork(after_in_child=_unlock)
