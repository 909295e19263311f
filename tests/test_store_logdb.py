from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from facekeep.errors import IntegrityError
from facekeep.store import logdb
from facekeep.store.logdb import Row
from facekeep.store.sqlite import Database

VAULT = b"v" * 16


@pytest.fixture
def database(tmp_path: Path) -> Database:
    database = logdb.create_log(tmp_path / "log.db", VAULT)
    with database.transaction() as connection:
        rows = [Row(at, int(at % 3 == 0), b"b%d" % at, b"l" * 32, b"c%d" % at) for at in range(2500)]
        logdb.insert_rows(connection, rows)
        logdb.insert_slots(connection, [(9, 3), (7, 6)])
    return database


def test_rows_come_in_order_and_in_chunks(database: Database) -> None:
    connection = database.connection()
    assert [row.idx for row in logdb.rows_between(connection, 5, 2300)] == list(range(5, 2300))
    assert list(logdb.rows_between(connection, 2500, 2600)) == []
    assert (logdb.last_index(connection), logdb.count_rows(connection)) == (2499, 2500)
    assert logdb.row_at(connection, 4) == Row(4, 0, b"b4", b"l" * 32, b"c4")
    assert logdb.row_at(connection, 2500) is None
    assert (logdb.chain_at(connection, 4), logdb.chain_at(connection, -1)) == (b"c4", None)


def test_control_rows_come_with_the_chain_before_them(database: Database) -> None:
    found = list(logdb.control_rows(database.connection(), 1, 2400))
    assert [row.idx for row, _ in found] == list(range(3, 2400, 3))
    assert all(previous == b"c%d" % (row.idx - 1) for row, previous in found)


def test_control_rows_are_found_by_their_index(database: Database) -> None:
    plan = database.connection().execute(
        "EXPLAIN QUERY PLAN SELECT idx FROM entry INDEXED BY entry_control WHERE control = 1 AND idx >= 5"
    )
    assert "entry_control" in str(plan.fetchall())


def test_the_head_is_one_row(database: Database) -> None:
    connection = database.connection()
    assert logdb.read_head(connection) is None
    for body in (b"one", b"two"):
        logdb.write_head(connection, body)
        assert logdb.read_head(connection) == body
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute("INSERT INTO head VALUES (2, x'00')")


def test_the_schema_takes_no_other_types(database: Database) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        logdb.insert_rows(database.connection(), [(9999, 0, "text", b"", b"")])


def test_slots_are_unique(database: Database) -> None:
    connection = database.connection()
    assert logdb.index_of_slot(connection, 9) == 3
    assert logdb.index_of_slot(connection, 8) is None
    assert logdb.count_slots(connection) == 2
    logdb.insert_slots(connection, [(9, 4)])
    assert logdb.index_of_slot(connection, 9) == 4
    assert logdb.count_slots(connection) == 2


@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
def test_a_removed_or_replaced_sidecar_is_noticed(database: Database, suffix: str) -> None:
    database.check_sidecars()
    path = database.path.with_name(database.path.name + suffix)
    moved = path.rename(path.with_name("moved"))
    with pytest.raises(IntegrityError, match=f"log.db{suffix} was removed"):
        database.check_sidecars()
    path.write_bytes(moved.read_bytes())
    with pytest.raises(IntegrityError, match="replaced"):
        database.check_sidecars()
