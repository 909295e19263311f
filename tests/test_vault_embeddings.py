"""Embeddings of every kind: what one call takes, all take, and what is none is refused by all."""

from __future__ import annotations

import datetime as dt
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facekeep.errors import FacekeepError, UsageError
from facekeep.matching.model import Model
from facekeep.matching.raw import load_embeddings
from facekeep.vault import Enrolment, Vault
from vaultlab import IDENTIFY, VERIFY, Lab, threshold

MODEL = Model("raw:kinds", "1", 4, "l2")
OWN = threshold(MODEL)
ROW = [1.0, 2.0, 3.0, 4.0]


class Odd:
    """An object whose conversion fails in a way of its own."""

    def __array__(self, *_: object, **__: object) -> object:
        raise RuntimeError("mine")


def masked(row: object, at: int) -> object:
    made: Any = np.ma.asarray(row)
    made[at] = np.ma.masked
    return made


GOOD: dict[str, Callable[[], object]] = {
    "list": lambda: ROW,
    "tuple": lambda: tuple(ROW),
    "integers": lambda: [1, 2, 3, 4],
    "float16": lambda: np.array(ROW, "f2"),
    "float64": lambda: np.array(ROW),
    "long double": lambda: np.array(ROW, np.longdouble),
    "int8": lambda: np.array([1, 2, 3, 4], "i1"),
    "big endian": lambda: np.array(ROW, ">f4"),
    "a stride": lambda: np.arange(8, dtype=np.float32)[::2] + 1,
    "read only": lambda: np.frombuffer(np.array(ROW, np.float32).tobytes(), np.float32),
}
BAD: dict[str, Callable[[], object]] = {
    "text": lambda: ["1", "2", "3", "4"],
    "bytes": lambda: [b"1", b"2", b"3", b"4"],
    "one text": lambda: np.array("1,2,3,4"),
    "truth values": lambda: np.array([True, False, True, True]),
    "complex": lambda: np.array([1 + 1j, 2, 3, 4]),
    "dates": lambda: np.array(["2020-01-01"] * 4, "M8[D]"),
    "spans": lambda: np.array([1, 2, 3, 4], "m8[s]"),
    "datetimes": lambda: [dt.datetime.now(tz=dt.UTC)] * 4,
    "objects": lambda: np.array([1, 2, 3, 4], object),
    "none among them": lambda: [None, 1, 2, 3],
    "ragged": lambda: [[1, 2, 3, 4], [1, 2]],
    "ragged deeper": lambda: [[1, [2], 3, 4]],
    "masked": lambda: masked(ROW, 1),
    "masked rows": lambda: [masked(ROW, 1)],
    "masked float32": lambda: masked(np.array(ROW, "f4"), 3),
    "one masked": lambda: [np.ma.masked, 1.0, 2.0, 3.0],
    "structured": lambda: np.zeros(4, [("a", "f4")]),
    "beyond float32": lambda: [1e300, 1, 1, 1],
    "beyond any": lambda: [10**400, 1, 1, 1],
    "not a number": lambda: [float("nan"), 1, 1, 1],
    "endless": lambda: [float("inf"), 1, 1, 1],
    "nothing": lambda: [0, 0, 0, 0],
    "all but nothing": lambda: [1e-40, 0, 0, 0],
    "a number": lambda: np.float32(3),
    "an array without axes": lambda: np.array(3.0),
    "three axes": lambda: np.ones((1, 1, 4)),
    "empty": list,
    "no rows": lambda: np.ones((0, 4)),
    "no columns": lambda: np.ones((4, 0)),
    "too short": lambda: [1, 2, 3],
    "a set": lambda: {1, 2, 3, 4},
    "a dictionary": lambda: {"x": 1},
    "a generator": lambda: (each for each in ROW),
    "its own error": Odd,
    "lists in lists": lambda: _nested(2_000),
    "surrogates": lambda: ["\ud800"] * 4,
}  # fmt: skip


def _nested(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Vault, Lab]]:
    lab = Lab(tmp_path_factory.mktemp("kinds")).create()
    with lab.open() as vault:
        vault.change_settings(thresholds=[OWN])
        made = vault.enroll("known", embeddings=ROW, model=MODEL, consent=lab.consent(VERIFY, IDENTIFY))
        assert made.grants
        vault.identify(np.array(ROW, np.float32), model=MODEL, threshold=OWN)
        yield vault, lab


def ways(vault: Vault, lab: Lab, subject: str, given: Any) -> dict[str, Callable[[], object]]:  # noqa: ANN401 - anything
    consent, gallery = lab.consent(VERIFY), vault._galleries[MODEL, vault.region]
    return {
        "prepare": lambda: vault.prepare(subject, embeddings=given, model=MODEL, consent=consent),
        "enroll": lambda: vault.enroll(subject, embeddings=given, model=MODEL, consent=consent),
        "by hand": lambda: vault.enroll_many([Enrolment(subject, given, MODEL, consent)], existing="replace"),
        "verify": lambda: vault.verify("known", given, model=MODEL, threshold=OWN),
        "identify": lambda: vault.identify(given, model=MODEL, threshold=OWN),
        "search": lambda: gallery.search(given, OWN, 1),
        "check": lambda: MODEL.check(given),
    }


@pytest.mark.parametrize("kind", GOOD)
def test_what_is_an_embedding_is_one_to_every_call(vault: tuple[Vault, Lab], kind: str) -> None:
    for way, call in ways(*vault, kind, GOOD[kind]()).items():
        assert call() is not None, way


@pytest.mark.parametrize("kind", BAD)
def test_what_is_none_is_one_to_no_call(vault: tuple[Vault, Lab], kind: str) -> None:
    for way in ways(*vault, kind, None):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            call = ways(*vault, kind, BAD[kind]())[way]
            with pytest.raises(FacekeepError):
                call()
    assert kind not in {info.subject for info in vault[0].subjects()}


@pytest.mark.parametrize("rows", [1, 2, 63])
def test_rows_are_up_to_63(vault: tuple[Vault, Lab], rows: int) -> None:
    inside, lab = vault
    inside.enroll(f"{rows} rows", embeddings=[ROW] * rows, model=MODEL, consent=lab.consent(VERIFY))


@pytest.mark.parametrize("rows", [64, 100_000])
def test_more_rows_are_refused_before_they_are_compared(vault: tuple[Vault, Lab], rows: int) -> None:
    inside, lab = vault
    for call in ("prepare", "enroll", "by hand"):
        with pytest.raises(UsageError, match="63 photographs"):
            ways(inside, lab, "many", np.ones((rows, 4)))[call]()


@pytest.mark.parametrize(
    "text", ['["1", "2", "3", "4"]', "[true, false, true, true]", "{}", '"1"', "[[1,2,3,4],[1]]"]
)
def test_a_json_file_holds_numbers(tmp_path: Path, text: str) -> None:
    (tmp_path / "e.json").write_text(text)
    with pytest.raises(UsageError):
        load_embeddings(tmp_path / "e.json", MODEL)
