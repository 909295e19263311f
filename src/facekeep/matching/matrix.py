"""Opened reference templates in locked memory, and what belongs to each row: a gallery's contents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from facekeep.auditlog.setdigest import SetDigest
from facekeep.crypto.memory import LockedBuffer
from facekeep.errors import IntegrityError
from facekeep.formats.columns import each_row
from facekeep.formats.ids import GRANT_ID_LEN
from facekeep.store.sealedrows import SealedRows

FOREVER: Final = 2**53


class Matrix:
    """Rows of templates with slot, grant id and expiry; dense, in no order."""

    def __init__(self, dimension: int) -> None:
        """Start empty, for templates of ``dimension`` components."""
        self.dimension = dimension
        self.count = 0
        self.digest = SetDigest()
        self._buffer = LockedBuffer(0)
        self._capacity = 0
        self._slots = np.empty(0, np.int64)
        self._expires = np.empty(0, np.int64)
        self._grants = np.empty((0, GRANT_ID_LEN), np.uint8)
        self._means = np.empty(0, np.bool_)
        self._where: dict[int, int] = {}

    def __contains__(self, slot: int) -> bool:
        """Whether a slot has a row."""
        return slot in self._where

    @property
    def locked(self) -> bool:
        """Whether the operating system locked the memory."""
        return bool(self._buffer.locked)

    @property
    def matrix(self) -> npt.NDArray[np.float32]:
        """Reference templates, float32 of shape (count, dimension)."""
        return self._whole()[: self.count]

    @property
    def slots(self) -> npt.NDArray[np.int64]:
        """Slot of each row, int64 of shape (count,)."""
        return self._slots[: self.count]

    @property
    def means(self) -> npt.NDArray[np.bool_]:
        """Whether each row is the mean of several photographs, bool of shape (count,)."""
        return self._means[: self.count]

    def known(self) -> list[int]:
        """Every slot that has a row."""
        return list(self._where)

    def first_expiry(self) -> int:
        """Return when the first row expires, ms."""
        return int(self._expires[: self.count].min()) if self.count else FOREVER

    def add(
        self,
        rows: SealedRows,
        expires: npt.NDArray[np.int64],
        means: npt.NDArray[np.bool_],
        fill: Callable[[memoryview], list[int]],
    ) -> list[int]:
        """Append rows, filled in place by ``fill``; returns the slots that failed.

        Raises IntegrityError for a slot that has a row already: it would be dropped once, and stay.
        """
        if len(set(rows.slots.tolist()).difference(self._where)) != len(rows):
            raise IntegrityError("a grant would stand twice in a gallery")
        self.reserve(self.count + len(rows))
        start, end = self.count, self.count + len(rows)
        width = 4 * self.dimension
        slots = rows.slots.tolist()
        failed = [slots[at] for at in fill(self._buffer.view[start * width : end * width])]
        self._slots[start:end] = rows.slots
        self._expires[start:end] = expires
        self._means[start:end] = means
        self._grants[start:end] = rows.grant_ids
        self._where.update(zip(slots, range(start, end), strict=True))
        self.digest.add_many(slots, each_row(rows.grant_ids))
        self.count = end
        self.drop(failed)
        return failed

    def drop(self, slots: Sequence[int]) -> None:
        """Remove rows: the last row takes the place, and its old place is zeroed."""
        matrix = self._whole()
        for slot in slots:
            at = self._where.pop(slot, None)
            if at is None:
                continue
            self.digest.remove(slot, self._grants[at].tobytes())
            last = self.count - 1
            if at != last:
                for column in (matrix, self._slots, self._expires, self._means, self._grants):
                    column[at] = column[last]
                self._where[int(self._slots[at])] = at
            matrix[last] = 0
            self.count = last

    def drop_expired(self, now_ms: int, excluded: set[int]) -> None:
        """Remove what has expired, and note it in ``excluded``."""
        gone = self.slots[self._expires[: self.count] <= now_ms].tolist()
        self.drop(gone)
        excluded.update(gone)

    def clear(self) -> None:
        """Zero and remove every row."""
        self._buffer.wipe()
        self._where.clear()
        self.digest = SetDigest()
        self.count = 0

    def close(self) -> None:
        """Zero and release the memory."""
        self.clear()
        self._buffer.close()
        self._buffer, self._capacity = LockedBuffer(0), 0

    def _whole(self) -> npt.NDArray[np.float32]:
        return np.frombuffer(self._buffer.view, "<f4").reshape(self._capacity, self.dimension)

    def reserve(self, count: int) -> None:
        """Make room for ``count`` rows: once for many costs less than again and again."""
        if count <= self._capacity:
            return
        capacity = max(count, self._capacity * 2, 1_024)
        buffer = LockedBuffer(4 * self.dimension * capacity)
        used = 4 * self.dimension * self.count
        buffer.view[:used] = self._buffer.view[:used]
        self._buffer.close()
        self._buffer, self._capacity = buffer, capacity
        self._slots = np.resize(self._slots, capacity)
        self._expires = np.resize(self._expires, capacity)
        self._means = np.resize(self._means, capacity)
        self._grants = np.resize(self._grants, (capacity, GRANT_ID_LEN))
