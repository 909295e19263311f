"""The brake on guessing: how often each principal asked about each person today, by the log (SPEC §7.1).

It is fed inside the append, in the order of the log, and reads there what other processes appended: so it
holds for threads, for processes, and after a restart. Pure but for the function that reads entries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import orjson

from facekeep.auditlog.history import stamp
from facekeep.formats.entries import decision_allow, is_decision
from facekeep.formats.matching import Matching
from facekeep.limits import LIMITS

FOLLOWED: Final = 65_536  # entries that are read back at the most: half a second's reading
SEARCH: Final = ""  # whom a search asks about
_STEP: Final = 4_096
_DAY_MS: Final = 86_400_000
_DOUBLED: Final = 32  # times a pause doubles at the most

Bodies = Callable[[int, int], Iterator[bytes]]


class Asked(NamedTuple):
    """An answer: the principal's id, the tag asked about (hex; ``SEARCH``), whether it is a match."""

    by: str
    about: str
    matched: bool


class _Count:
    __slots__ = ("answers", "failures", "last_ms")

    def __init__(self) -> None:
        self.answers = 0
        self.failures = 0  # in a row
        self.last_ms = 0


class Brake:
    """Counts of one day of UTC. Fed by one thread at a time; anybody may ask ``refuses``."""

    def __init__(self, matching: Matching) -> None:
        """Start with nothing read."""
        self._matching = matching
        self._day = -1
        self._counts: dict[tuple[str, str], _Count] = {}
        self.seen = -1  # entries read so far; -1: none, and not those of today either

    def limit(self, matching: Matching) -> None:
        """Go on under other limits, with what was counted."""
        self._matching = matching

    def refuses(self, by: str, about: str, time_ms: int) -> bool:
        """Whether a principal may have no answer about somebody now."""
        count = self._counts.get((by, about))
        if count is None or time_ms // _DAY_MS > self._day:
            return False
        limits = self._matching
        most = limits.searches if about == SEARCH else limits.asks
        if most and count.answers >= most:
            return True
        beyond = count.failures - limits.failures
        if not limits.failures or beyond < 0 or about == SEARCH:
            return False
        pause_s = min(limits.pause_s << min(beyond, _DOUBLED), limits.longest_s)
        return time_ms < count.last_ms + 1_000 * pause_s

    def note(self, asked: Asked, time_ms: int) -> None:
        """Count an answer; the first of a new day ends the day before."""
        day = time_ms // _DAY_MS
        if day > self._day:
            self._day = day
            self._counts.clear()
        key = (asked.by, asked.about)
        count = self._counts.get(key)
        if count is None:
            count = self._counts[key] = _Count()
        count.answers += 1
        count.failures = 0 if asked.matched else count.failures + 1
        count.last_ms = max(count.last_ms, time_ms)

    def follow(self, bodies: Bodies, size: int, now_ms: int) -> None:
        """Read the entries that others appended, up to ``size``; at first those of today, up to a bound."""
        if self.seen == size:
            return
        if not 0 <= self.seen < size:
            self.forget()
            self.seen = _begin(bodies, size, now_ms // _DAY_MS * _DAY_MS)
        for body in bodies(max(self.seen, size - FOLLOWED), size):
            self._read(body)
        self.seen = size

    def forget(self) -> None:
        """Begin anew: an append failed, or an operator set the time back."""
        self.seen = self._day = -1
        self._counts.clear()

    def _read(self, body: bytes) -> None:
        if not is_decision(body):
            if stamp(body)[1] == b"clock":
                self._day = -1
                self._counts.clear()
            return
        entry: dict[str, Any] = orjson.loads(body)
        if entry["allow"]:
            self.note(
                Asked(entry["by"], entry.get("tag", SEARCH), entry["result"] == "match"), entry["time_ms"]
            )


def _begin(bodies: Bodies, size: int, day_ms: int) -> int:
    """Index from which on the entries of a day stand, or an earlier one; not more than the bound back."""
    at, floor = size, max(0, size - FOLLOWED)
    while at > floor:
        at = max(floor, at - _STEP)
        body = next(iter(bodies(at, at + 1)))
        dated = not is_decision(body) or decision_allow(body)  # a denial may be of a clock that is behind
        if dated and stamp(body)[0] < day_ms - 2 * LIMITS.clock_slack_ms:
            break
    return at
