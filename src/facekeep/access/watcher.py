"""One thread of an open vault, which keeps an idle process from remembering what was destroyed.

Several times a second it looks whether the log moved. Then the key tree of before goes, with every key in it,
and whoever was added follows, or is wiped where that fails.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Final, Protocol

_WATCH_S: Final = 0.4
_LEAVING_S: Final = 2.0  # how long a vault that is closed waits for a look that was begun


class Vigilant(Protocol):
    """What the thread looks after. ``follow_log`` of a vault raises nothing."""

    def follow_log(self) -> None:
        """Drop what an earlier state of the vault left in memory."""
        ...


class Follower(Protocol):
    """What follows the vault: a gallery."""

    def refresh(self) -> None:
        """Follow what changed."""
        ...

    def close(self) -> None:
        """Wipe everything."""
        ...


class Watcher:
    """The thread. It keeps neither the vault nor the process alive; a forked process has none."""

    def __init__(self, vault: Vigilant) -> None:
        """Watch nothing yet."""
        self._process = os.getpid()
        self._stop = threading.Event()
        self._followers: weakref.WeakSet[Follower] = weakref.WeakSet()
        self._thread = threading.Thread(
            target=_watch,
            args=(weakref.ref(vault), self._followers, self._stop),
            name="facekeep-watcher",
            daemon=True,
        )

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def add(self, follower: Follower) -> None:
        """Have ``follower`` follow, for as long as somebody else keeps it."""
        self._followers.add(follower)

    def remove(self, follower: Follower) -> None:
        """Leave it alone."""
        self._followers.discard(follower)

    def close(self) -> None:
        """End the thread."""
        if self._process != os.getpid():
            return
        self._stop.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(_LEAVING_S)


def _watch(vault: weakref.ref[Vigilant], followers: weakref.WeakSet[Follower], stop: threading.Event) -> None:
    while not stop.wait(_WATCH_S):
        watched = vault()
        if watched is None:
            return
        watched.follow_log()
        del watched
        for follower in tuple(followers):
            _refresh(follower)


def _refresh(follower: Follower) -> None:
    try:
        follower.refresh()
    except Exception:  # noqa: BLE001 - whatever it was, nothing is kept that may be withdrawn
        follower.close()
