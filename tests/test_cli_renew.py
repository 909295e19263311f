"""facekeep renew: new terms, a new key, the old one destroyed."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli_help import CONSENT, Cli, snapshot


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    found = Cli(tmp_path, monkeypatch)
    found.enroll("ada", "ada")
    return found


def test_new_terms_stand_under_a_new_key(cli: Cli) -> None:
    old = cli.ok("subjects")["subjects"][0]["grants"][0]
    receipt = cli.ok("renew", "ada", "--scope", "verify", "--expires", "2028-02-29", "--notice", "notice.txt")
    new = cli.ok("subjects")["subjects"][0]["grants"][0]
    assert receipt["grants"][0]["slot"] == new["slot"] != old["slot"]
    assert new["expires_at_ms"] == 1_835_395_200_000
    assert cli.verify("ada", "ada-again").code == 0


def test_what_has_expired_can_be_renewed(cli: Cli) -> None:
    cli.travel(days=400)
    assert cli.verify("ada", "ada-again").code == 20
    cli.ok("renew", "ada", "--scope", "verify", *CONSENT)
    assert cli.verify("ada", "ada-again").code == 0


def test_a_scope_that_nobody_granted(cli: Cli) -> None:
    before = snapshot(cli.home)
    error = cli.fails("subject_unknown", 13, "renew", "ada", "--scope", "identify", *CONSENT)
    assert "grant" in error["next"]
    cli.fails("subject_unknown", 13, "renew", "bob", "--scope", "verify", *CONSENT)
    assert snapshot(cli.home) == before
