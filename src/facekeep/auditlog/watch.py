"""The last head seen, and what makes the log stop answering (SPEC §6.3, the last paragraph)."""

from __future__ import annotations

import sqlite3
import threading
from dataclasses import dataclass

from facekeep.auditlog.head import Head
from facekeep.auditlog.keyed import LogKey
from facekeep.errors import FacekeepError, IntegrityError
from facekeep.store import logdb
from facekeep.store.sqlite import Database


@dataclass(frozen=True, slots=True)
class Seen:
    """An authenticated head as it is stored."""

    head: Head
    sealed: bytes


class Watch:
    """Remembers the newest head, compares every other with it, and stops for good at a contradiction."""

    def __init__(self, database: Database, key: LogKey) -> None:
        """Watch an open log.db; nothing was seen yet."""
        self._database = database
        self._key = key
        self._seen: Seen | None = None
        self._prepared: Seen | None = None
        self._guard = threading.Lock()
        self._stopped: FacekeepError | None = None

    def alive(self) -> None:
        """Raise if the log stopped answering, or log.db was removed or replaced."""
        if self._stopped is not None:
            raise type(self._stopped)(
                f"the log stopped answering: {self._stopped}",
                next="close the vault, open it and verify the log",
            ) from self._stopped
        try:
            self._database.check_identity()
        except IntegrityError as error:
            self.stop(error)
            raise

    def writable(self) -> None:
        """``alive``, and what is appended is seen by others: before every commit, and again after it."""
        self.alive()
        try:
            self._database.check_sidecars()
        except IntegrityError as error:
            self.stop(error)
            raise

    def stop(self, error: FacekeepError) -> None:
        """Answer nothing more until the log is opened again."""
        if self._stopped is None:  # without its traceback, whose frames hold what was opened
            self._stopped = type(error)(str(error), next=error.next)

    def head(self, connection: sqlite3.Connection) -> Seen:
        """Return the stored head: by comparison if it is one we know, else authenticated and compared."""
        before = self._seen  # taken before the read: what is read then cannot be older
        stored = logdb.read_head(connection)
        for known in (before, self._prepared, self._seen):
            if known is not None and stored == known.sealed and _is_no_older(known, before):
                return known
        try:
            return self._accept(connection, stored, before)
        except IntegrityError as error:
            self.stop(error)
            raise

    def prepare(self, seen: Seen) -> None:
        """Name the head about to be committed by this process."""
        self._prepared = seen

    def advance(self, seen: Seen) -> None:
        """Remember a head, unless a newer one is known."""
        with self._guard:
            if self._seen is None or seen.head.size > self._seen.head.size:
                self._seen = seen

    def _accept(self, connection: sqlite3.Connection, stored: bytes | None, before: Seen | None) -> Seen:
        if stored is None:
            raise IntegrityError("log.db has no head: it was emptied, or its creation did not finish")
        seen = Seen(self._key.open_head(stored), stored)
        if before is not None:
            _follows(connection, self._key, before.head, seen.head)
        if seen.head.size == 0 or logdb.chain_at(connection, seen.head.size - 1) != seen.head.chain:
            raise IntegrityError("the last entry of log.db is not the one its head names")
        self.advance(seen)
        return seen


def _is_no_older(known: Seen, before: Seen | None) -> bool:
    """Whether it is none that this process wrote itself and has seen a newer one since: that was put back."""
    return before is None or known.head.size >= before.head.size


def leads(connection: sqlite3.Connection, key: LogKey, size: int, chain: bytes, head: Head) -> bool:
    """Whether the log of ``size`` entries with that chain value is the beginning of the head's.

    Every leaf from there on is chained: a chain value that stands in the file proves nothing by itself.
    """
    for index, leaf in logdb.links_between(connection, size, head.size):
        if index != size:
            return False
        chain, size = key.chain(index, chain, leaf), index + 1
    return size == head.size and chain == head.chain


def _follows(connection: sqlite3.Connection, key: LogKey, before: Head, now: Head) -> None:
    if now.size <= before.size or now.control_seq < before.control_seq:
        raise IntegrityError(
            f"log.db was rolled back: it had {before.size} entries and now has {now.size}",
            next="stop every process; put the newest copy of log.db back and run 'facekeep check'",
        )
    if not leads(connection, key, before.size, before.chain, now):
        raise IntegrityError(
            f"log.db was forked: entry {before.size - 1} is another one than before",
            next="stop every process; put the newest copy of log.db back and run 'facekeep check'",
        )
