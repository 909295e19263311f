"""Attacks that keep other processes from opening a vault, while a service goes on with what it has open.

The attacker writes files and holds no key: one small write, and no command of an operator opens the vault. A
service that runs must not outlive that: it is denied as well, until the obstacle is gone.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from facekeep.access import admission
from facekeep.access.core import Core
from facekeep.errors import ErasurePending, FacekeepError, Unavailable
from facekeep.matching.gallery import Gallery
from facekeep.store.sqlite import translated
from facekeep.vault import Vault
from vaultlab import (
    IDENTIFY,
    MODEL,
    THRESHOLD,
    VERIFY,
    Lab,
    at_step,
    core,
    face,
    held,
    identify,
    identify_reason,
    log_entries,
    matches,
    reason,
)

Undo = Callable[[], object]
DATABASES = ("vault.db", "keys.db", "log.db")
ROOTS = "SELECT rootpage FROM sqlite_schema WHERE name = ?"


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path).create()
    lab.enrol("alice", "bob")
    return lab


def until(found: Callable[[], bool]) -> None:
    """Wait for the watcher, which looks about once a second."""
    for _ in range(1_000):
        if found():
            return
        time.sleep(0.01)
    pytest.fail("it did not happen")


class Probe:
    """Follows a vault, and tells when the watcher has looked."""

    def __init__(self) -> None:
        self.looked = threading.Event()

    def refresh(self) -> None:
        self.looked.set()

    def close(self) -> None:
        pass


def watched(vault: Vault, looks: int = 1) -> None:
    """Wait until the watcher has looked so many times."""
    for _ in range(looks):
        probe = Probe()
        core(vault).watcher.add(probe)
        assert probe.looked.wait(10)


# -- one small write each; each returns what takes it back


def journal(name: str) -> Callable[[Lab], Undo]:
    def plant(lab: Lab) -> Undo:
        path = lab.path / f"{name}-journal"
        path.write_bytes(b"x" * 600)
        return path.unlink

    return plant


def hard_link(name: str) -> Callable[[Lab], Undo]:
    def plant(lab: Lab) -> Undo:
        path = lab.path / f"{name}.too"
        os.link(lab.path / name, path)
        return path.unlink

    return plant


def beside(name: str) -> Callable[[Lab], Undo]:
    """A second name for the WAL of a file."""
    return hard_link(f"{name}-wal")


def statements(name: str, *pairs: tuple[str, str]) -> Callable[[Lab], Undo]:
    def plant(lab: Lab) -> Undo:
        for there, _ in pairs:
            lab.sql(name, there)
        return lambda: [lab.sql(name, back) for _, back in reversed(pairs)]

    return plant


def replaced_text(old: str, new: str) -> Callable[[Lab], Undo]:
    def plant(lab: Lab) -> Undo:
        path = lab.path / "vault.toml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        return lambda: path.write_text(text)

    return plant


def no_settings(lab: Lab) -> Undo:
    path = lab.path / "vault.toml"
    aside = path.with_suffix(".aside")
    path.rename(aside)
    return lambda: aside.rename(path)


def a_fifo(lab: Lab) -> Undo:
    """Whoever opens it and waits would wait for ever."""
    back = no_settings(lab)
    path = lab.path / "vault.toml"
    os.mkfifo(path)

    def undo() -> None:
        path.unlink()
        back()

    return undo


def linked_settings(lab: Lab) -> Undo:
    back = no_settings(lab)
    path = lab.path / "vault.toml"
    path.symlink_to("nowhere")

    def undo() -> None:
        path.unlink()
        back()

    return undo


def open_root(lab: Lab) -> Undo:
    lab.root.chmod(0o644)
    return lambda: lab.root.chmod(0o600)


def linked_root(lab: Lab) -> Undo:
    aside = lab.root.with_suffix(".aside")
    lab.root.rename(aside)
    lab.root.symlink_to(aside)
    return lambda: aside.rename(lab.root)


def overwritten(name: str, column: str, table: str) -> Callable[[Lab], Undo]:
    """Blobs of a table, blanked as somebody would who writes SQL."""

    def plant(lab: Lab) -> Undo:
        before = lab.sql(name, f"SELECT {column}, rowid FROM {table}")
        assert before
        lab.sql(name, f"UPDATE {table} SET {column} = x'00'")
        return lambda: [
            lab.sql(name, f"UPDATE {table} SET {column} = ? WHERE rowid = ?", row) for row in before
        ]

    return plant


def junk_page(name: str, table: str) -> Callable[[Lab], Undo]:
    """Junk in the page that a table begins with, in raw bytes, where the next process reads it."""

    def plant(lab: Lab) -> Undo:
        with contextlib.closing(sqlite3.connect(lab.path / name)) as connection:
            page = connection.execute(ROOTS, (table,)).fetchone()[0]
            size = connection.execute("PRAGMA page_size").fetchone()[0]
        before = _written(lab.path / name, (page - 1) * size, b"\xff" * 64)
        return lambda: _written(lab.path / name, (page - 1) * size, before)

    return plant


def _written(path: Path, at: int, data: bytes) -> bytes:
    """Write raw bytes, in a process of its own: closing the file here would drop SQLite's locks."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            descriptor = os.open(path, os.O_RDWR)
            os.write(write, os.pread(descriptor, len(data), at))
            os.pwrite(descriptor, data, at)
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    with os.fdopen(read, "rb") as pipe:
        return pipe.read()


