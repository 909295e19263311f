"""One thread of an open vault, which keeps an idle process from remembering what was destroyed.

Several times a second it looks whether the log moved. Then the key tree of before goes, with every key in it,
and whoever was added follows, or is wiped where that fails. About once a second it looks whether another
process could still open the vault (``access.admission``).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import weakref
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

_WATCH_S: Final = 0.4
_ADMISSION: Final = 2  # of so many looks, one is for what keeps others out
_LEAVING_S: Final = 2.0  # how long a vault that is closed waits for a look that was begun


class Vigilant(Protocol):
    """What the thread looks after. ``follow_log`` of a vault raises nothing."""

    def follow_log(self) -> None:
        """Drop what an earlier state of the vault left in memory."""
        ...


class Follower(Protocol):
    """What follows the vault: a gallery."""

    def refresh(self) -> None:
        """Follow what changed; where that fails nobody is kept who may be withdrawn."""
        ...

    def close(self) -> None:
        """Wipe everything."""
        ...


V = TypeVar("V", bound=Vigilant)


class Watcher(Generic[V]):
    """The thread. It keeps neither the vault nor the process alive; a forked process has none."""

    def __init__(self, vault: V) -> None:
        """Watch nothing yet."""
        self._vault = weakref.ref(vault)
        self._process = os.getpid()
        self._stop = threading.Event()
        self._followers: weakref.WeakSet[Follower] = weakref.WeakSet()
        self._thread = threading.Thread()

    def start(self, admission: Callable[[V], None] | None = None) -> None:
        """Begin. ``admission`` looks for what keeps other processes out, and raises nothing."""
        self._thread = threading.Thread(
            target=_watch,
            args=(self._vault, self._followers, self._stop, admission),
            name="facekeep-watcher",
            daemon=True,
        )
        self._thread.start()

    def add(self, follower: Follower) -> None:
        """Have ``follower`` follow, for as long as somebody else keeps it."""
        self._followers.add(follower)

    def remove(self, follower: Follower) -> None:
        """Leave it alone."""
        self._followers.discard(follower)

    def take(self, other: Watcher[V]) -> None:
        """Have what follows another one's vault follow this one's."""
        for follower in tuple(other._followers):
            self.add(follower)
            other.remove(follower)

    def close(self) -> None:
        """End the thread, and close what follows."""
        if self._process != os.getpid():
            return
        self._stop.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(_LEAVING_S)
        for follower in tuple(self._followers):
            follower.close()


def _watch(
    vault: weakref.ref[V],
    followers: weakref.WeakSet[Follower],
    stop: threading.Event,
    admission: Callable[[V], None] | None,
) -> None:
    for look in itertools.count(1):
        if stop.wait(_WATCH_S):
            return
        watched = vault()
        if watched is None:
            return
        watched.follow_log()
        if admission is not None and look % _ADMISSION == 0:
            admission(watched)
        del watched
        for follower in tuple(followers):
            with contextlib.suppress(Exception):  # the next call says what is wrong
                follower.refresh()
