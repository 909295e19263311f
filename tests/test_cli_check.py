"""facekeep check: the exit status is the class of the worst finding."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from cli_help import Cli, snapshot
from facekeep.cli.check import worst
from facekeep.errors import ForeignFile, FormatError, IntegrityError, RootError, StoreError, TreeFull
from facekeep.operations.check import Finding


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    found = Cli(tmp_path, monkeypatch)
    found.enroll("ada", "ada", "verify", "identify")
    found.enroll("bob", "bob")
    return found


def execute(file: str, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(f"staff.vault/{file}")) as connection, connection:
        connection.execute(statement)


def test_a_whole_vault(cli: Cli) -> None:
    before = snapshot(cli.home)
    found = cli.ok("check")
    assert (found["ok"], found["rows"], found["findings"], found["missing"]) == (True, 3, [], [])
    assert cli.run("check").out.startswith("whole: 3 rows and ")
    assert snapshot(cli.home) == before


def test_an_altered_row(cli: Cli) -> None:
    execute("vault.db", "UPDATE grants SET templates = zeroblob(length(templates)) WHERE slot % 2 = 1")
    execute("vault.db", "UPDATE grants SET record = zeroblob(length(record)) WHERE slot % 2 = 1")
    ran = cli.run("check", "--json")
    assert ran.code == 33
    assert ran.json["ok"] is False
    assert {each["file"] for each in ran.json["findings"]} == {"vault.db"}
    assert all(each["code"] == "integrity" and each["next"] for each in ran.json["findings"])
    spoken = cli.run("check")
    assert spoken.out.startswith("vault.db: row of slot ")
    assert "\n  next: " in spoken.out
    assert spoken.err.splitlines()[-1].startswith("facekeep: 1 finding in 3 rows")


def test_rows_that_are_gone_are_missing_and_no_damage(cli: Cli) -> None:
    execute("vault.db", "DELETE FROM grants WHERE slot = (SELECT min(slot) FROM grants)")
    ran = cli.run("check", "--json")
    assert (ran.code, len(ran.json["missing"])) == (0, 1)
    assert "1 living grant without a row" in cli.run("check").err


def test_a_lost_index_is_rebuilt(cli: Cli) -> None:
    table = "subject_index"
    with contextlib.closing(sqlite3.connect("staff.vault/keys.db")) as connection:
        tables = {
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        }
    table = next(name for name in sorted(tables) if "index" in name or "subject" in name)
    execute("keys.db", f"DELETE FROM {table}")
    ran = cli.run("check", "--json")
    assert ran.code == 33
    assert "--repair" in ran.json["findings"][0]["next"]
    found = cli.ok("check", "--repair")
    assert (found["ok"], found["index_rows"]) == (True, 2)
    assert cli.verify("ada", "ada-again").code == 0


def test_damage_comes_before_anything_else() -> None:
    def found(*errors: type[IntegrityError | RootError | StoreError | TreeFull]) -> int:
        return worst([Finding("vault.db", "a", "b", error) for error in errors])

    assert worst([]) == 0
    assert found(TreeFull, IntegrityError) == 33
    assert found(StoreError, RootError) == 32
    assert found(IntegrityError, FormatError, ForeignFile) == 35


def test_a_scrub_names_what_it_put_right(cli: Cli) -> None:
    cli.ok("settings", "--copy", str(new_directory("second")))
    for path in Path("staff.vault").glob("keys.db*"):
        path.unlink()
    found = cli.ok("check", "--scrub")
    assert found["ok"]
    assert [each["file"] for each in found["scrub"]["repairs"]] == ["keys.db"]
    assert found["scrub"]["left"] == []
    again = cli.run("check", "--scrub")
    assert again.code == 0
    assert "0 repairs" in again.err


def test_a_scrub_that_leaves_something_has_its_exit_status(cli: Cli) -> None:
    copies = new_directory("second")
    cli.ok("settings", "--copy", str(copies))
    copies.rename("away")
    ran = cli.run("check", "--scrub", "--json")
    assert ran.code != 0
    assert {each["file"] for each in ran.json["scrub"]["left"]} == {"keys.db", "log.db"}


def new_directory(name: str) -> Path:
    path = Path(name).absolute()
    path.mkdir()
    return path
