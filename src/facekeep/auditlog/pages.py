"""Pages of the ledger: what control entries said of slots, sealed in log.db (SPEC §6.5).

A page says of whole entries what is true for ever, and between which values of the control chain. It is used
only where the entries after it lead from there to the head's own value: a page of another history does not.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from facekeep.auditlog.keyed import LogKey
from facekeep.auditlog.prints import PRINT_LEN
from facekeep.auditlog.reader import Mark
from facekeep.auditlog.rules import NO_CONTROL
from facekeep.errors import FacekeepError, FormatError
from facekeep.formats.ids import GRANT_ID_LEN, TAG_LEN
from facekeep.store import logpages
from facekeep.store.sqlite import Database, translated

_HEADER: Final = struct.Struct(">QQ32sQQ32sQ")
_GRANT_LEN: Final = 8 + TAG_LEN + GRANT_ID_LEN + PRINT_LEN + 8
_LENGTH: Final = struct.Struct(">I")
FIRST_MARK: Final = Mark(0, NO_CONTROL)


@dataclass(frozen=True, slots=True, eq=False)
class Page:
    """What the control entries with ``first`` <= index < ``stop`` say, in the order of the log.

    Of n grants: ``tags`` uint8 (n, 32), ``slots`` int64 (n,), ``grant_ids`` and ``prints`` uint8 (n, 16),
    ``expires`` int64 (n,) in ms. ``bodies`` are the canonical bytes of entries that the ledger keeps whole,
    the last one of the page among them. The marks stand before ``first`` and ``stop``.
    """

    first: int
    before: Mark
    stop: int
    after: Mark
    tags: npt.NDArray[np.uint8]
    slots: npt.NDArray[np.int64]
    grant_ids: npt.NDArray[np.uint8]
    prints: npt.NDArray[np.uint8]
    expires: npt.NDArray[np.int64]
    bodies: Sequence[bytes]

    def encode(self) -> bytes:
        """Bytes of the page."""
        header = _HEADER.pack(self.first, *self.before, self.stop, *self.after, len(self.slots))
        tail = [part for body in self.bodies for part in (_LENGTH.pack(len(body)), body)]
        slots, expires = self.slots.astype("<i8").tobytes(), self.expires.astype("<i8").tobytes()
        columns = self.tags.tobytes(), self.grant_ids.tobytes(), self.prints.tobytes()
        return b"".join((header, slots, *columns, expires, *tail))

    @staticmethod
    def decode(data: bytes) -> Page:
        """Page of exactly these bytes; raises FormatError."""
        if len(data) < _HEADER.size:
            raise FormatError("a page of the ledger is too short")
        first, count, chain, stop, count_after, chain_after, grants = _HEADER.unpack_from(data)
        at = _HEADER.size
        end = at + _GRANT_LEN * grants
        if first >= stop or count >= count_after or len(data) < end:
            raise FormatError("a page of the ledger has a number out of range")
        slots = np.frombuffer(data, "<i8", grants, at).astype(np.int64)
        at += 8 * grants
        tags = np.frombuffer(data, np.uint8, TAG_LEN * grants, at).reshape(-1, TAG_LEN)
        ids = np.frombuffer(data, np.uint8, GRANT_ID_LEN * grants, at + TAG_LEN * grants)
        ids = ids.reshape(-1, GRANT_ID_LEN)
        prints = np.frombuffer(data, np.uint8, PRINT_LEN * grants, end - (8 + PRINT_LEN) * grants)
        expires = np.frombuffer(data, "<i8", grants, end - 8 * grants).astype(np.int64)
        marks = Mark(count, chain), Mark(count_after, chain_after)
        bodies = _bodies(data, end)
        prints = prints.reshape(-1, PRINT_LEN)
        return Page(first, marks[0], stop, marks[1], tags, slots, ids, prints, expires, bodies)


def _bodies(data: bytes, at: int) -> list[bytes]:
    bodies: list[bytes] = []
    while at < len(data):
        start = at + _LENGTH.size
        stop = start + int.from_bytes(data[at:start], "big")
        if stop > len(data) or stop == start:
            raise FormatError("a page of the ledger ends too early")
        bodies.append(data[start:stop])
        at = stop
    return bodies


class Pages:
    """The pages in one log.db."""

    def __init__(self, database: Database, key: LogKey) -> None:
        """Read and extend ``database``."""
        self._database = database
        self._key = key
        self._stood: list[int] = []  # which were there when they were read
        self._next = 0  # where the next one begins: what stands from there on is no good

    def load(self) -> list[Page]:
        """Every page that authenticates and follows the one before it, from the log's beginning."""
        pages: list[Page] = []
        mark = FIRST_MARK
        self._next = 0
        with contextlib.suppress(FacekeepError), translated(self._database.name):
            connection = self._database.connection()
            self._stood = logpages.page_firsts(connection)
            for stored in logpages.read_pages(connection):
                if type(stored) is not bytes:
                    break
                page = Page.decode(self._key.pages.open(stored))
                if (page.first, page.before) != (self._next, mark):
                    break
                pages.append(page)
                self._next, mark = page.stop, page.after
        return pages

    def keep(self, pages: Sequence[Page]) -> None:
        """Append pages, verified to the head, unless another process did: a convenience that may fail."""
        if not pages or pages[0].first != self._next:
            return
        sealed = [(page.first, self._key.pages.seal(page.encode())) for page in pages]
        with contextlib.suppress(FacekeepError), self._database.transaction() as connection:
            if logpages.page_firsts(connection) == self._stood:
                logpages.drop_from(connection, self._next)
                logpages.insert_pages(connection, sealed)
                self._stood = logpages.page_firsts(connection)
                self._next = pages[-1].stop

    def forget(self) -> None:
        """Drop all pages: they did not lead to the head."""
        self._next, self._stood = 0, []
        with contextlib.suppress(FacekeepError), self._database.transaction() as connection:
            logpages.drop_from(connection, 0)
