"""Looking over a tree: all stored nodes for ``facekeep check``, what bounds the given slots (SPEC.md §3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from facekeep.errors import FacekeepError, IntegrityError, SlotDead
from facekeep.formats.ids import BRANCH_SLOTS, FANOUT, slot_id
from facekeep.formats.nodes import LEAF_LEVEL
from facekeep.keys.tree import KeyTree
from facekeep.store.keysdb import KeysStore


def verify_tree(tree: KeyTree, store: KeysStore, *, sealed_in: int | None = None) -> Iterator[str]:
    """Yield what is wrong: nodes that do not open, twins that differ, rows that belong to no node.

    With ``sealed_in`` a node that was sealed in another epoch is wrong, too.
    """
    if sealed_in is not None and (others := store.node_count(other_than=sealed_in)):
        yield f"{others} node rows are of another epoch than {sealed_in}"
    top = store.read_top()
    if top[0] != top[1]:
        yield "the two copies of the root node differ"
    rows = 0
    for _, branch, _ in tree.branches():
        twins = [row for row in store.read_node(branch, 1, 0) if row is not None]
        rows += len(twins)
        if twins and (len(twins) == 1 or twins[0] != twins[1]):
            yield f"the two copies of branch node {branch} differ"
        for problem in _verify_below(tree, branch, 1, 0):
            if problem is None:
                rows += 1
            else:
                yield problem
    strays = store.node_count() - rows
    if strays > 0:
        yield f"{strays} node rows belong to no node of the tree"


def _verify_below(tree: KeyTree, branch: int, level: int, index: int) -> Iterator[str | None]:
    """Yield None for each stored node below that opens, a problem for each that does not."""
    try:
        node = tree.node(branch, level, index, keep=level < LEAF_LEVEL)
    except FacekeepError as error:
        yield str(error)
        return
    if level > 1:
        yield None
    if node is None or level == LEAF_LEVEL:
        return
    for child in range(FANOUT):
        if node.is_stored(child):
            yield from _verify_below(tree, branch, level + 1, index * FANOUT + child)


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
