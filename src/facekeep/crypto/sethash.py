"""LtHash16 of a set of grants (SPEC.md §6.4). Apart from ``primitives``, so that those need no NumPy."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from facekeep.crypto.primitives import domain, sha256

SET_LEN = 2048
_SET_ELEMENT = domain("set-element")
_SET = domain("set")


def set_element(slot: int, grant_id: bytes) -> npt.NDArray[np.uint16]:
    """Return the LtHash16 vector of one grant, uint16 of shape (1024,) (SPEC.md §6.4)."""
    raw = hashlib.shake_128(_SET_ELEMENT + slot.to_bytes(8, "big") + grant_id).digest(SET_LEN)
    return np.frombuffer(raw, dtype="<u2")


def set_digest(total: npt.NDArray[np.uint16]) -> bytes:
    """Hash of an LtHash16 sum, 32 bytes."""
    return sha256(_SET, total.astype("<u2").tobytes())
