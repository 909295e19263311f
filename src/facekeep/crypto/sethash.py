"""LtHash16 of a set of grants (SPEC §6.4). Apart from ``primitives``, so that those need no NumPy."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from itertools import islice

import numpy as np
import numpy.typing as npt

from facekeep.crypto.primitives import domain, sha256

SET_LEN = 2048
_SET_ELEMENT = domain("set-element")
_SET = domain("set")
_GROUP = 64  # vectors added at a time: 128 kB, which stay in the cache


def set_element(slot: int, grant_id: bytes) -> npt.NDArray[np.uint16]:
    """Return the LtHash16 vector of one grant, uint16 of shape (1024,) (SPEC §6.4)."""
    raw = hashlib.shake_128(_SET_ELEMENT + slot.to_bytes(8, "big") + grant_id).digest(SET_LEN)
    return np.frombuffer(raw, dtype="<u2")


def set_elements(slots: Iterable[int], grant_ids: Iterable[bytes]) -> npt.NDArray[np.uint16]:
    """Return the sum of many grants' vectors, uint16 of shape (1024,); ValueError if one is longer."""
    shake, total = hashlib.shake_128, np.zeros(SET_LEN // 2, np.uint16)
    members = zip(slots, grant_ids, strict=True)
    while group := b"".join(
        [
            shake(_SET_ELEMENT + slot.to_bytes(8, "big") + grant_id).digest(SET_LEN)
            for slot, grant_id in islice(members, _GROUP)
        ]
    ):
        vectors = np.frombuffer(group, dtype="<u2").reshape(-1, SET_LEN // 2)
        total += np.add.reduce(vectors, axis=0, dtype=np.uint16)
    return total


def set_digest(total: npt.NDArray[np.uint16]) -> bytes:
    """Hash of an LtHash16 sum, 32 bytes."""
    return sha256(_SET, total.astype("<u2").tobytes())