TRIGGER = ("CREATE TRIGGER t AFTER DELETE ON meta BEGIN SELECT 1; END", "DROP TRIGGER t")
TABLE = ("CREATE TABLE t (x)", "DROP TABLE t")
OBSTACLES: dict[str, Callable[[Lab], Undo]] = {
    **{f"a journal beside {name}": journal(name) for name in DATABASES},
    **{f"a hard link of {name}": hard_link(name) for name in DATABASES},
    **{f"a hard link of the WAL of {name}": beside(name) for name in DATABASES},
    "a trigger in vault.db": statements("vault.db", TRIGGER),
    "a table in keys.db": statements("keys.db", TABLE),
    "vault.db of another version": statements(
        "vault.db", ("PRAGMA user_version = 99", "PRAGMA user_version = 1")
    ),
    "keys.db of another vault": overwritten("keys.db", "value", "meta"),
    "an unknown key in vault.toml": replaced_text("[settings]", "zz = 3\n[settings]"),
    "another region in vault.toml": replaced_text('region = "DE"', 'region = "US"'),
    "vault.toml is gone": no_settings,
    "vault.toml is a FIFO": a_fifo,
    "vault.toml is a broken link": linked_settings,
    "the root file is open to others": open_root,
    "the root file is a link": linked_root,
    "the root nodes are blanked": overwritten("keys.db", "blob", "top"),
    "junk in vault.db's meta": junk_page("vault.db", "meta"),
    "junk in vault.db's grants": junk_page("vault.db", "grants"),
    "junk in keys.db's root nodes": junk_page("keys.db", "top"),
}


def denied(gallery: Gallery) -> bool:
    try:
        gallery.search(face("alice"), THRESHOLD, 1)
    except Unavailable as error:
        return error.decision is not None
    return False


@pytest.mark.parametrize("what", OBSTACLES)
def test_a_service_stops_while_no_other_process_could_open_the_vault(lab: Lab, what: str) -> None:
    with lab.open() as service, service.gallery(model=MODEL) as gallery:
        assert matches(service, "alice")
        assert identify(service, "alice") == ["alice"]
        watched(service)
        undo = OBSTACLES[what](lab)
        with pytest.raises(FacekeepError), lab.open():
            pass
        until(lambda: core(service).impaired is not None)
        until(lambda: held(gallery) == 0)
        assert reason(service, "alice") == "unavailable"
        assert identify_reason(service, "alice") == "unavailable"
        assert denied(gallery)
        with pytest.raises(FacekeepError, match="no other process could open the vault"):
            list(service.subjects())
        with pytest.raises(ErasurePending, match="denied to everybody"):
            service.withdraw("alice", [IDENTIFY])
        undo()
        until(lambda: core(service).impaired is None)
        assert matches(service, "bob")
        assert matches(service, "alice")
        assert identify(service, "alice") == []
        assert identify(service, "bob") == ["bob"]
        asked = [each["reason"] for each in log_entries(service) if each["type"] == "decision"]
        assert asked == ["ok", "ok", "unavailable", "unavailable", "unavailable", "ok", "ok", "ok", "ok"]
    lab.do(lambda vault: vault.shred("alice"))
    lab.clean()


