"""Files and values made to break a parser: each is refused with an error of ours."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest

from facekeep.errors import ImageError, UsageError
from facekeep.matching.images import load_rgb
from facekeep.matching.model import Model
from facekeep.matching.raw import load_embeddings, raw_model
from facekeep.matching.threshold import Threshold, default_threshold

MODEL = Model("raw:t", "1", 4, "l2")
DEFAULT = default_threshold(Model("dlib-resnet", "1", 128, "l2"))


def saved(array: object) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(array), allow_pickle=True)
    return file.getvalue()


def promised(count: int) -> bytes:
    """Return a .npy whose header promises ``count`` rows where three stand."""
    honest, claim = b"(3, 4), }", f"({count}, 4), }}".encode()
    whole = saved(np.ones((3, 4), np.float32))
    return whole.replace(honest + b" " * (len(claim) - len(honest)), claim)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b'{"a": 1}',
        b"null",
        b"[]",
        b"[1, 2, 3]",
        b"[1, 2, 3, NaN]",
        b"[1, 2, 3, 1e400]",
        b"[1, 2, 3, " + b"9" * 400 + b"]",
        b"[1, 2, 3, " + b"9" * 5_000 + b"]",
        b"[" * 100_000,
        b"[[1, 2, 3, 4], [1]]",
        b"[[[1, 2, 3, 4]]]",
        b'["a", "b", "c", "d"]',
        b"\xff\xfe",
    ],
)
def test_json(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "probe.json"
    path.write_bytes(text)
    with pytest.raises(UsageError):
        load_embeddings(path, MODEL)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        saved(np.ones((3, 4), np.float32))[:-1],
        saved([{"a": 1}]),
        saved("a"),
        saved(np.ones((2, 2, 4))),
        promised(300_000_000_000),
        promised(2**62),
    ],
    ids=["empty", "magic", "short", "pickle", "text", "deep", "terabytes", "overflow"],
)
def test_npy(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "probe.npy"
    path.write_bytes(content)
    with pytest.raises(UsageError):
        load_embeddings(path, MODEL)


def test_the_message_names_the_file_and_not_its_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load_embeddings(tmp_path / "missing.npy", MODEL)
    assert "missing.npy" in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_honest_embeddings(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[1, 2, 3, 4]", encoding="utf-8")
    (tmp_path / "b.npy").write_bytes(saved([[1.0, 2, 3, 4], [5, 6, 7, 8]]))
    assert load_embeddings(tmp_path / "a.json", MODEL).shape == (1, 4)
    assert load_embeddings(tmp_path / "b.npy", MODEL).dtype == np.float32


@pytest.mark.parametrize(
    "text", ["", "arc/3:512:cosine", "raw:arc/3:512", "raw:arc/3:-1:l2", "raw:arc/3:٣:l2", "raw:arc:4:l2"]
)
def test_raw_model_names(text: str) -> None:
    with pytest.raises(UsageError):
        raw_model(text)
    assert raw_model("raw:arc/3:512:cosine") == Model("raw:arc", "3", 512, "cosine")


@pytest.mark.parametrize(
    "change",
    [
        {"value": float("nan")},
        {"value": 10**400},
        {"value": -0.1},
        {"value": True},
        {"metric": "l1"},
        {"fmr": 1.5},
        {"fmr_low": 0.5},
        {"fmr_high": 0.0},
        {"identities": False},
        {"genuine_pairs": 0},
        {"impostor_pairs": 1.5},
        {"dataset": ""},
        {"note": "unknown"},
    ],
)
def test_a_threshold_without_sound_evidence(change: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Threshold.from_json({**DEFAULT.to_json(), **change})


def test_a_threshold_survives_json_and_lacks_nothing() -> None:
    assert Threshold.from_json(DEFAULT.to_json()) == DEFAULT
    for name in DEFAULT.to_json():
        with pytest.raises(UsageError):
            Threshold.from_json({key: value for key, value in DEFAULT.to_json().items() if key != name})


def test_a_number_that_is_none_is_no_match() -> None:
    assert not DEFAULT.matches(float("nan"))
    assert DEFAULT.matches(DEFAULT.value)
    assert not DEFAULT.matches(float(np.nextafter(DEFAULT.value, 9)))


@pytest.mark.parametrize("model", [MODEL, Model("raw:hostile", "1", 128, "cosine")])
def test_no_default_for_a_model_that_was_not_measured(model: Model) -> None:
    with pytest.raises(UsageError, match="no calibrated threshold") as caught:
        default_threshold(model)
    assert "evidence" in caught.value.next


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts descriptors as Linux lists them")
def test_folders_in_place_of_photographs_leave_no_descriptor_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - iterdir holds one open itself
    for _ in range(20):
        with pytest.raises(ImageError):
            load_rgb(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
