"""Inclusion and consistency proofs of RFC 6962 §2.1, made from stored hashes and verified (SPEC §10.6).

Verification is the algorithm of RFC 9162 §2.1.3.2 and §2.1.4.2; it raises and never returns a bool.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from facekeep.auditlog.merkle import EMPTY_ROOT, HASH_LEN, node_hash
from facekeep.errors import FormatError, IntegrityError, UsageError


class HashReader(Protocol):
    """Where hashes come from; what it gives is believed only once a proof made of it verifies."""

    def subtree(self, height: int, n: int) -> bytes:
        """Root of the perfect subtree of leaves ``n * 2^height`` to ``(n + 1) * 2^height - 1``."""
        ...


def tree_root(reader: HashReader, size: int) -> bytes:
    """Root of the first ``size`` leaves."""
    return range_root(reader, 0, size) if size else EMPTY_ROOT


def range_root(reader: HashReader, low: int, high: int) -> bytes:
    """MTH(D[low:high]), where ``low`` is a multiple of the greatest power of two below ``high - low``."""
    parts: list[bytes] = []
    while low < high:
        height = (high - low).bit_length() - 1
        parts.append(reader.subtree(height, low >> height))
        low += 1 << height
    root = parts.pop()
    while parts:
        root = node_hash(parts.pop(), root)
    return root


def inclusion_proof(reader: HashReader, index: int, size: int) -> tuple[bytes, ...]:
    """PATH(index, D[size]), from the leaf's sibling upward; empty for size 1."""
    if not 0 <= index < size:
        raise UsageError(f"a tree of {size} entries has no entry {index}")
    path: list[bytes] = []
    low, high = 0, size
    while high - low > 1:
        middle = low + _split(high - low)
        if index < middle:
            path.append(range_root(reader, middle, high))
            high = middle
        else:
            path.append(range_root(reader, low, middle))
            low = middle
    return tuple(reversed(path))


def consistency_proof(reader: HashReader, old: int, new: int) -> tuple[bytes, ...]:
    """PROOF(old, D[new]); empty where old is 0 (SPEC §10.6) or new."""
    if not 0 <= old <= new:
        raise UsageError(f"a tree of {new} entries does not continue one of {old}")
    if old in (0, new):
        return ()
    path: list[bytes] = []
    low, high = 0, new
    while high > old:
        middle = low + _split(high - low)
        if old <= middle:
            path.append(range_root(reader, middle, high))
            high = middle
        else:
            path.append(range_root(reader, low, middle))
            low = middle
    if low:
        path.append(range_root(reader, low, high))
    return tuple(reversed(path))


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Check that ``leaf`` (a leaf hash) is entry ``index`` of the tree; raises IntegrityError."""
    _check_lengths((leaf, root, *proof))
    if not 0 <= index < size:
        raise IntegrityError("the proof is for an entry outside the tree")
    node, last, result = index, size - 1, leaf
    for item in proof:
        if last == 0:
            raise IntegrityError("the inclusion proof has too many hashes")
        if node & 1 or node == last:
            result = node_hash(item, result)
            while node and not node & 1:
                node, last = node >> 1, last >> 1
        else:
            result = node_hash(result, item)
        node, last = node >> 1, last >> 1
    if last:
        raise IntegrityError("the inclusion proof has too few hashes")
    if result != root:
        raise IntegrityError("the inclusion proof does not lead to the tree's root")


def verify_consistency(old: int, old_root: bytes, new: int, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Check that the tree of ``new`` entries begins with that of ``old``; raises IntegrityError.

    From size 0 the proof is empty and the old root that of the empty tree: every tree continues it.
    """
    _check_lengths((old_root, new_root, *proof))
    if not 0 <= old <= new:
        raise IntegrityError("the newer tree is smaller than the older one")
    if (old == 0 and old_root != EMPTY_ROOT) or (new == 0 and new_root != EMPTY_ROOT):
        raise IntegrityError("a tree of size 0 does not have the root of the empty tree")
    if old in (0, new):
        if proof:
            raise IntegrityError("the consistency proof has too many hashes")
        if old == new and old_root != new_root:
            raise IntegrityError("two trees of one size have different roots")
        return
    _walk_consistency(old, old_root, new, new_root, proof)


def _walk_consistency(old: int, old_root: bytes, new: int, new_root: bytes, proof: Sequence[bytes]) -> None:
    """RFC 9162 §2.1.4.2, steps 3 to 7, for 0 < old < new."""
    path = [old_root, *proof] if old & (old - 1) == 0 else list(proof)
    if not path:
        raise IntegrityError("the consistency proof has too few hashes")
    node, last = old - 1, new - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    old_result = new_result = path[0]
    for item in path[1:]:
        if last == 0:
            raise IntegrityError("the consistency proof has too many hashes")
        if node & 1 or node == last:
            old_result, new_result = node_hash(item, old_result), node_hash(item, new_result)
            while node and not node & 1:
                node, last = node >> 1, last >> 1
        else:
            new_result = node_hash(new_result, item)
        node, last = node >> 1, last >> 1
    if last:
        raise IntegrityError("the consistency proof has too few hashes")
    if old_result != old_root or new_result != new_root:
        raise IntegrityError("the consistency proof does not lead from the older root to the newer one")


def _split(count: int) -> int:
    """Return the greatest power of two below ``count``."""
    return 1 << ((count - 1).bit_length() - 1)


def _check_lengths(hashes: Sequence[bytes]) -> None:
    if any(len(item) != HASH_LEN for item in hashes):
        raise FormatError("a hash in a proof is not 32 bytes long")
