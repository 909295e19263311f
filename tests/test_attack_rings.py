"""One small write that nobody can undo: every command has a way on, and one scrub puts all of it right."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from facekeep.errors import ErasurePending, FacekeepError, IntegrityError
from facekeep.vault import Vault
from vaultlab import Lab, core, matches, sql

MOST = 2**63 - 1
VALUES = ("NULL", "'text'", "-1", "9223372036854775807", "-9e999", "CAST(x'ff80' AS TEXT)")
Attack = Callable[[Lab], object]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """A vault with a live copy and two people."""
    lab = Lab(tmp_path_factory.mktemp("made"), copies=True).create()
    lab.enrol("alice", "bob")
    lab.do(lambda vault: vault.enroll_many([lab.enrolment("carol")]))
    return lab


@pytest.fixture
def lab(made: Lab) -> Iterator[Lab]:
    """The same vault, put back at its own place afterwards."""
    saved = made.save("before")
    yield made
    made.put_back(saved)
    shutil.rmtree(saved)


def scrub(lab: Lab) -> list[str]:
    """Scrub, and return what was left; nothing but our errors may come out of it."""
    report = Vault.scrub(lab.path, token=lab.token, clock=lab.clock)
    return [each.message for each in report.left]


def shred(lab: Lab) -> bool:
    """Erase alice; whether that was done at once. Announced it is in any case."""
    with lab.open() as vault:
        try:
            vault.shred("alice")
        except ErasurePending:
            assert core(vault).log.head().operations
            return False
    return True


def goes_on(lab: Lab) -> None:
    """An erasure is announced, or done; after one scrub all is done and whole."""
    shred(lab)
    with lab.open() as vault, contextlib.suppress(FacekeepError):
        assert not matches(vault, "alice")
    assert scrub(lab) == []
    lab.do(lambda vault: vault.shred("bob"))
    lab.enrol("dora")
    lab.clean()
    with lab.open() as vault:
        assert matches(vault, "carol")
        assert {each.subject for each in vault.subjects()} == {"carol", "dora"}


def junk(index: str) -> Attack:
    """Put rows of nobody into log.db: index is SQL over m, the last one."""
    statement = (
        f"INSERT INTO entry SELECT {index}, 0, x'78', zeroblob(32), zeroblob(32)"
        " FROM (SELECT max(idx) AS m FROM entry)"
    )
    return lambda lab: lab.sql("log.db", statement)


def replay(lab: Lab) -> None:
    """Put the vault's own last entry after the head once more."""
    lab.sql(
        "log.db",
        "INSERT INTO entry SELECT idx + 1, control, sealed, leaf, chain FROM entry"
        " WHERE idx = (SELECT max(idx) FROM entry)",
    )


def generation(value: object, place: str = "path") -> Attack:
    return lambda lab: sql(
        getattr(lab, place) / "keys.db", "UPDATE meta SET value = ? WHERE key = 'generation'", [value]
    )


def nodes(count: int, first: int) -> Attack:
    statement = (
        "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?)"
        " INSERT OR IGNORE INTO node SELECT ? + i, 1, x'00' FROM n"
    )
    return lambda lab: lab.sql("keys.db", statement, (count, first))


PRIMARY: dict[str, Attack] = {
    "a row after the log's head": junk("m + 1"),
    "a row far after it": junk("1000000000000000"),
    "the greatest index": junk(str(MOST)),
    "a row before the log's first": junk("-1"),
    "an entry once more": replay,
    "the greatest generation": generation(MOST),
    "a generation of text": generation("x"),
    "a negative generation": generation(-MOST),
    "no generation": lambda lab: lab.sql("keys.db", "DELETE FROM meta WHERE key = 'generation'"),
    "a node of no place": nodes(1, 5),
    "nodes of no branch": nodes(5_000, 2**50),
    "nodes of negative numbers": nodes(3, -(2**63)),
    "a pair at a branch that has no row": nodes(2, 6 << 15),
}


@pytest.mark.parametrize("name", PRIMARY)
def test_a_row_that_nobody_wrote_stops_nothing(lab: Lab, name: str) -> None:
    PRIMARY[name](lab)
    goes_on(lab)


