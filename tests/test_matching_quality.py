"""Faces that tell too little are refused, with the reason; photographs as they are are not."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageFilter, ImageOps

from facekeep.errors import ImageError
from facekeep.matching.dlib_extractor import MODEL as DLIB
from facekeep.matching.dlib_extractor import DlibExtractor
from facekeep.matching.model import distances
from facekeep.matching.quality import MEASURES, Gate, gate, measure
from facekeep.matching.sface_extractor import MODEL as SFACE
from facekeep.matching.sface_extractor import SFaceExtractor
from facekeep.matching.threshold import default_threshold
from matching_help import ASTRONAUT, HOPPER, encoded, hopper

Extractor = DlibExtractor | SFaceExtractor
GEOMETRY = {"no_face", "several_faces", "too_small"}
WORDS = {word for pair in MEASURES.values() for word in pair}


@pytest.fixture(scope="module", params=["dlib", "sface"])
def extractor(request: pytest.FixtureRequest, shared_data: Path) -> Extractor:
    return DlibExtractor() if request.param == "dlib" else SFaceExtractor(shared_data.parent / "models")


def evidence() -> list[dict[str, object]]:
    text = resources.files("facekeep.matching").joinpath("quality.json").read_text("utf-8")
    return [each["evidence"] for each in json.loads(text)]


def test_the_evidence_keeps_the_claim() -> None:
    for each in evidence():
        assert float(str(each["refused"])) <= 0.01
        for rate in ("fmr_against_photographs_after", "fmr_alike_after", "fmr_all_degraded_after"):
            assert float(str(each[rate])) <= 2 * 0.001
        assert float(str(each["fmr_alike_before"])) > 0.02


def portraits() -> dict[str, Image.Image]:
    return {"hopper": hopper(), "astronaut": Image.open(ASTRONAUT).convert("RGB")}


ORDINARY: dict[str, Callable[[Image.Image], Image.Image]] = {
    "as it is": lambda image: image,
    "half the size": lambda image: image.resize(
        (image.width // 2, image.height // 2), Image.Resampling.LANCZOS
    ),
    "twice the size": lambda image: image.resize(
        (image.width * 2, image.height * 2), Image.Resampling.BICUBIC
    ),
    "grey": lambda image: image.convert("L"),
    "mirrored": ImageOps.mirror,
    "JPEG": lambda image: Image.open(io.BytesIO(encoded(image, "JPEG", quality=70))),
    "darker": lambda image: image.point(lambda value: value * 0.75),
}


@pytest.mark.parametrize("change", ORDINARY)
@pytest.mark.parametrize("who", ["hopper", "astronaut"])
def test_ordinary_photographs_pass(extractor: Extractor, who: str, change: str) -> None:
    extractor.extract(ORDINARY[change](portraits()[who]))


DEGRADED: dict[str, tuple[set[str], Callable[[Image.Image], Image.Image]]] = {
    "blur": ({"blurred"}, lambda image: image.filter(ImageFilter.GaussianBlur(8))),
    "2 colours": ({"few_levels", "high_contrast", "noisy"}, lambda image: image.quantize(2)),
    "4 colours": ({"few_levels", "high_contrast", "noisy"}, lambda image: image.quantize(4)),
    "1 bit": ({"few_levels", "high_contrast", "noisy"}, lambda image: image.convert("1")),
    "4 grey levels": (
        {"few_levels", "high_contrast"},
        lambda image: ImageOps.posterize(image.convert("L"), 2),
    ),
    "negative": ({"inverted", "wrong_colours", "few_levels"}, ImageOps.invert),
    "JPEG of quality 1": (
        WORDS,
        lambda image: Image.open(io.BytesIO(encoded(image.resize((150, 176)), "JPEG", quality=1))),
    ),
    "sixteen pixels": (WORDS, lambda image: image.resize((40, 47), Image.Resampling.BOX).resize((250, 293))),
    "dark": (WORDS, lambda image: image.point(lambda value: value * 0.04)),
    "blue alone": (
        WORDS,
        lambda image: Image.merge("RGB", [Image.new("L", image.size)] * 2 + [image.getchannel(2)]),
    ),
}


@pytest.mark.parametrize("change", DEGRADED)
def test_what_tells_too_little_is_refused_with_a_reason(extractor: Extractor, change: str) -> None:
    words, degrade = DEGRADED[change]
    with pytest.raises(ImageError) as caught:
        extractor.extract(degrade(hopper()).convert("RGB"))
    assert caught.value.reason in words | GEOMETRY
    assert caught.value.next


def covered(image: Image.Image, box: tuple[int, int, int, int], colour: str = "black") -> Image.Image:
    image = image.copy()
    image.paste(colour, box)
    return image


def beside(image: Image.Image, sliver: Image.Image) -> Image.Image:
    both = Image.new("RGB", (image.width + sliver.width, 300), "white")
    both.paste(image, (0, 0))
    both.paste(sliver, (image.width, 0))
    return both


# Of a portrait of 256 x 300 pixels, whose face is 89 x 103 pixels, at (88, 62); other people beside it.
ODD: dict[str, Callable[[Image.Image, Image.Image], Image.Image]] = {
    "upside down": lambda one, _: one.rotate(180),
    "on its side": lambda one, _: one.rotate(90, expand=True),
    "half turned": lambda one, _: one.rotate(45, fillcolor="white"),
    "leaning": lambda one, _: one.rotate(20, fillcolor="white"),
    "mirrored": lambda one, _: ImageOps.mirror(one),
    "no margin": lambda one, _: one.crop((88, 62, 177, 165)),
    "less than the face": lambda one, _: one.crop((97, 72, 168, 155)),
    "at the upper edge": lambda one, _: one.crop((0, 82, 256, 300)),
    "its right half": lambda one, _: one.crop((132, 0, 256, 300)),
    "two thirds of it": lambda one, _: one.crop((0, 0, 147, 300)),
    "no mouth": lambda one, _: one.crop((0, 0, 256, 130)),
    "a bar over the eyes": lambda one, _: covered(one, (88, 90, 177, 115)),
    "a mask": lambda one, _: covered(one, (88, 125, 177, 165), "lightblue"),
    "half behind a wall": lambda one, _: covered(one, (132, 0, 256, 300), "white"),
    "a sliver of another face": lambda one, other: beside(one, other.crop((60, 0, 110, 300))),
    "half of another face": lambda one, other: beside(one, other.crop((60, 0, 150, 300))),
}


@pytest.mark.parametrize("change", ODD)
def test_an_odd_crop_is_refused_or_is_the_person(extractor: Extractor, change: str) -> None:
    one = hopper().resize((256, 300))
    other = portraits()["astronaut"].crop((100, 0, 350, 300))
    try:
        found = extractor.extract(ODD[change](one, other))
    except ImageError as error:
        assert error.reason in WORDS | GEOMETRY  # noqa: PT017 - either is right
        return
    near = distances(extractor.model, found, np.stack([extractor.extract(each) for each in (one, other)]))
    assert near[0] <= default_threshold(extractor.model).value < near[1]


def moved(image: Image.Image, down: int, across: int) -> Image.Image:
    """Motion of the camera over 15 steps of that many pixels."""
    pixels = np.asarray(image, np.float64)
    rolled = [np.roll(pixels, (step * down, step * across), (0, 1)) for step in range(15)]
    return Image.fromarray(np.mean(rolled, axis=0).astype(np.uint8))


@pytest.mark.parametrize("way", [(0, 1), (1, 0), (1, 1), (1, -1)])
@pytest.mark.parametrize("who", ["hopper", "astronaut"])
def test_motion_in_any_direction_is_refused_with_sface(
    shared_data: Path, who: str, way: tuple[int, int]
) -> None:
    extractor = SFaceExtractor(shared_data.parent / "models")
    image = portraits()[who]
    image = image.resize((image.width // 2, image.height // 2)) if who == "hopper" else image
    with pytest.raises(ImageError) as caught:
        extractor.extract(moved(image, *way))
    assert caught.value.reason in GEOMETRY | {"blurred"}


@pytest.mark.parametrize("change", ["negative", "grey negative"])
def test_the_bands_sign_tells_a_negative(change: str) -> None:
    """What is narrow and dark in a face is narrow and light in its negative."""
    face = hopper().crop((150, 60, 330, 240)).resize((112, 112))
    face = face.convert("L").convert("RGB") if change == "grey negative" else face
    at = list(MEASURES).index("light on dark")
    plain, negative = (measure(np.asarray(each), 0.46)[at] for each in (face, ImageOps.invert(face)))
    assert plain < -0.2
    assert negative > 0.2


def test_a_measure_that_a_calibration_left_out_adds_nothing() -> None:
    text = resources.files("facekeep.matching").joinpath("quality.json").read_text("utf-8")
    value = json.loads(text)[1]
    row = list(MEASURES).index("one direction")
    whole = Gate.from_json(value).terms(np.arange(len(MEASURES), dtype=np.float64))
    del value["measures"]["one direction"]
    part = Gate.from_json(value).terms(np.arange(len(MEASURES), dtype=np.float64))
    assert whole[row] != 0
    assert part[row] == 0
    assert (np.delete(part, row) == np.delete(whole, row)).all()


def test_every_reason_is_documented_for_machines() -> None:
    guide = (Path(__file__).parent.parent / "docs" / "integrator.md").read_text("utf-8")
    table = guide[guide.index("| `reason` |") :].partition("\n\n")[0]
    assert all(f"`{word}`" in table for word in WORDS | GEOMETRY)


def test_a_crop_that_tells_nothing() -> None:
    for model in (DlibExtractor, SFaceExtractor):
        found = gate(DLIB if model is DlibExtractor else SFACE)
        for value in (0, 128, 255):
            assert np.isfinite(measure(np.full((112, 112, 3), value, np.uint8), found.eyes)).all()
            assert found.reason(np.full((112, 112, 3), value, np.uint8)) in WORDS


def test_the_gate_stands_before_the_network(extractor: Extractor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(extractor), "describe", lambda *_: pytest.fail("described"))
    with pytest.raises(ImageError, match="the face"):
        extractor.extract(hopper().filter(ImageFilter.GaussianBlur(6)))


def test_the_gate_changes_no_template(extractor: Extractor) -> None:
    np.testing.assert_array_equal(extractor.extract(HOPPER), extractor.describe(extractor.crop(HOPPER)))


def test_of_forty_strangers_no_degradation_lets_in_another(extractor: Extractor, shared_data: Path) -> None:
    """The people who did not calibrate; degradations that are not among those of the calibration."""
    changes: list[Callable[[Image.Image], Image.Image]] = [
        lambda image: image.quantize(3, dither=Image.Dither.NONE),
        lambda image: image.filter(ImageFilter.GaussianBlur(6)),
        lambda image: ImageOps.posterize(image, 1).filter(ImageFilter.BoxBlur(1)),
    ]
    limit = default_threshold(extractor.model).value
    for change in changes:
        found: list[npt.NDArray[np.float32]] = []
        for person in range(2, 42, 2):
            photograph = Image.open(shared_data / "faces" / f"person-{person:03}" / "2.jpg")
            try:
                found.append(extractor.extract(change(photograph).convert("RGB")))
            except ImageError:
                continue
        for number, vector in enumerate(found[1:], 1):
            assert (distances(extractor.model, vector, np.stack(found[:number])) > limit).all()
