"""Rows of log.db after the last entry of its head (SPEC §6.3).

One that the vault made shows that the head was rolled back. Any other one is nobody's, and stops nothing.
"""

from __future__ import annotations

import sqlite3

from facekeep.auditlog.head import Head
from facekeep.auditlog.keyed import LogKey
from facekeep.errors import FacekeepError, IntegrityError
from facekeep.store import logdb


class RolledBack(IntegrityError):
    """The head is older than an entry that the vault made: ``least`` entries were there."""

    least: int = 0


def refuse_rolled_back(connection: sqlite3.Connection, key: LogKey, head: Head) -> None:
    """Raise RolledBack where an entry follows the head that was read in the same transaction.

    Looks at the next row only: whoever hides that one could as well have deleted all.
    """
    if not _follows(connection, key, head):
        return
    error = RolledBack(
        f"log.db has entries after {head.size - 1}, the last one of its head: it was rolled back",
        next="stop every process, then 'facekeep check --scrub': it takes a live copy that has them",
    )
    error.least = head.size + 1
    raise error


def _follows(connection: sqlite3.Connection, key: LogKey, head: Head) -> bool:
    try:
        row = logdb.row_at(connection, head.size)
        if row is None:
            return False
        key.check_row(row, head.chain)
    except FacekeepError:
        return False
    return True


def delete_strays(connection: sqlite3.Connection, key: LogKey, head: Head) -> int:
    """Delete what is none of the head's entries, and return how much; raises as ``refuse_rolled_back``.

    For a write transaction in which the head was read.
    """
    refuse_rolled_back(connection, key, head)
    return logdb.delete_outside(connection, head.size)
