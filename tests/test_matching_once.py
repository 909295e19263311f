"""An extractor is loaded once, whoever comes first."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from facekeep.errors import MissingDependency
from facekeep.matching import extractor
from facekeep.matching.extractor import get_extractor
from vaultlab import Lab

THREADS = 8


class Slow:
    """An extractor that takes its time to load."""

    made = 0

    def __init__(self) -> None:
        time.sleep(0.05)
        type(self).made += 1


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> type[Slow]:
    monkeypatch.setattr(extractor, "_loaded", {})
    monkeypatch.setattr(extractor, "import_module", lambda _: SimpleNamespace(DlibExtractor=Slow))
    monkeypatch.setattr(Slow, "made", 0)
    return Slow


def at_once(work: list[object]) -> None:
    threads = [threading.Thread(target=each) for each in work]  # type: ignore[arg-type] # functions
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_threads_that_come_at_once_have_one(slow: type[Slow]) -> None:
    found: list[object] = []
    at_once([lambda: found.append(get_extractor())] * THREADS)
    assert slow.made == 1
    assert len({id(each) for each in found}) == 1


def test_vaults_share_one(slow: type[Slow], tmp_path: Path) -> None:
    lab = Lab(tmp_path).create()
    found: list[object] = []
    with lab.open() as first, lab.open() as second:
        at_once([lambda: found.append(first.extractor), lambda: found.append(second.extractor)] * 4)
        assert first.extractor is second.extractor
    assert slow.made == 1
    assert len(found) == THREADS


def test_one_that_cannot_be_loaded_is_tried_again(slow: type[Slow], monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> object:
        raise MissingDependency("it is not installed")

    with monkeypatch.context() as without:
        without.setattr(extractor, "import_module", missing)
        with pytest.raises(MissingDependency):
            get_extractor("dlib")
    assert isinstance(get_extractor("dlib"), slow)


def test_other_model_files_are_another_one(slow: type[Slow], monkeypatch: pytest.MonkeyPatch) -> None:
    first = get_extractor()
    monkeypatch.setenv("FACEKEEP_MODELS", "elsewhere")
    assert get_extractor() is not first
    assert slow.made == 2
