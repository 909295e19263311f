"""What a swap writes, row by row: what is touched is re-keyed, the rest stays, what is wrong is refused."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from facekeep.errors import FormatError, TreeFull
from facekeep.formats.ids import BRANCH_SLOTS, FANOUT, LEVEL2_SPAN, SLOT_BITS, slot_id
from facekeep.formats.nodes import EMPTY_PIN, LEAF_LEVEL, Kind
from facekeep.keys.plan import Rekey, plan
from facekeep.keys.tree import KeyTree, open_tree
from facekeep.keys.verify import key_of, verify_nodes, verify_tree
from facekeep.store.keysdb import NodeDrop, NodeRow, TopRow
from keys_help import ALL_GIVEN, NOW, VAULT, Lab, candidate, verify_slot

REKEY = Rekey({}, lambda: ())
Place = tuple[type, int, int]
LAST = BRANCH_SLOTS - 1
NEVER = [-1, -(1 << SLOT_BITS), 7 - (3 << SLOT_BITS), slot_id(1, LAST) + 1, slot_id(3, 0)]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def places(
    lab: Lab, dead: Sequence[int], alloc: dict[int, int] | None = None, rekey: Rekey | None = None
) -> list[Place]:
    """What is written below the verify branch, and of the root node: (type, level, number)."""
    alloc = ALL_GIVEN if alloc is None else alloc
    made = plan(lab.tree, dead, new_root=os.urandom(32), pin=EMPTY_PIN, now_ms=NOW, alloc=alloc, rekey=rekey)
    return [
        (type(row), 0, 0) if isinstance(row, TopRow) else (type(row), row.level, row.index)
        for row in made.rows
        if isinstance(row, TopRow) or row.branch == 1
    ]


def swapped(
    lab: Lab,
    dead: Sequence[int],
    alloc: dict[int, int] | None = None,
    rekey: Rekey | None = None,
    drop: Sequence[int] = (),
    take: Sequence[int] = (),
) -> KeyTree:
    """Write a swap and follow it."""
    root, alloc = os.urandom(32), ALL_GIVEN if alloc is None else alloc
    made = plan(
        lab.tree,
        dead,
        new_root=root,
        pin=EMPTY_PIN,
        now_ms=NOW,
        alloc=alloc,
        rekey=rekey,
        drop=drop,
        take=take,
    )
    lab.store.write_swap(made)
    lab.tree, _ = open_tree(lab.store, VAULT, [candidate(root)])
    assert list(verify_tree(lab.tree, lab.store)) == []
    return lab.tree


@pytest.mark.parametrize("slot", NEVER)
def test_what_was_never_a_slot_is_not_destroyed(lab: Lab, slot: int) -> None:
    for slots in ([slot], [slot, verify_slot(5)]):
        with pytest.raises(FormatError, match="never part"):
            places(lab, slots)


@pytest.mark.parametrize("slot", [0, slot_id(1, 0), slot_id(1, LAST), slot_id(2, LAST)])
def test_the_first_and_the_last_slot_of_a_branch_are_destroyed(lab: Lab, slot: int) -> None:
    tree = swapped(lab, [slot])
    assert key_of(tree, slot) is None
    assert not tree.alive([slot]).any()


def test_a_branch_is_taken_for_a_known_kind_where_there_is_room(lab: Lab) -> None:
    root = os.urandom(32)
    given = {"new_root": root, "pin": EMPTY_PIN, "now_ms": NOW, "alloc": ALL_GIVEN}
    for kind in (0, 7, -1):
        with pytest.raises(FormatError, match="unknown kind"):
            plan(lab.tree, [], take=[kind], **given)  # type: ignore[arg-type] # by name
    free = sum(kind is Kind.FREE for _, kind in lab.tree.root_node.positions)
    with pytest.raises(TreeFull):
        plan(lab.tree, [], take=[Kind.SHARE] * (free + 1), **given)  # type: ignore[arg-type] # by name
    tree = swapped(lab, [], take=[Kind.SHARE, Kind.TRAIN])
    assert tree.branches()[3:] == ((3, 3, Kind.SHARE), (4, 4, Kind.TRAIN))
    assert key_of(tree, slot_id(3, 0)) != key_of(tree, slot_id(4, 0))
    assert swapped(lab, [slot_id(4, 7)]).root_node.next_branch == 5


def test_what_is_dead_already_leaves_everything_as_it_is(lab: Lab) -> None:
    swapped(lab, [verify_slot(5)])
    assert places(lab, [verify_slot(5)]) == [(TopRow, 0, 0)]
    assert places(lab, []) == [(TopRow, 0, 0)]


def test_one_slot_re_keys_the_path_to_it_and_nothing_else(lab: Lab) -> None:
    at = LEVEL2_SPAN + 3 * FANOUT + 7
    path = [(NodeRow, LEAF_LEVEL, at // FANOUT), (NodeRow, 2, 1), (NodeRow, 1, 0), (TopRow, 0, 0)]
    assert places(lab, [verify_slot(at)]) == path


def test_what_is_stored_beside_the_path_stays_stored_and_its_dead_stay_dead(lab: Lab) -> None:
    """Slot 5 would live again by derivation, were its leaf no longer looked up."""
    swapped(lab, [verify_slot(5), verify_slot(2 * LEVEL2_SPAN + 9)], {0: 17, 1: 3 * LEVEL2_SPAN + 1})
    bound = 3 * LEVEL2_SPAN + 5 * FANOUT + 4
    tree = swapped(lab, [verify_slot(3 * FANOUT)], {0: 17, 1: bound})
    tree = swapped(lab, [verify_slot(bound - 1)], {0: 17, 1: bound})
    gone = [verify_slot(at) for at in (5, 2 * LEVEL2_SPAN + 9, 3 * FANOUT, bound - 1)]
    assert [key_of(tree, slot) for slot in gone] == [None] * 4
    assert not tree.alive(gone).any()
    assert tree.alive([slot - 1 for slot in gone]).all()


def test_slots_of_several_nodes_are_destroyed_in_one_swap(lab: Lab) -> None:
    """Wholly, partly, at their edges: everybody named is dead, and nobody beside them."""
    dead = {*range(118, 250), LEVEL2_SPAN - 1, LEVEL2_SPAN, 5 * LEVEL2_SPAN + 77, BRANCH_SLOTS - 1}
    before = {at: key_of(lab.tree, verify_slot(at)) for at in _beside(dead)}
    tree = swapped(lab, [verify_slot(at) for at in sorted(dead)])
    for at in dead:
        assert key_of(tree, verify_slot(at)) is None
    for at, key in before.items():
        assert key_of(tree, verify_slot(at)) == key


def _beside(dead: set[int]) -> set[int]:
    near = {at + step for at in dead for step in (-FANOUT, -1, 1, FANOUT)}
    return {at for at in near if 0 <= at < BRANCH_SLOTS} - dead


def test_a_leaf_that_is_wholly_dead_has_no_row_left(lab: Lab) -> None:
    swapped(lab, [verify_slot(240)])
    rest = [verify_slot(at) for at in range(241, 360)]
    assert (NodeDrop, LEAF_LEVEL, 2) in places(lab, rest)
    tree = swapped(lab, rest)
    assert not tree.alive([verify_slot(at) for at in range(240, 360)]).any()
    assert tree.alive([verify_slot(239), verify_slot(360)]).all()


def test_a_branch_that_is_dropped_is_free_and_another_stays(lab: Lab) -> None:
    kept = key_of(lab.tree, slot_id(2, 8))
    tree = swapped(lab, [], drop=[1])
    assert tree.branches() == ((0, 0, Kind.SYSTEM), (2, 2, Kind.IDENTIFY))
    assert tree.root_node.positions[1] == (0, Kind.FREE)
    assert key_of(tree, slot_id(2, 8)) == kept
    tree = swapped(lab, [], take=[Kind.VERIFY])
    assert tree.branches()[1] == (1, 3, Kind.VERIFY)


# -- re-keying


def test_a_tree_is_re_keyed_by_itself(lab: Lab) -> None:
    with pytest.raises(FormatError, match="re-keyed by itself"):
        places(lab, [verify_slot(5)], rekey=REKEY)


def test_the_index_that_is_given_is_written(lab: Lab) -> None:
    rows = [(bytes(32), b"row"), (bytes([1]) * 32, b"another")]
    given = {"new_root": os.urandom(32), "pin": EMPTY_PIN, "now_ms": NOW, "alloc": ALL_GIVEN}
    made = plan(lab.tree, [], rekey=Rekey({}, lambda: rows), **given)  # type: ignore[arg-type] # by name
    assert made.index is not None
    assert list(made.index) == rows
    assert plan(lab.tree, [], **given).index is None  # type: ignore[arg-type] # by name


def test_every_stored_node_gets_another_key_and_nothing_is_stored_that_was_not(lab: Lab) -> None:
    whole_leaf = [verify_slot(at) for at in range(FANOUT)]
    swapped(lab, [*whole_leaf, verify_slot(7 * LEVEL2_SPAN + 3)])
    stored = [
        (NodeRow, 2, 0),
        (NodeRow, LEAF_LEVEL, 7 * LEVEL2_SPAN // FANOUT),
        (NodeRow, 2, 7),
        (NodeRow, 1, 0),
        (TopRow, 0, 0),
    ]
    assert places(lab, [], rekey=REKEY) == stored
    kept = key_of(lab.tree, verify_slot(7 * LEVEL2_SPAN + 4))
    tree = swapped(lab, [], rekey=REKEY)
    assert list(verify_nodes(tree, lab.store, sealed_in=tree.epoch)) == []
    assert key_of(tree, verify_slot(7 * LEVEL2_SPAN + 4)) == kept
    assert not tree.alive([*whole_leaf, verify_slot(7 * LEVEL2_SPAN + 3)]).any()


@pytest.mark.parametrize("index", [0, 130, 2 * LEVEL2_SPAN + 5, BRANCH_SLOTS - 1])
def test_a_fresh_key_is_put_where_nothing_was_stored(lab: Lab, index: int) -> None:
    """Under a branch that was given out whole, whose node has no row of its own."""
    near = [at for at in (index - 1, index + 1) if 0 <= at < BRANCH_SLOTS]
    before = [key_of(lab.tree, verify_slot(at)) for at in near]
    tree = swapped(lab, [], rekey=Rekey({verify_slot(index): b"k" * 32}, lambda: ()))
    assert key_of(tree, verify_slot(index)) == b"k" * 32
    assert [key_of(tree, verify_slot(at)) for at in near] == before


def test_a_destroyed_slot_gets_no_key(lab: Lab) -> None:
    swapped(lab, [verify_slot(5)])
    with pytest.raises(FormatError, match="destroyed slot"):
        places(lab, [], rekey=Rekey({verify_slot(5): b"k" * 32}, lambda: ()))
    assert places(lab, [], rekey=Rekey({verify_slot(6): b"k" * 32}, lambda: ()))
