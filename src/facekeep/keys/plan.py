"""What a swap writes: the touched paths re-keyed bottom-up, the root node last (SPEC.md §3.5). No effects."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np

from facekeep.crypto.primitives import random_bytes, seal
from facekeep.errors import FormatError, TreeFull
from facekeep.formats.ids import BRANCH_SLOTS, FANOUT, LEVEL2_SPAN, SLOT_BITS
from facekeep.formats.nodes import (
    FULL_MAP,
    KEY_LEN,
    LEAF_LEVEL,
    Kind,
    Node,
    Pin,
    RootNode,
    bit,
    encode_node,
    encode_root,
    node_aad,
    root_aad,
    root_fingerprint,
)
from facekeep.keys.slots import Int64, Slots, distinct
from facekeep.keys.tree import KeyTree
from facekeep.store.keysdb import NodeDrop, NodeRow, SwapRow, SwapWrites, TopRow

_DEAD: Final = b""
_Step: TypeAlias = Generator[SwapRow, None, bytes | None]
"""Yields rows; returns the new node key, ``_DEAD`` for a wholly dead node, None for an untouched one."""


@dataclass(frozen=True, slots=True)
class Rekey:
    """What re-keying the tree replaces besides node keys: keys of the vault's own slots, the subject index.

    ``fresh`` leads from a system slot to its new key (32 bytes); ``index`` yields all rows of the index anew.
    """

    fresh: Mapping[int, bytes]
    index: Callable[[], Iterable[tuple[bytes, bytes]]]


def plan(
    tree: KeyTree,
    dead_slots: Slots,
    *,
    new_root: bytes,
    pin: Pin,
    now_ms: int,
    take: Sequence[int] = (),
    principals: Sequence[int] = (),
    index_hashes: Sequence[bytes] = (),
    rekey: Rekey | None = None,
    drop: Sequence[int] = (),
) -> SwapWrites:
    """Rows of the epoch after ``tree`` in which ``dead_slots`` are dead.

    Slots already dead are fine. ``take`` are the kinds of branches to take, in order. ``principals`` (slots)
    and ``index_hashes`` are rows to delete along with it. The rows are made while they are read, in memory
    for one path; a second reading needs a second plan under a second root, since a key seals one node only.
    With ``rekey`` every stored node gets a fresh key, and no slot may be destroyed along with it.
    ``drop`` are branches (numbers) that end whole, slots never given out among them.
    Raises FormatError for a slot that no branch of this vault ever had, TreeFull.
    """
    slots = distinct(dead_slots)
    _check_slots(slots, tree.root_node.next_branch)
    kinds = _kinds(take)
    if not len(slots):
        _free(tree.root_node.positions, len(take))  # before anything is staged
    if rekey is not None and len(slots):
        raise FormatError("the tree is re-keyed by itself, or a slot destroyed")
    rows = _Planner(tree, rekey, drop).top(slots, new_root, pin, now_ms, kinds)
    index = None if rekey is None else iter(rekey.index())
    return SwapWrites(tree.fingerprint, rows, tuple(principals), tuple(index_hashes), index)


def _check_slots(slots: Int64, next_branch: int) -> None:
    if not len(slots):
        return
    inside = (slots & (1 << SLOT_BITS) - 1) < BRANCH_SLOTS
    if slots[0] < 0 or int(slots[-1]) >> SLOT_BITS >= next_branch or not bool(inside.all()):
        raise FormatError("a slot to destroy was never part of the key tree")


def _kinds(take: Sequence[int]) -> tuple[Kind, ...]:
    if not set(take) <= set(Kind) - {Kind.FREE}:
        raise FormatError("a branch is taken for an unknown kind")
    return tuple(Kind(each) for each in take)


class _Planner:
    """Walks the touched paths bottom-up and yields every re-keyed node exactly once."""

    def __init__(self, tree: KeyTree, rekey: Rekey | None = None, drop: Sequence[int] = ()) -> None:
        self._tree = tree
        self._doomed = frozenset(drop)
        self._rekeying = rekey is not None
        self._fresh = dict(rekey.fresh) if rekey else {}
        self._epoch = tree.epoch + 1

    def top(
        self, slots: Int64, new_root: bytes, pin: Pin, now_ms: int, take: Sequence[Kind]
    ) -> Iterator[SwapRow]:
        root = self._tree.root_node
        children = bytearray(root.node.children)
        positions, stored, following = list(root.positions), root.node.stored, root.next_branch
        touched = set(distinct(slots >> SLOT_BITS).tolist())
        for place, branch, _ in self._tree.branches():
            if branch in self._doomed:
                key: bytes | None = yield from self._drop(branch, 1, 0)
            elif self._rekeying:
                key = yield from self._refresh(branch, 1, 0, stored=root.node.is_stored(place))
            elif branch in touched:
                key = yield from self._branch(branch, _within(slots, branch << SLOT_BITS, BRANCH_SLOTS))
            else:
                continue
            if key is None:
                continue
            stored = stored | bit(place) if key else stored & ~bit(place)
            children[KEY_LEN * place : KEY_LEN * (place + 1)] = key or random_bytes(KEY_LEN)
            positions[place] = positions[place] if key else (0, Kind.FREE)
        for place, kind in zip(_free(positions, len(take)), take, strict=True):
            positions[place] = (following, kind)
            children[KEY_LEN * place : KEY_LEN * (place + 1)] = random_bytes(KEY_LEN)
            following += 1
        node = Node(bytes(children), stored)
        yield seal_top(
            self._tree.vault_id,
            new_root,
            RootNode(node, tuple(positions), following, self._epoch, pin, now_ms),
        )

    def _branch(self, branch: int, index: Int64) -> _Step:
        if not len(index):
            return None
        if len(index) == BRANCH_SLOTS:
            return (yield from self._drop(branch, 1, 0))
        return (yield from self._inner(branch, 1, 0, index))

    def _refresh(self, branch: int, level: int, number: int, *, stored: bool) -> _Step:
        """Re-key what is stored from here on, and the paths to slots that get a fresh key."""
        span = {1: BRANCH_SLOTS, 2: LEVEL2_SPAN, LEAF_LEVEL: FANOUT}[level]
        first = (branch << SLOT_BITS) + number * span
        fresh = [slot for slot in self._fresh if first <= slot < first + span]
        node = self._tree.node(branch, level, number, keep=level < LEAF_LEVEL) if stored or fresh else None
        if node is None:
            return None
        keys: dict[int, bytes] = {}
        if level == LEAF_LEVEL:
            keys = {slot - first: self._fresh[slot] for slot in fresh}
            return (yield from self._seal(branch, level, number, _with_children(node, keys)))
        for child in range(FANOUT):
            if not node.is_dead(child):
                below = number * FANOUT + child
                key = yield from self._refresh(branch, level + 1, below, stored=node.is_stored(child))
                if key is not None:
                    keys[child] = key
        return (yield from self._rekey(branch, level, number, node, keys))

    def _inner(self, branch: int, level: int, number: int, index: Int64) -> _Step:
        """Re-key a node at level 1 or 2; ``index`` are slot indexes counted from its first slot."""
        node = self._tree.node(branch, level, number)
        if node is None:
            return None
        span = LEVEL2_SPAN if level == 1 else FANOUT
        keys: dict[int, bytes] = {}
        for child, part in _split(index, span):
            if node.is_dead(child):
                continue
            below = number * FANOUT + child
            if len(part) == span:
                key: bytes | None = yield from self._drop(branch, level + 1, below)
            elif level == 1:
                key = yield from self._inner(branch, 2, below, part)
            else:
                key = yield from self._leaf(branch, below, part)
            if key is not None:
                keys[child] = key
        return (yield from self._rekey(branch, level, number, node, keys)) if keys else None

    def _leaf(self, branch: int, number: int, index: Int64) -> _Step:
        node = self._tree.node(branch, LEAF_LEVEL, number, keep=False)
        if node is None:
            return None
        dead = node.dead | _map(index)
        if dead == node.dead:
            return None
        children = np.frombuffer(node.children, dtype=np.uint8).reshape(FANOUT, KEY_LEN).copy()
        children[index] = 0
        return (yield from self._seal(branch, LEAF_LEVEL, number, Node(children.tobytes(), 0, dead)))

    def _rekey(self, branch: int, level: int, number: int, node: Node, keys: dict[int, bytes]) -> _Step:
        """Put ``keys`` in place of its children's and seal the node again."""
        children, stored, dead = bytearray(node.children), node.stored, node.dead
        for child, key in keys.items():
            children[KEY_LEN * child : KEY_LEN * (child + 1)] = key or bytes(KEY_LEN)
            stored = stored | bit(child) if key else stored & ~bit(child)
            dead = dead if key else dead | bit(child)
        return (yield from self._seal(branch, level, number, Node(bytes(children), stored, dead)))

    def _seal(self, branch: int, level: int, number: int, node: Node) -> _Step:
        """Seal under a fresh key, which seals nothing else; drop a node whose children are all dead."""
        if node.dead == FULL_MAP:
            return (yield from self._drop(branch, level, number))
        fresh = random_bytes(KEY_LEN)
        aad = node_aad(self._tree.vault_id, branch, level, number, self._epoch)
        yield NodeRow(branch, level, number, self._epoch, seal(fresh, encode_node(node, level), aad))
        return fresh

    @staticmethod
    def _drop(branch: int, level: int, number: int) -> _Step:
        yield NodeDrop(branch, level, number)
        return _DEAD


