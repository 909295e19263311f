"""The writer lock: one writer at a time, over threads and processes (SPEC.md §7)."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from facekeep.errors import Busy
from facekeep.limits import LIMITS
from facekeep.store.sqlite import translated


class WriterLock:
    """An exclusive flock on ``vault.lock``, reentrant within a thread."""

    def __init__(self, path: Path) -> None:
        """Remember the path; nothing is opened yet."""
        self._path = path
        self._thread_lock = threading.RLock()
        self._depth = 0

    @contextlib.contextmanager
    def held(self, timeout_s: float = LIMITS.writer_timeout_s) -> Iterator[bool]:
        """Hold the lock; yields True on the outermost entry; raises Busy when it cannot be had in time."""
        if not self._thread_lock.acquire(timeout=max(timeout_s, 0)):
            raise Busy("another thread of this process is changing the vault")
        try:
            self._depth += 1
            if self._depth > 1:
                yield False
                return
            with translated(self._path.name):
                descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                _flock(descriptor, timeout_s)
                yield True
            finally:
                os.close(descriptor)
        finally:
            self._depth -= 1
            self._thread_lock.release()


def _flock(descriptor: int, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise Busy("another process is changing the vault") from None
            time.sleep(0.01)
        else:
            return
