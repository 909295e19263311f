"""The writer lock: one writer at a time, over threads and processes (SPEC §7)."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from facekeep.errors import Busy
from facekeep.files import open_lock, unlock
from facekeep.limits import LIMITS
from facekeep.store.connect import refuse_inherited
from facekeep.store.sqlite import translated

_REPLACED_S: Final = 1.0  # how long a lock file that keeps being replaced is tried, besides the timeout


_locks: weakref.WeakSet[WriterLock] = weakref.WeakSet()


class WriterLock:
    """An exclusive flock on ``vault.lock``, reentrant within a thread."""

    def __init__(self, path: Path) -> None:
        """Remember the path; nothing is opened yet."""
        self._path = path
        self._thread_lock = threading.RLock()
        self._depth = 0
        self._descriptor = -1
        self._pid = os.getpid()
        _locks.add(self)

    @contextlib.contextmanager
    def held(self, timeout_s: float = LIMITS.writer_timeout_s) -> Iterator[bool]:
        """Hold the lock; yields True on the outermost entry; raises Busy when it cannot be had in time."""
        refuse_inherited(self._pid, self._path.name)
        if not self._thread_lock.acquire(timeout=max(timeout_s, 0)):
            raise Busy("another thread of this process is changing the vault")
        try:
            self._depth += 1
            if self._depth > 1:
                yield False
                return
            self._descriptor = self._taken(time.monotonic() + timeout_s)
            try:
                yield True
            finally:
                descriptor, self._descriptor = self._descriptor, -1
                unlock(descriptor)
        finally:
            self._depth -= 1
            self._thread_lock.release()

    def let_go(self) -> None:
        """In a forked child: the lock is the parent's, which may be killed while the child lives on."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def still_held(self) -> bool:
        """Whether the file at the path is the one this process has locked, not one put in its place."""
        return self._descriptor >= 0 and self._is_at_path(self._descriptor)

    def _taken(self, deadline: float) -> int:
        """Open and lock the file that stands at the path; returns its descriptor."""
        while True:
            with translated(self._path.name):
                descriptor = open_lock(self._path)
            try:
                _flock(descriptor, deadline)
                if self._is_at_path(descriptor):
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)  # it was replaced between the two
            if time.monotonic() >= deadline + _REPLACED_S:
                raise Busy("vault.lock is replaced again and again")

    def _is_at_path(self, descriptor: int) -> bool:
        with translated(self._path.name):
            try:
                found = os.lstat(self._path)
            except FileNotFoundError:
                return False
            return os.path.samestat(os.fstat(descriptor), found)


def _flock(descriptor: int, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise Busy("another process is changing the vault") from None
            time.sleep(0.01)
        else:
            return


def _let_go_all() -> None:
    for lock in tuple(_locks):
        lock.let_go()


os.register_at_fork(after_in_child=_let_go_all)
