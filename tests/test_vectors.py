"""Our verifier over tests/vectors, in this process and by the protocol that others follow."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent / "vectors"))
from verify import main, verify

from facekeep.audit.report import RuleBroken
from facekeep.formats.note import VerifierKey

VECTORS = Path(__file__).parent / "vectors"
CASES: list[dict[str, Any]] = json.loads((VECTORS / "manifest.json").read_text("utf-8"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["file"]))
def test_a_case_is_accepted_or_refused_as_it_says(
    case: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(VECTORS)
    options = [
        f"--{name}={case[name]}" for name in ("keys", "origin", "entry", "old", "checkpoint") if name in case
    ]
    assert main([case["kind"], *options, case["file"]]) == (0 if case["accept"] else 1), case["why"]
    assert bool(capsys.readouterr().err) is not case["accept"]


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case["kind"] == "log" and not case["accept"]],
    ids=lambda case: case["file"],
)
def test_a_bad_log_breaks_the_rule_that_its_case_names(case: dict[str, Any]) -> None:
    keys = [VerifierKey.parse(line) for line in (VECTORS / case["keys"]).read_text().split("\n") if line]
    data, checkpoint = ((VECTORS / case[name]).read_bytes() for name in ("file", "checkpoint"))
    with pytest.raises(RuleBroken) as caught:
        verify("log", data, keys, case["origin"], checkpoint=checkpoint)
    assert caught.value.rule == case["why"].rpartition(": ")[2]


def test_every_case_says_what_it_is() -> None:
    for case in CASES:
        assert case["accept"] is not ("_fail." in case["file"])
        assert case["why"]
        assert "\n" not in case["why"]
        assert case["provenance"]
    used = {
        case[name]
        for case in CASES
        for name in ("file", "keys", "entry", "old", "checkpoint")
        if name in case
    }
    programs = {".gitattributes", "README.md", "manifest.json", "make.py", "run.py", "verify.py"}
    there = {
        str(path.relative_to(VECTORS))
        for path in VECTORS.rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }
    assert there - programs == used


def test_the_protocol_that_others_follow() -> None:
    ours = [sys.executable, "verify.py"]
    done = subprocess.run(
        [sys.executable, VECTORS / "run.py", *ours], capture_output=True, text=True, check=False
    )
    assert done.stdout == f"{len(CASES)} of {len(CASES)} cases agree\n"
    assert done.returncode == 0


def test_a_verifier_that_accepts_everything_is_found_out() -> None:
    done = subprocess.run(
        [sys.executable, VECTORS / "run.py", "true"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stdout.count("accepted") == sum(not case["accept"] for case in CASES)
