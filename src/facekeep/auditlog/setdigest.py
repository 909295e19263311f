"""Digest of a set of grants, kept up to date element by element (LtHash16; SPEC §6.4)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from facekeep.crypto.sethash import SET_LEN, set_digest, set_element, set_elements


class SetDigest:
    """Sum of the elements' vectors modulo 2^16: order does not matter, and removal is subtraction.

    It keeps no members. Adding an element twice, or removing one that is not in, gives another digest.
    """

    __slots__ = ("_sum",)

    def __init__(self) -> None:
        """Start with the empty set."""
        self._sum = np.zeros(SET_LEN // 2, dtype=np.uint16)

    def add(self, slot: int, grant_id: bytes) -> None:
        """Put one grant in: slot id and 16 bytes of grant id."""
        np.add(self._sum, set_element(slot, grant_id), out=self._sum)

    def remove(self, slot: int, grant_id: bytes) -> None:
        """Take one grant out that is in."""
        np.subtract(self._sum, set_element(slot, grant_id), out=self._sum)

    def add_many(self, slots: Iterable[int], grant_ids: Iterable[bytes]) -> None:
        """Put many grants in: slots and grant ids in the same order; ValueError if one is longer."""
        np.add(self._sum, set_elements(slots, grant_ids), out=self._sum)

    def copy(self) -> SetDigest:
        """Return an independent copy."""
        other = SetDigest()
        np.copyto(other._sum, self._sum)
        return other

    def digest(self) -> bytes:
        """32 bytes: what a 1:N decision logs as ``set``."""
        return set_digest(self._sum)
