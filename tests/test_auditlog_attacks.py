"""What somebody with write access to the files can do, and how it is noticed. Named for the attacks."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from auditlog_help import BRANCH, DAMAGED, KEY, VAULT, Lab, decision, destroy, destroyed, granted, grants
from facekeep.auditlog.log import AuditLog
from facekeep.errors import FacekeepError, ForeignFile, IntegrityError, StoreError
from facekeep.store import logdb


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """Entries: 0 genesis, 1 grant, 2 granted, 3-7 decisions, 8 destroy, 9 destroyed, 10-12 decisions."""
    lab = Lab(tmp_path)
    lab.grant(BRANCH, BRANCH + 1)
    lab.decide(5)
    first = lab.log.append(destroy(BRANCH))[0]
    lab.log.append([destroyed(first)])
    lab.decide(3)
    return lab


def stopped(log: AuditLog) -> None:
    """Every later call raises."""
    calls: list[Callable[[], object]] = [
        log.head,
        log.pending,
        log.verify,
        lambda: log.entry(0),
        lambda: log.append(grants(BRANCH + 99)),
        lambda: log.decide(decision(), control_seq=5, valid_until_ms=2**53, allow=True),
        lambda: list(log.control_since()),
        log.resync_copies,
    ]
    for call in calls:
        with pytest.raises(FacekeepError, match="stopped answering"):
            call()


COPY = (
    "UPDATE entry SET (control, sealed, leaf, chain) ="
    " (SELECT control, sealed, leaf, chain FROM entry WHERE idx = {}) WHERE idx = {}"
)
SWAP = [f"UPDATE entry SET idx = {to} WHERE idx = {at}" for at, to in ((4, -1), (5, 4), (-1, 5))]


@pytest.mark.parametrize(
    ("statements", "found"),
    [
        (
            [f"UPDATE entry SET sealed = {DAMAGED} WHERE idx = 4"],
            "log entry 4",
        ),
        (["UPDATE entry SET leaf = zeroblob(32) WHERE idx = 4"], "log entry 4"),
        (["UPDATE entry SET chain = zeroblob(32) WHERE idx = 4"], "log entry 4"),
        (["UPDATE entry SET sealed = (SELECT sealed FROM entry WHERE idx = 5) WHERE idx = 4"], "log entry 4"),
        (
            ["UPDATE entry SET (sealed, leaf) = (SELECT sealed, leaf FROM entry WHERE idx=5) WHERE idx = 4"],
            "log entry 4",
        ),
        (["DELETE FROM entry WHERE idx = 4"], "log entry 4 is missing"),
        (["DELETE FROM entry WHERE idx = 0"], "log entry 0 is missing"),
        (["DELETE FROM entry WHERE idx = 4", "UPDATE entry SET idx = idx - 1 WHERE idx = 5"], "log entry 4"),
        (SWAP, "log entry 4"),
        ([COPY.format(3, 4)], "log entry 4"),
        (["UPDATE entry SET control = 2 WHERE idx = 8"], "log entry 8: its bytes or its control mark"),
        (["UPDATE entry SET control = 0 WHERE idx = 8"], "log entry 8: its bytes or its control mark"),
        (["UPDATE entry SET control = 1 WHERE idx = 4"], "log entry 4: its bytes or its control mark"),
        (["DELETE FROM grant_entry WHERE slot = 4194304"], "log entry 1: log.db does not lead"),
        (["UPDATE grant_entry SET idx = 3 WHERE slot = 4194304"], "log entry 1: log.db does not lead"),
        (["INSERT INTO grant_entry VALUES (77, 1)"], "slots that no entry opened"),
        (["UPDATE entry SET idx = -1 WHERE idx = 4"], "log entry 4 is missing"),
    ],
)
def test_a_row_changed_removed_reordered_or_duplicated(lab: Lab, statements: list[str], found: str) -> None:
    lab.log.verify()
    lab.attack(*statements)
    with pytest.raises(IntegrityError, match=found):
        lab.open().verify()


@pytest.mark.parametrize("rows", [(3, 4), (4, 5)])
def test_a_true_pair_of_rows_at_another_place(lab: Lab, rows: tuple[int, int]) -> None:
    # Each chain value follows from the one before it, but neither was sealed for this index.
    lab.attack(*(COPY.format(row, row + 3) for row in rows))
    with pytest.raises(IntegrityError, match="its bytes or its control mark"):
        lab.open().entry(rows[1] + 3)


def test_a_row_changed_is_noticed_by_the_read_that_uses_it(lab: Lab) -> None:
    lab.attack(f"UPDATE entry SET sealed = {DAMAGED} WHERE idx = 1")
    log = lab.open()
    for read in (lambda: log.entry(1), lambda: log.entry_of_slot(BRANCH), lambda: list(log.control_since())):
        with pytest.raises(IntegrityError, match="log entry 1"):
            read()


def test_a_last_row_removed_is_noticed_at_opening(lab: Lab) -> None:
    lab.attack("DELETE FROM entry WHERE idx = 12")
    with pytest.raises(IntegrityError, match="last entry"):
        lab.open()


@pytest.mark.parametrize(
    "statements",
    [
        ["UPDATE entry SET control = 0 WHERE idx = 8"],
        ["UPDATE entry SET control = 0 WHERE idx = 8", "UPDATE entry SET control = 1 WHERE idx = 4"],
        ["UPDATE entry SET control = 0 WHERE idx = 8", "UPDATE entry SET control = 1 WHERE idx = 10"],
        ["UPDATE entry SET control = 1 WHERE idx = 10"],
        ["DELETE FROM entry WHERE idx = 8"],
    ],
)
@pytest.mark.parametrize("start", [0, 6, 8])
def test_a_flipped_control_mark(lab: Lab, statements: list[str], start: int) -> None:
    lab.attack(*statements)
    with pytest.raises(IntegrityError):
        list(lab.open().control_since(start))
    with pytest.raises(IntegrityError):
        list(lab.open().control_bodies(start))


def test_the_projection_leads_to_another_entry(lab: Lab) -> None:
    lab.attack("UPDATE grant_entry SET idx = 8 WHERE slot = 4194304")
    with pytest.raises(IntegrityError, match="leads from slot 4194304 to entry 8"):
        lab.open().entry_of_slot(BRANCH)


def head_of(path: Path) -> bytes:
    connection = sqlite3.connect(path)
    row = logdb.read_head(connection)
    connection.close()
    assert row is not None
    return row


def test_a_head_replaced_by_an_older_head(lab: Lab) -> None:
    older = head_of(lab.path)
    lab.decide()
    writer = sqlite3.connect(lab.path, isolation_level=None)
    writer.execute("UPDATE head SET sealed = ?", (older,))
    with pytest.raises(IntegrityError, match="rolled back"):
        lab.log.head()
    stopped(lab.log)
    writer.close()
    lab.log.close()
    with pytest.raises(IntegrityError, match="has entries after 12"):
        lab.open()


def test_a_row_after_the_head_that_does_not_follow_from_it_is_nobodys(lab: Lab) -> None:
    lab.attack("INSERT INTO entry SELECT 13, control, sealed, leaf, chain FROM entry WHERE idx = 12")
    lab.attack("INSERT INTO entry SELECT -1, control, sealed, leaf, chain FROM entry WHERE idx = 12")
    log = lab.open()
    assert (log.strays(), log.verify().size) == (2, 13)
    lab.decide(1, log)
    assert (log.strays(), log.verify().size) == (0, 14)


def test_an_edited_head(lab: Lab) -> None:
    lab.attack(f"UPDATE head SET sealed = {DAMAGED}")
    with pytest.raises(IntegrityError, match="head does not authenticate"):
        lab.open()


def test_a_removed_head(lab: Lab) -> None:
    lab.attack("DELETE FROM head")
    with pytest.raises(IntegrityError, match="no head"):
        lab.open()


def test_the_whole_file_replaced_by_an_older_copy_while_open(lab: Lab, tmp_path: Path) -> None:
    older = lab.save(tmp_path / "older")
    lab.decide()
    older.rename(lab.path)
    with pytest.raises(IntegrityError, match="replaced"):
        lab.decide()
    stopped(lab.log)


def test_the_content_replaced_by_an_older_copy_while_open(lab: Lab, tmp_path: Path) -> None:
    older = lab.save(tmp_path / "older")
    lab.decide()
    source, target = sqlite3.connect(older), sqlite3.connect(lab.path)
    source.backup(target)
    target.close()
    source.close()
    with pytest.raises(IntegrityError, match="rolled back"):
        lab.decide()
    stopped(lab.log)


def test_the_whole_file_replaced_by_an_older_copy_while_closed(lab: Lab, tmp_path: Path) -> None:
    older = lab.save(tmp_path / "older")
    lab.decide()
    pin = lab.log.head().pin()
    lab.put_back(older)
    log = lab.open()
    with pytest.raises(IntegrityError, match="does not contain the log of 14 entries"):
        log.check_pin(*pin)
    stopped(log)


def test_a_log_truncated_and_regrown_while_open(lab: Lab, tmp_path: Path) -> None:
    older = lab.save(tmp_path / "older")
    lab.decide()
    fork = AuditLog(logdb.open_log(older, VAULT), (), KEY, VAULT, lab.clock)
    lab.decide(3, fork)
    fork.close()
    source, target = sqlite3.connect(older), sqlite3.connect(lab.path)
    source.backup(target)
    target.close()
    source.close()
    with pytest.raises(IntegrityError, match="forked"):
        lab.log.head()
    stopped(lab.log)


def test_a_log_truncated_and_regrown_while_closed(lab: Lab, tmp_path: Path) -> None:
    older = lab.save(tmp_path / "older")
    lab.decide()
    pin = lab.log.head().pin()
    lab.put_back(older)
    fork = lab.open()
    lab.decide(5, fork)
    fork.close()
    with pytest.raises(IntegrityError, match="does not contain the log of 14 entries"):
        lab.open().check_pin(*pin)


def test_a_pin_with_another_root_is_found_by_the_full_check(lab: Lab) -> None:
    size, _, chain = lab.log.head().pin()
    lab.decide()
    lab.log.check_pin(size, b"x" * 32, chain)
    with pytest.raises(IntegrityError, match=f"log entry {size - 1}: .*pins"):
        lab.log.verify()


def test_the_file_deleted_under_a_running_process(lab: Lab) -> None:
    lab.path.unlink()
    with pytest.raises(IntegrityError, match="removed"):
        lab.log.decide(decision(), control_seq=5, valid_until_ms=2**53, allow=True)
    stopped(lab.log)


@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
def test_a_sidecar_deleted_under_a_running_process(lab: Lab, suffix: str) -> None:
    # SQLite would go on writing into the deleted file, where nobody ever finds it again.
    lab.path.with_name("log.db" + suffix).unlink()
    with pytest.raises(IntegrityError, match="removed"):
        lab.decide()
    stopped(lab.log)


def test_a_symbolic_link_in_place_of_the_file(lab: Lab, tmp_path: Path) -> None:
    older = lab.save(tmp_path / "older")
    lab.path.unlink()
    lab.path.symlink_to(older)
    with pytest.raises(IntegrityError, match="replaced"):
        lab.log.head()


def test_the_log_of_another_vault_or_key(lab: Lab) -> None:
    lab.log.close()
    with pytest.raises(ForeignFile):
        logdb.open_log(lab.path, b"w" * 16)
    with pytest.raises(IntegrityError, match="does not authenticate"):
        AuditLog(logdb.open_log(lab.path, VAULT), (), b"x" * 32, VAULT, lab.clock)


def test_bytes_of_the_file_overwritten(lab: Lab) -> None:
    lab.log.close()
    size = lab.path.stat().st_size
    with lab.path.open("r+b") as file:
        for at in range(4096, size, 512):
            file.seek(at)
            file.write(b"\xff" * 64)
    with pytest.raises(FacekeepError):
        lab.open().verify()


class Failing:
    """A connection that fails at one statement, before or after carrying it out."""

    def __init__(self, connection: sqlite3.Connection, at: str, *, after: bool, error: Exception) -> None:
        self._connection = connection
        self._at = at
        self._after = after
        self._error = error

    def execute(self, statement: str, *values: object) -> object:
        return self._run(self._connection.execute, statement, *values)

    def executemany(self, statement: str, values: object) -> object:
        return self._run(self._connection.executemany, statement, values)

    def _run(self, call: Callable[..., object], statement: str, *values: object) -> object:
        failing = statement.startswith(self._at)
        if failing and not self._after:
            raise self._error
        result = call(statement, *values)
        if failing:
            raise self._error
        return result

    def __getattr__(self, name: str) -> object:
        return getattr(self._connection, name)


@pytest.mark.parametrize(
    "error", [sqlite3.OperationalError("database or disk is full"), OSError(5, "I/O error")]
)
@pytest.mark.parametrize(
    ("at", "after"),
    [
        ("BEGIN", False), ("SELECT sealed FROM head", False), ("INSERT INTO entry", False),
        ("INSERT INTO entry", True), ("UPDATE head", True), ("COMMIT", False), ("COMMIT", True),
    ],
)  # fmt: skip
def test_a_failing_disk_gives_no_answer_and_stops_the_log(
    lab: Lab, at: str, after: bool, error: Exception
) -> None:
    size = lab.log.head().size
    writer = lab.log._writer
    whole = writer._connection
    writer._connection = Failing(whole, at, after=after, error=error)  # type: ignore[assignment]
    with pytest.raises(StoreError):
        lab.log.decide(decision(), control_seq=5, valid_until_ms=2**53, allow=True)
    stopped(lab.log)
    writer._connection = whole
    persisted = at == "COMMIT" and after
    assert lab.reopen().verify().size == size + persisted


def test_a_read_only_file(lab: Lab) -> None:
    if os.geteuid() == 0:
        lab.log._writer._connection.execute("PRAGMA query_only=ON")
    else:
        lab.path.chmod(0o400)
    size = lab.log.head().size
    with pytest.raises(StoreError):
        lab.log.append([*grants(BRANCH + 9), granted(size)])
    stopped(lab.log)
    lab.path.chmod(0o600)
    assert lab.reopen().verify().size == size


def test_a_full_disk(lab: Lab) -> None:
    connection = lab.log._writer._connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count={pages + 1}")
    size = lab.log.head().size
    done = 0

    def fill() -> None:
        nonlocal done
        for _ in range(500):
            lab.decide()
            done += 1

    with pytest.raises(StoreError, match="full"):
        fill()
    stopped(lab.log)
    assert lab.reopen().verify().size == size + done


@pytest.mark.parametrize("decisions", [1, 3])
def test_the_last_entries_of_another_history(lab: Lab, tmp_path: Path, decisions: int) -> None:
    """Made by this vault, and cut off since: each follows from the one before it, and the head from none."""
    lab.log.close()
    before = lab.save(tmp_path / "before.db")
    lab.reopen().append(grants(BRANCH + 9))
    lab.log.close()
    other = lab.save(tmp_path / "other.db")
    lab.path.unlink()
    before.rename(lab.path)
    lab.reopen().append(grants(BRANCH + 5))
    lab.decide(decisions)
    lab.attack(
        f"ATTACH '{other}' AS other",
        "UPDATE entry SET (control, sealed, leaf, chain) ="
        " (SELECT control, sealed, leaf, chain FROM other.entry WHERE idx = 13) WHERE idx = 13",
    )
    for read in (
        lambda log: list(log.control_since(13)),
        lambda log: list(log.control_bodies(13)),
        lambda log: log.pending(),
    ):
        with pytest.raises(IntegrityError):
            read(lab.open())


def test_the_last_entries_alone_are_read_for_what_is_open(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has just begun does not read a long log for an intent that stands at its end."""
    lab.log.append(grants(BRANCH + 5))
    seen: list[int] = []
    rows_between = logdb.rows_between

    def watched(connection: sqlite3.Connection, start: int, stop: int) -> object:
        seen.append(start)
        return rows_between(connection, start, stop)

    def no_control_rows(*_: object) -> object:
        raise AssertionError("the whole log would be read")

    monkeypatch.setattr(logdb, "rows_between", watched)
    monkeypatch.setattr(logdb, "control_rows", no_control_rows)
    log = lab.reopen()
    assert BRANCH + 5 in log.pending().granting_slots
    assert seen == [13]
