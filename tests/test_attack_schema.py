"""Attacks through SQLite itself: planted triggers and views, columns of another type, foreign files."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from facekeep.errors import Denied, FacekeepError, IntegrityError, Unavailable
from vaultlab import MODEL, THRESHOLD, Lab, face, slots


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path).create()


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


SWALLOW = "CREATE TRIGGER quiet BEFORE INSERT ON {} BEGIN SELECT RAISE(IGNORE); END"
PLANTED = [
    ("log.db", SWALLOW.format("entry")),
    ("log.db", SWALLOW.format("grant_entry")),
    ("vault.db", SWALLOW.format("grants")),
    ("keys.db", SWALLOW.format("subject_index")),
    ("keys.db", "CREATE VIEW extra AS SELECT 1"),
    ("vault.db", "CREATE INDEX spare ON grants (model)"),
    ("log.db", "DROP INDEX entry_control"),
]


@pytest.mark.parametrize(("name", "statement"), PLANTED)
def test_a_planted_trigger_view_or_index_is_refused_at_opening(lab: Lab, name: str, statement: str) -> None:
    lab.enrol("alice")
    change(lab.path / name, statement)
    with pytest.raises(IntegrityError, match="not facekeep's"):
        lab.do(lambda vault: vault.vault_id)


def test_a_trigger_planted_while_the_vault_is_open_swallows_no_decision(lab: Lab) -> None:
    lab.enrol("alice")
    with lab.open() as vault:
        vault.verify("alice", face("alice"), model=MODEL, threshold=THRESHOLD)
        change(lab.path / "log.db", SWALLOW.format("entry"))
        with pytest.raises(Unavailable, match="not facekeep's"):
            vault.verify("alice", face("alice"), model=MODEL, threshold=THRESHOLD)


def test_a_trigger_planted_while_the_vault_is_open_swallows_no_grant(lab: Lab) -> None:
    with lab.open() as vault:
        change(lab.path / "vault.db", SWALLOW.format("grants"))
        with pytest.raises(IntegrityError):
            vault.enroll_many([lab.enrolment("alice")])


@pytest.mark.parametrize("column", ["grant_id", "tag", "terms", "commitment", "templates"])
def test_a_column_of_another_type_is_a_recorded_denial(lab: Lab, column: str) -> None:
    lab.enrol("alice")
    path = lab.path / "vault.db"
    before = sqlite_schema(path)
    change(path, "PRAGMA writable_schema=ON", *untyped(before))
    change(path, f"UPDATE grants SET {column} = 7", "PRAGMA writable_schema=ON", *typed(before))
    with lab.open() as vault:
        with pytest.raises((Denied, Unavailable)) as refused:
            vault.verify("alice", face("alice"), model=MODEL, threshold=THRESHOLD)
        assert isinstance(refused.value, Denied | Unavailable)
        assert refused.value.decision is not None
        assert not vault.check().ok


def sqlite_schema(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        found: str = connection.execute("SELECT sql FROM sqlite_schema WHERE name = 'grants'").fetchone()[0]
        return found


def untyped(sql: str) -> list[str]:
    loose = sql.replace(") STRICT", ")").replace("BLOB NOT NULL", "")
    return [f"UPDATE sqlite_schema SET sql = '{loose}' WHERE name = 'grants'", "PRAGMA schema_version=900"]


def typed(sql: str) -> list[str]:
    return [f"UPDATE sqlite_schema SET sql = '{sql}' WHERE name = 'grants'", "PRAGMA schema_version=901"]


@pytest.mark.parametrize("sql", [PLANTED[2], ("vault.db", "CREATE VIEW more AS SELECT 1")])
def test_a_hostile_backup_is_refused_before_it_is_read(lab: Lab, sql: tuple[str, str]) -> None:
    lab.enrol("alice")
    backup = lab.base / "backup"
    with lab.open() as vault:
        vault.backup(backup)
        change(backup, sql[1])
        with pytest.raises(IntegrityError, match="not facekeep's"):
            vault.restore(backup)


def test_a_foreign_sqlite_file_is_refused_unchanged(lab: Lab) -> None:
    lab.enrol("alice")
    path = lab.path / "vault.db"
    path.unlink()
    for side in ("-wal", "-shm"):
        (lab.path / f"vault.db{side}").unlink(missing_ok=True)
    change(path, "CREATE TABLE mine (x)")
    before = path.read_bytes()
    with pytest.raises(IntegrityError):
        lab.do(lambda vault: vault.vault_id)
    assert path.read_bytes() == before


@pytest.mark.parametrize("text", ["x = " + "9" * 5_000, "x = " + "[" * 5_000, 'x = "\\u0000"'])
def test_a_hostile_vault_toml_is_one_of_our_errors(lab: Lab, text: str) -> None:
    (lab.path / "vault.toml").write_text(text)
    with pytest.raises(FacekeepError):
        lab.do(lambda vault: vault.vault_id)


def test_a_forged_row_burns_no_slots(lab: Lab) -> None:
    lab.enrol("alice")
    with lab.open() as vault:
        top = "(SELECT max(slot) FROM grants)"
        change(
            lab.path / "vault.db",
            "INSERT INTO grants SELECT slot + 100000, grant_id, tag, model, terms, commitment, templates,"
            f" record FROM grants WHERE slot = {top}",
        )
        vault.enroll_many([lab.enrolment("bob")])
        new, old = slots(vault, "bob"), slots(vault, "alice")
        assert {scope: slot - 1 for scope, slot in new.items()} == old
