"""facekeep restore: what lives comes back, what was erased does not."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from cli_help import CONSENT, MODEL, Cli, snapshot


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    found = Cli(tmp_path, monkeypatch)
    found.enroll("ada", "ada")
    found.enroll("bob", "bob")
    found.ok("backup", "monday.fkb")
    return found


def lose_rows() -> None:
    with contextlib.closing(sqlite3.connect("staff.vault/vault.db")) as connection, connection:
        connection.execute("DELETE FROM grants")


def test_the_erased_stay_erased_and_the_others_return(cli: Cli) -> None:
    cli.ok("shred", "ada", "--yes")
    lose_rows()
    assert cli.verify("bob", "bob-again").code == 20
    report = cli.ok("restore", "monday.fkb")
    assert report == {
        "rows": 2,
        "merged": 1,
        "present": 0,
        "dead": 1,
        "refused": 0,
        "missing": [],
        "dry_run": False,
    }
    assert cli.verify("ada", "ada-again").code == 20
    assert cli.verify("bob", "bob-again").code == 0


def test_a_dry_run_changes_nothing(cli: Cli) -> None:
    lose_rows()
    assert cli.ok("restore", "monday.fkb", "--dry-run")["merged"] == 2
    assert cli.subjects() == {}


def test_what_no_backup_holds_is_named(cli: Cli) -> None:
    late = cli.enroll("eve", "eve")["grants"][0]["slot"]
    lose_rows()
    assert cli.ok("restore", "monday.fkb")["missing"] == [late]
    ran = cli.run("restore", "monday.fkb")
    assert ran.code == 0
    assert ran.out.splitlines()[-1] == "still missing\t1"
    assert f"slots {late}" in ran.err


def test_an_altered_backup_is_done_in_part(cli: Cli) -> None:
    with contextlib.closing(sqlite3.connect("monday.fkb")) as connection, connection:
        connection.execute("UPDATE grants SET record = templates WHERE slot = (SELECT min(slot) FROM grants)")
    lose_rows()
    ran = cli.run("restore", "monday.fkb", "--json")
    assert ran.code == 3
    assert (ran.json["merged"], ran.json["refused"]) == (1, 1)
    assert cli.ok("check")["ok"] is True
    assert "did not match the log" in cli.run("restore", "monday.fkb").err


def test_files_that_are_no_backup(cli: Cli) -> None:
    Path("text.fkb").write_text("hello\n" * 1000)
    Path("empty.fkb").write_text("")
    Path("half.fkb").write_bytes(Path("monday.fkb").read_bytes()[:6000])
    before = snapshot(cli.home)
    cli.fails("usage", 10, "restore", "nothing.fkb")
    cli.fails("integrity", 33, "restore", "text.fkb")
    cli.fails("integrity", 33, "restore", "empty.fkb")
    cli.fails("integrity", 33, "restore", "half.fkb")
    cli.fails("integrity", 33, "restore", "staff.vault/vault.db")
    assert snapshot(cli.home) == before


def lose_file() -> None:
    for path in Path("staff.vault").glob("vault.db*"):
        path.unlink()


def test_a_lost_vault_db(cli: Cli) -> None:
    cli.ok("shred", "ada", "--yes")
    late = cli.enroll("eve", "eve")["grants"][0]["slot"]
    lose_file()
    error = cli.fails("integrity", 33, "status")
    assert "vault.db is missing" in error["message"]
    assert "facekeep restore BACKUP" in error["next"]
    cli.fails("integrity", 33, "restore", "monday.fkb", "--dry-run")
    cli.fails("usage", 10, "restore", "nothing.fkb")
    assert not Path("staff.vault/vault.db").exists()
    report = cli.ok("restore", "monday.fkb")
    assert (report["merged"], report["dead"], report["missing"]) == (1, 1, [late])
    assert cli.verify("bob", "bob-again").code == 0
    assert cli.verify("ada", "ada-again").code == 20


def test_a_lost_vault_db_without_a_backup(cli: Cli) -> None:
    lose_file()
    ran = cli.run("restore", "--no-backup")
    assert ran.code == 0
    assert "nothing can be had back: 2 living grants lost" in ran.err
    assert "living grants without a row, slots " in ran.err
    assert len(cli.ok("restore", "--no-backup")["missing"]) == 2
    ran = cli.run("enroll", "ada", "--embedding", "ada.npy", "--model", MODEL, "--scope", "verify", *CONSENT)
    assert (ran.code, "--existing replace" in ran.err) == (10, True)


def test_a_backup_or_none(cli: Cli) -> None:
    cli.fails("usage", 10, "restore")
    cli.fails("usage", 10, "restore", "monday.fkb", "--no-backup")


def test_another_vaults_backup(cli: Cli) -> None:
    cli.ok("init", "--vault", "other.vault", "--root", "file:other.root", "--no-copy")
    cli.ok("backup", "other.fkb", "--vault", "other.vault")
    cli.fails("foreign_file", 34, "restore", "other.fkb")


def test_a_dry_run_lists_everybody_in_json(cli: Cli) -> None:
    cli.ok("shred", "ada", "--yes")
    lose_rows()
    said = cli.ok("restore", "monday.fkb", "--dry-run")
    assert [each["subject"] for each in said["returning"]] == ["bob"]
    (ada,) = said["staying"]
    assert (ada["reason"], ada["entry"], ada["erased"]) == ("shredded", ada["entry"], ada["entry"])
    assert "ada" not in str(said["staying"])
    assert said["refusals"] == []
    spoken = cli.run("restore", "monday.fkb", "--dry-run")
    assert "would return\t1" in spoken.out
    assert "  shredded\t1" in spoken.out
    assert "bob" not in spoken.out + spoken.err


def lose_log() -> None:
    for path in Path("staff.vault").glob("log.db*"):
        path.unlink()


def test_a_lost_log(cli: Cli) -> None:
    cli.fails("usage", 10, "restore", "--lost-log", "--no-checkpoint", "--yes")
    lose_log()
    assert "--lost-log" in cli.fails("integrity", 33, "status")["next"]
    asked = cli.run("restore", "--lost-log", "--no-checkpoint")
    assert asked.code == 10
    assert "root holder: file:" in asked.err
    assert not Path("staff.vault/log.db").exists()
    done = cli.ok("restore", "--lost-log", "--no-checkpoint", "--yes")
    assert (done["grants"], done["principals"], done["left"], done["resumed"]) == (2, 1, 0, False)
    assert cli.verify("ada", "ada-again").code == 0
    assert cli.ok("restore", "--lost-log", "--no-checkpoint", "--yes") == {"resumed": True}
    assert cli.ok("check")["ok"]


def test_a_schedule_is_slipped_into_vault_toml_once_the_log_is_lost(cli: Cli) -> None:
    """Nothing vouches for vault.toml then: whoever says --yes must have been shown all of it."""
    lose_log()
    toml = Path("staff.vault/vault.toml")
    text = toml.read_text().replace("\n\n[copies]", '\nleaving = ["lost:file:/x"]\n\n[copies]')
    toml.write_text(f'{text}\n[schedule]\ngrace_days = 0\nshred_count = 100\ncheckpoints = "/tmp/x"\n')
    asked = cli.run("restore", "--lost-log", "--no-checkpoint")
    assert asked.code == 10
    for line in ("grace_days: 0", "shred_count: 100", "checkpoints: /tmp/x"):
        assert f"schedule {line}" in asked.err
    assert "leaving root holder: lost:file:/x" in asked.err
    told = cli.run("restore", "--lost-log", "--no-checkpoint", "--json").err
    assert "schedule grace_days: 0" in told
    assert "region: " in told


def test_a_log_and_a_vault_db_that_are_lost_together(cli: Cli) -> None:
    cli.ok("backup", "both.fkb")
    lose_log()
    for path in Path("staff.vault").glob("vault.db*"):
        path.unlink()
    told = cli.fails("integrity", 33, "restore", "--lost-log", "--no-checkpoint", "--yes")
    assert "restore BACKUP --lost-log" in told["next"]
    cli.fails("usage", 10, "restore", "nothing.fkb", "--lost-log", "--no-checkpoint", "--yes")
    done = cli.ok("restore", "both.fkb", "--lost-log", "--no-checkpoint", "--yes")
    assert (done["grants"], done["left"]) == (2, 0)
    assert cli.verify("ada", "ada-again").code == 0
    assert cli.ok("check")["ok"]


@pytest.mark.parametrize(
    "words",
    [
        ("--lost-log",),
        ("--lost-log", "--no-checkpoint", "--checkpoint", "file"),
        ("--lost-log", "--no-checkpoint", "--dry-run"),
        ("--lost-log", "--no-checkpoint", "--yes", "--root", "file:new.root"),
        ("monday.fkb", "--private", "r.private"),
        ("monday.fkb", "--root", "file:new.root"),
        ("monday.fkb", "--yes"),
        ("monday.fkb", "--no-checkpoint"),
    ],
)
def test_what_goes_with_a_lost_log(cli: Cli, words: tuple[str, ...]) -> None:
    lose_log()
    before = snapshot(cli.home)
    cli.fails("usage", 10, "restore", *words)
    assert snapshot(cli.home) == before


def test_a_checkpoint_that_is_none(cli: Cli) -> None:
    lose_log()
    cli.fails("store", 32, "restore", "--lost-log", "--checkpoint", "nothing", "--yes")
    Path("text").write_text("hello\n")
    cli.fails("integrity", 33, "restore", "--lost-log", "--checkpoint", "text", "--yes")
    assert not Path("staff.vault/log.db").exists()
