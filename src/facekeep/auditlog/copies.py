"""Live second copies of log.db: the same rows, appended after each commit of the primary (SPEC §6.3).

A copy that is away or fails is left behind and the log goes on; ``resync`` brings it up again. A copy that
has what the log has not is evidence of a rolled-back log, and is never written to.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from facekeep.auditlog.keyed import LogKey
from facekeep.errors import FacekeepError, ForeignFile, IntegrityError, UsageError
from facekeep.store import logdb
from facekeep.store.aside import SIDECARS, discard, is_away
from facekeep.store.sqlite import Database, translated

State: TypeAlias = Literal["current", "behind", "missing", "away", "ahead", "diverged", "foreign", "damaged"]

_LOOK_S: Final = 60.0  # between two looks at a copy that was left behind
_BUSY_MS: Final = 2_000  # wait for another process at a copy; longer, and the copy is left behind
_REFUSED: Final = {
    "ahead": "has entries that log.db lacks: log.db was rolled back",
    "diverged": "has another history than log.db",
    "foreign": "belongs to another vault",
    "damaged": "is damaged or cannot be read",
}


@dataclass(frozen=True, slots=True)
class CopyState:
    """How one copy stands to the log, how many entries it holds, and why it was left behind, if it was."""

    path: Path
    state: State
    size: int | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one commit (ascending) with the slots they opened, and the head after them as stored."""

    rows: Sequence[logdb.Row]
    slots: Sequence[tuple[int, int]]
    previous: bytes  # chain value before the first row
    head: bytes


class Copies:
    """The copies of one log. ``push`` and ``resync`` are called by one thread at a time."""

    def __init__(
        self,
        primary: Database,
        source: sqlite3.Connection,
        vault_id: bytes,
        key: LogKey,
        paths: Iterable[Path],
    ) -> None:
        """Read missing rows through ``source``, the writer's own connection to the primary."""
        self._source = source
        self._copies = [_Copy(path, primary.path, vault_id, key) for path in paths]
        for each in self._copies:
            if each.path.absolute() == primary.path:
                raise UsageError(
                    "a copy of log.db is log.db itself", next="name another path, on another disk"
                )

    def push(self, batch: Batch) -> None:
        """Append a committed batch to every copy that has kept up; a copy's own fault leaves it behind.

        Raises IntegrityError where a copy has an authentic entry that the log lacks. One that was left behind
        is looked at for that, too, but not with every commit.
        """
        for each in self._copies:
            if each.note is None:
                try:
                    each.append(batch, self._source, logdb.CHUNK)
                except FacekeepError as error:
                    self._look(each)
                    each.leave(str(error))
            elif time.monotonic() >= each.look_at_s:
                self._look(each)
                each.leave(each.note)

    def _look(self, copy: _Copy) -> None:
        """Raise IntegrityError for a copy that proves the log an old one.

        Whoever appends does so to the log first, and it is read after the copy: none is ahead for a moment.
        """
        state, _ = copy.stand(self._source)
        if state in ("ahead", "diverged"):
            raise _refusal(copy.path, state)

    def states(self) -> tuple[CopyState, ...]:
        """How each copy stands; reads only."""
        return tuple(CopyState(each.path, *each.stand(self._source), each.note) for each in self._copies)

    def resync(self, *, create: bool) -> tuple[CopyState, ...]:
        """Append what the copies lack, and store the primary's head in them.

        Raises IntegrityError naming a copy that is ahead, of another history or foreign; one that is damaged
        is left behind, and says so.
        """
        for each in self._copies:
            state, _ = each.stand(self._source)
            if state == "damaged":
                each.leave(_REFUSED[state])
            elif state in _REFUSED:
                raise _refusal(each.path, state)
            if state == "missing" and create:
                each.make()
                state = "behind"
            if state == "behind":
                self._catch_up(each)
            if state in ("behind", "current"):
                each.note = None
        return self.states()

    def _catch_up(self, copy: _Copy) -> None:
        """Append from one snapshot of the primary, so that the head fits the rows."""
        self._source.execute("BEGIN")
        try:
            stored = logdb.read_head(self._source)
            if stored is not None:
                copy.append(Batch((), (), b"", stored), self._source, None)
        finally:
            self._source.execute("COMMIT")

    def close(self) -> None:
        """Close every copy."""
        for each in self._copies:
            each.shut()