def seal_top(vault_id: bytes, root: bytes, node: RootNode) -> TopRow:
    """Seal the root node under a root that has sealed none before."""
    mark = root_fingerprint(vault_id, root)
    return TopRow(node.epoch, mark, seal(root, encode_root(node), root_aad(vault_id, node.epoch, mark)))


def _with_children(node: Node, keys: Mapping[int, bytes]) -> Node:
    """Put fresh slot keys into a leaf node."""
    children = bytearray(node.children)
    for child, key in keys.items():
        if node.is_dead(child):
            raise FormatError("a destroyed slot would get a key")
        children[KEY_LEN * child : KEY_LEN * (child + 1)] = key
    return Node(bytes(children), 0, node.dead)


def _within(slots: Int64, first: int, count: int) -> Int64:
    low, high = np.searchsorted(slots, (first, first + count)).tolist()
    return slots[low:high] - first


def _split(index: Int64, span: int) -> Iterator[tuple[int, Int64]]:
    """Split sorted indexes by the child whose ``span`` they fall into: (child, indexes inside it)."""
    child = index // span
    starts = np.flatnonzero(np.diff(child, prepend=-1)).tolist()
    for low, high in zip(starts, [*starts[1:], len(index)], strict=True):
        which = int(child[low])
        yield which, index[low:high] - which * span


def _map(index: Int64) -> int:
    """Map of the children in ``index``."""
    marks = np.zeros(FANOUT, dtype=np.bool_)
    marks[index] = True
    return int.from_bytes(np.packbits(marks).tobytes(), "big")


def _free(positions: Sequence[tuple[int, Kind]], count: int) -> list[int]:
    free = [place for place, (_, kind) in enumerate(positions) if kind is Kind.FREE]
    if len(free) < count:
        raise TreeFull("the key tree has no free branch position")
    return free[:count]
