"""[matching] of vault.toml: written where it differs, read strictly, in the digest."""

from __future__ import annotations

import json

import pytest

from facekeep.errors import FormatError
from facekeep.formats.matching import Limits, Matching
from facekeep.formats.settings import Settings
from facekeep.matching.threshold import Threshold
from vaultlab import MODEL, THRESHOLD, threshold

TEXT = THRESHOLD.to_text()
STRANGE = Threshold.from_json(THRESHOLD.to_json() | {"dataset": 'faces "of" Zürich\\n', "mean_value": 1e-7})


def settings(matching: Matching) -> Settings:
    return Settings(bytes(16), "file:root", (), "DE", matching=matching)


@pytest.mark.parametrize(
    "matching",
    [
        Matching(),
        Matching(scores=True, top=1, failures=0, asks=0),
        Matching().with_threshold(TEXT).with_threshold(STRANGE.to_text(), search=True),
    ],
)
def test_what_is_written_is_read(matching: Matching) -> None:
    given = settings(matching)
    assert Settings.decode(given.encode()) == given
    assert ("[matching]" in given.encode()) is (matching != Matching())
    assert (given.digest() == settings(Matching()).digest()) is (matching == Matching())


def test_the_evidence_comes_back_whole() -> None:
    found = Settings.decode(settings(Matching().with_threshold(STRANGE.to_text())).encode()).matching
    assert Threshold.from_text(str(found.registered(MODEL.id))) == STRANGE
    assert found.limits[MODEL.id] == found.search_limits[MODEL.id] == Limits(500_000, 0)


def test_a_model_has_one_threshold_and_one_for_searches() -> None:
    two = Matching().with_threshold(TEXT).with_threshold(threshold(value=0.4).to_text())
    assert two.limits[MODEL.id] == Limits(400_000, 400_000)
    assert len(two.thresholds) == 1
    both = two.with_threshold(TEXT, search=True)
    assert (both.limits[MODEL.id], both.search_limits[MODEL.id]) == (two.limits[MODEL.id], THRESHOLD.limits)
    assert both.without_threshold(MODEL.id) == Matching()


def test_what_replaces_a_calibrated_threshold_is_the_one_that_counts() -> None:
    own = Threshold.from_json(THRESHOLD.to_json() | {"model_id": "dlib-resnet/1"})
    assert Matching().with_threshold(own.to_text()).limits["dlib-resnet/1"] == own.limits


def edited(**values: object) -> str:
    return json.dumps(THRESHOLD.to_json() | values)


@pytest.mark.parametrize(
    "document",
    [
        [],
        {"further": 1},
        {"top": 0},
        {"top": 1_001},
        {"top": True},
        {"top": 5.0},
        {"top": "5"},
        {"scores": 1},
        {"asks": -1},
        {"pause_s": 0},
        {"thresholds": TEXT},
        {"thresholds": [1]},
        {"thresholds": [TEXT, TEXT]},
        {"thresholds": [edited(model_id="raw:b/1"), edited(model_id="raw:a/1")]},
        {"thresholds": [edited(model_id=f"raw:{number:02}/1") for number in range(17)]},
        {"thresholds": ["{}"]},
        {"thresholds": ["[]"]},
        {"thresholds": ["{"]},
        {"thresholds": ["[" * 100_000]},
        {"thresholds": [edited(model_id="Raw:/1")]},
        {"thresholds": [edited(model_id=1)]},
        {"thresholds": [edited(value=-1)]},
        {"thresholds": [edited(value=1e300)]},
        {"thresholds": [edited(value="1")]},
        {"thresholds": [TEXT.replace("0.5}", "NaN}")]},
        {"thresholds": [TEXT.replace("0.5}", "Infinity}")]},
        {"thresholds": [edited() + "\n"]},
        {"search_thresholds": [TEXT, TEXT]},
    ],
)
def test_what_is_no_limit_is_refused(document: object) -> None:
    with pytest.raises(FormatError):
        Matching.parse(document)


def test_a_default_that_is_written_is_refused() -> None:
    with pytest.raises(FormatError):
        Settings.decode(settings(Matching()).encode() + "\n[matching]\ntop = 5\n")
