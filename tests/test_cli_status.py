"""facekeep status: one screen, with a remedy for every warning."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cli_help import Cli


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    return Cli(tmp_path, monkeypatch, made=False)


def test_a_screen_and_an_object_say_the_same(cli: Cli) -> None:
    cli.ok("init", "--copy", "second", "--region", "DE")
    cli.enroll("ada", "ada", "verify", "identify")
    found, ran = cli.ok("status"), cli.run("status")
    said = [line.split("\t") for line in ran.out.splitlines()]
    assert ["vault", found["vault"]] in said
    assert ["region", "DE"] in said
    assert ["grants stored", "2"] in said
    assert ["grants ever made, verify", "1"] in said
    assert ["last backup", "none"] in said
    assert [line[1] for line in said if line[0] == "live copy"] == [
        f"{cli.home}/second/{name}: current" for name in ("keys.db", "log.db")
    ]
    assert found["warnings"] == []
    assert ran.err == ""


def test_warnings_have_remedies(cli: Cli) -> None:
    cli.ok("init", "--copy", "second")
    shutil.rmtree("second")
    found = cli.run("status")
    assert found.code == 0
    lines = found.err.splitlines()
    assert lines[0].startswith("facekeep: warning: the copy of keys.db")
    assert lines[1].startswith("next: ")


def test_a_decision_in_words(cli: Cli) -> None:
    cli.init()
    cli.enroll("ada", "ada")
    decision = cli.verify("ada", "ada-again").json["decision"]
    said = dict(line.split("\t") for line in cli.run("status", "--decision", decision).out.splitlines())
    assert (said["op"], said["allow"], said["result"]) == ("verify", "true", "match")
    assert "candidates" not in said


@pytest.mark.parametrize("identity", ["", "0", "0-00000000", "99999-00000000", "x", "1-1"])
def test_no_decision_has_that_id(cli: Cli, identity: str) -> None:
    cli.init()
    cli.fails("usage", 10, "status", "--decision", identity)
