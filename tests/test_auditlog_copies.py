"""Live second copies of the log."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from auditlog_help import BRANCH, KEY, VAULT, Lab, destroy, destroyed
from facekeep.auditlog.log import AuditLog
from facekeep.errors import ForeignFile, IntegrityError, UsageError
from facekeep.store import logdb


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    (tmp_path / "second").mkdir()
    return tmp_path / "second" / "log.db"


@pytest.fixture
def lab(tmp_path: Path, copy: Path) -> Lab:
    lab = Lab(tmp_path, copy)
    lab.grant(BRANCH, BRANCH + 1)
    lab.decide(3)
    return lab


def states(lab: Lab) -> list[str]:
    return [each.state for each in lab.log.copies_state()]


def verified(lab: Lab, copy: Path) -> int:
    """Size of the copy, opened and replayed as a log of its own."""
    log = AuditLog(logdb.open_log(copy, VAULT), (), KEY, VAULT, lab.clock)
    try:
        return log.verify().size
    finally:
        log.close()


def test_a_copy_holds_what_the_log_holds(lab: Lab, copy: Path) -> None:
    first = lab.log.append(destroy(BRANCH))[0]
    lab.log.append([destroyed(first)])
    assert states(lab) == ["current"]
    assert verified(lab, copy) == lab.log.head().size == 8


def test_a_copy_that_is_away_is_left_behind_and_brought_up_again(lab: Lab, copy: Path) -> None:
    away = copy.parent.rename(copy.parent.with_name("unplugged"))
    assert lab.decide(3) == 8
    assert [(each.state, each.note is None) for each in lab.log.copies_state()] == [("away", False)]
    assert [each.state for each in lab.log.resync_copies()] == ["away"]
    away.rename(copy.parent)
    lab.decide()
    assert [(each.state, each.size) for each in lab.log.copies_state()] == [("behind", 6)]
    assert [(each.state, each.size, each.note) for each in lab.log.resync_copies()] == [("current", 10, None)]
    lab.decide()
    assert states(lab) == ["current"]
    assert verified(lab, copy) == 11


def test_a_missing_copy_is_made_anew(lab: Lab, copy: Path) -> None:
    shutil.rmtree(copy.parent)
    copy.parent.mkdir()
    lab.decide()
    assert states(lab) == ["missing"]
    assert [each.state for each in lab.log.resync_copies(create=False)] == ["missing"]
    assert [each.state for each in lab.log.resync_copies()] == ["current"]
    assert verified(lab, copy) == 7
    assert copy.stat().st_mode & 0o777 == 0o600


def test_a_copy_that_fails_does_not_stop_decisions(lab: Lab) -> None:
    (each,) = lab.log._copies._copies
    each._open().execute("PRAGMA query_only=ON")
    assert lab.decide(2) == 7
    assert [(each.state, "readonly" in str(each.note)) for each in lab.log.copies_state()] == [
        ("behind", True)
    ]
    lab.log.resync_copies()
    assert states(lab) == ["current"]


def test_a_long_gap_is_left_to_the_resync(lab: Lab, copy: Path) -> None:
    (each,) = lab.log._copies._copies
    each.note = "away"
    lab.decide(3)
    each.note = None
    lab.decide(1)
    assert states(lab) == ["current"]
    each.note = "away"
    lab.decide(logdb.CHUNK + 2)
    each.note = None
    lab.decide(1)
    assert [(each.state, each.note) for each in lab.log.copies_state()] == [
        ("behind", "it lacks 1002 entries")
    ]
    lab.log.resync_copies()
    assert verified(lab, copy) == lab.log.head().size


def test_two_openings_keep_one_copy(lab: Lab, copy: Path) -> None:
    other = lab.open()
    for _ in range(5):
        lab.decide(2)
        lab.decide(3, other)
    lab.decide(1)
    assert states(lab) == ["current"]
    assert verified(lab, copy) == 32


def test_a_rolled_back_log_is_noticed_by_its_copy(lab: Lab, tmp_path: Path, copy: Path) -> None:
    older = lab.save(tmp_path / "older")
    lab.decide(2)
    lab.put_back(older)
    log = lab.open()
    assert [each.state for each in log.copies_state()] == ["ahead"]
    with pytest.raises(IntegrityError, match="rolled back") as caught:
        log.resync_copies()
    assert str(copy) in str(caught.value)
    assert str(copy) in caught.value.next
    assert "log.db-wal" in caught.value.next
    log.close()
    for name in ("log.db", "log.db-wal", "log.db-shm"):  # what the error says
        (tmp_path / name).unlink(missing_ok=True)
        if copy.with_name(name).exists():
            shutil.copy(copy.with_name(name), tmp_path / name)
    restored = lab.open()
    assert restored.verify().size == 8
    assert [each.state for each in restored.resync_copies()] == ["current"]


def test_a_forked_log_never_writes_to_its_copy(lab: Lab, tmp_path: Path, copy: Path) -> None:
    older = lab.save(tmp_path / "older")
    lab.decide(2)
    lab.put_back(older)
    log = lab.open()
    before = verified(lab, copy)
    with pytest.raises(IntegrityError, match="has entries that"):
        lab.decide(1, log)
    with pytest.raises(IntegrityError, match="stopped answering"):
        lab.decide(1, log)
    log = lab.open()
    assert [each.state for each in log.copies_state()] == ["ahead"]
    with pytest.raises(IntegrityError, match="has entries that"):
        log.resync_copies()
    assert verified(lab, copy) == before


def test_a_fork_that_is_longer_than_its_copy(lab: Lab, tmp_path: Path, copy: Path) -> None:
    older = lab.save(tmp_path / "older")
    lab.decide(2)
    lab.put_back(older)
    before = verified(lab, copy)
    aside = copy.parent.rename(tmp_path / "aside")
    log = lab.open()
    lab.decide(5, log)
    aside.rename(copy.parent)
    log.close()
    log = lab.open()
    with pytest.raises(IntegrityError, match="another history"):
        lab.decide(1, log)
    assert [each.state for each in lab.open().copies_state()] == ["diverged"]
    assert verified(lab, copy) == before


def test_a_foreign_or_damaged_copy_is_not_touched(lab: Lab, copy: Path) -> None:
    lab.log.close()
    for name in ("log.db", "log.db-wal", "log.db-shm"):
        copy.with_name(name).unlink(missing_ok=True)
    logdb.create_log(copy, b"w" * 16).close()
    log = lab.open()
    with pytest.raises(ForeignFile, match="another vault"):
        log.resync_copies()
    lab.decide(1, log)
    log.close()
    copy.write_bytes(b"not a database" * 500)
    log = lab.open()
    assert [each.state for each in log.copies_state()] == ["damaged"]
    assert [each.note for each in log.resync_copies()] == ["is damaged or cannot be read"]
    lab.decide(1, log)
    assert copy.read_bytes().startswith(b"not a database")


@pytest.mark.parametrize(
    "change",
    [
        "INSERT INTO entry SELECT idx + 1, control, sealed, leaf, chain FROM entry WHERE idx = 5",
        "INSERT INTO entry SELECT 9, control, sealed, leaf, chain FROM entry WHERE idx = 5",
        "UPDATE entry SET chain = zeroblob(32) WHERE idx = 5",
        "UPDATE entry SET leaf = zeroblob(32), chain = zeroblob(32) WHERE idx = 5",
        "DELETE FROM entry WHERE idx = 4; UPDATE entry SET chain = zeroblob(32) WHERE idx = 5",
    ],
)
def test_a_copy_proves_a_rollback_only_by_an_authentic_entry(lab: Lab, copy: Path, change: str) -> None:
    """Whoever writes the copy's disk stops nobody: what they made up is damage."""
    lab.log.close()
    connection = sqlite3.connect(copy)
    connection.executescript(change)
    connection.close()
    log = lab.open()
    assert [each.state for each in log.copies_state()] == ["damaged"]
    log.resync_copies()
    lab.decide(1, log)


def test_a_copy_is_not_the_log_itself(lab: Lab) -> None:
    with pytest.raises(UsageError):
        AuditLog(logdb.open_log(lab.path, VAULT), [lab.path], KEY, VAULT, lab.clock)
    linked = lab.path.with_name("linked.db")
    linked.hardlink_to(lab.path)
    with pytest.raises(IntegrityError, match="hard link"):
        AuditLog(logdb.open_log(lab.path, VAULT), [linked], KEY, VAULT, lab.clock)


def test_an_interrupted_first_copy_is_finished(lab: Lab, copy: Path) -> None:
    shutil.rmtree(copy.parent)
    copy.parent.mkdir()
    logdb.create_log(copy, VAULT).close()
    lab.reopen()
    lab.log.resync_copies()
    assert verified(lab, copy) == 6
    rows = sqlite3.connect(copy).execute("SELECT count(*) FROM grant_entry").fetchone()
    assert rows == (2,)
