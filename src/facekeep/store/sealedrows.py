"""Rows of vault.db as columns, thousands at a time: without records for a gallery, with them to seal again.

SQLite joins each column of a window of slots itself, so that neither it nor Python handles a row alone.
Nothing here is trusted: a row whose columns were tampered with authenticates nowhere.
"""

from __future__ import annotations

import itertools
import sqlite3
import struct
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from facekeep.formats.ids import GRANT_ID_LEN, TAG_LEN
from facekeep.formats.terms import TERMS_LEN
from facekeep.limits import LIMITS

IDENTITY_LEN: Final = GRANT_ID_LEN + TAG_LEN + TERMS_LEN
_COMMITMENT_LEN: Final = 32
_HEAD: Final = IDENTITY_LEN + _COMMITMENT_LEN
_END: Final = b"\n"  # stands in no model id

# group_concat takes a blob for text and so joins its bytes as they are; every total is compared afterwards.
_WINDOW: Final = (
    "SELECT count(*), CAST(group_concat(slot) AS BLOB),"
    " CAST(group_concat(grant_id || tag || terms || commitment, '') AS BLOB),"
    " CAST(group_concat(model, char(10)) AS BLOB),"
    " CAST(group_concat(length(templates)) AS BLOB), CAST(group_concat(templates, '') AS BLOB)"
)
_RECORDS: Final = ", CAST(group_concat(length(record)) AS BLOB), CAST(group_concat(record, '') AS BLOB)"
_ONE: Final = (
    "SELECT slot, CAST(grant_id || tag || terms || commitment AS BLOB), CAST(model AS BLOB),"
    " CAST(templates AS BLOB)"
)
_ONE_RECORD: Final = ", CAST(record AS BLOB)"
_OVERHEAD: Final = 30  # of a sealed blob (SPEC §1)
_LENGTHS: Final = {
    "grant_id": GRANT_ID_LEN,
    "tag": TAG_LEN,
    "terms": TERMS_LEN,
    "commitment": _COMMITMENT_LEN,
}
_MODEL_LEN: Final = 40
_TEMPLATES_LEN: Final = _OVERHEAD + 4 * LIMITS.templates * LIMITS.dimension
_RECORD_LEN: Final = _OVERHEAD + LIMITS.record_bytes
_OURS: Final = (
    f" AND length(model) <= {_MODEL_LEN} AND length(templates) <= {_TEMPLATES_LEN}"
    f" AND length(record) <= {_RECORD_LEN}"
    f" AND length(grant_id) + length(tag) + length(terms) + length(commitment) = {_HEAD}"
)
#: SQL for a row's model as bytes, empty where it is longer than one of ours.
MODEL: Final = f"CASE WHEN length(CAST(model AS BLOB)) <= {_MODEL_LEN} THEN CAST(model AS BLOB) ELSE x'' END"
_BETWEEN: Final = " FROM grants WHERE slot >= ? AND slot < ?" + _OURS
_NEXT: Final = "SELECT slot, length(templates)" + _BETWEEN + " ORDER BY slot LIMIT 1"
_WINDOW_BYTES: Final = 32 * 2**20  # of sealed templates in a window, if they are as long as its first ones
_Heads = npt.NDArray[np.uint8]
_RECORD_AT: Final = 4  # of a row that is read alone
_Int64 = npt.NDArray[np.int64]
_NONE: Final[_Int64] = np.empty(0, np.int64)
_T = TypeVar("_T")


def bounded_columns() -> str:
    """Return SQL for the columns after ``slot``: each as it stands, or empty if its length is none of ours.

    SQLite tells a blob's length without reading it, so that a row of gigabytes costs nothing.
    """
    exact = {name: _unless(name, f"= {length}") for name, length in _LENGTHS.items()}
    templates, record = _unless("templates", f"<= {_TEMPLATES_LEN}"), _unless("record", f"<= {_RECORD_LEN}")
    order = exact["grant_id"], exact["tag"], MODEL, exact["terms"], exact["commitment"], templates, record
    return ", ".join(order)


def _unless(column: str, holds: str) -> str:
    return f"CASE WHEN length({column}) {holds} THEN {column} ELSE x'' END"


@dataclass(frozen=True, slots=True)
class Joined:
    """n strings in one: of row ``at``, ``sizes[at]`` bytes of ``whole`` from ``starts[at]`` on."""

    whole: bytes
    starts: _Int64
    sizes: _Int64

    @staticmethod
    def of(whole: bytes, sizes: _Int64) -> Joined:
        """Take strings of these sizes that stand one after another."""
        return Joined(whole, np.cumsum(sizes) - sizes, sizes)

    def only(self, at: npt.NDArray[np.intp] | slice) -> Joined:
        """Return those at these positions."""
        return Joined(self.whole, self.starts[at], self.sizes[at])

    def each(self) -> list[bytes]:
        """Cut the strings out."""
        size = int(self.sizes[0]) if len(self.sizes) else 0
        first = int(self.starts[0]) if size else 0
        if size and bool(((np.diff(self.starts) == size) & (self.sizes[1:] == size)).all()):
            part = memoryview(self.whole)[first : first + size * len(self.sizes)]
            return [each for (each,) in struct.iter_unpack(f"{size}s", part)]
        whole = self.whole
        ends = (self.starts + self.sizes).tolist()
        return [whole[start:end] for start, end in zip(self.starts.tolist(), ends, strict=True)]


