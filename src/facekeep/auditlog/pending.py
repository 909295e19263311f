"""Slots of operations that are announced and not completed (SPEC §7, Order)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt


class Ranges:
    """An immutable set of slots, kept as ranges: membership in O(log n)."""

    __slots__ = ("_starts", "_stops")

    def __init__(self, spans: Iterable[Sequence[int]] = ()) -> None:
        """Take ``(first, count)`` pairs in any order; overlapping and touching ones are joined."""
        starts: list[int] = []
        stops: list[int] = []
        for first, count in sorted(map(tuple, spans)):
            if stops and first <= stops[-1]:
                stops[-1] = max(stops[-1], first + count)
            else:
                starts.append(first)
                stops.append(first + count)
        self._starts = starts
        self._stops = stops

    def __contains__(self, slot: int) -> bool:
        """Whether a slot is in the set."""
        at = bisect_right(self._starts, slot) - 1
        return at >= 0 and slot < self._stops[at]

    def __len__(self) -> int:
        """Count the slots."""
        return sum(self._stops) - sum(self._starts)

    def spans(self) -> list[tuple[int, int]]:
        """``(first, count)`` pairs, ascending, not touching."""
        return [(start, stop - start) for start, stop in zip(self._starts, self._stops, strict=True)]

    def mask(self, slots: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Membership of many slots at once: booleans of the same shape."""
        if not self._starts:
            return np.zeros(slots.shape, dtype=np.bool_)
        at = np.searchsorted(np.asarray(self._starts, dtype=np.int64), slots, side="right") - 1
        inside = slots < np.asarray(self._stops, dtype=np.int64)[np.maximum(at, 0)]
        return np.asarray((at >= 0) & inside, dtype=np.bool_)


@dataclass(frozen=True, slots=True)
class Pending:
    """Slots of open grant operations (not yet granted) and of open destroy operations (denied).

    ``sought`` are open erasures of whom nobody could find: index -> nonce, and how the entry names them.
    """

    granting_slots: Ranges
    destroying_slots: Ranges
    sought: Mapping[int, tuple[bytes, bytes]] = field(default_factory=dict)

    def granting(self, slot: int) -> bool:
        """Whether the slot's grant is announced and not completed."""
        return slot in self.granting_slots

    def destroying(self, slot: int) -> bool:
        """Whether the slot's destruction is announced and not completed."""
        return slot in self.destroying_slots

    def mask(self, slots: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Return True where a slot is either: neither may be used."""
        return self.granting_slots.mask(slots) | self.destroying_slots.mask(slots)
