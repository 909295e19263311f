"""Slots never given out get fresh keys with every swap; those that were keep theirs (SPEC §3.5)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from facekeep.crypto import primitives
from facekeep.errors import IntegrityError
from facekeep.formats.ids import BRANCH_SLOTS, FANOUT, LEVEL2_SPAN, slot_id
from facekeep.formats.nodes import EMPTY_PIN, LEAF_LEVEL, row_id
from facekeep.keys import plan as plan_module
from facekeep.keys import swap as swap_module
from facekeep.keys.plan import Rekey, plan
from facekeep.keys.tree import KeyTree, open_tree
from facekeep.keys.verify import key_of, verify_nodes, verify_tree
from keys_help import NOW, VAULT, Lab, candidate, sql, verify_slot

EDGES = [0, 1, 119, 120, 121, 240, 14_399, 14_400, 14_401, 14_520, 28_800, BRANCH_SLOTS - 1, BRANCH_SLOTS]
SYSTEM = {0: 17}  # what bounds a system branch of few slots


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def watched(*around: int) -> list[int]:
    """Indexes at which a boundary could be missed: beside these, and beside each node's ends."""
    near = {at + step for at in (*EDGES, *around) for step in (-1, 0, 1, FANOUT, LEVEL2_SPAN)}
    return sorted(at for at in near if 0 <= at < BRANCH_SLOTS)


def keys_at(tree: KeyTree, branch: int, indexes: list[int]) -> dict[int, bytes | None]:
    return {at: key_of(tree, slot_id(branch, at)) for at in indexes}


def swapped(lab: Lab, tree: KeyTree, dead: list[int], alloc: dict[int, int], rekey: bool = False) -> KeyTree:
    root = os.urandom(32)
    fresh = Rekey({1: b"i" * 32}, lambda: ()) if rekey else None
    lab.store.write_swap(plan(tree, dead, new_root=root, pin=EMPTY_PIN, now_ms=NOW, alloc=alloc, rekey=fresh))
    after, _ = open_tree(lab.store, VAULT, [candidate(root)])
    assert list(verify_tree(after, lab.store)) == []
    return after


def check_kept(before: dict[int, bytes | None], after: dict[int, bytes | None], given_out: int) -> None:
    for at, key in before.items():
        if key is None:
            assert after[at] is None, f"{at} lives again"
        elif at < given_out:
            assert after[at] == key, f"{at} was given out"
        else:
            assert after[at] not in (None, key), f"{at} was not given out"


@pytest.mark.parametrize("bound", EDGES)
def test_at_every_boundary(lab: Lab, bound: int) -> None:
    indexes = watched(bound)
    before, others = keys_at(lab.tree, 1, indexes), keys_at(lab.tree, 2, indexes)
    system = keys_at(lab.tree, 0, list(range(240)))
    tree = swapped(lab, lab.tree, [], {**SYSTEM, 1: bound, 2: 5})
    check_kept(before, keys_at(tree, 1, indexes), bound)
    check_kept(others, keys_at(tree, 2, indexes), 5)
    check_kept(system, keys_at(tree, 0, list(range(240))), 17)
    again = swapped(lab, tree, [], {**SYSTEM, 1: bound, 2: 5})
    check_kept(keys_at(tree, 1, indexes), keys_at(again, 1, indexes), bound)


@pytest.mark.parametrize(
    ("bound", "nodes"), [(0, 0), (1, 3), (120, 2), (121, 3), (14_400, 1), (14_401, 3), (BRANCH_SLOTS, 0)]
)
def test_only_nodes_that_are_begun_and_not_full_are_stored(lab: Lab, bound: int, nodes: int) -> None:
    swapped(lab, lab.tree, [], {0: BRANCH_SLOTS, 1: bound, 2: BRANCH_SLOTS})
    assert sql(lab.path, "SELECT count(*) FROM node") == [(nodes + (nodes > 0),)]  # a branch node twice


