"""Arrays of slot ids: checked, sorted, brought back into the caller's order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from facekeep.errors import FormatError

_T = TypeVar("_T", bound=np.generic)
Int64: TypeAlias = npt.NDArray[np.int64]
Slots: TypeAlias = Sequence[int] | npt.NDArray[np.integer]


def slot_array(slots: Slots) -> Int64:
    """Slots as int64; raises FormatError for what does not fit."""
    try:
        return np.asarray(slots, dtype=np.int64)
    except OverflowError:
        raise FormatError("a slot id is outside the key tree") from None


def distinct(slots: Slots) -> Int64:
    """Slots in ascending order, each once."""
    array = slot_array(slots)
    return array if bool(np.all(array[1:] > array[:-1])) else np.unique(array)


def sorted_slots(slots: Slots) -> tuple[Int64, npt.NDArray[np.intp] | None]:
    """Slots in ascending order, and the order that was (None: they were sorted)."""
    array = slot_array(slots)
    if bool(np.all(array[1:] >= array[:-1])):
        return array, None
    order = np.argsort(array, kind="stable")
    return array[order], order


def unsorted(values: npt.NDArray[_T], order: npt.NDArray[np.intp] | None) -> npt.NDArray[_T]:
    """Bring results for sorted slots back into the order of the input."""
    if order is None:
        return values
    out = np.empty_like(values)
    out[order] = values
    return out


def runs(leaf: Int64) -> tuple[Int64, Int64]:
    """Distinct numbers of a sorted array, and for each element which of them it is."""
    new = np.diff(leaf, prepend=-1) != 0
    return leaf[new], np.cumsum(new) - 1
