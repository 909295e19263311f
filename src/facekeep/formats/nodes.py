"""Nodes of the key tree: plaintexts, associated data, row numbers (SPEC §3).

A *map* of 120 bits is an int here whose bit 119 - i stands for child i, which is the big-endian reading of
the fifteen bytes of SPEC §3.2.
"""

from __future__ import annotations

import enum
import hashlib
import struct
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from facekeep.errors import FormatError
from facekeep.formats.ids import FANOUT, VAULT_ID_LEN
from facekeep.wiping import wipe, wipe_last

KEY_LEN: Final = 32
CHILDREN_LEN: Final = FANOUT * KEY_LEN
MAP_LEN: Final = 15
NODE_LEN: Final = CHILDREN_LEN + 2 * MAP_LEN
ROOT_LEN: Final = NODE_LEN + FANOUT * 5 + 4 + 8 + 8 + 32 + 32 + 8
FULL_MAP: Final = (1 << FANOUT) - 1
ZERO_KEY: Final = bytes(KEY_LEN)
LEAF_LEVEL: Final = 3
MAX_INTEGER: Final = 2**53 - 1
MAX_BRANCH: Final = 2**32 - 1
BRANCH_ROW_BITS: Final = 15

_LEVEL_SIZES: Final = {1: 1, 2: FANOUT, 3: FANOUT**2}
_ROW_OFFSETS: Final = {1: 0, 2: 256, 3: 1024}
_SUITE: Final = b"\0\1"
_NODE_INFO: Final = b"facekeep/v1/node\0"
_NODE_AAD: Final = b"facekeep/v1/tree-node\0" + _SUITE
_ROOT_AAD: Final = b"facekeep/v1/root-node\0" + _SUITE
_FINGERPRINT: Final = b"facekeep/v1/root-fingerprint\0"
_PLACE: Final = struct.Struct(">IBI")
_POSITIONS: Final = struct.Struct(">" + "IB" * FANOUT)
_TAIL: Final = struct.Struct(">IQQ32s32sQ")


class Kind(enum.IntEnum):
    """What a branch position is used for."""

    FREE = 0
    SYSTEM = 1
    VERIFY = 2
    IDENTIFY = 3
    EVALUATE = 4
    TRAIN = 5
    SHARE = 6


_KINDS: Final = tuple(Kind)


@dataclass(frozen=True, slots=True)
class Pin:
    """The log at a swap: its size, RFC 6962 root hash (32 bytes) and chain value (32 bytes)."""

    size: int
    root: bytes
    chain: bytes


EMPTY_PIN: Final = Pin(0, hashlib.sha256(b"").digest(), bytes(32))


@dataclass(frozen=True, slots=True)
class Node:
    """120 child keys in one string of 3,840 bytes, and the maps of stored and dead children."""

    children: bytes = field(repr=False)
    stored: int = 0
    dead: int = 0

    def __del__(self) -> None:
        """Zero the keys with the last who has them."""
        wipe_last(self, "children")

    def child(self, number: int) -> bytes:
        """Key of child ``number``, 0..119: 32 bytes, zero where it is dead."""
        return self.children[KEY_LEN * number : KEY_LEN * (number + 1)]

    def is_stored(self, number: int) -> bool:
        """Whether child ``number`` has a row of its own."""
        return bool(self.stored & bit(number))

    def is_dead(self, number: int) -> bool:
        """Whether child ``number`` is destroyed."""
        return bool(self.dead & bit(number))


@dataclass(frozen=True, slots=True)
class RootNode:
    """The root node: its children, what each position holds, and the state the swap recorded.

    ``positions`` has 120 pairs (branch number, kind); a free position is (0, Kind.FREE).
    """

    node: Node
    positions: tuple[tuple[int, Kind], ...]
    next_branch: int
    epoch: int
    pin: Pin
    swapped_at_ms: int


def bit(number: int) -> int:
    """Mask of child ``number`` in a map."""
    return 1 << (FANOUT - 1 - number)


def encode_node(node: Node, level: int) -> bytes:
    """Plaintext of a stored node, 3,870 bytes (SPEC §3.2); raises FormatError."""
    _check_node(node, level)
    return node.children + node.stored.to_bytes(MAP_LEN, "big") + node.dead.to_bytes(MAP_LEN, "big")


def decode_node(data: bytes, level: int) -> Node:
    """Node of exactly 3,870 bytes of plaintext; raises FormatError."""
    if len(data) != NODE_LEN:
        raise FormatError("a tree node has the wrong length")
    node = Node(
        data[:CHILDREN_LEN],
        int.from_bytes(data[CHILDREN_LEN : CHILDREN_LEN + MAP_LEN], "big"),
        int.from_bytes(data[CHILDREN_LEN + MAP_LEN :], "big"),
    )
    _check_node(node, level)
    return node


def _check_node(node: Node, level: int) -> None:
    if len(node.children) != CHILDREN_LEN or not (
        0 <= node.stored <= FULL_MAP and 0 <= node.dead <= FULL_MAP
    ):
        raise FormatError("a tree node has the wrong length")
    if node.stored & node.dead:
        raise FormatError("a tree node says that a destroyed child is stored")
    if level == LEAF_LEVEL and node.stored:
        raise FormatError("a leaf node says that a slot is stored")
    if level == 0 and node.dead:
        raise FormatError("the root node says that a position is destroyed")
    if node.dead == FULL_MAP:
        raise FormatError("a tree node is wholly destroyed yet stored")
    if _zero_keys(node.children) != node.dead:
        raise FormatError("a tree node's zero keys are not its destroyed children")


