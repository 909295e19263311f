"""The key tree as one epoch shows it: slot keys, and which slots are dead (SPEC §3).

A ``KeyTree`` never changes. When another process has swapped, what needs a row of the old epoch raises
TreeStale: open the tree again. Whether a tree is the present one is not for keys.db to say: the log's head
names it (SPEC §6.3), and only a root that is still held opens it.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from facekeep.crypto.primitives import expand_node, open_sealed
from facekeep.errors import IntegrityError, RootError, SlotDead
from facekeep.formats.ids import BRANCH_SLOTS, FANOUT, SLOT_BITS, split_slot
from facekeep.formats.nodes import (
    CHILDREN_LEN,
    KEY_LEN,
    LEAF_LEVEL,
    Kind,
    Node,
    Pin,
    RootNode,
    decode_node,
    decode_root,
    node_aad,
    node_info,
    root_aad,
    root_fingerprint,
)
from facekeep.keys.provider import Candidate
from facekeep.keys.slots import Int64, Slots, runs, slot_array, sorted_slots, unsorted
from facekeep.store.keysdb import KeysStore, NodeRow, TopRow
from facekeep.wiping import wipe

_CACHED_NODES: Final = 512  # nodes of 4 kB: two megabytes
_FEW: Final = 8  # slots for which arrays do not pay
_CHUNK: Final = 2048  # leaf nodes expanded at a time in bulk: eight megabytes
_DEAD_LEAF: Final = Node(bytes(CHILDREN_LEN))


class TreeStale(IntegrityError):
    """The tree was swapped by another process since it was opened."""

    default_next = "open the tree again"


class KeyTree:
    """One epoch of the tree. Thread-safe; keeps at most ``_CACHED_NODES`` opened nodes."""

    def __init__(self, store: KeysStore, vault_id: bytes, root: RootNode, top: TopRow) -> None:
        """Use ``open_tree``. ``root`` is what ``top`` holds."""
        self._store = store
        self._vault_id = vault_id
        self._fingerprint = top.fingerprint
        self._root = root
        self._top = top
        self._place = {
            branch: at for at, (branch, kind) in enumerate(root.positions) if kind is not Kind.FREE
        }
        self._cache: OrderedDict[tuple[int, int, int], Node] = OrderedDict()
        self._guard = threading.Lock()
        self._damage: set[str] = set()

    @property
    def vault_id(self) -> bytes:
        """The vault, 16 bytes."""
        return self._vault_id

    @property
    def epoch(self) -> int:
        """Number of this epoch, from 1."""
        return self._root.epoch

    @property
    def fingerprint(self) -> bytes:
        """Public name of this epoch's root, 32 bytes."""
        return self._fingerprint

    @property
    def pin(self) -> Pin:
        """The log at the swap that made this epoch."""
        return self._root.pin

    @property
    def swapped_at_ms(self) -> int:
        """When this epoch was made, ms since 1970."""
        return self._root.swapped_at_ms

    @property
    def root_node(self) -> RootNode:
        """The opened root node: for planning a swap."""
        return self._root

    @property
    def top_row(self) -> TopRow:
        """The row that this tree was opened from."""
        return self._top

    @property
    def damage(self) -> tuple[str, ...]:
        """Stored copies found unreadable, or unlike their twin, so far; the other copy served."""
        with self._guard:
            return tuple(sorted(self._damage))

    def branches(self) -> tuple[tuple[int, int, Kind], ...]:
        """Return (position, branch number, kind) of every taken position, by position."""
        return tuple((at, branch, self._root.positions[at][1]) for branch, at in self._place.items())

    def is_of(self, store: KeysStore) -> bool:
        """Whether it reads this store, and has found nothing damaged in it."""
        return self._store is store and not self.damage

    def afresh(self, store: KeysStore | None = None) -> KeyTree:
        """Return the same epoch with no node opened yet: for reading the stored ones again, or elsewhere."""
        return KeyTree(store or self._store, self._vault_id, self._root, self._top)

    def forgotten(self) -> KeyTree:
        """Return the same epoch without a key: it opens nothing, and stands for a tree still to be opened."""
        root, top = replace(self._root, node=_DEAD_LEAF), replace(self._top, blob=b"")
        return KeyTree(self._store, self._vault_id, root, top)

    @property
    def is_forgotten(self) -> bool:
        """Whether it has no key any more: nothing can be told from what it does not open."""
        return not self._top.blob

    def is_current(self) -> bool:
        """Whether both root-node rows name this epoch's root: a hint, from columns anybody may have written.

        False is a reason to open the tree again; True is no reason to believe anything.
        """
        return set(self._store.read_fingerprints()) == {self._fingerprint}

    def slot_key(self, slot: int) -> bytes:
        """Key of a slot, 32 bytes; raises SlotDead (also for a branch that is not there), FormatError."""
        branch, index = split_slot(slot)
        leaf = self.node(branch, LEAF_LEVEL, index // FANOUT)
        if leaf is None or leaf.is_dead(index % FANOUT):
            raise SlotDead(f"the key of slot {slot} was destroyed")
        return leaf.child(index % FANOUT)

    def slot_keys(self, slots: Slots) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        """Keys of many slots: uint8 (n, 32), zero where dead; and bool (n,), whether each lives.

        What is no slot at all counts as dead. Fastest on sorted slots, 0.2 s for a million neighbours.
        Raises IntegrityError for a damaged node.
        """
        keys = np.zeros((len(slots), KEY_LEN // 8), dtype=np.uint64)
        ordered, order = sorted_slots(slots)
        for branch, index, at in self._runs(ordered):
            leaves, of = runs(index // FANOUT)
            joined = self._leaves(branch, leaves)
            table = np.frombuffer(joined, dtype=np.uint64).reshape(-1, KEY_LEN // 8)
            table.take(of * FANOUT + index % FANOUT, axis=0, out=keys[at])
            wipe(joined)
        alive = np.asarray(keys.any(axis=1))
        found = unsorted(keys, order)
        if found is not keys:
            keys.fill(0)
        return found.view(np.uint8), unsorted(alive, order)

    def alive(self, slots: Slots) -> npt.NDArray[np.bool_]:
        """Whether each slot lives, bool (n,). Opens stored nodes only. Raises IntegrityError."""
        if len(slots) <= _FEW:
            return np.array([self._lives(slot) for slot in slot_array(slots).tolist()], dtype=np.bool_)
        alive = np.zeros(len(slots), dtype=np.bool_)
        ordered, order = sorted_slots(slots)
        for branch, index, at in self._runs(ordered):
            leaves, of = runs(index // FANOUT)
            table = np.concatenate([self._leaf_alive(branch, leaf) for leaf in leaves.tolist()])
            table.take(of * FANOUT + index % FANOUT, out=alive[at])
        return unsorted(alive, order)

    def node(self, branch: int, level: int, index: int, *, keep: bool = True) -> Node | None:
        """Node at a place, None where it or its branch is dead; ``keep`` puts it into the cache."""
        if branch not in self._place:
            return None
        cached = self._cached(branch, level, index)
        if cached is not None:
            return cached
        if level == 1:
            parent: Node | None = self._root.node
            number = self._place[branch]
        else:
            parent, number = self.node(branch, level - 1, index // FANOUT), index % FANOUT
        if parent is None or parent.is_dead(number):
            return None
        node = self._open(branch, level, index, parent, number)
        if keep:
            self._remember((branch, level, index), node)
        return node

    def _open(self, branch: int, level: int, index: int, parent: Node, number: int) -> Node:
        key = parent.child(number)
        try:
            return self._open_under(key, branch, level, index, stored=parent.is_stored(number))
        finally:
            wipe(key)

    def _open_under(self, key: bytes, branch: int, level: int, index: int, *, stored: bool) -> Node:
        if not stored:
            return Node(expand_node(node_info(self._vault_id, branch, level, index), key))
        place = f"node {branch}/{level}/{index}"
        damage: list[str] = []
        rows = self._store.read_node(branch, level, index)
        for copy, row in enumerate(rows):
            try:
                node = self._open_row(row, key)
            except IntegrityError:
                damage.append(f"keys.db: {place}, copy {copy}")
            else:  # a key seals one node once: its other row is the same, or damaged
                damage += [
                    f"keys.db: {place}, copy {at}" for at in range(copy + 1, len(rows)) if rows[at] != row
                ]
                self._note(damage)
                return node
        if not self.is_current():
            raise TreeStale("the key tree was swapped by another process")
        raise IntegrityError(f"keys.db is damaged: {place} does not open")

    def _open_row(self, row: NodeRow | None, key: bytes) -> Node:
        if row is None or row.epoch > self.epoch:
            raise IntegrityError("a tree node is missing or of a later epoch")
        aad = node_aad(self._vault_id, row.branch, row.level, row.index, row.epoch)
        plain = open_sealed(key, row.blob, aad)
        try:
            return decode_node(plain, row.level)
        finally:
            wipe(plain)

    def opened(self, row: NodeRow | None, key: bytes) -> Node | None:
        """Node of a row under its node key; None where it does not open: for mending."""
        try:
            return self._open_row(row, key)
        except IntegrityError:
            return None

    def _leaves(self, branch: int, leaves: Int64) -> bytes:
        """Children of many leaf nodes in one fresh string; zeros where a leaf is dead."""
        nodes: list[Node] = []
        upper, parent = -1, None
        for leaf in leaves.tolist():
            if leaf // FANOUT != upper:
                upper = leaf // FANOUT
                parent = self.node(branch, LEAF_LEVEL - 1, upper)
            number = leaf % FANOUT
            if parent is None or parent.is_dead(number):
                nodes.append(_DEAD_LEAF)
            else:
                nodes.append(self._open(branch, LEAF_LEVEL, leaf, parent, number))
        return b"".join([each.children for each in nodes])

    def _lives(self, slot: int) -> bool:
        """``alive`` of one slot; what is no slot does not live."""
        branch, index = slot >> SLOT_BITS, slot & (1 << SLOT_BITS) - 1
        if branch not in self._place or index >= BRANCH_SLOTS:
            return False
        parent, number = self._root.node, self._place[branch]
        for level in range(1, LEAF_LEVEL + 1):
            if parent.is_dead(number):
                return False
            if not parent.is_stored(number):
                return True
            place = index // FANOUT ** (LEAF_LEVEL + 1 - level)
            node = self.node(branch, level, place)
            if node is None:
                return False
            parent, number = node, index // FANOUT ** (LEAF_LEVEL - level) % FANOUT
        return not parent.is_dead(number)

    def _leaf_alive(self, branch: int, leaf: int) -> npt.NDArray[np.bool_]:
        """Which children of a leaf live: bool (120,)."""
        place = (1, 0), (2, leaf // FANOUT), (LEAF_LEVEL, leaf)
        parent, number = self._root.node, self._place[branch]
        for level, index in place:
            if parent.is_dead(number):
                return np.zeros(FANOUT, dtype=np.bool_)
            if not parent.is_stored(number):
                return np.ones(FANOUT, dtype=np.bool_)
            node = self.node(branch, level, index, keep=level < LEAF_LEVEL)
            if node is None:
                return np.zeros(FANOUT, dtype=np.bool_)
            parent, number = node, (leaf // FANOUT, leaf % FANOUT, 0)[level - 1]
        dead = np.frombuffer(parent.dead.to_bytes(FANOUT // 8, "big"), dtype=np.uint8)
        return np.asarray(np.unpackbits(dead) == 0)

    def _runs(self, ordered: Int64) -> Iterator[tuple[int, Int64, slice]]:
        """Cut sorted slots into runs of one branch and few leaf nodes: branch, indexes, where they stood."""
        for branch in self._place:
            first = branch << SLOT_BITS
            low, high = np.searchsorted(ordered, (first, first + BRANCH_SLOTS)).tolist()
            if low == high:
                continue
            index = ordered[low:high] - first
            starts = np.flatnonzero(np.diff(index // FANOUT, prepend=-1))[::_CHUNK].tolist()
            for begin, end in itertools.pairwise([*starts, len(index)]):
                yield branch, index[begin:end], slice(low + begin, low + end)

    def _cached(self, branch: int, level: int, index: int) -> Node | None:
        """Look a node up without a lock, on which busy threads would queue: every decision comes by here."""
        place = (branch, level, index)
        node = self._cache.get(place)
        if node is not None:
            with contextlib.suppress(KeyError):  # another thread has just dropped it
                self._cache.move_to_end(place)
        return node

    def _remember(self, place: tuple[int, int, int], node: Node) -> None:
        with self._guard:
            self._cache[place] = node
            if len(self._cache) > _CACHED_NODES:
                self._cache.popitem(last=False)

    def _take_over(self, other: KeyTree) -> None:
        """Remember the nodes that this epoch's tree has opened in another store."""
        with other._guard:
            self._cache.update(other._cache)

    def _note(self, damage: Sequence[str]) -> None:
        if damage:
            with self._guard:
                self._damage.update(damage)


def open_tree(
    store: KeysStore, vault_id: bytes, candidates: Sequence[Candidate], known: KeyTree | None = None
) -> tuple[KeyTree, Candidate]:
    """Tree of the newest stored root node that a candidate opens, and that candidate.

    ``known`` spares the decryption of a row that is, byte for byte, the one that tree was opened from: a row
    names the hash of its root, and a candidate must have that hash. It is returned itself where both rows
    are that one, and the nodes it has opened are taken over: an epoch's nodes never change.
    Raises RootError if no candidate is the root of keys.db, IntegrityError if one is but the node is
    damaged. Touches nothing.
    """
    damage: list[str] = []
    seen = {} if known is None else {known.top_row: known.root_node}
    rows = store.read_top()
    roots = [each for each in candidates if _is_root(vault_id, each)]
    opened: list[tuple[RootNode, Candidate, TopRow]] = []
    named = False
    for copy, row in enumerate(rows):
        matching = [(each, row) for each in roots if row is not None and each.fingerprint == row.fingerprint]
        named |= bool(matching)
        nodes = [(_open_top(top, vault_id, each, seen), each, top) for each, top in matching]
        found = [(node, each, top) for node, each, top in nodes if node is not None]
        opened += found
        if not found:
            damage.append(f"keys.db: root node, copy {copy}")
    if not opened:
        if named:
            raise IntegrityError("keys.db is damaged: neither copy of its root node opens")
        raise RootError("no root opens keys.db: it belongs to another root, or is an older copy")
    root, winner, top = max(opened, key=lambda each: each[0].epoch)
    if known is not None and known.is_of(store) and rows == (known.top_row, known.top_row):
        return known, winner
    damage += [
        f"keys.db: root node of epoch {each.epoch}" for each, _, _ in opened if each.epoch != root.epoch
    ]
    tree = KeyTree(store, vault_id, root, top)
    tree._note(damage)  # noqa: SLF001 - the constructor's other half
    if known is not None and known.top_row == top:
        tree._take_over(known)  # noqa: SLF001 - the same
    return tree, winner


def _is_root(vault_id: bytes, candidate: Candidate) -> bool:
    """Whether a candidate is a root, of that fingerprint; sealed to a recovery key it opens nothing here."""
    return bool(candidate.root) and root_fingerprint(vault_id, candidate.root) == candidate.fingerprint


def _open_top(
    row: TopRow, vault_id: bytes, candidate: Candidate, seen: dict[TopRow, RootNode]
) -> RootNode | None:
    """Open a row that names the candidate, unless an equal row is among the ``seen``; None if it does not."""
    if row in seen:
        return seen[row]
    try:
        aad = root_aad(vault_id, row.epoch, row.fingerprint)
        plain = open_sealed(candidate.root, row.blob, aad)
        try:
            root = decode_root(plain)
        finally:
            wipe(plain)
    except IntegrityError:
        return None
    if root.epoch != row.epoch:
        return None
    seen[row] = root
    return root