def test_what_a_schema_was_changed_in_stops_for_good(lab: Lab) -> None:
    """In log.db a planted trigger stops the log itself: what cannot be recorded is not answered either."""
    with lab.open() as service:
        assert matches(service, "alice")
        lab.sql("log.db", TRIGGER[0])
        with pytest.raises(FacekeepError):
            matches(service, "alice")
        lab.sql("log.db", TRIGGER[1])
        with pytest.raises(FacekeepError):
            matches(service, "alice")


# -- what must not stop anybody


def test_nobody_is_denied_while_another_process_works(lab: Lab) -> None:
    """Enrolments, renewals, swaps, rotations and backups, while a service decides all the time."""
    ready, done = lab.base / "ready", lab.base / "done"

    def work() -> None:
        try:
            until(ready.exists)
            for round_ in range(5):
                with lab.open() as vault:
                    for name in ("carol", "dave"):
                        vault.enroll_many([lab.enrolment(name)])
                        vault.renew(name, lab.consent(VERIFY, days=40 + round_))
                        vault.withdraw(name, [VERIFY])
                        vault.shred(name)
                    vault.backup(lab.base / f"backup-{round_}")
                    vault.keys.rotate_root()
        finally:
            done.touch()

    process = lab.fork(work)
    with lab.open() as service, service.gallery(model=MODEL) as gallery:
        ready.touch()
        while not done.exists():
            assert matches(service, "alice")
            assert [hit.subject for hit in gallery.search(face("bob"), THRESHOLD, 1).candidates] == ["bob"]
            assert core(service).impaired is None
        process.wait()
        watched(service, 4)
        assert core(service).impaired is None
        assert held(gallery) == 2


def test_a_change_of_settings_stays_what_it_is(lab: Lab) -> None:
    with lab.open() as service, lab.open() as operator:
        operator.change_settings(schedule=["root_days=7"])
        watched(service, 4)
        assert core(service).impaired is None
        assert matches(service, "alice")
        watched(operator, 4)
        assert matches(operator, "alice")


def test_a_change_of_settings_that_was_cut_off_stops_nobody(lab: Lab) -> None:
    """vault.toml.new has what the log names; the next opening renames it."""
    path = lab.path / "vault.toml"
    with lab.open() as service:
        text = path.read_text()
        path.with_name("vault.toml.new").write_text(text)
        path.write_text(text.replace('region = "DE"', 'region = "US"'))
        watched(service, 4)
        assert core(service).impaired is None
        assert matches(service, "alice")


def test_a_swap_that_was_cut_off_stops_nobody(lab: Lab) -> None:
    """keys.db is of the next epoch, and the log has not heard of it."""
    ready = lab.base / "ready"

    def shred() -> None:
        until(ready.exists)
        at_step("after write", signal.SIGKILL)
        lab.do(lambda vault: vault.shred("bob"))

    process = lab.fork(shred)
    with lab.open() as service:
        ready.touch()
        process.wait_killed()
        watched(service, 4)
        assert core(service).impaired is None
        assert reason(service, "bob") in {"withdrawn", "subject_unknown"}
        assert matches(service, "alice")


