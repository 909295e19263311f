"""facekeep subjects: who, for what, until when."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli_help import Cli, embedding


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    found = Cli(tmp_path, monkeypatch)
    found.enroll("ada", "ada", "verify", "identify")
    words = ("--scope", "verify", "--expires", "20d", "--notice", "notice.txt")
    found.ok("enroll", "bob", *embedding("bob"), *words)
    return found


def test_one_line_a_grant(cli: Cli) -> None:
    ran = cli.run("subjects")
    lines = sorted(line.split("\t") for line in ran.out.splitlines())
    assert [line[:3] for line in lines] == [
        ["ada", "identify", "live"],
        ["ada", "verify", "live"],
        ["bob", "verify", "live"],
    ]
    assert ran.err == "facekeep: 2 subjects\n"


def test_those_that_are_due(cli: Cli) -> None:
    assert [each["subject"] for each in cli.ok("subjects", "--due", "30d")["subjects"]] == ["bob"]
    assert cli.ok("subjects", "--due", "12h")["subjects"] == []
    cli.travel(days=21)
    due = cli.ok("subjects", "--due", "12h")["subjects"]
    assert [grant["state"] for each in due for grant in each["grants"]] == ["expired"]


@pytest.mark.parametrize("due", ["soon", "30", "-1d", "1w", "", "9999999d"])
def test_no_span_of_time(cli: Cli, due: str) -> None:
    cli.fails("usage", 10, "subjects", "--due", due)
