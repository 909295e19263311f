"""A clock that ran ahead, or was set back: refused until somebody says it is right."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli_help import CONSENT, Cli, embedding


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    found = Cli(tmp_path, monkeypatch)
    found.enroll("ada", "ada")
    return found


def test_after_a_clock_ran_ahead(cli: Cli) -> None:
    cli.travel(days=3650)
    cli.ok("backup", "future.fkb")
    cli.travel(days=0)
    words = ("enroll", "bob", *embedding("bob"), "--scope", "verify", *CONSENT)
    error = cli.fails("clock", 22, *words)
    assert "facekeep clock accept" in error["next"]
    assert cli.verify("ada", "ada-again").code == 23
    accepted = cli.ok("clock", "accept")
    assert accepted["high_ms"] - accepted["accepted_ms"] > 3649 * 86_400_000
    assert cli.verify("ada", "ada-again").code == 0
    cli.ok(*words)


def test_in_words(cli: Cli) -> None:
    cli.travel(days=-1)
    assert cli.run("clock", "accept").out.startswith("accepted 20")


def test_a_clock_that_is_right_needs_no_acceptance(cli: Cli) -> None:
    cli.fails("usage", 10, "clock", "accept")
