"""Rows bound as whole columns are the rows that ``executemany`` writes."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facekeep.store import bulk
from facekeep.store.bulk import MANY, Column, insert_columns, insert_many

INTO = "INSERT INTO t (id, a, b, c)"
Rows = list[tuple[object, ...]]


@contextlib.contextmanager
def table() -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, a BLOB NOT NULL, b TEXT NOT NULL, c INTEGER) STRICT"
        )
        yield connection


def written(rows: Rows) -> Rows:
    with table() as connection:
        insert_many(connection, INTO, rows)
        return connection.execute("SELECT id, a, b, c FROM t ORDER BY id").fetchall()


VALUES = st.lists(
    st.tuples(
        st.binary(max_size=40), st.text(st.characters(codec="utf-8"), max_size=5), st.integers(0, 2**53)
    ),
    min_size=MANY,
    max_size=MANY + 4,
)


@settings(max_examples=30, deadline=None)
@given(VALUES, st.integers(0, 2**52))
def test_rows_come_back_as_they_were(values: list[tuple[bytes, str, int]], first: int) -> None:
    rows: Rows = [(first + at, *value) for at, value in enumerate(values)]
    assert written(rows) == rows


@settings(max_examples=30, deadline=None)
@given(st.lists(st.binary(min_size=3, max_size=3), min_size=MANY, max_size=MANY + 4), st.integers(0, 2**53))
def test_columns_of_one_width_and_of_one_value(blobs: list[bytes], number: int) -> None:
    rows: Rows = [(at, blob, "model/1", number) for at, blob in enumerate(blobs)]
    assert written(rows) == rows


@pytest.mark.parametrize("count", [0, 1, MANY - 1])
def test_few_rows(count: int) -> None:
    rows: Rows = [(at, b"x", "y", None) for at in range(count)]
    assert written(rows) == rows


@pytest.mark.parametrize("odd", [None, -1, 10**16])
def test_what_has_no_place_in_a_column_goes_row_by_row(odd: int | None) -> None:
    rows: Rows = [(at, b"", "", odd if at == 3 else at) for at in range(MANY)]
    assert written(rows) == rows


def test_too_much_to_bind_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "_MOST", 1_000)
    rows: Rows = [(at, bytes(200), "", 0) for at in range(MANY)]
    assert written(rows) == rows


def test_a_row_that_stands_already_stops_all_of_them() -> None:
    rows: Rows = [(at, b"x", "y", 1) for at in range(MANY)]
    with table() as connection:
        connection.execute("INSERT INTO t VALUES (?, x'', '', 0)", (MANY - 1,))
        with pytest.raises(sqlite3.IntegrityError):
            insert_many(connection, INTO, rows)
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (1,)


@pytest.mark.parametrize("count", [0, 1, MANY - 1, MANY, 100])
@pytest.mark.parametrize("step", [1, 3], ids=["running on", "with gaps"])
def test_columns_are_the_rows(count: int, step: int) -> None:
    slots = np.arange(5, 5 + step * count, step, dtype=np.int64)
    heads = np.frombuffer(bytes(range(250)) * 16, np.uint8)[: 16 * count].reshape(count, 16)
    texts = [f"m{at % 2}" for at in range(count)]
    columns: list[Column] = [slots, heads, texts, [7] * count]
    with table() as connection:
        insert_columns(connection, INTO, columns)
        found = connection.execute("SELECT id, a, b, c FROM t ORDER BY id").fetchall()
    assert found == [(int(slots[at]), heads[at].tobytes(), texts[at], 7) for at in range(count)]
