"""Attacks on the files of an open vault: whoever is remembered is not answered from files that went away."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from facekeep.errors import Unavailable
from facekeep.operations import decide
from vaultlab import IDENTIFY, MODEL, THRESHOLD, Lab, core, face, log_entries, matches, reason

FILES = ["vault.db", "keys.db"]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path).create()
    lab.enrol("alice")
    return lab


def replace(path: Path) -> None:
    """Put a copy of a file in its place."""
    shutil.copyfile(path, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("how", [replace, Path.unlink])
def test_a_remembered_subject_is_denied_once_a_file_is_another(lab: Lab, file: str, how: object) -> None:
    assert callable(how)
    with lab.open() as vault:
        assert matches(vault, "alice")
        how(lab.path / file)
        before = core(vault).log.head().size
        assert reason(vault, "alice") == "integrity"
        entries = [entry for _, entry in core(vault).log.entries(before, core(vault).log.head().size)]
        assert [entry["allow"] for entry in entries] == [False]


@pytest.mark.parametrize("file", FILES)
def test_a_file_is_replaced_between_the_comparison_and_the_record(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    compare = decide._compare

    def and_replace(*arguments: object) -> float:
        found = compare(*arguments)  # type: ignore[arg-type] # what it was called with
        replace(lab.path / file)
        return found

    with lab.open() as vault:
        assert matches(vault, "alice")
        monkeypatch.setattr(decide, "_compare", and_replace)
        with pytest.raises(Unavailable):
            vault.verify("alice", face("alice"), model=MODEL, threshold=THRESHOLD)
        last = log_entries(vault)[-1]
        assert (last["allow"], last["reason"], last.get("result")) == (False, "integrity", None)


@pytest.mark.parametrize("file", FILES)
def test_an_open_gallery_answers_nothing_once_a_file_is_another(lab: Lab, file: str) -> None:
    lab.enrol("bob", scopes=(IDENTIFY,))
    with lab.open() as vault, vault.gallery(model=MODEL) as gallery:
        assert gallery.search(face("bob"), THRESHOLD, 5).candidates
        replace(lab.path / file)
        with pytest.raises(Unavailable, match="replaced"):
            gallery.search(face("bob"), THRESHOLD, 5)


def test_what_was_proven_expires_all_the_same(lab: Lab) -> None:
    with lab.open() as vault:
        assert matches(vault, "alice")
        lab.clock.ms += 4_000 * 86_400_000
        assert reason(vault, "alice") == "expired"
