"""vault.db is written durably, but for the deletion of rows that nothing opens any more."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from facekeep.errors import StoreError
from facekeep.store import vaultdb
from facekeep.store.sqlite import Database
from facekeep.store.vaultdb import GrantRow, VaultStore

VAULT = bytes(16)
FULL, NORMAL = 2, 1
ROWS = [
    GrantRow(slot, bytes(16), bytes(32), "raw:m/1", bytes(88), bytes(32), b"templates", b"record")
    for slot in range(3)
]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[VaultStore]:
    database = Database.create(tmp_path / "vault.db", "vault", VAULT, vaultdb.MIGRATIONS)
    yield VaultStore(database)
    database.close()


def synchronous(store: VaultStore) -> int:
    return int(store.database.connection().execute("PRAGMA synchronous").fetchone()[0])


def test_dead_rows_are_deleted_without_a_sync_and_all_else_waits_for_it(
    store: VaultStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    deleting = vaultdb._delete

    def watched(connection: sqlite3.Connection, slots: Sequence[int]) -> None:
        seen.append(synchronous(store))
        deleting(connection, slots)

    monkeypatch.setattr(vaultdb, "_delete", watched)
    store.merge(ROWS)
    store.delete([0, 2])
    assert [row.slot for row in store.rows()] == [1]
    assert seen == [NORMAL]
    assert synchronous(store) == FULL


def test_a_deletion_that_fails_leaves_the_rows_and_later_writes_durable(
    store: VaultStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise StoreError("no")

    store.merge(ROWS)
    monkeypatch.setattr(vaultdb, "_delete", failing)
    with pytest.raises(StoreError):
        store.delete([0])
    assert [row.slot for row in store.rows()] == [0, 1, 2]
    assert synchronous(store) == FULL