@pytest.mark.parametrize("attack", ["a row after the log's head", "a node of no place"])
def test_what_nobody_wrote_is_named_and_counted(lab: Lab, attack: str) -> None:
    PRIMARY[attack](lab)
    (finding,) = lab.check().findings
    assert finding.message.startswith("1 ")
    assert scrub(lab) == []
    lab.clean()


def put_back(path: Path, make: Callable[[Path], object]) -> None:
    for end in ("", "-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)
    make(path)


def directory(path: Path) -> None:
    (path / "in it").mkdir(parents=True)


OTHERS: dict[str, Callable[[Path], object]] = {
    "directory": directory,
    "pipe": os.mkfifo,
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "loop": lambda path: path.symlink_to(path.name),
    "link to the vault's own": lambda path: path.symlink_to(path.parent.parent / "vault" / path.name),
}


@pytest.mark.parametrize("what", OTHERS)
@pytest.mark.parametrize("name", ["keys.db", "log.db"])
def test_a_copy_is_no_file(lab: Lab, name: str, what: str) -> None:
    put_back(lab.copy_dir / name, OTHERS[what])
    goes_on(lab)
    assert os.path.lexists(lab.copy_dir / f"{name}.damaged")


def test_the_copies_directory_leads_to_the_vaults_own(lab: Lab) -> None:
    lab.copy_dir.rename(lab.base / "theirs")
    lab.copy_dir.symlink_to(lab.path)
    assert not shred(lab)
    assert all("is away" in each for each in scrub(lab))
    lab.copy_dir.unlink()
    (lab.base / "theirs").rename(lab.copy_dir)
    goes_on(lab)


@pytest.mark.parametrize("name", ["keys.db-wal", "keys.db.new", "log.db-shm"])
def test_a_directory_stands_where_a_copy_is_to_be_made(lab: Lab, name: str) -> None:
    for path in lab.copy_dir.glob(f"{name.partition('.db')[0]}.db*"):
        path.unlink()
    directory(lab.copy_dir / name)
    goes_on(lab)


@pytest.mark.parametrize(
    ("key", "value"),
    [("vault", "x'00'"), ("vault", "CAST(x'ff' AS TEXT)"), ("file", "'backup'"), ("file", "7")],
)
@pytest.mark.parametrize("name", ["keys.db", "log.db"])
def test_a_copy_says_that_it_is_not_ours(lab: Lab, name: str, key: str, value: str) -> None:
    sql(lab.copy_dir / name, f"UPDATE meta SET value = {value} WHERE key = '{key}'")
    goes_on(lab)


@pytest.mark.parametrize("name", ["keys.db", "log.db"])
def test_another_vaults_copy_is_left_alone(lab: Lab, name: str, tmp_path: Path) -> None:
    other = Lab(tmp_path, copies=True).create()
    put_back(lab.copy_dir / name, lambda path: shutil.copy2(other.path / name, path))
    before = (lab.copy_dir / name).read_bytes()
    left = scrub(lab)
    assert any("foreign" in each for each in left)
    assert (lab.copy_dir / name).read_bytes() == before


def test_a_copy_that_disowns_the_vault_is_still_proof_of_a_rollback(lab: Lab) -> None:
    older = lab.save("older")
    assert lab.do(lambda vault: matches(vault, "alice"))
    lab.put_back(older, "log.db")
    shutil.rmtree(older)
    sql(lab.copy_dir / "log.db", "UPDATE meta SET value = x'00' WHERE key = 'vault'")
    with pytest.raises(IntegrityError, match="rolled back"), lab.open():
        pass
    assert any("is ahead" in each for each in scrub(lab))


def roll_head_back(lab: Lab) -> None:
    """The head of a moment ago: the entry that was appended since stands after it, and follows from it."""
    (older,) = lab.sql("log.db", "SELECT sealed FROM head")
    with lab.open() as vault:
        assert matches(vault, "alice")
    lab.sql("log.db", "UPDATE head SET sealed = ?", older)


def test_an_entry_of_the_vault_after_the_head_still_stops_everything(lab: Lab) -> None:
    roll_head_back(lab)
    for name in ("keys.db", "log.db"):
        (lab.copy_dir / name).unlink()
    with pytest.raises(IntegrityError, match="rolled back"), lab.open():
        pass
    with pytest.raises(IntegrityError, match="rolled back"):
        scrub(lab)
    with pytest.raises(IntegrityError, match="rolled back"), lab.open():
        pass


def test_a_copy_that_is_no_longer_does_not_take_the_place_of_a_log_that_was_rolled_back(lab: Lab) -> None:
    for end in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            shutil.copy2(lab.copy_dir / f"log.db{end}", lab.base / f"old{end}")
    roll_head_back(lab)
    for end in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            shutil.copy2(lab.base / f"old{end}", lab.copy_dir / f"log.db{end}")
    with pytest.raises(IntegrityError, match="rolled back"):
        scrub(lab)


def test_a_copy_that_has_the_entry_takes_the_place_of_a_log_whose_head_was_rolled_back(lab: Lab) -> None:
    roll_head_back(lab)
    with pytest.raises(IntegrityError, match="rolled back"), lab.open():
        pass
    assert scrub(lab) == []
    lab.clean()


def retype(path: Path, table: str, column: str, value: str) -> None:
    """Give a column a value that its type forbids: the schema's text is the same afterwards."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as file:
        (cookie,) = file.execute("PRAGMA schema_version").fetchone()
        (text,) = file.execute("SELECT sql FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
        loose = text.replace("STRICT, ", "").replace("STRICT", "").replace("NOT NULL", "")
        change = "UPDATE sqlite_schema SET sql = ? WHERE name = ?"
        file.execute("PRAGMA writable_schema=ON")
        file.execute(change, (loose, table))
        file.execute(f"PRAGMA schema_version={cookie + 1}")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as file:
        with contextlib.suppress(sqlite3.IntegrityError):
            file.execute(f"UPDATE OR REPLACE {table} SET {column} = {value}")
        file.execute("PRAGMA writable_schema=ON")
        file.execute(change, (text, table))
        file.execute(f"PRAGMA schema_version={cookie}")
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)")


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("column", ["hash", "sealed"])
def test_a_value_of_another_type_in_the_subject_index(lab: Lab, column: str, value: str) -> None:
    retype(lab.path / "keys.db", "subject_index", column, value)
    assert any("subject index" in each.message for each in lab.check().findings) or value == "NULL"
    assert scrub(lab) == []
    lab.do(lambda vault: vault.shred("alice"))
    lab.clean()


@pytest.mark.parametrize("value", VALUES)
def test_a_value_of_another_type_where_there_is_no_copy(lab: Lab, value: str) -> None:
    retype(lab.path / "keys.db", "subject_index", "sealed", value)
    for path in lab.copy_dir.glob("*.db*"):
        path.unlink()
    assert scrub(lab) == []
    lab.do(lambda vault: vault.shred("alice"))
    lab.clean()


COLUMNS = [
    ("keys.db", "principal", "sealed"),
    ("keys.db", "principal", "principal"),
    ("keys.db", "top", "epoch"),
    ("keys.db", "top", "fingerprint"),
    ("keys.db", "node", "epoch"),
    ("keys.db", "meta", "value"),
    ("vault.db", "meta", "value"),
    ("vault.db", "grants", "record"),
    ("log.db", "head", "sealed"),
    ("log.db", "entry", "leaf"),
    ("log.db", "entry", "control"),
    ("log.db", "grant_entry", "idx"),
    ("log.db", "tile", "hashes"),
    ("log.db", "tiled", "sealed"),
    ("log.db", "page", "sealed"),
]


@pytest.mark.parametrize(("name", "table", "column"), COLUMNS)
def test_a_value_of_another_type_raises_nothing_but_our_errors(
    lab: Lab, name: str, table: str, column: str
) -> None:
    lab.do(lambda vault: vault.audit_checkpoint())
    saved = lab.save("typed")
    for value in ("'text'", "9223372036854775807", "CAST(x'ff80' AS TEXT)"):
        retype(lab.path / name, table, column, value)
        for act in (lab.check, lambda: scrub(lab), lambda: lab.do(lambda vault: vault.audit_checkpoint())):
            with contextlib.suppress(FacekeepError):
                act()
        lab.put_back(saved)
    shutil.rmtree(saved)
