"""The live copies of keys.db: how each stands to the primary, and bringing one up to date (SPEC §8.1)."""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from facekeep.errors import ErasurePending, FacekeepError, ForeignFile, IntegrityError, StoreError, UsageError
from facekeep.files import rename
from facekeep.store.aside import SIDECARS, discard, is_away
from facekeep.store.keysrows import GENERATION, SELECT_STAND
from facekeep.store.sqlite import Database, translated

State: TypeAlias = Literal[
    "current",  # the same as the primary
    "behind",  # of an older epoch, or of this one with other rows: resync mends it
    "missing",  # the directory is there, the file is not: resync makes it
    "away",  # the directory is not there
    "ahead",  # of a newer epoch than the primary: never overwritten
    "diverged",  # of another history: never overwritten
    "foreign",  # of another vault: never overwritten
    "damaged",  # unreadable: never overwritten
]

_REFUSED: Final = {
    "ahead": (
        "says that it is newer than keys.db, which may have been rolled back",
        "run 'facekeep check --scrub': it says whether a root opens the copy, and keeps what is true",
    ),
    "diverged": (
        "is of another root than keys.db",
        "run 'facekeep check --scrub': it keeps the one that the root opens, and moves the other aside",
    ),
    "damaged": ("is damaged or cannot be read", "run 'facekeep check --scrub': it is made anew"),
}


@dataclass(frozen=True, slots=True)
class CopyState:
    """How one copy stands: its generation and epoch, None where it cannot be read."""

    path: Path
    state: State
    generation: int | None = None
    epoch: int | None = None


@dataclass(frozen=True, slots=True)
class Stand:
    """What tells two keys.db apart; epoch 0 and no fingerprint before the first epoch."""

    generation: int
    epoch: int
    fingerprint: bytes


