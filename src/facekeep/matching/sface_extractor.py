"""SFace (128 dimensions, cosine) with the YuNet detector, through OpenCV."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Final

import numpy as np
import numpy.typing as npt

from facekeep.errors import ImageError, MissingDependency
from facekeep.matching.faces import Box, choose
from facekeep.matching.images import ImageInput, load_rgb, name_of
from facekeep.matching.model import Model
from facekeep.matching.quality import gate
from facekeep.matching.weights import Weights

MODEL: Final = Model("sface", "2021dec", 128, "cosine")
VARIABLE: Final = "FACEKEEP_MODELS"
_DETECTOR: Final = Weights(
    "face_detection_yunet_2023mar.onnx", "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
)
_RECOGNISER: Final = Weights(
    "face_recognition_sface_2021dec.onnx", "0ba9fbfa01b5270c96627c4ef784da859931e02f04419c829e83484087c34e79"
)
_MISSING: Final = (
    f"set {VARIABLE} to a folder with {_DETECTOR.name} and {_RECOGNISER.name}, both of OpenCV's model zoo"
)
# YuNet's confidence in a face. At 0.9, as in OpenCV's samples, it misses 6 of 400 faces. What it finds
# between is a person too, so every face counts in the choice.
_SCORE: Final = 0.8


class SFaceExtractor:
    """YuNet and SFace. Needs ``facekeep[sface]`` and two model files, which no package ships."""

    def __init__(self, models: str | Path | None = None) -> None:
        """Load the networks from a folder, by default that of ``FACEKEEP_MODELS``.

        Raises MissingDependency, and IntegrityError for a model file that is not the expected one.
        """
        cv2 = _opencv()
        folder = models or os.environ.get(VARIABLE)
        if not folder:
            raise MissingDependency("the sface extractor needs its model files", next=_MISSING)
        detector = _DETECTOR.check(Path(folder) / _DETECTOR.name, missing=_MISSING)
        recogniser = _RECOGNISER.check(Path(folder) / _RECOGNISER.name, missing=_MISSING)
        with _quiet(cv2):
            self._detector = cv2.FaceDetectorYN.create(str(detector), "", (320, 320), _SCORE)
            self._recogniser = cv2.FaceRecognizerSF.create(str(recogniser), "")
        self._failure: type[Exception] = cv2.error
        self._guard = threading.Lock()  # both keep the picture's size and their layers' outputs

    @property
    def model(self) -> Model:
        """``sface/2021dec``."""
        return MODEL

    def extract(self, image: ImageInput) -> npt.NDArray[np.float32]:
        """Template of shape (128,), not of unit length; raises ImageError."""
        crop = self.crop(image)
        gate(MODEL).check(crop, name_of(image))
        return self.describe(crop)

    def crop(self, image: ImageInput) -> npt.NDArray[np.uint8]:
        """Return the face of a photograph, aligned, as RGB (112, 112, 3); raises ImageError."""
        name = name_of(image)
        bgr = np.ascontiguousarray(load_rgb(image)[:, :, ::-1])  # OpenCV's order, here and in describe
        height, width = bgr.shape[:2]
        with self._guard:
            try:
                self._detector.setInputSize((width, height))
                _, found = self._detector.detect(bgr)
                faces = [] if found is None else found
                face = faces[choose([_box(each) for each in faces], name)]
                crop = self._recogniser.alignCrop(bgr, face)
            except self._failure as error:
                raise ImageError(
                    f"{name}: OpenCV cannot find a face in a picture of this kind", reason="no_face"
                ) from error
        return np.asarray(crop[:, :, ::-1], np.uint8)

    def describe(self, crop: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Template of a face from ``crop``."""
        with self._guard:
            return MODEL.check(self._recogniser.feature(np.ascontiguousarray(crop[:, :, ::-1]))[0])


def _box(row: npt.NDArray[np.float32]) -> Box:
    """Box of a row of YuNet's: left, top, width, height, five landmarks, confidence."""
    left, top, width, height = (float(each) for each in row[:4])
    return Box(left, top, width, height)


@contextmanager
def _quiet(cv2: ModuleType) -> Iterator[None]:
    """Hold back OpenCV 5's warning that its new engine ignores the target device, which nobody chose."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)


def _opencv() -> ModuleType:
    try:
        import cv2  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingDependency("the sface extractor needs OpenCV: pip install 'facekeep[sface]'") from error
    module: ModuleType = cv2
    return module
