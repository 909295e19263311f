"""What only a holder of the log key can compute or check: chain values and the head's MAC (SPEC.md §6.3)."""

from __future__ import annotations

from facekeep.auditlog.head import Head
from facekeep.auditlog.merkle import leaf_hash
from facekeep.crypto import primitives as p
from facekeep.errors import IntegrityError
from facekeep.formats import entries
from facekeep.formats.canonical import JsonObject
from facekeep.store.logdb import Row

_START = p.domain("log-start")
_HEAD = p.domain("log-head")
_CONTROL = p.domain("log-control")
_PAGE = p.domain("log-page")
_MANIFEST = p.domain("backup-manifest")


class LogKey:
    """The log key of one vault."""

    __slots__ = ("_key", "_mac", "_vault_id", "start")

    def __init__(self, key: bytes, vault_id: bytes) -> None:
        """Take the 32-byte key (slot 0 of the system branch) and the 16-byte vault id."""
        self._key = key
        self._mac = p.Mac(key)
        self._vault_id = vault_id
        self.start = self._mac(_START, vault_id)

    def is_key(self, key: bytes) -> bool:
        """Whether this is the key."""
        return p.compare(self._key, key)

    def chain(self, index: int, previous: bytes, leaf: bytes) -> bytes:
        """Chain value of entry ``index``."""
        return self._mac(index.to_bytes(8, "big"), previous, leaf)

    def control(self, index: int, previous: bytes, leaf: bytes) -> bytes:
        """Control chain after control entry ``index``; 32 zero bytes stand before the first."""
        return self._mac(_CONTROL, index.to_bytes(8, "big"), previous, leaf)

    def head_mac(self, body: bytes) -> bytes:
        """Return the authenticator of an encoded head."""
        return self._mac(_HEAD, self._vault_id, body)

    def page_mac(self, body: bytes) -> bytes:
        """Return the authenticator of an encoded page of the ledger."""
        return self._mac(_PAGE, self._vault_id, p.sha256(body))

    def manifest_mac(self, body: bytes) -> bytes:
        """Return the authenticator of a backup's manifest (SPEC.md §8.2)."""
        return self._mac(_MANIFEST, self._vault_id, body)

    def open_head(self, body: bytes, mac: bytes) -> Head:
        """Authenticate and decode a stored head; raises IntegrityError."""
        if not p.compare(self.head_mac(body), mac):
            raise IntegrityError("the log's head does not authenticate")
        return Head.decode(body)

    def open_row(self, row: Row, previous: bytes) -> JsonObject:
        """Authenticate a row against the chain value before it and parse its entry, or IntegrityError."""
        self._check(row, previous)
        entry = entries.parse(row.body)
        if (entry["type"] != "decision") is not bool(row.control):
            raise _altered(row)
        return entry

    def check_row(self, row: Row, previous: bytes) -> None:
        """Authenticate a row without parsing its entry, or IntegrityError."""
        self._check(row, previous)
        if entries.is_decision(row.body) is bool(row.control):
            raise _altered(row)

    def _check(self, row: Row, previous: bytes) -> None:
        leaf = leaf_hash(row.body)
        if leaf != row.leaf:
            raise IntegrityError(f"log entry {row.idx}: its bytes were altered")
        if not p.compare(self.chain(row.idx, previous, leaf), row.chain):
            raise IntegrityError(f"log entry {row.idx}: it does not follow from the entry before it")


def _altered(row: Row) -> IntegrityError:
    return IntegrityError(f"log entry {row.idx}: its control mark was altered")