class Copies:
    """The copies of one primary, by path; opened by ``opener`` for each use."""

    def __init__(self, primary: Database, paths: Sequence[Path], opener: Callable[[Path], Database]) -> None:
        """Keep the paths; raises UsageError if one is the primary itself."""
        self._primary = primary
        self._opener = opener
        self.paths = tuple(paths)
        for path in self.paths:
            if path.absolute() == primary.path:
                raise UsageError(
                    "a copy of keys.db is keys.db itself", next="name another path, on another disk"
                )

    def state(self) -> tuple[CopyState, ...]:
        """How each copy stands; reads only."""
        if not self.paths:
            return ()
        with translated(self._primary.name):
            mine = stand_of(self._primary.connection())
        return tuple(self._state(path, mine) for path in self.paths)

    def follow(self, before: Stand, step: Callable[[sqlite3.Connection], None]) -> None:
        """Repeat a write on each copy that stands as the primary did before it; others stay behind."""
        for path in self.paths:
            if is_away(path, self._primary.path):
                continue
            with (
                contextlib.suppress(FacekeepError),
                contextlib.closing(self._opener(path)) as database,
                database.transaction() as connection,
            ):
                if stand_of(connection) == before:
                    step(connection)

    def require(self) -> None:
        """Catch up copies that are behind; raise unless all are then current.

        IntegrityError for one that is newer, diverged or foreign; else ErasurePending. Nothing else changes.
        """
        for each in self.state():
            if each.state == "behind":
                with contextlib.suppress(FacekeepError):  # it is still behind below
                    self._overwrite(each.path)
        for each in self.state():
            if each.state in ("ahead", "diverged", "foreign"):
                raise _refusal(each)
            if each.state != "current":
                raise ErasurePending(
                    f"the copy of keys.db at {each.path} is {each.state}",
                    next=_REFUSED[each.state][1] if each.state in _REFUSED else None,
                )

    def resync(self, *, create: bool) -> tuple[CopyState, ...]:
        """Bring each reachable copy up to date; see ``KeysStore.resync_copies``."""
        for each in self.state():
            if each.state == "behind":
                self._overwrite(each.path)
            elif each.state == "missing" and create:
                self._make(each.path)
            elif each.state in ("foreign", *_REFUSED):
                raise _refusal(each)
        return self.state()

    def agrees(self, path: Path) -> bool:
        """Whether a copy has the primary's rows, each to the byte; False, too, where it cannot be read."""
        try:
            with contextlib.closing(self._opener(path)) as database, translated(str(path)):
                theirs, mine = database.connection(), self._primary.connection()
                return all(_same_rows(mine, theirs, table) for table in _TABLES)
        except FacekeepError:
            return False

    def overwrite(self, path: Path) -> None:
        """Give a copy the primary's content; only for one that is damaged, and of the same root."""
        self._overwrite(path)

    def _state(self, path: Path, mine: Stand) -> CopyState:
        if is_away(path, self._primary.path):
            return CopyState(path, "away")
        if not os.path.lexists(path):
            return CopyState(path, "missing")
        try:
            with contextlib.closing(self._opener(path)) as database, translated(str(path)):
                theirs = stand_of(database.connection())
        except ForeignFile:
            return CopyState(path, "foreign")
        except FacekeepError:
            return CopyState(path, "damaged")
        return CopyState(path, _compare(mine, theirs), theirs.generation, theirs.epoch)

    def _overwrite(self, path: Path) -> None:
        """Replace the content inside one transaction of the copy: an interruption leaves it as it was.

        Principals that the primary lacks come over first: a row opens under its key, or for nobody.
        """
        with contextlib.closing(self._opener(path)) as database, translated(str(path)):
            theirs = database.connection()
            if stand_of(theirs).generation > stand_of(self._primary.connection()).generation:
                with contextlib.suppress(FacekeepError):
                    self._take_over(theirs)
            self._primary.connection().backup(theirs)

    def _take_over(self, theirs: sqlite3.Connection) -> None:
        """Add the principals that only a copy has to the primary."""
        with self._primary.transaction() as connection:
            rows = theirs.execute("SELECT * FROM principal ORDER BY slot LIMIT ?", (_MOST_TAKEN,))
            connection.executemany("INSERT OR IGNORE INTO principal VALUES (?, ?, ?, ?, ?)", rows)

    def _make(self, path: Path) -> None:
        """Write a temporary name, fsync it, rename it, fsync the directory."""
        temporary = path.with_name(path.name + ".new")
        with translated(str(path)):
            discard(temporary)  # leftovers; a stale -wal would be replayed into the new file
            discard(path, SIDECARS)
            with contextlib.closing(self._primary.create_like(temporary)) as target:
                self._primary.connection().backup(target.connection())
            if os.path.lexists(path):
                raise StoreError(f"{path} appeared while it was being made")
            rename(temporary, path)


def _refusal(state: CopyState) -> IntegrityError:
    if state.state == "foreign":
        return ForeignFile(
            f"the file at {state.path} belongs to another vault, or says so",
            next="run 'facekeep check --scrub': it makes the copy anew if a root that is held opens this one",
        )
    what, then = _REFUSED[state.state]
    return IntegrityError(f"the copy of keys.db at {state.path} {what}", next=then)


def stand_of(connection: sqlite3.Connection) -> Stand:
    """Read where a keys.db stands. A generation or a root node that is none of ours counts as none."""
    row = connection.execute(GENERATION).fetchone()
    top = connection.execute(SELECT_STAND).fetchone()
    return Stand(int(row[0]), *(top or (0, b"")))


def _compare(mine: Stand, theirs: Stand) -> State:
    if theirs == mine:
        return "current"
    if theirs.fingerprint == mine.fingerprint or theirs.epoch < mine.epoch:
        return "behind"
    return "ahead" if theirs.epoch > mine.epoch else "diverged"


_MOST_TAKEN: Final = 10_000  # principals
_TABLES: Final = (
    "SELECT key, value FROM meta ORDER BY key",
    "SELECT copy, epoch, fingerprint, blob FROM top ORDER BY copy",
    "SELECT id, epoch, blob FROM node ORDER BY id",
    "SELECT hash, sealed FROM subject_index ORDER BY hash",
    "SELECT slot, principal, grant_id, commitment, sealed FROM principal ORDER BY slot",
)


def _same_rows(mine: sqlite3.Connection, theirs: sqlite3.Connection, query: str) -> bool:
    pairs = itertools.zip_longest(mine.execute(query), theirs.execute(query))
    return all(one == other for one, other in pairs)
