"""From a subject id to its tag: a keyed-hash index in keys.db, never in backups (SPEC §5.7)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from facekeep.crypto import many
from facekeep.crypto import primitives as p
from facekeep.errors import IntegrityError
from facekeep.formats.ids import TAG_LEN
from facekeep.store.keysdb import KeysStore

_INDEX = p.domain("subject-index")
_SEAL = p.domain("subject-index-seal")


class SubjectIndex:
    """Looks subjects up and makes index rows. ``key`` is the slot key of system slot 1."""

    def __init__(self, store: KeysStore, vault_id: bytes, key: bytes) -> None:
        """Derive the sealing key."""
        self._store = store
        self._prefix = _INDEX + vault_id
        self._key = key
        self._seal_key = p.mac(key, _SEAL)
        self._aead = p.Aead(self._seal_key)

    def is_under(self, key: bytes) -> bool:
        """Whether this is the index under a key."""
        return p.compare(key, self._key)

    def hash(self, handle: bytes) -> bytes:
        """Row key of a subject id, by its handle (``sealing.handles``), 32 bytes."""
        return p.mac(self._key, self._prefix, handle)

    def hash_many(self, handles: Iterable[bytes]) -> list[bytes]:
        """Row keys of many subject ids, in order."""
        return many.mac_many(self._key, [self._prefix + handle for handle in handles])

    def rows(self, hashes: Sequence[bytes], tags: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
        """``row`` of many."""
        sealed = many.seal_all(self._seal_key, tags, self._prefix, hashes)
        return list(zip(hashes, sealed, strict=True))

    def row(self, hashed: bytes, tag: bytes) -> tuple[bytes, bytes]:
        """(row key, sealed tag) that binds a subject, by its row key, to a tag."""
        return hashed, self._aead.seal(tag, self._prefix + hashed)

    def lookup(self, handle: bytes) -> bytes | None:
        """Tag of a subject, or None; raises IntegrityError when the row was altered or moved."""
        hashed = self.hash(handle)
        sealed = self._store.index_get(hashed)
        return None if sealed is None else self.open(hashed, sealed)

    def lookup_many(self, hashes: Sequence[bytes]) -> list[bytes | None]:
        """Tags under many row keys, in order; raises IntegrityError as ``lookup``."""
        found = self._store.index_get_many(hashes)
        return [
            None if sealed is None else self.open(row, sealed)
            for row, sealed in zip(hashes, found, strict=True)
        ]

    def opened(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield (row key, tag) of every row; the tag is empty where the row was altered."""
        for rows in self._store.index_pieces():
            yield from zip((row for row, _ in rows), self._each(rows), strict=True)

    def _each(self, rows: list[tuple[bytes, bytes]]) -> Iterator[bytes]:
        try:
            found = self._aead.open_many(rows, self._prefix)
        except IntegrityError:
            found = b""
        if len(found) == TAG_LEN * len(rows):
            yield from (found[at : at + TAG_LEN] for at in range(0, len(found), TAG_LEN))
            return
        for hashed, sealed in rows:
            try:
                yield self.open(hashed, sealed)
            except IntegrityError:
                yield b""

    def open(self, hashed: bytes, sealed: bytes) -> bytes:
        """Tag in a row; raises IntegrityError."""
        return self._aead.open(sealed, self._prefix + hashed)
