"""Whose the log's grants are, by the handle of their subject id (SPEC §5.8): authenticated, in memory.

What an erasure destroys is found here, from the log and the keys of living slots alone: no row of a file
leads to a grant or away from it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from facekeep.auditlog.ledger import Ledger
from facekeep.errors import IntegrityError
from facekeep.formats.columns import Table, each_row
from facekeep.sealing.handles import HANDLE_LEN, masked, table
from facekeep.sealing.sealer import Sealer

Slots: TypeAlias = npt.NDArray[np.int64]
KeysOf: TypeAlias = Callable[[Slots], tuple[Table, npt.NDArray[np.bool_]]]
Progress: TypeAlias = Callable[[int, int], None]

_CHUNK: Final = 65_536  # slots whose keys are in memory together
_RECENT: Final = 65_536  # grants from which sorting beats a dictionary


class Owners:
    """Slots that lived when they were first read, by handle.

    ``unreadable`` counts those whose key could not be read. ``keys_of`` gives the keys of slots, zero where
    dead, and whether each lives (``KeyTree.slot_keys``).
    """

    def __init__(self, ledger: Ledger, sealer: Sealer) -> None:
        """Begin with nothing; the first question reads every grant of the log."""
        self._ledger = ledger
        self._sealer = sealer
        self._guard = threading.Lock()
        self._order: npt.NDArray[np.uint64] = np.empty(0, np.uint64)  # beginnings of the handles, ascending
        self._handles: Table = np.empty((0, HANDLE_LEN), np.uint8)
        self._slots: Slots = np.empty(0, np.int64)
        self._recent: dict[bytes, list[int]] = {}
        self._recent_slots = 0
        self._waiting: list[tuple[Slots, Table]] = []
        self.unreadable = 0

    def find(
        self, keys_of: KeysOf, handles: Sequence[bytes], progress: Progress | None = None
    ) -> list[list[int]]:
        """Slots of each handle, in order; slots that died since are among them. Raises IntegrityError."""
        with self._guard:
            self._catch_up(keys_of, progress)
            wanted = table(handles)
            order = _beginnings(wanted)
            low, high = self._order.searchsorted(order, "left"), self._order.searchsorted(order, "right")
            found = [list(self._recent.get(handle, ())) for handle in handles]
            for at in np.flatnonzero(low < high).tolist():
                span = slice(int(low[at]), int(high[at]))
                same = (self._handles[span] == wanted[at]).all(axis=1)
                found[at] += self._slots[span][same].tolist()
            return found

    def of(self, keys_of: KeysOf, slots: Slots) -> list[tuple[int, bytes]]:
        """Return (slot, handle) of those of the slots that lived when they were first read."""
        with self._guard:
            self._catch_up(keys_of, None)
            at = np.flatnonzero(np.isin(self._slots, slots))
            wanted = set(slots.tolist())
            recent = [(slot, each) for each, found in self._recent.items() for slot in found]
            sorted_in = zip(self._slots[at].tolist(), each_row(self._handles[at]), strict=True)
            return [*sorted_in, *(each for each in recent if each[0] in wanted)]

    def everybody(self, keys_of: KeysOf, progress: Progress | None = None) -> tuple[Slots, Table]:
        """Slots int64 (n,) and their handles, uint8 (n, 16), in no order; some have died since."""
        with self._guard:
            self._catch_up(keys_of, progress)
            self._settle()
            return self._slots, self._handles

    def _catch_up(self, keys_of: KeysOf, progress: Progress | None) -> None:
        """Read the grants that are new; those whose key cannot be read are tried again the next time."""
        self._waiting += self._ledger.take_new(progress)
        if not self._waiting:
            return
        total, done = sum(len(slots) for slots, _ in self._waiting), 0
        left: list[tuple[Slots, Table]] = []
        read: list[tuple[Slots, Table]] = []
        for slots, ids in self._waiting:
            for start in range(0, len(slots), _CHUNK):
                part = slice(start, start + _CHUNK)
                self._read(keys_of, slots[part], ids[part], read, left)
                done += len(slots[part])
                if progress is not None:
                    progress(done, total)
        self._waiting, self.unreadable = left, sum(len(slots) for slots, _ in left)
        self._add(read)

    def _read(
        self,
        keys_of: KeysOf,
        slots: Slots,
        ids: Table,
        read: list[tuple[Slots, Table]],
        left: list[tuple[Slots, Table]],
    ) -> None:
        """Unmask the handles of living slots; where a key cannot be read, halves, down to one slot."""
        try:
            keys, alive = keys_of(slots)
        except IntegrityError:
            if len(slots) == 1:
                left.append((slots, ids))
                return
            middle = len(slots) // 2
            self._read(keys_of, slots[:middle], ids[:middle], read, left)
            self._read(keys_of, slots[middle:], ids[middle:], read, left)
            return
        living = np.flatnonzero(alive)
        if len(living):
            used = keys[living]
            read.append((slots[living], masked(self._sealer, slots[living], used, ids[living])))
            used.fill(0)
        keys.fill(0)

    def _add(self, read: Sequence[tuple[Slots, Table]]) -> None:
        if sum(len(slots) for slots, _ in read) + self._recent_slots > max(_RECENT, len(self._slots) // 8):
            self._settle(read)
            return
        for slots, handles in read:
            for slot, handle in zip(slots.tolist(), each_row(handles), strict=True):
                self._recent.setdefault(handle, []).append(slot)
            self._recent_slots += len(slots)

    def _settle(self, read: Sequence[tuple[Slots, Table]] = ()) -> None:
        """Sort what is new into the arrays."""
        if not read and not self._recent:
            return
        fresh = [(slot, handle) for handle, slots in self._recent.items() for slot in slots]
        self._recent, self._recent_slots = {}, 0
        parts = [(self._slots, self._handles), *read]
        if fresh:
            parts.append(
                (np.array([slot for slot, _ in fresh], np.int64), table([each for _, each in fresh]))
            )
        slots = np.concatenate([each for each, _ in parts])
        handles = np.concatenate([each for _, each in parts])
        beginnings = _beginnings(handles)
        order = np.argsort(beginnings)
        self._order, self._handles, self._slots = beginnings[order], handles[order], slots[order]


def _beginnings(handles: Table) -> npt.NDArray[np.uint64]:
    """First eight bytes of each handle, as a number."""
    return np.ascontiguousarray(handles[:, :8]).view(np.uint64).ravel()
