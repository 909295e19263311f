"""Putting damaged nodes of keys.db right from what is whole: the second row, or a live copy (SPEC §8.3).

A node key seals at most one blob, so whatever row opens under it is the row, wherever it was found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from facekeep.errors import FacekeepError
from facekeep.formats.ids import FANOUT
from facekeep.formats.nodes import LEAF_LEVEL, Node
from facekeep.keys.tree import KeyTree
from facekeep.store.keysdb import KeysStore, NodeRow


def mend_tree(tree: KeyTree, store: KeysStore, others: Sequence[KeysStore]) -> Iterator[str]:
    """Write each damaged root, branch and inner node of ``store`` anew; yield what was mended, in words.

    ``tree`` is the present one, ``others`` are opened copies. What no row anywhere opens stays as it is.
    """
    top = tree.top_row
    if _top(store) != (top, top):
        store.mend_top(top)
        yield "the root node"
    for position, branch, _ in tree.branches():
        if tree.root_node.node.is_stored(position):
            yield from _mend(tree, store, others, (branch, 1, 0), tree.root_node.node.child(position))


def _top(store: KeysStore) -> tuple[object, object] | None:
    try:
        return store.read_top()
    except FacekeepError:
        return None


def _mend(
    tree: KeyTree, store: KeysStore, others: Sequence[KeysStore], place: tuple[int, int, int], key: bytes
) -> Iterator[str]:
    branch, level, index = place
    rows = _rows(store, place)
    row, node = _whole(tree, rows, key)
    if node is None:
        row, node = _whole(tree, [each for other in others for each in _rows(other, place)], key)
    if row is None or node is None:
        return
    if any(each != row for each in rows):
        store.mend_node(row)
        yield f"node {branch}/{level}/{index}"
    if level == LEAF_LEVEL:
        return
    for child in range(FANOUT):
        if node.is_stored(child):
            below = (branch, level + 1, index * FANOUT + child)
            yield from _mend(tree, store, others, below, node.child(child))


def _rows(store: KeysStore, place: tuple[int, int, int]) -> Sequence[NodeRow | None]:
    try:
        return store.read_node(*place)
    except FacekeepError:
        return (None,)


def _whole(tree: KeyTree, rows: Sequence[NodeRow | None], key: bytes) -> tuple[NodeRow | None, Node | None]:
    for row in rows:
        node = tree.opened(row, key)
        if node is not None:
            return row, node
    return None, None
