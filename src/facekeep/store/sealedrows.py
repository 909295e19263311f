"""Rows of vault.db as columns, without their records: what a gallery opens, thousands at a time.

SQLite joins each column of a window of slots itself, so that neither it nor Python handles a row alone.
Nothing here is trusted: a row whose columns were tampered with authenticates nowhere.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from facekeep.formats.ids import GRANT_ID_LEN, TAG_LEN
from facekeep.formats.terms import TERMS_LEN

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
    " FROM grants WHERE slot >= ? AND slot < ?"
)
_ONE: Final = (
    "SELECT slot, CAST(grant_id || tag || terms || commitment AS BLOB), CAST(model AS BLOB),"
    " CAST(templates AS BLOB) FROM grants WHERE slot >= ? AND slot < ?"
)
_NEXT: Final = "SELECT slot, length(templates) FROM grants WHERE slot >= ? AND slot < ? ORDER BY slot LIMIT 1"
_WINDOW_BYTES: Final = 32 * 2**20  # of sealed templates in a window, if they are as long as its first ones
_Heads = npt.NDArray[np.uint8]


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


def windows(connection: sqlite3.Connection, low: int, high: int, width: int) -> Iterator[SealedRows]:
    """Rows with ``low <= slot < high`` by slot, of at most ``width`` slots; each is one read snapshot."""
    while (found := connection.execute(_NEXT, (low, high)).fetchone()) is not None:
        first, size = found
        low = first + max(1, min(width, _WINDOW_BYTES // max(size or 0, 1)))
        yield from _window(connection, first, min(low, high))


def ahead(rows: Iterator[SealedRows]) -> Iterator[SealedRows]:
    """Yield the same, made in a thread of its own while the caller works on the one before.

    SQLite needs the interpreter lock only between windows; a decrypting caller needs little else.
    """
    with ThreadPoolExecutor(1, "facekeep-rows") as reader:
        coming = reader.submit(next, rows, None)
        while (present := coming.result()) is not None:
            coming = reader.submit(next, rows, None)
            yield present


def _window(connection: sqlite3.Connection, low: int, high: int) -> Iterator[SealedRows]:
    """One window; where a column is not what it should be, halves of it, down to the row that is wrong."""
    try:
        count, *columns = connection.execute(_WINDOW, (low, high)).fetchone()
        rows = _split(count, *[each or b"" for each in columns])
    except sqlite3.DataError:  # longer together than SQLite's longest string
        rows = None
    if rows is not None:
        if len(rows):
            yield rows
    elif high - low > 1:
        middle = (low + high) // 2
        yield from _window(connection, low, middle)
        yield from _window(connection, middle, high)
    else:
        found = connection.execute(_ONE, (low, high)).fetchall()
        yield SealedRows.of([row for row in found if None not in row])


def _split(
    count: int, slots: bytes, heads: bytes, models: bytes, sizes: bytes, sealed: bytes
) -> SealedRows | None:
    """Columns from what SQLite joined, None if there is not exactly one value a row."""
    names = models.split(_END) if count else []
    numbers, lengths = _numbers(slots), _numbers(sizes)
    if not len(names) == len(numbers) == len(lengths) == count or len(heads) != count * _HEAD:
        return None
    return _columns(numbers, heads, names, lengths, sealed) if int(lengths.sum()) == len(sealed) else None


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