@dataclass(frozen=True, slots=True)
class SealedRows:
    """Columns of n rows; the sealed templates of row ``at`` are ``sizes[at]`` bytes of ``sealed``.

    They begin at ``starts[at]``.
    ``heads`` is uint8 (n, 168): grant id || tag || terms || commitment. ``models`` are UTF-8.
    """

    slots: npt.NDArray[np.int64]
    heads: _Heads
    models: tuple[bytes, ...]
    starts: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    sealed: bytes

    @staticmethod
    def of(rows: Sequence[tuple[int, bytes, bytes, bytes]]) -> SealedRows:
        """Make columns of (slot, head, model, sealed templates); leaves out a head of another length."""
        sound = [row for row in rows if len(row[1]) == _HEAD]
        return _columns(
            np.array([row[0] for row in sound], np.int64),
            b"".join([row[1] for row in sound]),
            [row[2] for row in sound],
            np.array([len(row[3]) for row in sound], np.int64),
            b"".join([row[3] for row in sound]),
        )

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.slots)

    @property
    def identities(self) -> _Heads:
        """Grant id || tag || terms of each row, uint8 of shape (n, 136)."""
        return self.heads[:, :IDENTITY_LEN]

    @property
    def grant_ids(self) -> _Heads:
        """Grant id of each row, uint8 of shape (n, 16)."""
        return self.heads[:, :GRANT_ID_LEN]

    @property
    def tags(self) -> _Heads:
        """Subject tag of each row, uint8 of shape (n, 32)."""
        return self.heads[:, GRANT_ID_LEN : GRANT_ID_LEN + TAG_LEN]

    @property
    def terms(self) -> _Heads:
        """Packed terms of each row, uint8 of shape (n, 88)."""
        return self.heads[:, GRANT_ID_LEN + TAG_LEN : IDENTITY_LEN]

    @property
    def commitments(self) -> _Heads:
        """Key commitment of each row, uint8 of shape (n, 32)."""
        return self.heads[:, IDENTITY_LEN:]

    def only(self, mask: npt.NDArray[np.bool_]) -> SealedRows:
        """Return those rows where the mask (n,) is True."""
        if mask.all():
            return self
        at = np.flatnonzero(mask)
        models = tuple([self.models[each] for each in at.tolist()])
        columns = self.slots[at], self.heads[at], models, self.starts[at], self.sizes[at]
        return SealedRows(*columns, self.sealed)

    def joined(self) -> Joined:
        """Sealed templates of each row."""
        return Joined(self.sealed, self.starts, self.sizes)


class WholeRows(NamedTuple):
    """Columns of n rows, and the sealed record of each."""

    rows: SealedRows
    records: Joined

    def only(self, mask: npt.NDArray[np.bool_]) -> WholeRows:
        """Return those rows where the mask (n,) is True."""
        return WholeRows(self.rows.only(mask), self.records.only(np.flatnonzero(mask)))

    @staticmethod
    def together(several: Sequence[WholeRows]) -> WholeRows:
        """Put windows one after another."""
        if len(several) == 1:
            return several[0]
        parts = [each.rows for each in several]
        templates = _together([each.joined() for each in parts])
        rows = SealedRows(
            np.concatenate([each.slots for each in parts]),
            np.concatenate([each.heads for each in parts]),
            tuple(itertools.chain.from_iterable(each.models for each in parts)),
            templates.starts,
            templates.sizes,
            templates.whole,
        )
        return WholeRows(rows, _together([each.records for each in several]))


def windows(connection: sqlite3.Connection, low: int, high: int, width: int) -> Iterator[SealedRows]:
    """Rows with ``low <= slot < high`` by slot, of at most ``width`` slots; each is one read snapshot.

    Left out is a row with a column that is longer, or shorter, than any of ours, and one whose slot had one.
    """
    for first, end in _stretches(connection, low, high, width):
        for columns in _window(connection, first, end, _WINDOW, _ONE):
            yield columns[0].only(_once(columns[0].slots, first, end))


def whole_windows(connection: sqlite3.Connection, low: int, high: int, width: int) -> Iterator[WholeRows]:
    """``windows`` with the records; none crosses a multiple of ``width`` above ``low``."""
    for first, end in _stretches(connection, low, high, width, step=low):
        found = _window(connection, first, end, _WINDOW + _RECORDS, _ONE + _ONE_RECORD)
        for rows, records in found:
            yield WholeRows(rows, records).only(_once(rows.slots, first, end))


