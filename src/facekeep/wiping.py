"""Zeroing key bytes that nobody holds any more.

Python's byte strings cannot be changed, and what is freed keeps its content until something else takes the
place. So keys that one object alone has are zeroed in place, at the moment it goes. That is a liberty taken
with CPython; elsewhere nothing is done.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Final

_HEADER: Final = bytes.__basicsize__ - 1  # bytes of an object before its content
_ABLE: Final = sys.implementation.name == "cpython"
# Unlike ``ctypes.memset`` this keeps the interpreter lock, which a busy thread would wait for to get back.
_memset = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)(
    ctypes.cast(ctypes.memset, ctypes.c_void_p).value or 0
)


def wipe(value: bytes) -> None:
    """Zero bytes that were made a moment ago and that nobody else has: a digest, a cut of a longer string."""
    if _ABLE and len(value) > 1:  # shorter ones are shared by everybody
        _memset(id(value) + _HEADER, 0, len(value))


def wipe_last(owner: object, name: str) -> None:
    """Zero an attribute's bytes, unless anything but ``owner`` holds them: for its ``__del__``."""
    value = getattr(owner, name, None)
    if type(value) is bytes and sys.getrefcount(value) == _ALONE:
        wipe(value)


class _Sample:
    def __init__(self) -> None:
        self.value = bytes(bytearray(64))


def _references(owner: object, name: str) -> int:
    value = getattr(owner, name, None)
    return sys.getrefcount(value)


_ALONE: Final = _references(_Sample(), "value")
