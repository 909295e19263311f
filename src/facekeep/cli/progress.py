"""A progress line with an estimate, on a terminal only; it leaves nothing behind."""

from __future__ import annotations

import shutil
import sys
import time
from types import TracebackType
from typing import Self

_EVERY_S = 0.2
_MINUTE = 60
_HOUR = 3600


class Progress:
    """``with Progress("enrolling") as progress: progress(done, total)``; total 0 means unknown."""

    def __init__(self, what: str) -> None:
        """Keep what is being done, in a word or two."""
        self._what = what
        self._shown = False
        self._terminal = sys.stderr.isatty()
        self._began = self._last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """Show how far it is."""
        now = time.monotonic()
        if not self._terminal or (now - self._last < _EVERY_S and done != total):
            return
        self._last = now
        text = _line(self._what, done, total, now - self._began)
        width = shutil.get_terminal_size().columns - 1
        self._put("\r" + text[:width].ljust(width))

    def named(self, what: str, done: int, total: int) -> None:
        """Show how far a part of the work is."""
        self._what = what
        self(done, total)

    def clear(self) -> None:
        """Remove the line, for something else to be printed."""
        if self._shown:
            self._put("\r" + " " * (shutil.get_terminal_size().columns - 1) + "\r")
            self._shown = False

    def _put(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()
        self._shown = True

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the line."""
        self.clear()


def _line(what: str, done: int, total: int, took_s: float) -> str:
    if not total:
        return f"{what}: {done}"
    filled = 20 * done // total
    bar = "#" * filled + "-" * (20 - filled)
    left = took_s / done * (total - done) if done else 0.0
    estimate = f", {_time(left)} left" if done and done < total else ""
    return f"{what} [{bar}] {done} of {total}{estimate}"


def _time(seconds: float) -> str:
    if seconds < _MINUTE:
        return f"{seconds:.0f} s"
    return f"{seconds / _MINUTE:.0f} min" if seconds < _HOUR else f"{seconds / _HOUR:.1f} h"
