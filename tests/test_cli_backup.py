"""facekeep backup: one file, consistent, never over another."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pytest

from cli_help import Cli


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    found = Cli(tmp_path, monkeypatch)
    found.enroll("ada", "ada", "verify", "identify")
    return found


def test_what_it_writes_is_what_it_says(cli: Cli) -> None:
    made = cli.ok("backup", "monday.fkb")
    file = Path("monday.fkb")
    assert made["rows"] == 2
    assert made["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert cli.ok("status")["backup"]["rows"] == 2


def test_in_words(cli: Cli) -> None:
    assert cli.run("backup", "monday.fkb").out.startswith("2 grants, SHA-256 ")


def test_a_file_that_exists_is_not_overwritten(cli: Cli) -> None:
    Path("monday.fkb").write_text("mine")
    cli.fails("usage", 10, "backup", "monday.fkb")
    assert Path("monday.fkb").read_text() == "mine"


def test_a_directory_that_does_not_exist(cli: Cli) -> None:
    cli.fails("store", 32, "backup", "nowhere/monday.fkb")
    assert cli.ok("check")["ok"] is True


def test_what_an_existing_backup_is_worth(cli: Cli) -> None:
    made = cli.ok("backup", "monday.fkb")
    cli.ok("shred", "ada", "--yes")
    cli.enroll("bob", "bob")
    found = cli.ok("backup", "monday.fkb", "--verify")
    assert (found["rows"], found["living"], found["dead"], found["strange"]) == (2, 0, 2, 0)
    assert (found["grants"], found["covered"]) == (1, 0)
    assert found["manifest"] == {key: value for key, value in made.items() if key != "sha256"}
    spoken = cli.run("backup", "monday.fkb", "--verify")
    assert "living grants of the vault that it holds\t0 of 1" in spoken.out
    assert "1 living grant not in it" in spoken.err


def test_an_altered_backup_is_refused(cli: Cli) -> None:
    cli.ok("backup", "monday.fkb")
    raw = Path("monday.fkb").read_bytes()
    Path("monday.fkb").write_bytes(raw.replace(b"raw:test/1", b"raw:test/2"))
    cli.fails("integrity", 33, "backup", "monday.fkb", "--verify")
    cli.fails("usage", 10, "backup", "nothing.fkb", "--verify")
