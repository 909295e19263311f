"""When things were done last, by the log: what a schedule is held against (SPEC §6.5, §9.2).

Of all control entries only few are kept: those of some types, and as many more as show how time went on.
Between two neighbours among them lie at most 24 hours, unless the log itself was silent for longer there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from facekeep.errors import IntegrityError
from facekeep.formats import entries
from facekeep.formats.canonical import JsonObject

HEARTBEAT_MS: Final = 24 * 3_600_000
_TAIL: Final = re.compile(rb'"time_ms":(\d{1,16}),"type":"([a-z]+)","v":1')
_EXPIRE: Final = b'"op":"expire"'
_TYPES: Final = frozenset((b"backup", b"checkpoint", b"clock", b"principal", b"rotation"))


class Gap(NamedTuple):
    """A stretch of time without control entries, or one that an operator took back: from and to, in ms."""

    from_ms: int
    to_ms: int


def stamp(body: bytes) -> tuple[int, bytes]:
    """Return (time_ms, type) of an authenticated entry: no string in one holds a quotation mark."""
    found = _TAIL.match(body, body.rfind(b'"time_ms":'))
    if found is None:
        raise IntegrityError("a log entry has no time")
    return int(found[1]), found[2]


def _is_expiry(kind: bytes, body: bytes) -> bool:
    return kind == b"destroy" and _EXPIRE in body


class Keeper:
    """Picks the entries that are kept, out of all control entries in their order."""

    __slots__ = ("_kept_ms", "_last")

    def __init__(self, kept_ms: int = -HEARTBEAT_MS, last: bytes | None = None) -> None:
        """Go on after the entry ``last``, when one of ``kept_ms`` was the last one kept."""
        self._kept_ms = kept_ms
        self._last = last  # the last entry, unless it was kept

    def copy(self) -> Keeper:
        """Return another that goes on from here."""
        return Keeper(self._kept_ms, self._last)

    @property
    def seen_ms(self) -> int:
        """Time of the last entry."""
        return self._kept_ms if self._last is None else stamp(self._last)[0]

    def pick(self, body: bytes) -> list[bytes]:
        """Return what is to be kept now that an entry has come: itself, the one before it, both, or none."""
        time_ms, kind = stamp(body)
        kept = self.last() if time_ms - self._kept_ms > HEARTBEAT_MS else []
        if time_ms - self._kept_ms > HEARTBEAT_MS or kind in _TYPES or _is_expiry(kind, body):
            kept.append(body)
            self._kept_ms, self._last = time_ms, None
        else:
            self._last = body
        return kept

    def last(self) -> list[bytes]:
        """Return the last entry, if it was not kept: from now on it is."""
        if self._last is None:
            return []
        kept, self._last = [self._last], None
        self._kept_ms = stamp(kept[0])[0]
        return kept


class History:
    """What the kept entries say; times in ms."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.began_ms = 0
        self.seen_ms = 0  # of the last control entry, kept or not
        self.rotated: dict[str, int] = {}  # what -> when a rotation of it was last begun
        self.expiries: list[tuple[int, bytes]] = []  # time and bytes of each part of an expiry
        self._stamps: list[tuple[int, bytes]] = []
        self._bodies: dict[bytes, bytes] = {}

    def add(self, kept: Iterable[bytes]) -> None:
        """Take up the canonical bytes of entries, in the order of the log."""
        for body in kept:
            time_ms, kind = stamp(body)
            if not self._stamps:
                self.began_ms = time_ms
            if _is_expiry(kind, body):
                self.expiries.append((time_ms, body))
                kind = b"expire"
            elif kind == b"rotation":
                self.rotated[str(entries.parse(body)["what"])] = time_ms
            self._stamps.append((time_ms, kind))
            self._bodies[kind] = body

    def newest(self, kind: str) -> JsonObject | None:
        """Return the last entry of a type that is kept whole: backup, checkpoint, clock."""
        body = self._bodies.get(kind.encode())
        return None if body is None else entries.parse(body)

    def gap(self, longest_ms: int, now_ms: int) -> Gap | None:
        """Return the last gap longer than this, or taken back time, after which nothing was expired yet.

        Whoever expires grants after a gap has looked at the clock (SPEC §9.2).
        """
        if now_ms - self.seen_ms > longest_ms:
            return Gap(self.seen_ms, now_ms)
        found: Gap | None = None
        before: int | None = None
        for time_ms, kind in self._stamps:
            if kind == b"expire":
                found = None
            elif before is not None and (kind == b"clock" or time_ms - before > longest_ms):
                found = Gap(before, time_ms)
            before = time_ms
        return found
