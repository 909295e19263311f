"""Which slots the log ever gave to which subject tag: authenticated, complete, kept in memory.

What is destroyed is taken from here and never from vault.db or a projection, so that nobody can save
a grant from its erasure by hiding a row. Building it reads every control entry once; afterwards only
what is new.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from facekeep.auditlog.log import AuditLog
from facekeep.formats.ids import TAG_LEN

#: In canonical form, ``slot`` and ``tag`` of an element of ``grants`` stand next to each other.
_GRANT = re.compile(rb'"slot":(\d{1,16}),"tag":"([0-9a-f]{64})"')


class Ledger:
    """Subject tags and their slots, living and dead, in the order of the log."""

    def __init__(self, log: AuditLog) -> None:
        """Start empty; the first use reads the log."""
        self._log = log
        self._seen = 0
        self._guard = threading.Lock()
        self._keys: npt.NDArray[np.uint64] = np.empty(0, np.uint64)
        self._tags: npt.NDArray[np.uint8] = np.empty((0, TAG_LEN), np.uint8)
        self._slots: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self._recent: dict[bytes, list[int]] = {}

    def slots_of(self, tag: bytes, progress: Callable[[int, int], None] | None = None) -> list[int]:
        """Every slot ever granted to a tag, ascending."""
        with self._guard:
            self._catch_up(progress)
            return sorted({*self._sorted_slots(tag), *self._recent.get(tag, ())})

    def all_slots(self, progress: Callable[[int, int], None] | None = None) -> npt.NDArray[np.int64]:
        """Every slot ever granted to a subject, ascending, int64 of shape (n,)."""
        with self._guard:
            self._catch_up(progress)
            recent = [slot for slots in self._recent.values() for slot in slots]
            return np.union1d(self._slots, np.array(recent, np.int64))

    def owners(self, living: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.bool_]]) -> set[bytes]:
        """Tags that own a slot for which ``living`` says True."""
        with self._guard:
            self._catch_up(None)
            recent = [(slot, tag) for tag, slots in self._recent.items() for slot in slots]
            owners = {self._tags[at].tobytes() for at in np.flatnonzero(living(self._slots))}
            mask = living(np.array([slot for slot, _ in recent], np.int64))
            return owners | {tag for (_, tag), lives in zip(recent, mask.tolist(), strict=True) if lives}

    def _catch_up(self, progress: Callable[[int, int], None] | None) -> None:
        size = self._log.head().size
        found: list[tuple[bytes, int]] = []
        for index, body in self._log.control_bodies(self._seen):
            found.extend((bytes.fromhex(tag.decode()), int(slot)) for slot, tag in _GRANT.findall(body))
            if progress is not None:
                progress(index + 1, size)
            self._seen = index + 1
        if len(found) > 10_000:  # noqa: PLR2004 - where sorting beats a dictionary
            self._rebuild(found)
        else:
            for tag, slot in found:
                self._recent.setdefault(tag, []).append(slot)

    def _rebuild(self, found: list[tuple[bytes, int]]) -> None:
        found.extend((tag, slot) for tag, slots in self._recent.items() for slot in slots)
        self._recent.clear()
        tags = np.frombuffer(b"".join(tag for tag, _ in found), np.uint8).reshape(-1, TAG_LEN)
        self._tags = np.concatenate((self._tags, tags))
        self._slots = np.concatenate((self._slots, np.array([slot for _, slot in found], np.int64)))
        keys = np.ascontiguousarray(self._tags[:, :8]).view(np.uint64).ravel()
        order = np.argsort(keys, kind="stable")
        self._keys, self._tags, self._slots = keys[order], self._tags[order], self._slots[order]

    def _sorted_slots(self, tag: bytes) -> list[int]:
        key = np.frombuffer(tag[:8], np.uint64)[0]
        low, high = np.searchsorted(self._keys, key, "left"), np.searchsorted(self._keys, key, "right")
        whole = np.frombuffer(tag, np.uint8)
        return [int(self._slots[at]) for at in range(low, high) if (self._tags[at] == whole).all()]
