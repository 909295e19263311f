"""The Merkle tree of RFC 6962 §2.1, kept as the roots of its perfect subtrees (SPEC §6.1, §6.3)."""

from __future__ import annotations

from collections.abc import Sequence

from facekeep.crypto.primitives import sha256
from facekeep.errors import FormatError

HASH_LEN = 32
EMPTY_ROOT = sha256(b"")


def leaf_hash(entry: bytes) -> bytes:
    """Hash of one entry's exact bytes: ``H(0x00 || entry)``."""
    return sha256(b"\0", entry)


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of an inner node: ``H(0x01 || left || right)``."""
    return sha256(b"\1", left, right)


class Frontier:
    """State of a growing tree: O(log n) hashes, largest subtree first; an append is one hash on average."""

    __slots__ = ("_hashes", "size")

    def __init__(self, size: int = 0, hashes: Sequence[bytes] = ()) -> None:
        """Take up a tree of ``size`` leaves; raises FormatError if the hashes cannot be its frontier."""
        if size < 0 or len(hashes) != size.bit_count() or any(len(item) != HASH_LEN for item in hashes):
            raise FormatError("a Merkle frontier does not fit its size")
        self.size = size
        self._hashes = list(hashes)

    def append(self, leaf: bytes) -> None:
        """Add one leaf hash."""
        size, hashes = self.size, self._hashes
        while size & 1:
            leaf = node_hash(hashes.pop(), leaf)
            size >>= 1
        hashes.append(leaf)
        self.size += 1

    def hashes(self) -> tuple[bytes, ...]:
        """Roots of the perfect subtrees, largest first; empty for the empty tree."""
        return tuple(self._hashes)

    def root(self) -> bytes:
        """Root hash; that of the empty tree is SHA-256 of nothing."""
        if not self._hashes:
            return EMPTY_ROOT
        root = self._hashes[-1]
        for left in reversed(self._hashes[:-1]):
            root = node_hash(left, root)
        return root
