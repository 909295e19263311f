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
