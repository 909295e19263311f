"""The progress line: on a terminal only, with an estimate, and nothing of it stays."""

from __future__ import annotations

import io
import itertools
import sys
import time
from pathlib import Path

import pytest

from cli_help import CONSENT, MODEL, Cli, on_terminal, vector, write_lines
from facekeep.cli.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Return a terminal on which every look at the clock takes a minute."""
    minutes = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: next(minutes) * 60.0)
    monkeypatch.setenv("COLUMNS", "80")
    return Terminal()


def test_an_estimate(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress("enrolling") as progress:
        progress(0, 10)
        progress(1, 10)
        progress(9, 10)
        progress(10, 10)
    lines = [line.rstrip() for line in terminal.getvalue().split("\r")]
    assert lines == [
        "",
        "enrolling [--------------------] 0 of 10",
        "enrolling [##------------------] 1 of 10, 18 min left",
        "enrolling [##################--] 9 of 10, 20 s left",
        "enrolling [####################] 10 of 10",
        "",
        "",
    ]


def test_an_unknown_total_and_a_long_time(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal)
    progress = Progress("reading")
    progress(7, 0)
    progress.named("checking", 1, 1000)
    lines = [line.rstrip() for line in terminal.getvalue().split("\r")]
    assert lines[1:] == ["reading: 7", "checking [--------------------] 1 of 1000, 33.3 h left"]


def test_nothing_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr(sys, "stderr", file)
    with Progress("enrolling") as progress:
        progress(1, 2)
        progress(2, 2)
    assert file.getvalue() == ""


def test_a_bulk_enrolment_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cli = Cli(tmp_path, monkeypatch)
    people: list[object] = [{"subject": f"s{n}", "embedding": vector(n).tolist()} for n in range(30)]
    write_lines(Path("people.jsonl"), [*people, {"subject": "zoe", "embedding": [1]}])
    words = ("--from", "people.jsonl", "--model", MODEL, "--scope", "verify", *CONSENT)
    code, said = on_terminal("enroll", *words)
    assert code == 3
    assert "enrolling [####################] 31 of 31" in said
    assert "facekeep: line 31 (zoe): " in said
    assert len(cli.subjects()) == 30
