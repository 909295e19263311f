"""The SFace extractor, its model files, and whom it tells apart."""

from __future__ import annotations

import inspect
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facekeep.errors import ImageError, IntegrityError, MissingDependency
from facekeep.matching.extractor import Extractor, get_extractor
from facekeep.matching.images import ImageInput, RgbImage
from facekeep.matching.sface_extractor import SFaceExtractor
from matching_help import ASTRONAUT, HOPPER, encoded, gap, hopper, rates, two_people

LIMIT = 0.641  # FMR 0.1 % on LFW
NAMES = ("face_detection_yunet_2023mar.onnx", "face_recognition_sface_2021dec.onnx")


@pytest.fixture(scope="module")
def models(shared_data: Path) -> Path:
    return shared_data.parent / "models"


@pytest.fixture(scope="module")
def extractor(models: Path) -> Extractor:
    return SFaceExtractor(models)


def test_model(extractor: Extractor) -> None:
    assert extractor.model.id == "sface/2021dec"
    assert (extractor.model.dimension, extractor.model.metric) == (128, "cosine")
    vector = extractor.extract(HOPPER)
    assert vector.dtype == np.float32
    assert vector.shape == (128,)


def test_two_people_and_one_person_changed(extractor: Extractor) -> None:
    assert gap(extractor, HOPPER, ASTRONAUT) > LIMIT
    darker = hopper().point(lambda value: value * 0.7).resize((400, 469))
    assert gap(extractor, HOPPER, encoded(darker, "JPEG", quality=60)) < 0.3


def test_two_people_in_one_picture(extractor: Extractor) -> None:
    with pytest.raises(ImageError, match="2 faces found"):
        extractor.extract(two_people(0.9))
    assert gap(extractor, HOPPER, two_people(0.45)) < 0.3


def test_the_order_of_colours_matters(extractor: Extractor) -> None:
    pixels = np.asarray(hopper())
    assert gap(extractor, HOPPER, RgbImage(pixels)) == 0
    turned = RgbImage(np.ascontiguousarray(pixels[:, :, ::-1]))
    assert gap(extractor, HOPPER, turned) > 0.05


def test_colours_are_handed_over_in_opencv_order(extractor: Extractor, models: Path) -> None:
    import cv2  # noqa: PLC0415

    bgr = np.asarray(cv2.imread(str(HOPPER)), np.uint8)
    detector = cv2.FaceDetectorYN.create(str(models / NAMES[0]), "", (bgr.shape[1], bgr.shape[0]))
    recogniser = cv2.FaceRecognizerSF.create(str(models / NAMES[1]), "")
    _, faces = detector.detect(bgr)
    expected = recogniser.feature(recogniser.alignCrop(bgr, faces[0]))[0]
    rgb = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
    np.testing.assert_array_equal(extractor.extract(RgbImage(rgb)), expected)


def test_locations_cannot_be_passed(extractor: Extractor) -> None:
    assert list(inspect.signature(extractor.extract).parameters) == ["image"]
    with pytest.raises(ImageError, match="no face"):
        extractor.extract(Image.new("RGB", (300, 300), "grey"))


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 2), (9, 9), (31, 33)])
def test_tiny_pictures(extractor: Extractor, size: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match="no face"):
        extractor.extract(Image.new("RGB", size))


def test_small_faces(extractor: Extractor) -> None:
    with pytest.raises(ImageError, match=r"smaller than 40 pixels|no face"):
        extractor.extract(hopper().resize((97, 114)))


def test_threads_and_repetition(extractor: Extractor) -> None:
    photographs: list[ImageInput] = [HOPPER, ASTRONAUT, hopper().resize((256, 300))]
    alone = [extractor.extract(each) for each in photographs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(extractor.extract, photographs * 5))
    for number, vector in enumerate(together):
        np.testing.assert_array_equal(vector, alone[number % 3])


def test_the_folder_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, models: Path) -> None:
    monkeypatch.setenv("FACEKEEP_MODELS", os.fspath(models))
    get_extractor("sface").extract(HOPPER)


def test_no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FACEKEEP_MODELS", raising=False)
    with pytest.raises(MissingDependency) as caught:
        get_extractor("sface")
    assert "FACEKEEP_MODELS" in caught.value.next
    with pytest.raises(MissingDependency, match=NAMES[0]):
        SFaceExtractor(tmp_path)


@pytest.mark.parametrize(
    ("number", "digest"), [(0, "8f2383e4dd3cfbb4553ea8718107fc04"), (1, "0ba9fbfa01b5270c96627c4ef784da85")]
)
def test_another_model_file(tmp_path: Path, models: Path, number: int, digest: str) -> None:
    for name in NAMES:
        (tmp_path / name).symlink_to(models / name)
    (tmp_path / NAMES[number]).unlink()
    altered = bytearray((models / NAMES[number]).read_bytes())
    altered[-1] ^= 1
    (tmp_path / NAMES[number]).write_bytes(altered)
    with pytest.raises(IntegrityError, match=f"{NAMES[number]}.*{digest}"):
        SFaceExtractor(tmp_path)


def test_opencv_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingDependency, match=r"pip install 'facekeep\[sface\]'"):
        get_extractor("sface")


def test_whom_it_tells_apart(extractor: Extractor, shared_data: Path) -> None:
    true, false, accepted = rates(extractor, shared_data / "faces", 40, 4, LIMIT)
    assert true > 0.95
    assert false < 0.005
    assert accepted > 0.9
