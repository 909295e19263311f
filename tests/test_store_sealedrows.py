"""Rows read as columns are the rows, whatever a writer of vault.db put beside them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from facekeep.errors import StoreError
from facekeep.formats.ids import SLOT_BITS
from facekeep.store import sealedrows, vaultdb
from facekeep.store.sealedrows import SealedRows, WholeRows, ahead, gathered
from facekeep.store.sqlite import Database
from facekeep.store.vaultdb import GrantRow, VaultStore, without_records

VAULT = bytes(16)
FIRST = 3 << SLOT_BITS


@pytest.fixture
def store(tmp_path: Path) -> Iterator[VaultStore]:
    database = Database.create(tmp_path / "vault.db", "vault", VAULT, vaultdb.MIGRATIONS)
    yield VaultStore(database)
    database.close()


def row(at: int, **changed: object) -> GrantRow:
    """Return a row of every byte value there is, of its own length."""
    noise = np.random.default_rng(at).bytes(400)
    usual = GrantRow(
        FIRST + at, noise[:16], noise[16:48], f"raw:m/{at % 3}", noise[48:136], noise[136:168],
        noise[168 : 168 + 60 + at % 5] + bytes(range(256)), b"record",
    )  # fmt: skip
    return usual._replace(**changed)  # type: ignore[arg-type]


def listed(columns: SealedRows) -> list[tuple[object, ...]]:
    return [
        (slot, head.tobytes(), model, columns.sealed[start : start + size])
        for slot, head, model, start, size in zip(
            columns.slots.tolist(),
            columns.heads,
            columns.models,
            columns.starts.tolist(),
            columns.sizes.tolist(),
            strict=True,
        )
    ]


def read(store: VaultStore, width: int) -> list[tuple[object, ...]]:
    return [each for window in store.branch_rows(3, width) for each in listed(window)]


@pytest.mark.parametrize("width", [1, 7, 64, 4_096])
def test_columns_hold_what_the_rows_hold(store: VaultStore, width: int) -> None:
    rows = [row(at) for at in (*range(40), *range(90, 130), 5_000)]
    store.add([*rows, row(1 << SLOT_BITS)])  # the last one is of another branch
    assert read(store, width) == listed(without_records(rows))


def test_an_empty_branch_has_no_rows(store: VaultStore) -> None:
    assert read(store, 64) == []


@pytest.mark.parametrize(
    "changes",
    [
        ({"tag": b"short"}, {"tag": bytes(59)}),  # together as long as two tags
        ({"terms": b""}, {}),
        ({"model": "raw:m/1\nraw:m/2"}, {}),
    ],
)
def test_a_row_of_other_lengths_spoils_no_other(
    store: VaultStore, changes: tuple[dict[str, object], ...]
) -> None:
    rows = [row(at) for at in range(50)]
    spoilt = {20: changes[0], 40: changes[1]}
    store.add([each._replace(**spoilt.get(at, {})) for at, each in enumerate(rows)])  # type: ignore[arg-type]
    found = {each[0]: each for each in read(store, 4_096)}
    apart = {FIRST + at for at in range(21)} | {FIRST + at for at in range(41, 50)}
    for each in listed(without_records(rows)):
        if each[0] in apart - {FIRST + 20, FIRST + 40}:
            assert found[each[0]] == each


def test_one_short_column_costs_its_own_row(store: VaultStore) -> None:
    rows = [row(at) for at in range(50)]
    store.add([each._replace(tag=b"short") if at == 20 else each for at, each in enumerate(rows)])
    assert read(store, 4_096) == listed(without_records([*rows[:20], *rows[21:]]))


def test_a_window_is_not_longer_than_memory_allows(
    store: VaultStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row(at) for at in range(30)]
    store.add(rows)
    monkeypatch.setattr(sealedrows, "_WINDOW_BYTES", 2_000)
    assert max(len(window) for window in store.branch_rows(3, 4_096)) < 8
    assert read(store, 4_096) == listed(without_records(rows))


def test_rows_that_sqlite_cannot_join_are_read_in_parts(store: VaultStore) -> None:
    rows = [row(at) for at in range(30)]
    store.add(rows)
    connection = store.database.connection()
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 5_000)
    found = [
        each
        for window in sealedrows.windows(connection, FIRST, FIRST + 4_096, 4_096)
        for each in listed(window)
    ]
    assert found == listed(without_records(rows))


def test_a_mask_leaves_the_others_as_they_were() -> None:
    rows = [row(at) for at in range(20)]
    mask = np.array([at % 3 == 1 for at in range(20)])
    picked = without_records(rows).only(mask)
    assert listed(picked) == listed(without_records(rows[1::3]))


def test_an_error_of_the_reading_thread_reaches_the_caller(
    store: VaultStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Iterator[SealedRows]:
        raise sqlite3.OperationalError("disk I/O error")
        yield

    monkeypatch.setattr(vaultdb, "windows", broken)
    with pytest.raises(StoreError, match="disk I/O error"):
        read(store, 64)


def test_who_stops_reading_leaves_no_thread_behind() -> None:
    made: list[int] = []

    def endless() -> Iterator[SealedRows]:
        while True:
            made.append(1)
            yield without_records([row(len(made))])

    reading = ahead(endless())
    next(reading)
    reading.close()
    assert len(made) <= 2


def whole(store: VaultStore, width: int, count: int = 1) -> list[WholeRows]:
    low, high = FIRST, FIRST + (1 << SLOT_BITS)
    return list(gathered(store.whole_rows(low, high, width), count))


@pytest.mark.parametrize("width", [1, 7, 64, 4_096])
@pytest.mark.parametrize("count", [1, 50, 1_000])
def test_records_stand_beside_their_rows(store: VaultStore, width: int, count: int) -> None:
    rows = [row(at, record=bytes([at % 250]) * (at % 4)) for at in (*range(40), *range(90, 130), 5_000)]
    store.add(rows)
    found = whole(store, width, count)
    assert [each for part in found for each in listed(part.rows)] == list(listed(without_records(rows)))
    assert [each for part in found for each in part.records.each()] == [each.record for each in rows]
    assert all(len(part.rows) <= max(count, width) for part in found)
    some = found[0].only(np.arange(len(found[0].rows)) % 2 == 0)
    assert some.records.each() == found[0].records.each()[::2]


def test_windows_end_where_a_node_of_the_tree_does(store: VaultStore) -> None:
    store.add([row(at) for at in (3, 9, 10, 11, 25, 39)])
    found = [(part.rows.slots - FIRST).tolist() for part in whole(store, 10)]
    assert found == [[3, 9], [10, 11], [25], [39]]


def test_an_altered_record_column_spoils_its_own_row_only(store: VaultStore) -> None:
    store.add([row(at) for at in range(20)])
    connection = store.database.connection()
    connection.execute(f"UPDATE grants SET terms = zeroblob(8) WHERE slot = {FIRST + 4}")
    found = whole(store, 20)
    slots = [slot - FIRST for part in found for slot in part.rows.slots.tolist()]
    assert slots == [at for at in range(20) if at != 4]
    assert [each for part in found for each in part.records.each()] == [b"record"] * 19
