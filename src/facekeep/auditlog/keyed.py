"""What only a holder of the log key can compute or open (SPEC §6.3): chain values, and what stands sealed.

In log.db these are the entries, the head, the pages of the ledger and the state of the tiles; in a backup its
manifest.
"""

from __future__ import annotations

import struct
from typing import Final

from facekeep.auditlog.head import Head
from facekeep.auditlog.merkle import leaf_hash
from facekeep.crypto import primitives as p
from facekeep.errors import IntegrityError
from facekeep.formats import entries
from facekeep.formats.canonical import JsonObject
from facekeep.store.logdb import Row

_START = p.domain("log-start")
_CONTROL = p.domain("log-control")

#: Entries are padded to a multiple of so many bytes: no decision is then told from another by its length.
PADDED: Final = 512
_place = struct.Struct(">qq").pack  # index, control mark


class Kind:
    """Blobs of one kind, sealed under a key of their own that comes from the log key."""

    __slots__ = ("_aead", "_prefix")

    def __init__(self, key: bytes, vault_id: bytes, label: str) -> None:
        """Take the log key; the label keeps the kinds apart."""
        self._prefix = p.domain(label) + vault_id
        self._aead = p.Aead(p.mac(key, self._prefix))

    def seal(self, plain: bytes, place: bytes = b"") -> bytes:
        """Seal what stands at ``place``."""
        return self._aead.seal(plain, self._prefix + place)

    def open(self, sealed: bytes, place: bytes = b"") -> bytes:
        """Open what was sealed at ``place``; raises IntegrityError."""
        return self._aead.open(sealed, self._prefix + place)


class LogKey:
    """The log key of one vault."""

    __slots__ = ("_entries", "_heads", "_key", "_mac", "manifests", "pages", "start", "tiles")

    def __init__(self, key: bytes, vault_id: bytes) -> None:
        """Take the 32-byte key (slot 0 of the system branch) and the 16-byte vault id."""
        self._key = key
        self._mac = p.Mac(key)
        self.start = self._mac(_START, vault_id)
        self._entries = Kind(key, vault_id, "log-entry")
        self._heads = Kind(key, vault_id, "log-head")
        self.pages = Kind(key, vault_id, "log-page")
        self.tiles = Kind(key, vault_id, "log-tiles")
        self.manifests = Kind(key, vault_id, "backup-manifest")

    def is_key(self, key: bytes) -> bool:
        """Whether this is the key."""
        return p.compare(self._key, key)

    def chain(self, index: int, previous: bytes, leaf: bytes) -> bytes:
        """Chain value of entry ``index``."""
        return self._mac(index.to_bytes(8, "big"), previous, leaf)

    def control(self, index: int, previous: bytes, leaf: bytes) -> bytes:
        """Control chain after control entry ``index``; 32 zero bytes stand before the first."""
        return self._mac(_CONTROL, index.to_bytes(8, "big"), previous, leaf)

    def seal_head(self, head: Head) -> bytes:
        """Return a head as it is stored."""
        return self._heads.seal(head.encode())

    def open_head(self, sealed: bytes) -> Head:
        """Open and decode a stored head; raises IntegrityError."""
        try:
            return Head.decode(self._heads.open(sealed))
        except IntegrityError as error:
            raise IntegrityError("the log's head does not authenticate") from error

    def row(self, index: int, control: int, body: bytes, leaf: bytes, chain: bytes) -> Row:
        """Return the row of an entry, given by its canonical bytes."""
        padded = body + bytes(-len(body) % PADDED)
        return Row(index, control, self._entries.seal(padded, _place(index, control)), leaf, chain)

    def body(self, row: Row) -> bytes:
        """Return a row's entry, canonical bytes that this key sealed at this index with this control mark.

        Of an older history, maybe: see ``check_row``. Raises IntegrityError.
        """
        try:
            return self._entries.open(row.sealed, _place(row.idx, row.control)).rstrip(b"\0")
        except IntegrityError:
            raise IntegrityError(f"log entry {row.idx}: its bytes or its control mark were altered") from None

    def check_row(self, row: Row, previous: bytes) -> bytes:
        """Authenticate a row against the chain value before it; return the entry's canonical bytes."""
        body = self.body(row)
        leaf = leaf_hash(body)
        if leaf != row.leaf:
            raise IntegrityError(f"log entry {row.idx}: its bytes were altered")
        if not p.compare(self.chain(row.idx, previous, leaf), row.chain):
            raise IntegrityError(f"log entry {row.idx}: it does not follow from the entry before it")
        return body

    def open_row(self, row: Row, previous: bytes) -> JsonObject:
        """``check_row``, and parse the entry."""
        return entries.parse(self.check_row(row, previous))
