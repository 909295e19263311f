"""Attacks through SQLite's companions: hot journals that delete files, links, and WALs of somebody else."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import struct
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from facekeep.errors import FacekeepError, IntegrityError
from facekeep.store import connect
from facekeep.vault import Vault
from vaultlab import MODEL, THRESHOLD, Lab, core, face

SOURCE = Path(__file__).parent.parent / "src/facekeep"
MAGIC = bytes.fromhex("d9d505f920a163d7")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path, copies=True).create()
    lab.enrol("alice")
    return lab


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file that SQLite is to delete for somebody who cannot."""
    path = tmp_path / "victim"
    path.write_bytes(b"x")
    return path


def plant(database: Path, victim: Path) -> None:
    """Put a hot journal beside a database: without pages, and of a super-journal named ``victim``."""
    size = database.stat().st_size if database.exists() else 0
    header = MAGIC + struct.pack(">IIIII", 0, 0x12345678, size // 4096, 512, 4096)
    name = os.fsencode(victim)
    tail = struct.pack(">I", 0x40000000 // 4096 + 1) + name + struct.pack(">II", len(name), sum(name)) + MAGIC
    database.with_name(database.name + "-journal").write_bytes(header.ljust(512, b"\0") + tail)


def planting(monkeypatch: pytest.MonkeyPatch, victim: Path) -> list[Path]:
    """Plant a journal at the last moment, beside everything that is opened; returns what was."""
    opened: list[Path] = []
    check, open_ = connect._refuse_companions, connect._open

    def race(place: Path) -> None:
        place.with_name(place.name + "-journal").unlink(missing_ok=True)
        check(place)
        plant(place, victim)

    def watched(place: Path, how: str) -> connect.Connection:
        opened.append(place)
        return open_(place, how)

    monkeypatch.setattr(connect, "_refuse_companions", race)
    monkeypatch.setattr(connect, "_open", watched)
    return opened


def test_the_journal_of_these_tests_deletes_a_file(tmp_path: Path, victim: Path) -> None:
    path = tmp_path / "any.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE t (x)")
    plant(path, victim)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("SELECT * FROM t").fetchall()
    assert not victim.exists()


@pytest.mark.parametrize("name", ["vault.db", "keys.db", "log.db"])
def test_a_planted_journal_is_refused_and_deletes_nothing(lab: Lab, victim: Path, name: str) -> None:
    plant(lab.path / name, victim)
    with pytest.raises(IntegrityError, match=f"{name}-journal stands beside"):
        lab.do(lambda vault: vault.vault_id)
    assert victim.exists()
    (lab.path / f"{name}-journal").unlink()
    assert lab.do(lambda vault: vault.check().ok)


@pytest.mark.parametrize("name", ["keys.db", "log.db"])
def test_a_journal_beside_a_live_copy_deletes_nothing(lab: Lab, victim: Path, name: str) -> None:
    copy = lab.copy_dir
    plant(copy / name, victim)
    with lab.open() as vault:
        vault.verify("alice", face("alice"), model=MODEL, threshold=THRESHOLD)
        assert not vault.check().ok
    assert victim.exists()


VERBS: dict[str, Callable[[Lab], object]] = {
    "verify": lambda lab: lab.do(
        lambda vault: vault.verify("alice", face("alice"), model=MODEL, threshold=THRESHOLD)
    ),
    "enrol": lambda lab: lab.enrol("bob"),
    "shred": lambda lab: lab.do(lambda vault: vault.shred("alice")),
    "backup": lambda lab: lab.do(lambda vault: vault.backup(lab.base / "backup")),
    "check": lambda lab: lab.do(lambda vault: vault.check()),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_journal_planted_between_look_and_opening_is_not_played_back(
    lab: Lab, victim: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    opened = planting(monkeypatch, victim)
    VERBS[verb](lab)
    assert victim.exists()
    assert opened


def test_making_and_salvaging_files_plays_no_journal_back(
    lab: Lab, victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = lab.copy_dir
    for name in ("keys.db", "log.db"):
        (lab.path / name).unlink()
    opened = planting(monkeypatch, victim)
    Vault.scrub(lab.path, token=lab.token, clock=lab.clock)
    shutil.rmtree(copy)
    copy.mkdir()
    Vault.scrub(lab.path, token=lab.token, clock=lab.clock)
    assert victim.exists()
    assert {path.name for path in opened} >= {"keys.db", "log.db", "keys.db.new", "log.db.new"}


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="what SQLite opened cannot be told here")
def test_another_file_in_the_place_while_it_is_opened_is_never_read(
    lab: Lab, victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_ = connect._open
    path = lab.path / "keys.db"

    def swapped(place: Path, how: str) -> connect.Connection:
        if place != path:
            return open_(place, how)
        own, theirs = path.with_name("own"), path.with_name("theirs")
        shutil.copy(path, theirs)
        path.rename(own)
        theirs.rename(path)
        plant(path, victim)
        try:
            return open_(place, how)
        finally:
            own.replace(path)

    monkeypatch.setattr(connect, "_open", swapped)
    with pytest.raises(IntegrityError, match="replaced while it was being opened"):
        lab.do(lambda vault: vault.vault_id)
    assert victim.exists()


@pytest.mark.parametrize("name", ["vault.db", "keys.db", "log.db"])
@pytest.mark.parametrize("link", ["symbolic", "hard"])
def test_a_link_in_the_place_of_a_database_is_refused(lab: Lab, name: str, link: str) -> None:
    path = lab.path / name
    elsewhere = lab.base / "elsewhere.db"
    if link == "hard":
        elsewhere.hardlink_to(path)
    else:
        path.rename(elsewhere)
        path.symlink_to(elsewhere)
    with pytest.raises(IntegrityError, match="link"):
        lab.do(lambda vault: vault.vault_id)


def test_a_directory_that_is_a_link_is_as_good_as_another(lab: Lab) -> None:
    moved = lab.base / "moved"
    lab.path.rename(moved)
    lab.path.symlink_to(moved)
    assert lab.do(lambda vault: vault.check().ok)


def test_a_database_that_left_wal_mode_is_refused(lab: Lab) -> None:
    with closing(sqlite3.connect(lab.path / "vault.db")) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
    with pytest.raises(IntegrityError, match="not in WAL mode"):
        lab.do(lambda vault: vault.vault_id)


@pytest.mark.parametrize("name", ["vault.db", "keys.db"])
def test_a_wal_that_was_taken_away_lets_no_change_be_called_done(lab: Lab, name: str) -> None:
    with lab.open() as vault:
        vault.verify("alice", face("alice"), model=MODEL, threshold=THRESHOLD)
        (lab.path / f"{name}-wal").unlink()
        with pytest.raises(FacekeepError, match="removed or replaced"):
            vault.shred("alice") if name == "keys.db" else vault.enroll_many([lab.enrolment("bob")])


@pytest.mark.parametrize("name", ["vault.db", "keys.db", "log.db"])
@pytest.mark.parametrize("end", ["-wal", "-shm"])
@pytest.mark.parametrize("kind", ["symbolic link", "hard link", "pipe"])
def test_nothing_is_written_through_a_planted_wal_or_index(
    lab: Lab, victim: Path, name: str, end: str, kind: str
) -> None:
    path = lab.path / f"{name}{end}"
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "hard link":
        path.hardlink_to(victim)
    else:
        path.symlink_to(victim)
    with pytest.raises(IntegrityError, match=f"{name}{end} is a link, or no file"):
        lab.do(lambda vault: vault.vault_id)
    assert victim.read_bytes() == b"x"


def test_threads_that_come_and_go_leave_no_descriptors_behind(lab: Lab) -> None:
    own = {_identity(lab.path / name) for name in ("vault.db", "keys.db", "log.db")}

    def opened() -> int:
        return sum(each[1:] in own for each in connect.open_files() or ())

    with lab.open() as vault:
        database = core(vault).data.database
        for _ in range(5):
            database._link().close()
        before = opened()
        assert before
        for _ in range(50):
            database._link().close()
        assert opened() == before
    assert not own & connect._files.keys()
    assert not opened()


def _identity(path: Path) -> connect.Identity:
    status = path.stat()
    return status.st_dev, status.st_ino


def test_connections_are_made_in_one_place_only() -> None:
    found = [
        str(path.relative_to(SOURCE))
        for path in SOURCE.rglob("*.py")
        if re.search(r"sqlite3\.connect\((?!\":memory:\")", path.read_text())
    ]
    assert sorted(found) == ["demo/story.py", "store/connect.py"]
