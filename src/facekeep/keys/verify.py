"""Looking over a tree: all stored nodes for ``facekeep check``, what bounds the given slots (SPEC §3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from facekeep.errors import FacekeepError, IntegrityError, SlotDead
from facekeep.formats.ids import BRANCH_SLOTS, FANOUT, slot_id
from facekeep.formats.nodes import LEAF_LEVEL, row_id
from facekeep.keys.tree import KeyTree
from facekeep.store.keysdb import KeysStore


def verify_tree(tree: KeyTree, store: KeysStore) -> Iterator[str]:
    """``verify_nodes``; and where all is whole, how many rows belong to no node."""
    whole = True
    for problem in verify_nodes(tree, store):
        whole = False
        yield problem
    strays = len(stray_rows(tree, store)) if whole else 0
    if strays:
        yield f"{strays} node rows belong to no node of the tree"


def verify_nodes(tree: KeyTree, store: KeysStore, *, sealed_in: int | None = None) -> Iterator[str]:
    """Yield what is wrong: nodes that do not open, twins that differ.

    With ``sealed_in`` a node that was sealed in another epoch is wrong, too.
    """
    others = set() if sealed_in is None else set(store.node_ids(other_than=sealed_in))
    top = store.read_top()
    if top[0] != top[1]:
        yield "the two copies of the root node differ"
    for each in _places(tree, store):
        if isinstance(each, str):
            yield each
        elif each in others:
            yield f"node row {each} is of another epoch than {sealed_in}"


def stray_rows(tree: KeyTree, store: KeysStore) -> list[int]:
    """Return the numbers of rows that belong to no node; raises IntegrityError where a node does not open."""
    places: set[int] = set()
    for each in _places(tree, store):
        if isinstance(each, str):
            raise IntegrityError(each)
        places.add(each)
    return [row for row in store.node_ids() if row not in places]


def _places(tree: KeyTree, store: KeysStore) -> Iterator[int | str]:
    """Yield the row number of each stored node that opens, a problem for each that does not."""
    for position, branch, _ in tree.branches():
        if tree.root_node.node.is_stored(position):
            first, second = store.read_node(branch, 1, 0)
            if first != second:
                yield f"the two copies of branch node {branch} differ"
            yield row_id(branch, 1, 0)
            yield row_id(branch, 1, 0, 1)
            yield from _places_below(tree, branch, 1, 0)


def _places_below(tree: KeyTree, branch: int, level: int, index: int) -> Iterator[int | str]:
    try:
        node = tree.node(branch, level, index, keep=level < LEAF_LEVEL)
    except FacekeepError as error:
        yield str(error)
        return
    if node is None:
        return
    if level > 1:
        yield row_id(branch, level, index)
    for child in range(FANOUT if level < LEAF_LEVEL else 0):
        if node.is_stored(child):
            yield from _places_below(tree, branch, level + 1, index * FANOUT + child)


def bounds(tree: KeyTree, alloc: Mapping[int, int]) -> Iterator[tuple[int, bool]]:
    """Yield slots at which a swap could go wrong, and whether each was given out.

    Of each branch that has slots left: the last that was given out, the first that was not.
    """
    for _, branch, _ in tree.branches():
        given = alloc.get(branch, 0)
        if 0 < given < BRANCH_SLOTS:
            yield slot_id(branch, given - 1), True
        if given < BRANCH_SLOTS:
            yield slot_id(branch, given), False


def key_of(tree: KeyTree, slot: int) -> bytes | None:
    """Return the key of a slot, 32 bytes; None where it is dead or cannot be read."""
    try:
        return tree.slot_key(slot)
    except (SlotDead, IntegrityError):
        return None