def short_of(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def refused(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("no")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("cause", "passes"),
    [
        (short_of(errno.ENOSPC), True),
        (short_of(errno.EMFILE), True),
        (short_of(errno.EIO), True),
        (refused(sqlite3.SQLITE_BUSY), True),
        (refused(sqlite3.SQLITE_BUSY_SNAPSHOT), True),
        (refused(sqlite3.SQLITE_FULL), True),
        (refused(sqlite3.SQLITE_CANTOPEN), True),
        (short_of(errno.EACCES), False),
        (short_of(errno.ELOOP), False),
        (refused(sqlite3.SQLITE_ERROR), False),
        (refused(sqlite3.SQLITE_READONLY), False),
    ],
    ids=str,
)
def test_what_a_machine_lacks_for_a_while_stops_nobody(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, cause: Exception, passes: bool
) -> None:
    looks = threading.Semaphore(0)

    def fails(*_: object) -> None:
        looks.release()
        with translated("keys.db"):
            raise cause

    with lab.open() as service:
        monkeypatch.setattr(admission, "_admit", fails)
        for _ in range(3):
            assert looks.acquire(timeout=120)
        assert (core(service).impaired is None) is passes
        assert (reason(service, "alice") == "ok") is passes


def test_what_lasts_is_no_passing_want(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever keeps the watcher from looking keeps it from seeing that operators are shut out."""
    went, blind = [0.0], threading.Event()
    admit = admission._admit

    def fails(own: Core) -> None:
        if not blind.is_set():
            return admit(own)
        went[0] += 20
        with translated("keys.db"):
            raise refused(sqlite3.SQLITE_BUSY)

    monkeypatch.setattr(admission, "monotonic", lambda: went[0])
    monkeypatch.setattr(admission, "_admit", fails)
    with lab.open() as service:
        blind.set()
        until(lambda: core(service).impaired is not None)
        assert went[0] >= 80, "it was not given its time"
        assert reason(service, "alice") == "unavailable"
        assert "could not be told" in str(core(service).impaired)
        blind.clear()
        until(lambda: core(service).impaired is None)
        assert matches(service, "alice")
        blind.set()
        began = went[0]
        until(lambda: went[0] >= began + 40)
        assert core(service).impaired is None, "the time begins anew"


def test_a_holder_that_is_away_stops_nobody(lab: Lab) -> None:
    aside = lab.root.with_suffix(".aside")
    with lab.open() as service:
        lab.root.rename(aside)
        watched(service, 4)
        assert matches(service, "alice")
        aside.rename(lab.root)


def test_a_file_that_may_not_be_written_stops_everybody(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose descriptors are open goes on; who comes next may not even read."""
    access = os.access
    with lab.open() as service:
        monkeypatch.setattr(
            os,
            "access",
            lambda path, *more, **named: "keys" not in str(path) and access(path, *more, **named),
        )
        until(lambda: core(service).impaired is not None)
        assert reason(service, "alice") == "unavailable"
        assert "may not be read and written" in str(core(service).impaired)


@pytest.mark.parametrize("at", [18, 47])
def test_a_header_that_says_read_only_stops_everybody(lab: Lab, at: int) -> None:
    """Byte 18 has the next process read only, byte 47 has it not read at all; they are in one's cache."""
    with lab.open() as service:
        before = _written(lab.path / "keys.db", at, b"\x09")
        until(lambda: core(service).impaired is not None)
        assert reason(service, "alice") == "unavailable"
        _written(lab.path / "keys.db", at, before)
        until(lambda: core(service).impaired is None)
        assert matches(service, "alice")


def test_it_stops_in_every_process(lab: Lab) -> None:
    """A service in a process of its own; the operator's command is kept out, and so is the service."""
    stop = lab.base / "stop"

    def serve() -> list[str]:
        with lab.open() as service:
            found = [reason(service, "alice")]
            (lab.base / "serving").touch()
            until(lambda: core(service).impaired is not None)
            found.append(reason(service, "alice"))
            stop.touch()
            until(lambda: core(service).impaired is None)
            return [*found, reason(service, "alice"), reason(service, "bob")]

    process = lab.fork(serve)
    until((lab.base / "serving").exists)
    undo = journal("keys.db")(lab)
    with pytest.raises(FacekeepError):
        lab.do(lambda vault: vault.shred("alice"))
    until(stop.exists)
    with (
        Vault.open(lab.path, token=lab.token, clock=lab.clock, to_erase=True) as vault,
        pytest.raises(ErasurePending),
    ):
        vault.shred("alice")
    with contextlib.suppress(FileNotFoundError):
        undo()  # opening for an erasure has moved it aside
    assert process.wait() == ["ok", "unavailable", "withdrawn", "ok"]
