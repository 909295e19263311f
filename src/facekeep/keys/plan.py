"""What a swap writes: the touched paths re-keyed bottom-up, the root node last (SPEC §3.5). No effects."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

import numpy as np

from facekeep.crypto.primitives import random_bytes, seal
from facekeep.errors import FormatError, TreeFull
from facekeep.formats.ids import BRANCH_SLOTS, FANOUT, LEVEL2_SPAN, SLOT_BITS
from facekeep.formats.nodes import (
    FULL_MAP,
    KEY_LEN,
    LEAF_LEVEL,
    ZERO_KEY,
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


class _Child(NamedTuple):
    """What a parent has of a child: its key, and whether it has a row of its own."""

    key: bytes
    stored: bool = False


_DEAD: Final = _Child(ZERO_KEY)
_NONE: Final = np.zeros(0, dtype=np.int64)
_SPANS: Final = {1: BRANCH_SLOTS, 2: LEVEL2_SPAN, LEAF_LEVEL: FANOUT}
_Step: TypeAlias = Generator[SwapRow, None, _Child | None]
"""Yields rows; returns ``_DEAD`` for a wholly dead node, None for an untouched one."""


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
    alloc: Mapping[int, int],
    take: Sequence[int] = (),
    principals: Sequence[int] = (),
    index_hashes: Sequence[bytes] = (),
    rekey: Rekey | None = None,
    drop: Sequence[int] = (),
) -> SwapWrites:
    """Rows of the epoch after ``tree`` in which ``dead_slots`` are dead.

    Slots already dead are fine. ``alloc`` leads from a branch to the index of its first slot that was never
    given out, as the log's head has it (a branch that it lacks: none was): from there on every slot that
    lives gets another key. ``take`` are the kinds of branches to take, in order. ``principals`` (slots) and
    ``index_hashes`` are rows to delete along with it. The rows are made while they are read, in memory for
    one path; a second reading needs a second plan under a second root, since a key seals one node only.
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
    rows = _Planner(tree, alloc, rekey, drop).top(slots, new_root, pin, now_ms, kinds)
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

    def __init__(
        self, tree: KeyTree, alloc: Mapping[int, int], rekey: Rekey | None = None, drop: Sequence[int] = ()
    ) -> None:
        self._tree = tree
        self._alloc = alloc
        self._doomed = frozenset(drop)
        self._rekeying = rekey is not None
        self._fresh = dict(rekey.fresh) if rekey else {}
        self._epoch = tree.epoch + 1

    def top(
        self, slots: Int64, new_root: bytes, pin: Pin, now_ms: int, take: Sequence[Kind]
    ) -> Iterator[SwapRow]:
        root = self._tree.root_node
        positions, following = list(root.positions), root.next_branch
        made: dict[int, _Child] = {}
        for place, branch, _ in self._tree.branches():
            dead = _within(slots, branch << SLOT_BITS, BRANCH_SLOTS)
            child = yield from self._branch(branch, dead, stored=root.node.is_stored(place))
            if child is _DEAD:
                positions[place] = (0, Kind.FREE)
            if child is not None:
                made[place] = _fresh_child() if child is _DEAD else child
        for place, kind in zip(_free(positions, len(take)), take, strict=True):
            positions[place] = (following, kind)
            made[place] = _fresh_child()
            following += 1
        yield seal_top(
            self._tree.vault_id,
            new_root,
            RootNode(_put(root.node, made), tuple(positions), following, self._epoch, pin, now_ms),
        )

    def _branch(self, branch: int, dead: Int64, *, stored: bool) -> _Step:
        given = self._alloc.get(branch, 0)
        if branch in self._doomed or len(dead) == BRANCH_SLOTS:
            return (yield from self._drop(branch, 1, 0))
        if not given and not len(dead):
            if stored:
                yield NodeDrop(branch, 1, 0)
            return _fresh_child()
        if len(dead) or given < BRANCH_SLOTS or (self._rekeying and (stored or self._slots(branch, 1, 0))):
            return (yield from self._node(branch, 1, 0, dead, given))
        return None

    def _node(self, branch: int, level: int, number: int, dead: Int64, given: int) -> _Step:
        """Re-key a node and what is touched below it, if anything is.

        ``dead`` are indexes counted from its first slot; the first ``given`` of its slots were given out.
        """
        if level == LEAF_LEVEL:
            return (yield from self._leaf(branch, number, dead, given))
        node = self._tree.node(branch, level, number)
        if node is None:
            return None
        span = _SPANS[level] // FANOUT
        parts = dict(_split(dead, span))
        begun, unused = given // span, -(-given // span)
        touched = {*parts, *range(begun, unused)}
        if self._rekeying:
            touched |= {child for child in range(FANOUT) if node.is_stored(child)}
            touched |= {at // span for at in self._slots(branch, level, number)}
        made: dict[int, _Child] = {}
        for at in sorted(touched):
            if not node.is_dead(at):
                part, rest = parts.get(at, _NONE), min(max(given - at * span, 0), span)
                below = branch, level + 1, number * FANOUT + at
                whole = len(part) == span
                child = yield from self._drop(*below) if whole else self._node(*below, part, rest)
                if child is not None:
                    made[at] = child
        for at in range(unused, FANOUT) if node.stored & _from(unused) else ():
            if node.is_stored(at) and at not in touched:
                yield NodeDrop(branch, level + 1, number * FANOUT + at)
        if not made and unused >= FANOUT and not self._rekeying:
            return None
        return (yield from self._seal(branch, level, number, _put(_unused_anew(node, unused), made)))

    def _leaf(self, branch: int, number: int, dead: Int64, given: int) -> _Step:
        node = self._tree.node(branch, LEAF_LEVEL, number, keep=False)
        if node is None:
            return None
        made = {at: _Child(key) for at, key in self._slots(branch, LEAF_LEVEL, number).items()}
        if any(node.is_dead(at) for at in made):
            raise FormatError("a destroyed slot would get a key")
        dying = _map(dead) & ~node.dead
        if not dying and given == FANOUT and not self._rekeying:
            return None
        children = np.frombuffer(_put(_unused_anew(node, given), made).children, dtype=np.uint8)
        left = children.reshape(FANOUT, KEY_LEN).copy()
        left[dead] = 0
        return (yield from self._seal(branch, LEAF_LEVEL, number, Node(left.tobytes(), 0, node.dead | dying)))

    def _slots(self, branch: int, level: int, number: int) -> dict[int, bytes]:
        """Fresh slot keys below a node, by index from its first slot."""
        first = (branch << SLOT_BITS) + number * _SPANS[level]
        return {slot - first: key for slot, key in self._fresh.items() if 0 <= slot - first < _SPANS[level]}

    def _seal(self, branch: int, level: int, number: int, node: Node) -> _Step:
        """Seal under a fresh key, which seals nothing else; drop a node whose children are all dead."""
        if node.dead == FULL_MAP:
            return (yield from self._drop(branch, level, number))
        fresh = random_bytes(KEY_LEN)
        aad = node_aad(self._tree.vault_id, branch, level, number, self._epoch)
        yield NodeRow(branch, level, number, self._epoch, seal(fresh, encode_node(node, level), aad))
        return _Child(fresh, stored=True)

    @staticmethod
    def _drop(branch: int, level: int, number: int) -> _Step:
        yield NodeDrop(branch, level, number)
        return _DEAD


def seal_top(vault_id: bytes, root: bytes, node: RootNode) -> TopRow:
    """Seal the root node under a root that has sealed none before."""
    mark = root_fingerprint(vault_id, root)
    return TopRow(node.epoch, mark, seal(root, encode_root(node), root_aad(vault_id, node.epoch, mark)))


def _fresh_child() -> _Child:
    return _Child(random_bytes(KEY_LEN))


def _put(node: Node, made: Mapping[int, _Child]) -> Node:
    """Put children in the place of its own."""
    children, stored, dead = bytearray(node.children), node.stored, node.dead
    for at, child in made.items():
        children[KEY_LEN * at : KEY_LEN * (at + 1)] = child.key
        stored = stored | bit(at) if child.stored else stored & ~bit(at)
        dead = dead | bit(at) if child is _DEAD else dead
    return Node(bytes(children), stored, dead)


def _from(first: int) -> int:
    """Return the bits of the children from ``first`` on."""
    return (1 << max(FANOUT - first, 0)) - 1


def _unused_anew(node: Node, first: int) -> Node:
    """Give the children from ``first`` on fresh random keys, and none a row; what is dead stays so."""
    if first >= FANOUT:
        return node
    after = _from(first)
    children = bytearray(node.children)
    children[KEY_LEN * first :] = random_bytes(KEY_LEN * (FANOUT - first))
    for at in range(first, FANOUT) if node.dead & after else ():
        if node.is_dead(at):
            children[KEY_LEN * at : KEY_LEN * (at + 1)] = ZERO_KEY
    return Node(bytes(children), node.stored & ~after, node.dead)


def _within(slots: Int64, first: int, count: int) -> Int64:
    low, high = np.searchsorted(slots, (first, first + count)).tolist()
    return slots[low:high] - first


def _split(index: Int64, span: int) -> Iterator[tuple[int, Int64]]:
    """Split sorted indexes by the child whose ``span`` they fall into: (child, indexes inside it)."""
    if not len(index):
        return
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