def _once(slots: _Int64, low: int, high: int) -> npt.NDArray[np.bool_]:
    """Mask of the first row of each slot from ``low`` to ``high``: a file may have it twice, or elsewhere."""
    mask = np.zeros(len(slots), np.bool_)
    mask[np.unique(slots, return_index=True)[1]] = True
    return mask & (slots >= low) & (slots < high)


def gathered(found: Iterator[WholeRows], count: int) -> Iterator[WholeRows]:
    """Join windows that hold few rows, up to ``count`` rows, or to the bytes of one large window."""
    held: list[WholeRows] = []
    rows = size = 0
    for each in found:
        if held and (rows + len(each.rows) > count or size + len(each.rows.sealed) > _WINDOW_BYTES):
            yield WholeRows.together(held)
            held, rows, size = [], 0, 0
        held.append(each)
        rows, size = rows + len(each.rows), size + len(each.rows.sealed)
    if held:
        yield WholeRows.together(held)


def _together(several: Sequence[Joined]) -> Joined:
    moved = itertools.accumulate((len(each.whole) for each in several[:-1]), initial=0)
    return Joined(
        b"".join([each.whole for each in several]),
        np.concatenate([each.starts + by for each, by in zip(several, moved, strict=True)]),
        np.concatenate([each.sizes for each in several]),
    )


def _stretches(
    connection: sqlite3.Connection, low: int, high: int, width: int, step: int | None = None
) -> Iterator[tuple[int, int]]:
    """(first, end) of stretches that hold rows, counted from ``step`` on or else from their first row."""
    while (found := connection.execute(_NEXT, (low, high)).fetchone()) is not None:
        first, size = max(low, found[0]), found[1]
        room = width if step is None else width - (first - step) % width
        low = first + max(1, min(room, _WINDOW_BYTES // max(size or 0, 1)))
        yield first, min(low, high)


def ahead(rows: Iterator[_T]) -> Generator[_T, None, None]:
    """Yield the same, made in a thread of its own while the caller works on the one before.

    SQLite needs the interpreter lock only between windows; a decrypting caller needs little else.
    """
    with ThreadPoolExecutor(1, "facekeep-rows") as reader:
        coming = reader.submit(next, rows, None)
        while (present := coming.result()) is not None:
            coming = reader.submit(next, rows, None)
            yield present


def _window(
    connection: sqlite3.Connection, low: int, high: int, window: str, one: str
) -> Iterator[tuple[SealedRows, Joined]]:
    """One window; where a column is not what it should be, halves of it, down to the row that is wrong."""
    try:
        count, *columns = connection.execute(window + _BETWEEN, (low, high)).fetchone()
        rows = _split(count, *[each or b"" for each in columns])
    except sqlite3.DataError:  # longer together than SQLite's longest string
        rows = None
    if rows is not None:
        if len(rows[0]):
            yield rows
    elif high - low > 1:
        middle = (low + high) // 2
        yield from _window(connection, low, middle, window, one)
        yield from _window(connection, middle, high, window, one)
    else:
        found = connection.execute(one + _BETWEEN, (low, high)).fetchall()
        sound = [row for row in found if None not in row and len(row[1]) == _HEAD]
        records = [row[4] for row in sound if len(row) > _RECORD_AT]
        sizes = np.array([len(each) for each in records], np.int64)
        yield SealedRows.of([row[:4] for row in sound]), Joined.of(b"".join(records), sizes)


def _split(
    count: int,
    slots: bytes,
    heads: bytes,
    models: bytes,
    sizes: bytes,
    sealed: bytes,
    record_sizes: bytes | None = None,
    records: bytes = b"",
) -> tuple[SealedRows, Joined] | None:
    """Columns from what SQLite joined, None if there is not exactly one value a row."""
    names = models.split(_END) if count else []
    numbers, lengths = _numbers(slots), _numbers(sizes)
    ends = _NONE if record_sizes is None else _numbers(record_sizes)
    if not len(names) == len(numbers) == len(lengths) == count or len(heads) != count * _HEAD:
        return None
    if record_sizes is not None and len(ends) != count:
        return None
    if int(lengths.sum()) != len(sealed) or int(ends.sum()) != len(records):
        return None
    return _columns(numbers, heads, names, lengths, sealed), Joined.of(records, ends)


def _numbers(text: bytes) -> npt.NDArray[np.int64]:
    """Decimal numbers with commas between them: SQLite wrote them from integers."""
    return np.fromstring(text.decode("ascii"), np.int64, sep=",")


def _columns(
    slots: npt.NDArray[np.int64],
    heads: bytes,
    models: Sequence[bytes],
    sizes: npt.NDArray[np.int64],
    sealed: bytes,
) -> SealedRows:
    table = np.frombuffer(heads, np.uint8).reshape(-1, _HEAD)
    return SealedRows(slots, table, tuple(models), np.cumsum(sizes) - sizes, sizes, sealed)