class _Copy:
    """One copy, opened when it is first needed."""

    def __init__(self, path: Path, primary: Path, vault_id: bytes, key: LogKey) -> None:
        self.path = path
        self._primary = primary
        self._key = key
        self.note: str | None = None
        self.look_at_s = 0.0  # when it is looked at again, once it was left behind
        self._vault_id = vault_id
        self._database: Database | None = None
        self._connection: sqlite3.Connection | None = None

    def append(self, batch: Batch, source: sqlite3.Connection, limit: int | None) -> None:
        """Append the batch, and before it up to ``limit`` rows that another process has not brought yet."""
        with translated(str(self.path)):
            connection = self._open()
            connection.execute("BEGIN IMMEDIATE")
            try:
                self._append(connection, batch, source, limit)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def _append(
        self, connection: sqlite3.Connection, batch: Batch, source: sqlite3.Connection, limit: int | None
    ) -> None:
        held = logdb.last_index(connection) + 1
        first = batch.rows[0].idx if batch.rows else self._key.open_head(batch.head).size
        last = batch.rows[-1] if batch.rows else None
        if last is not None and held > last.idx:  # another process brought these rows
            _agree(logdb.chain_at(connection, last.idx), last.chain)
            return
        if last is None and held >= first:
            return
        rows = [row for row in batch.rows if row.idx >= held]
        if held < first and limit is not None and first - held > limit:
            raise IntegrityError(f"it lacks {first - held} entries")
        if held:
            own = logdb.chain_at(connection, held - 1)
            _agree(own, batch.previous if held == first and batch.rows else logdb.chain_at(source, held - 1))
        if held < first:
            _bring(connection, source, held, first)
        logdb.insert_rows(connection, rows)
        logdb.insert_slots(connection, [(slot, idx) for slot, idx in batch.slots if idx >= held])
        logdb.write_head(connection, batch.head)

    def stand(self, source: sqlite3.Connection) -> tuple[State, int | None]:
        """How the copy's last row compares with the primary's at that index.

        Only an authentic row is evidence of another history: anybody can write others (SPEC §6.3).
        """
        if is_away(self.path, self._primary):
            return "away", None
        if not os.path.lexists(self.path):
            return "missing", None
        try:
            with translated(str(self.path)):
                return self._compared(self._open(), source)
        except ForeignFile:
            return self._disowned(source)
        except FacekeepError:
            return "damaged", None

    def _compared(self, connection: sqlite3.Connection, source: sqlite3.Connection) -> tuple[State, int]:
        held = logdb.last_index(connection) + 1
        own = logdb.chain_at(connection, held - 1)
        state = _compare(held, own, source, self._key)
        if state in ("ahead", "diverged"):
            self._check_last(connection, held - 1)
        return state, held

    def _disowned(self, source: sqlite3.Connection) -> tuple[State, int | None]:
        """Judge a copy that says it is another vault's: it is this one's if its head opens."""
        try:
            with (
                translated(str(self.path)),
                contextlib.closing(logdb.open_log(self.path, self._vault_id, use="look")) as database,
            ):
                connection = database.connection()
                self._key.open_head(logdb.read_head(connection) or b"")
                state, held = self._compared(connection, source)
        except FacekeepError:
            return "foreign", None
        return (state, held) if state in ("ahead", "diverged") else ("damaged", None)

    def _check_last(self, connection: sqlite3.Connection, index: int) -> None:
        """Raise IntegrityError unless a row follows from the one before it."""
        row = logdb.row_at(connection, index)
        previous = logdb.chain_at(connection, index - 1) if index else self._key.start
        if row is None or previous is None:
            raise IntegrityError("its last entries are missing")
        self._key.check_row(row, previous)

    def make(self) -> None:
        """Make an empty copy."""
        self.shut()
        discard(self.path, SIDECARS)  # a stale one would be replayed into the new file
        self._database = logdb.create_log(self.path, self._vault_id)

    def leave(self, why: str) -> None:
        """Stop writing to the copy until the next ``resync``."""
        self.note = why
        self.look_at_s = time.monotonic() + _LOOK_S
        self.shut()

    def shut(self) -> None:
        """Close the copy; it is opened again when needed."""
        if self._database is not None:
            self._database.close()
        self._database = self._connection = None

    def _open(self) -> sqlite3.Connection:
        if self._database is not None:
            try:
                self._database.check_identity()
            except IntegrityError:
                self.shut()
        if self._database is None:
            self._database = logdb.open_log(self.path, self._vault_id)
        if self._connection is None:
            self._connection = self._database.connection()
            self._connection.execute(f"PRAGMA busy_timeout={_BUSY_MS}")
        return self._connection


def _compare(held: int, own: bytes | None, source: sqlite3.Connection, key: LogKey) -> State:
    """Judge a copy of ``held`` rows whose last chain value is ``own``; read before the primary."""
    stored = logdb.read_head(source)
    size = 0 if stored is None else key.open_head(stored).size
    if held > size:
        return "ahead"
    if held and own != logdb.chain_at(source, held - 1):
        return "diverged"
    return "current" if held == size else "behind"


def _agree(theirs: bytes | None, ours: bytes | None) -> None:
    if theirs is None or theirs != ours:
        raise IntegrityError("it has another history than log.db")


def _bring(connection: sqlite3.Connection, source: sqlite3.Connection, start: int, stop: int) -> None:
    """Copy a stretch of rows, and the slots that they opened."""
    rows, opened = logdb.rows_between(source, start, stop), False
    while some := list(itertools.islice(rows, logdb.CHUNK)):
        logdb.insert_rows(connection, some)
        opened = opened or any(row.control for row in some)
    if opened:
        logdb.insert_slots(connection, logdb.slots_between(source, start, stop))


def _refusal(path: Path, state: State) -> IntegrityError:
    error = ForeignFile if state == "foreign" else IntegrityError
    then = None
    if state in ("ahead", "diverged"):
        then = (
            "close the vault; if the copy is the true log, move log.db, log.db-wal and log.db-shm aside, "
            f"put {path} (with its -wal) in their place, and run 'facekeep check'"
        )
    return error(f"the copy of log.db at {path} {_REFUSED[state]}", next=then)