def _zero_keys(children: bytes) -> int:
    """Map of the children that are 32 zero bytes."""
    if ZERO_KEY not in children:  # at no place at all: as a rule
        return 0
    zero = ~np.frombuffer(children, dtype="<u8").reshape(FANOUT, 4).any(axis=1)
    return int.from_bytes(np.packbits(zero).tobytes(), "big")


def encode_root(root: RootNode) -> bytes:
    """Plaintext of the root node, 4,562 bytes (SPEC §3.3); raises FormatError."""
    _check_root(root)
    flat = [number for position in root.positions for number in position]
    tail = (root.next_branch, root.epoch, root.pin.size, root.pin.root, root.pin.chain, root.swapped_at_ms)
    return encode_node(root.node, 0) + _POSITIONS.pack(*flat) + _TAIL.pack(*tail)


def decode_root(data: bytes) -> RootNode:
    """Root node of exactly 4,562 bytes of plaintext; raises FormatError."""
    if len(data) != ROOT_LEN:
        raise FormatError("the root node has the wrong length")
    flat = _POSITIONS.unpack_from(data, NODE_LEN)
    try:
        positions = tuple(zip(flat[::2], [_KINDS[kind] for kind in flat[1::2]], strict=True))
    except IndexError:
        raise FormatError("a branch position has an unknown kind") from None
    next_branch, epoch, size, pin_root, chain, swapped = _TAIL.unpack_from(data, ROOT_LEN - _TAIL.size)
    part = data[:NODE_LEN]
    try:
        node = decode_node(part, 0)
    finally:
        wipe(part)
    root = RootNode(node, positions, next_branch, epoch, Pin(size, pin_root, chain), swapped)
    _check_root(root)
    return root


def _check_root(root: RootNode) -> None:
    if len(root.positions) != FANOUT or len(root.pin.root) != 32 or len(root.pin.chain) != 32:  # noqa: PLR2004 - SHA-256
        raise FormatError("the root node has the wrong length")
    numbers = (root.epoch - 1, root.pin.size, root.swapped_at_ms)
    if min(numbers) < 0 or max(numbers) >= MAX_INTEGER or not 0 <= root.next_branch <= MAX_BRANCH:
        raise FormatError("the root node has a number out of range")
    used = [(at, branch) for at, (branch, kind) in enumerate(root.positions) if kind is not Kind.FREE]
    places, taken = sum(bit(at) for at, _ in used), {branch for _, branch in used}
    if root.positions.count((0, Kind.FREE)) + len(used) != FANOUT or root.node.stored & ~places:
        raise FormatError("a free branch position is not empty")
    if len(taken) < len(used) or any(not 0 <= branch < root.next_branch for branch in taken):
        raise FormatError("a branch number stands twice, or was never given out")


def node_info(vault_id: bytes, branch: int, level: int, index: int) -> bytes:
    """Return what SHAKE256 reads before the node key to derive a node's children (SPEC §3.1)."""
    return _NODE_INFO + vault_id + _place(branch, level, index)


def node_aad(vault_id: bytes, branch: int, level: int, index: int, epoch: int) -> bytes:
    """Associated data of a stored node sealed in ``epoch`` (SPEC §3.2); raises FormatError."""
    return _NODE_AAD + vault_id + _place(branch, level, index) + _epoch(epoch)


def root_aad(vault_id: bytes, epoch: int, fingerprint: bytes) -> bytes:
    """Associated data of the root node (SPEC §3.3); raises FormatError out of range."""
    return _ROOT_AAD + vault_id + _epoch(epoch) + fingerprint


def root_fingerprint(vault_id: bytes, root: bytes) -> bytes:
    """Public name of a root key, 32 bytes (SPEC §3.3)."""
    if len(vault_id) != VAULT_ID_LEN or len(root) != KEY_LEN:
        raise FormatError("a root key or vault id has the wrong length")
    hashed = hashlib.sha256(_FINGERPRINT + vault_id)
    hashed.update(root)
    return hashed.digest()


def row_id(branch: int, level: int, index: int, copy: int = 0) -> int:
    """Row number of a stored node in keys.db; only a branch node has a copy 1 (SPEC §8.1)."""
    _place(branch, level, index)
    return branch << BRANCH_ROW_BITS | _ROW_OFFSETS[level] + index + copy


def row_span(branch: int, level: int, index: int) -> tuple[tuple[int, int], ...]:
    """Row number ranges (first, last) that a node and everything below it can have in keys.db."""
    first = row_id(branch, level, index)
    if level == 1:
        return ((first, first | (1 << BRANCH_ROW_BITS) - 1),)
    if level == LEAF_LEVEL:
        return ((first, first),)
    leaf = row_id(branch, LEAF_LEVEL, index * FANOUT)
    return ((first, first), (leaf, leaf + FANOUT - 1))


def _place(branch: int, level: int, index: int) -> bytes:
    if not (0 <= branch <= MAX_BRANCH and 0 <= index < _LEVEL_SIZES.get(level, 0)):
        raise FormatError("a tree node is outside the key tree")
    return _PLACE.pack(branch, level, index)


def _epoch(epoch: int) -> bytes:
    if not 1 <= epoch <= MAX_INTEGER:
        raise FormatError("an epoch is out of range")
    return epoch.to_bytes(8, "big")
