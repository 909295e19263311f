"""The table ``page`` of log.db: what the ledger read, so that no process need read it again (SPEC §6.5).

What the rows must say is ``auditlog.pages``'s business; copies of log.db have none.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator


def read_pages(connection: sqlite3.Connection) -> Iterator[object]:
    """Yield every page, sealed, by ``first``, one in memory at a time, of whatever type."""
    for first in page_firsts(connection):
        yield connection.execute("SELECT sealed FROM page WHERE first = ?", (first,)).fetchone()[0]


def page_firsts(connection: sqlite3.Connection) -> list[int]:
    """Return ``first`` of every page, ascending."""
    return [row[0] for row in connection.execute("SELECT first FROM page ORDER BY first")]


def drop_from(connection: sqlite3.Connection, first: int) -> None:
    """Delete the pages from ``first`` on."""
    connection.execute("DELETE FROM page WHERE first >= ?", (first,))


def insert_pages(connection: sqlite3.Connection, pages: Iterable[tuple[int, bytes]]) -> None:
    """Append (first, sealed page) rows."""
    connection.executemany("INSERT INTO page (first, sealed) VALUES (?, ?)", pages)
