"""Our verifier over tests/vectors, in this process and by the protocol of others; what the cases cover."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent / "vectors"))
from make import main as make
from run import FILES, command
from verify import main, read_case, verify

from facekeep.audit.report import RuleBroken, Verdict

VECTORS = Path(__file__).parent / "vectors"
CASES: list[dict[str, Any]] = json.loads((VECTORS / "manifest.json").read_text("utf-8"))
WITH_STEPS = [case for case in CASES if case["steps"]]
SPEC = (Path(__file__).parent.parent / "docs/spec/log.md").read_text("utf-8")
LIMIT = 1_500_000  # bytes of all files together


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["name"]))
def test_a_case_is_accepted_or_refused_as_it_says(
    case: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(VECTORS)
    assert main(command(case, tmp_path)) == (0 if case["accept"] else 1), case["why"]
    assert bool(capsys.readouterr().err) is not case["accept"]


@pytest.mark.parametrize("case", WITH_STEPS, ids=lambda case: str(case["name"]))
def test_a_case_shows_or_breaks_the_steps_that_it_names(
    case: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(VECTORS)
    given = read_case(command(case, tmp_path))
    if case["accept"]:
        report = verify(given)
        assert report is not None
        held = {step.id for step in report.steps if step.verdict is Verdict.HOLDS}
        assert held >= set(case["steps"])
    else:
        with pytest.raises(RuleBroken) as caught:
            verify(given)
        assert [caught.value.rule] == case["steps"]
        assert case["why"].endswith(f": {caught.value.rule}")


def steps_of_the_specification() -> set[str]:
    """Each step and rule in a table of §11 and §12."""
    return set(re.findall(r"^\| ([LRCPW][0-9]+) \|", SPEC, re.MULTILINE))


def test_every_step_is_shown_and_broken() -> None:
    steps = steps_of_the_specification()
    assert len(steps) == 4 + 38 + 5 + 13 + 6
    for accept in (True, False):
        covered = {step for case in CASES if case["accept"] is accept for step in case["steps"]}
        assert covered == steps, accept


def test_every_row_of_r14_is_shown_and_broken() -> None:
    table = SPEC.partition("R14, by the op of the grant:")[2].partition("A denial")[0]
    ops = set(re.findall(r"[a-z]+", " ".join(re.findall(r"^\| (`[a-z`, ]+`) \|", table, re.MULTILINE))))
    assert ops == {"enroll", "grant", "renew", "reseal", "adopt"}
    for accept in (True, False):
        names = [case["name"] for case in CASES if "R14" in case["steps"] and case["accept"] is accept]
        assert all(any(name.startswith(f"log/r14_{op}") for name in names) for op in ops)


def test_every_case_says_what_it_is() -> None:
    for case in CASES:
        assert case["accept"] is not case["name"].endswith("_fail")
        assert case["why"]
        assert "\n" not in case["why"]
        assert len(case["steps"]) < 2 or case["accept"]
    assert len({case["name"] for case in CASES}) == len(CASES)


def files() -> set[str]:
    """Files of the directory that are no programs."""
    programs = {".gitattributes", "README.md", "manifest.json"}
    found = {str(path.relative_to(VECTORS)) for path in VECTORS.rglob("*") if path.is_file()}
    return {name for name in found if not name.endswith((".py", ".pyc"))} - programs


def used(case: dict[str, Any]) -> set[str]:
    """Files that a case names."""
    named = {case[name] for name in ("file", "base", "keys", *FILES) if name in case}
    return named | set(case.get("export", ()))


def test_every_file_is_that_of_a_case_and_all_are_small() -> None:
    assert files() == set().union(*map(used, CASES))
    assert sum((VECTORS / name).stat().st_size for name in files() | {"manifest.json"}) < LIMIT


def test_another_run_makes_the_same_bytes(tmp_path: Path) -> None:
    """What does not is a change of a format, or of a helper: run make.py."""
    make(tmp_path)
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert written == files() | {"manifest.json"}
    for name in sorted(written):
        assert (tmp_path / name).read_bytes() == (VECTORS / name).read_bytes(), f"{name}: run make.py"


EVERY = 12  # of the cases one, where each is a process


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, str(VECTORS / "run.py"), *map(str, arguments)]
    return subprocess.run(call, capture_output=True, text=True, check=False)


def test_the_protocol_that_others_follow() -> None:
    done = run("--every", EVERY, sys.executable, "verify.py")
    count = len(CASES[::EVERY])
    assert done.stdout == f"{count} of {count} cases agree\n"
    assert done.returncode == 0


def test_a_verifier_that_accepts_everything_is_found_out() -> None:
    done = run("true")
    assert done.returncode == 1
    assert done.stdout.count(": accepted; ") == sum(not case["accept"] for case in CASES)