def test_what_was_left_behind_stays_stored_and_no_row_is_left_over(lab: Lab) -> None:
    tree = lab.tree
    for bound in (5, 119, 120, 300, 14_400, 14_405, 30_000):
        tree = swapped(lab, tree, [], {**SYSTEM, 1: bound})
    places = {row for (row,) in sql(lab.path, "SELECT id FROM node WHERE id >> 15 = 1")}
    leaves = {row_id(1, LEAF_LEVEL, at // FANOUT) for at in (5, 300, 14_405)}
    assert places == leaves | {row_id(1, 1, 0), row_id(1, 1, 0, 1), *(row_id(1, 2, at) for at in (0, 1, 2))}


def test_a_node_under_slots_never_given_out_is_dropped(lab: Lab) -> None:
    """None stands there but by a forged or lost log; were it kept, its key would live on."""
    lab.shred(verify_slot(40_000), verify_slot(700), slot_id(2, 9))
    tree = swapped(lab, lab.tree, [], {**SYSTEM, 1: 300, 2: 0})
    assert {row for (row,) in sql(lab.path, "SELECT id FROM node WHERE id >> 15 > 0")} == {
        row_id(1, 1, 0),
        row_id(1, 1, 0, 1),
        row_id(1, 2, 0),
        row_id(1, LEAF_LEVEL, 2),
    }
    assert tree.branches() == lab.tree.branches()


def test_what_is_dead_stays_dead_wherever_it_is(lab: Lab) -> None:
    dead = [verify_slot(at) for at in (3, 7, 9, 11, 20_000)]
    lab.quick_shred([*dead, *(verify_slot(at) for at in range(120, 240))])
    tree = swapped(lab, lab.tree, [verify_slot(4)], {**SYSTEM, 1: 8})
    gone = {3, 4, 7, 9, 11}
    assert {at for at in range(120) if key_of(tree, verify_slot(at)) is None} == gone
    assert not tree.alive(np.arange(120, 240) + verify_slot(0)).any()


def test_a_slot_above_the_bound_that_is_destroyed_is_dead(lab: Lab) -> None:
    named = [verify_slot(at) for at in (2, 500, 40_000)]
    tree = swapped(lab, lab.tree, named, {**SYSTEM, 1: 2})
    assert not tree.alive(named).any()
    tree = swapped(lab, tree, [slot_id(2, 9)], SYSTEM)
    assert key_of(tree, slot_id(2, 9)) is None


@pytest.mark.parametrize("bound", [0, 1, 120, 14_401, BRANCH_SLOTS])
def test_a_tree_that_is_re_keyed(lab: Lab, bound: int) -> None:
    indexes = watched(bound)
    dead = [verify_slot(at) for at in (5, 9_000, 150_000, 1_500_001)]
    start = swapped(lab, lab.tree, dead, {0: 17, 1: 1_600_000})
    before, system = keys_at(start, 1, indexes), keys_at(start, 0, list(range(240)))
    alloc = {0: 17, 1: bound}
    tree = swapped(lab, start, [], alloc, rekey=True)
    check_kept(before, keys_at(tree, 1, indexes), bound)
    system[1] = b"i" * 32
    check_kept(system, keys_at(tree, 0, list(range(240))), 17)
    assert list(verify_nodes(tree, lab.store, sealed_in=tree.epoch)) == []


indexes = st.one_of(st.sampled_from(EDGES), st.integers(0, 400), st.integers(0, BRANCH_SLOTS))


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_bounds_and_any_deaths(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Swaps one after another: below its bound a slot keeps its key or is dead, above it has another."""
    lab = Lab(tmp_path_factory.mktemp("unused"))
    tree = lab.tree
    dead: set[int] = set()
    bound = 0
    for _ in range(4):
        bound = max(bound, min(data.draw(indexes), BRANCH_SLOTS))
        starts = data.draw(st.lists(st.tuples(indexes, st.sampled_from([1, 60, 120, 14_400])), max_size=3))
        dying = {at for start, count in starts for at in range(start, min(start + count, bound))}
        if len(dead | dying) == BRANCH_SLOTS:
            continue
        looked_at = watched(bound, *(start for start, _ in starts))
        before = keys_at(tree, 1, looked_at)
        tree = swapped(lab, tree, [verify_slot(at) for at in sorted(dying)], {**SYSTEM, 1: bound})
        dead |= dying
        before |= dict.fromkeys(dead & set(looked_at))
        check_kept(before, keys_at(tree, 1, looked_at), bound)
    lab.store.close()


def test_a_node_key_seals_at_most_one_blob(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[bytes] = []
    real = primitives.seal

    def seal(key: bytes, plaintext: bytes, aad: bytes) -> bytes:
        used.append(key)
        return real(key, plaintext, aad)

    monkeypatch.setattr(plan_module, "seal", seal)
    lab.alloc = {0: 17, 1: 1}
    for at in range(1, 300, 23):
        lab.alloc = {0: 17, 1: at, 2: 7 * at}
        lab.shred(verify_slot(at - 1))
    assert len(used) == len(set(used)) >= 13 * 10


# -- verification


def test_verification_refuses_a_swap_that_leaves_such_a_key(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = lab.alloc
    lab.alloc = {**SYSTEM, 1: 7}
    monkeypatch.setattr(swap_module, "plan", lambda *given, **rest: plan(*given, **{**rest, "alloc": full}))
    swap = lab.swap([verify_slot(5)])
    swap.stage()
    swap.write()
    with pytest.raises(IntegrityError, match="never given out"):
        swap.verify()
    assert len(lab.provider.candidates()) == 2


def test_verification_refuses_a_swap_that_takes_a_key_from_who_has_it(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.alloc = {**SYSTEM, 1: 7, 2: 300}
    less = {**SYSTEM, 1: 7, 2: 299}
    monkeypatch.setattr(swap_module, "plan", lambda *given, **rest: plan(*given, **{**rest, "alloc": less}))
    swap = lab.swap([verify_slot(5)])
    swap.stage()
    swap.write()
    with pytest.raises(IntegrityError, match="changed a living slot"):
        swap.verify()
    assert len(lab.provider.candidates()) == 2


@pytest.mark.parametrize("damage", ["UPDATE node SET blob = zeroblob(3900)", "DELETE FROM node"])
def test_verification_opens_every_path_in_a_copy_too(tmp_path: Path, damage: str) -> None:
    lab = Lab(tmp_path, [tmp_path / "usb" / "keys.db"])
    lab.alloc = {**SYSTEM, 1: 7, 2: 300}
    swap = lab.swap([verify_slot(5)])
    swap.stage()
    swap.write()
    for target in (lab.path, tmp_path / "usb" / "keys.db"):
        for (row,) in sql(target, "SELECT id FROM node"):
            kept = sql(target, "SELECT * FROM node WHERE id = ?", (row,))[0]
            sql(target, damage + " WHERE id = ?", (row,))
            with pytest.raises(IntegrityError):
                swap.verify()
            sql(target, "INSERT OR REPLACE INTO node VALUES (?, ?, ?)", kept)
    swap.verify()
