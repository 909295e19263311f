"""An embedding that no photograph gave, near everybody: the average of many people's."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from benchmark_help import benchmark
from facekeep.errors import UsageError
from facekeep.matching.model import Model, distances
from facekeep.vault import Enrolment, Vault
from vaultlab import VERIFY, Lab

DLIB, SFACE = Model("dlib-resnet", "1", 128, "l2"), Model("sface", "2021dec", 128, "cosine")
MODELS = {"dlib": DLIB, "sface": SFACE}
Floats = npt.NDArray[np.float32]


def packaged(model: Model) -> dict[str, Any]:
    text = resources.files("facekeep.matching").joinpath("average.json").read_text()
    found: dict[str, Any] = next(each for each in json.loads(text) if each["model_id"] == model.id)
    return found


def average(model: Model) -> Floats:
    return np.array(packaged(model)["average"], np.float32)


def away(model: Model, by: float) -> Floats:
    """An embedding that is so far from the average."""
    centre = average(model)
    across = np.eye(1, 128, dtype=np.float32)[0]
    if model.metric == "l2":
        return np.asarray(centre + by * across, np.float32)
    axis = centre / np.linalg.norm(centre)
    across = across - (across @ axis) * axis
    across /= np.linalg.norm(across)
    return np.asarray((1 - by) * axis + np.sqrt(1 - (1 - by) ** 2) * across, np.float32)


WAYS: dict[str, Callable[[Vault, Lab, Model, Floats], object]] = {
    "verify": lambda vault, _, model, made: vault.verify("alice", made, model=model),
    "identify": lambda vault, _, model, made: vault.identify(made, model=model),
    "gallery": lambda vault, _, model, made: vault.gallery(model=model).search(made),
    "enroll": lambda vault, lab, model, made: vault.enroll(
        "eve", embeddings=made, model=model, consent=lab.consent(VERIFY)
    ),
    "prepare": lambda vault, lab, model, made: vault.prepare(
        "eve", embeddings=[made], model=model, consent=lab.consent(VERIFY)
    ),
    "enroll_many": lambda vault, lab, model, made: vault.enroll_many(
        [Enrolment("eve", made[None], model, lab.consent(VERIFY))]
    ),
    "among others": lambda vault, lab, model, made: vault.enroll_many(
        [
            Enrolment("bob", away(model, 0.7)[None], model, lab.consent(VERIFY)),
            Enrolment("eve", made[None], model, lab.consent(VERIFY)),
        ]
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_the_average_of_everybody_is_refused_on_every_way(tmp_path: Path, model: Model, way: str) -> None:
    lab = Lab(tmp_path).create()
    nearest = packaged(model)["nearest"]
    with lab.open() as vault:
        vault.enroll("alice", embeddings=away(model, 0.7), model=model, consent=lab.consent(VERIFY))
        before = len(list(vault.audit_log()))
        for by in (0.0, 0.2, nearest - 0.001):
            with pytest.raises(UsageError, match="average of everybody"):
                WAYS[way](vault, lab, model, away(model, by))
        assert [each.subject for each in vault.subjects()] == ["alice"]
        assert len(list(vault.audit_log())) == before
        WAYS[way](vault, lab, model, away(model, nearest + 0.001))


@pytest.mark.parametrize("scale", [1e-3, 1e6])
def test_a_longer_or_shorter_average_is_the_same_by_the_cosine(scale: float) -> None:
    with pytest.raises(UsageError, match="average of everybody"):
        SFACE.check(scale * average(SFACE))


def test_a_million_rows_with_one_average_among_them() -> None:
    rows = np.ones((10_000, 128), np.float32)
    DLIB.check_many(rows)
    rows[-1] = average(DLIB)
    with pytest.raises(UsageError, match="average of everybody"):
        DLIB.check_many(rows)


def test_a_model_of_ones_own_has_no_average_that_is_known() -> None:
    assert Model("raw:arc", "3", 128, "l2").check(average(DLIB)) is not None


@pytest.fixture(scope="module")
def calibrate() -> ModuleType:
    return benchmark("calibrate_average")


@pytest.mark.parametrize("name", MODELS)
def test_the_packaged_figures_can_be_measured_again(
    calibrate: ModuleType, shared_data: Path, name: str
) -> None:
    data = np.load(shared_data / "embeddings" / "lfw-calibration.npz")
    assert (
        distances(MODELS[name], average(MODELS[name]), data[name]).min() > packaged(MODELS[name])["nearest"]
    )
    again, known = calibrate.calibrate(name, data[name], data[f"{name}_identity"]), packaged(MODELS[name])
    assert again["average"] == pytest.approx(known["average"], abs=1e-3)
    for kind, shares in known["taken_for"].items():
        assert again["taken_for"][kind] == pytest.approx(shares, abs=0.02)
