"""Memory that is locked, kept out of core dumps, and zeroed on close.

``mlock`` needs RLIMIT_MEMLOCK or CAP_IPC_LOCK; where the system refuses, the buffer still works, ``locked``
says False, and the process is told once, through ``logging``. docs/THREATS.md states what this cannot do.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import logging
import mmap
import os
import threading
from types import TracebackType
from typing import Final, Self

_libc = ctypes.CDLL(None, use_errno=True)
#: what is wrong where memory is not locked, and the line that mends it
NOT_LOCKED: Final = "memory that holds templates could not be locked, and may be written to swap"
LOCK_IT: Final = (
    "raise the limit: 'ulimit -l unlimited' in a shell, LimitMEMLOCK=infinity in a systemd unit, "
    "--ulimit memlock=-1 for docker; or switch swap off"
)
_log = logging.getLogger("facekeep")
_refused = threading.Event()
_inherited: list[mmap.mmap] = []  # never unmapped: after a fork something else may stand at that address


def is_locked() -> bool:
    """Whether the system has locked all memory that this process asked it to."""
    return not _refused.is_set()


class Scratch(threading.local):
    """Locked memory of each thread's own, kept between its uses."""

    _buffer: LockedBuffer | None = None

    def take(self, size: int) -> memoryview:
        """Return ``size`` bytes, all zero; who takes them zeroes them, and no other use begins before.

        By assignment, not by ``wipe``: ctypes gives up the interpreter lock, and other threads take it.
        """
        buffer = self._buffer
        if buffer is None or not buffer.usable or buffer.size < size:
            self._buffer = buffer = LockedBuffer(max(size, 4096))
        return buffer.view[:size]


class LockedBuffer:
    """A page-aligned writable buffer of ``size`` bytes, zero-filled; a context manager."""

    def __init__(self, size: int) -> None:
        """Map, lock and exclude from dumps."""
        self._size = size
        self._map = mmap.mmap(-1, max(size, 1))
        if hasattr(mmap, "MADV_DONTDUMP"):
            with contextlib.suppress(OSError):
                self._map.madvise(mmap.MADV_DONTDUMP)
        if hasattr(mmap, "MADV_DONTFORK"):
            with contextlib.suppress(OSError):
                self._map.madvise(mmap.MADV_DONTFORK)
        self._view = memoryview(self._map)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self.locked = _libc.mlock(ctypes.c_void_p(self._address), ctypes.c_size_t(max(size, 1))) == 0
        if not self.locked and not _refused.is_set():
            _refused.set()
            _log.warning("%s; %s", NOT_LOCKED, LOCK_IT)
        self.closed = False
        self._process = os.getpid()

    @property
    def usable(self) -> bool:
        """False once closed, and in a forked process: its pages are not inherited."""
        return not self.closed and self._process == os.getpid()

    @property
    def size(self) -> int:
        """Bytes in it."""
        return self._size

    @property
    def view(self) -> memoryview:
        """The writable bytes. Do not keep it after ``close``."""
        return self._view[: self._size]

    def wipe(self) -> None:
        """Zero every byte."""
        if self.usable:
            ctypes.memset(self._address, 0, self._size)

    def close(self) -> None:
        """Zero and release. Views that others still hold keep the (zeroed) pages mapped."""
        if self.closed:
            return
        if not self.usable:
            self.closed = True
            _inherited.append(self._map)
            return
        self.wipe()
        self.closed = True
        _libc.munlock(ctypes.c_void_p(self._address), ctypes.c_size_t(max(self._size, 1)))
        with contextlib.suppress(BufferError):
            self._view.release()
            self._map.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Zero and release."""
        self.close()

    def __del__(self) -> None:
        """Zero what was forgotten."""
        with contextlib.suppress(Exception):
            self.close()
