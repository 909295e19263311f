"""What the packaged thresholds claim, against the embeddings and photographs they are about."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from benchmark_help import benchmark
from facekeep.errors import ImageError
from facekeep.matching.images import RgbImage, load_rgb
from facekeep.matching.model import Model
from facekeep.matching.threshold import default_threshold

MODELS = {"dlib": Model("dlib-resnet", "1", 128, "l2"), "sface": Model("sface", "2021dec", 128, "cosine")}


@pytest.fixture(scope="module")
def calibrate() -> ModuleType:
    return benchmark("calibrate_thresholds")


@pytest.mark.parametrize("name", MODELS)
def test_the_packaged_rates_can_be_measured_again(
    calibrate: ModuleType, shared_data: Path, name: str
) -> None:
    data = np.load(shared_data / "embeddings" / "lfw-calibration.npz")
    threshold = default_threshold(MODELS[name])
    _, person = np.unique(data[f"{name}_identity"], return_inverse=True)
    matched = calibrate.matches(data[name], threshold.metric, person, threshold.value)
    pairs = calibrate.ordered_pairs(person)
    other = ~np.eye(len(pairs), dtype=bool)
    assert threshold.identities == len(pairs)
    assert threshold.impostor_pairs * 2 == pairs[other].sum()
    assert threshold.genuine_pairs * 2 == np.trace(pairs)
    assert matched[other].sum() / pairs[other].sum() == pytest.approx(threshold.fmr, abs=1e-5)
    assert calibrate.fnmr(matched, pairs) == pytest.approx(threshold.fnmr, abs=1e-3)
    assert threshold.fmr <= threshold.target_fmr


def test_one_person_with_many_photographs_is_one_person(calibrate: ModuleType) -> None:
    person = np.array([0] * 50 + [1, 1])
    vectors = np.concatenate([np.zeros((50, 2)), [[9, 0], [0, 9]]]).astype(np.float32)
    matched = calibrate.matches(vectors, "l2", person, 1.0)
    assert calibrate.fnmr(matched, calibrate.ordered_pairs(person)) == pytest.approx(0.5)


def test_sface_takes_nobody_out_of_a_picture_of_two(shared_data: Path) -> None:
    pytest.importorskip("cv2", reason="needs facekeep[sface]")
    from facekeep.matching.sface_extractor import SFaceExtractor  # noqa: PLC0415 - an extra

    extractor = SFaceExtractor(shared_data.parent / "models")
    with pytest.raises(ImageError, match="2 faces"):  # one at 0.91, one at 0.90, both of a size
        extractor.extract(shared_data / "faces" / "person-063" / "3.jpg")
    pair = [load_rgb(shared_data / "faces" / f"person-00{number}" / "1.jpg") for number in (1, 3)]
    with pytest.raises(ImageError, match="faces"):
        extractor.extract(RgbImage(np.concatenate(pair, axis=1)))
