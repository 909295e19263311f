"""facekeep grant: further scopes under a further consent."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli_help import CONSENT, Cli, snapshot


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    found = Cli(tmp_path, monkeypatch)
    found.enroll("ada", "ada")
    return found


def test_a_further_scope_works_without_the_photograph(cli: Cli) -> None:
    assert cli.identified("ada-again") == []
    receipt = cli.ok("grant", "ada", "--scope", "identify", *CONSENT)
    assert [grant["scope"] for grant in receipt["grants"]] == ["identify"]
    assert cli.identified("ada-again") == ["ada"]
    assert cli.subjects() == {"ada": ["verify", "identify"]}


def test_a_scope_that_stands_already_is_not_granted_again(cli: Cli) -> None:
    before = snapshot(cli.home)
    error = cli.fails("already_enrolled", 16, "grant", "ada", "--scope", "verify", *CONSENT)
    assert "renew" in error["next"]
    assert snapshot(cli.home) == before


def test_an_expired_grant_opens_nothing(cli: Cli) -> None:
    cli.travel(days=400)
    cli.fails("consent", 12, "grant", "ada", "--scope", "identify", *CONSENT)


def test_nobody_of_that_name(cli: Cli) -> None:
    before = snapshot(cli.home)
    cli.fails("subject_unknown", 13, "grant", "bob", "--scope", "identify", *CONSENT)
    assert snapshot(cli.home) == before


def test_no_scope_and_no_end(cli: Cli) -> None:
    cli.fails("consent", 12, "grant", "ada", *CONSENT)
    cli.fails("consent", 12, "grant", "ada", "--scope", "identify", "--notice", "notice.txt")
