"""facekeep withdraw: one scope ends, the others stay."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli_help import Cli, snapshot


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    found = Cli(tmp_path, monkeypatch)
    found.enroll("ada", "ada", "verify", "identify")
    return found


def test_one_scope_ends_and_the_other_stays(cli: Cli) -> None:
    erasure = cli.ok("withdraw", "ada", "--scope", "verify")
    assert (erasure["subjects"], erasure["slots"]) == (1, 1)
    assert cli.verify("ada", "ada-again").error["code"] == "denied"
    assert cli.identified("ada-again") == ["ada"]


def test_with_the_last_scope_the_person_is_gone(cli: Cli) -> None:
    cli.ok("withdraw", "ada", "--scope", "verify", "--scope", "identify")
    assert cli.subjects() == {}
    cli.fails("subject_unknown", 13, "withdraw", "ada", "--scope", "verify")


def test_what_was_not_granted_cannot_be_withdrawn(cli: Cli) -> None:
    before = snapshot(cli.home)
    cli.fails("subject_unknown", 13, "withdraw", "ada", "--scope", "train")
    cli.fails("subject_unknown", 13, "withdraw", "bob", "--scope", "verify")
    cli.fails("usage", 10, "withdraw", "ada")
    assert snapshot(cli.home) == before


def test_in_words(cli: Cli) -> None:
    ran = cli.run("withdraw", "ada", "--scope", "verify")
    assert ran.out.startswith("withdrawn: 1 person, 1 grant; epoch ")
