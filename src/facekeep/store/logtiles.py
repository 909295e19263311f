"""The tables ``tile`` and ``tiled`` of log.db: hashes above the leaves (SPEC §10.7).

Tile ``n`` of level 1 and above is the row ``level * 2^55 + n``; it grows in place until it is full. The
leaves themselves are in ``entry``. What the rows must say is ``auditlog.tree``'s business.
"""

from __future__ import annotations

import sqlite3
from typing import Final

_LEVEL_BITS: Final = 55


def read_state(connection: sqlite3.Connection) -> object:
    """Return what was built, sealed, of whatever type; None where nothing was."""
    row = connection.execute("SELECT sealed FROM tiled WHERE id = 1").fetchone()
    return None if row is None else row[0]


def write_state(connection: sqlite3.Connection, sealed: bytes) -> None:
    """Store what was built."""
    connection.execute("REPLACE INTO tiled (id, sealed) VALUES (1, ?)", (sealed,))


def read_tile(connection: sqlite3.Connection, level: int, n: int) -> bytes:
    """Return the hashes of a tile so far, empty where there is none."""
    row = connection.execute("SELECT hashes FROM tile WHERE id = ?", (_id(level, n),)).fetchone()
    return row[0] if row is not None and type(row[0]) is bytes else b""


def write_tile(connection: sqlite3.Connection, level: int, n: int, hashes: bytes) -> None:
    """Store a tile's hashes."""
    connection.execute("REPLACE INTO tile (id, hashes) VALUES (?, ?)", (_id(level, n), hashes))


def read_leaves(connection: sqlite3.Connection, start: int, stop: int) -> list[bytes]:
    """Leaf hashes of start <= idx < stop, as stored."""
    rows = connection.execute(
        "SELECT leaf FROM entry WHERE idx >= ? AND idx < ? ORDER BY idx", (start, stop)
    ).fetchall()
    return [row[0] if type(row[0]) is bytes else b"" for row in rows]


def clear(connection: sqlite3.Connection) -> None:
    """Forget everything that was built."""
    connection.execute("DELETE FROM tile")
    connection.execute("DELETE FROM tiled")


def _id(level: int, n: int) -> int:
    return level << _LEVEL_BITS | n
