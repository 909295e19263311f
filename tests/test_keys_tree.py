from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from facekeep.crypto.primitives import open_sealed
from facekeep.errors import FormatError, IntegrityError, RootError, SlotDead
from facekeep.formats.ids import BRANCH_SLOTS, slot_id
from facekeep.formats.nodes import EMPTY_PIN, Kind, row_id
from facekeep.keys import slots as slots_module
from facekeep.keys import tree as tree_module
from facekeep.keys.provider import Candidate
from facekeep.keys.tree import TreeStale, open_tree
from facekeep.store.keysdb import KeysStore
from keys_help import VAULT, Lab, candidate, sql, verify_slot


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def test_the_first_epoch(lab: Lab) -> None:
    assert lab.tree.epoch == 1
    assert lab.tree.pin == EMPTY_PIN
    assert lab.tree.branches() == ((0, 0, Kind.SYSTEM), (1, 1, Kind.VERIFY), (2, 2, Kind.IDENTIFY))
    assert lab.tree.is_current()
    assert lab.tree.damage == ()
    assert lab.tree.fingerprint == lab.provider.candidates()[0].fingerprint
    assert sql(lab.path, "SELECT count(*) FROM node") == [(0,)]


def test_derived_keys_follow_the_specification_byte_for_byte(lab: Lab) -> None:
    key = lab.tree.root_node.node.child(1)
    index = 1_234_567
    for level, number, child in (
        (1, 0, index // 14400),
        (2, index // 14400, index // 120 % 120),
        (3, index // 120, index % 120),
    ):
        place = (1).to_bytes(4, "big") + bytes([level]) + number.to_bytes(4, "big")
        children = hashlib.shake_256(b"facekeep/v1/node\0" + VAULT + place + key).digest(3840)
        key = children[32 * child : 32 * child + 32]
    assert lab.tree.slot_key(verify_slot(index)) == key


def test_slot_keys_are_all_different(lab: Lab) -> None:
    slots = np.concatenate([np.arange(5000) + slot_id(branch, 0) for branch in (0, 1, 2)])
    keys, alive = lab.tree.slot_keys(slots)
    assert alive.all()
    assert len({bytes(key) for key in keys}) == len(slots)


def test_one_by_one_and_in_bulk_agree_in_any_order(lab: Lab) -> None:
    rng = np.random.default_rng(7)
    index = rng.integers(0, BRANCH_SLOTS, 400)
    slots = np.concatenate([index + slot_id(1, 0), index + slot_id(2, 0), [slot_id(1, 5)] * 3])
    lab.shred(*slots[:50].tolist())
    shuffled = rng.permutation(slots)
    keys, alive = lab.tree.slot_keys(shuffled)
    assert keys.dtype == np.uint8
    assert keys.shape == (len(slots), 32)
    assert (alive == lab.tree.alive(shuffled)).all()
    for slot, key, lives in zip(shuffled.tolist(), keys, alive, strict=True):
        if lives:
            assert lab.tree.slot_key(slot) == bytes(key)
        else:
            assert not key.any()
            with pytest.raises(SlotDead):
                lab.tree.slot_key(slot)
    assert set(shuffled[~alive].tolist()) == set(slots[:50].tolist())


def test_bulk_calls_take_sequences_empty_ones_and_several_chunks(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, alive = lab.tree.slot_keys([])
    assert keys.shape == (0, 32)
    assert alive.shape == (0,)
    assert lab.tree.alive([]).shape == (0,)
    whole, _ = lab.tree.slot_keys(range(verify_slot(7), verify_slot(2000)))
    monkeypatch.setattr(tree_module, "_CHUNK", 3)
    parts, _ = lab.tree.slot_keys(list(range(verify_slot(7), verify_slot(2000))))
    assert (whole == parts).all()


def test_what_is_no_slot_is_dead(lab: Lab) -> None:
    with pytest.raises(SlotDead):
        lab.tree.slot_key(slot_id(3, 0))
    for wrong in (-1, slot_id(1, 0) + BRANCH_SLOTS, 2**53):
        with pytest.raises(FormatError):
            lab.tree.slot_key(wrong)
    with pytest.raises(FormatError):
        lab.tree.alive([2**63])
    odd = [-1, slot_id(1, 0) + BRANCH_SLOTS, 2**53, slot_id(3, 0), slot_id(1, 0)]
    assert lab.tree.alive(odd).tolist() == [False, False, False, False, True]
    assert lab.tree.slot_keys(odd)[1].tolist() == [False, False, False, False, True]


def test_slots_of_wholly_dead_nodes_are_dead_few_and_many(lab: Lab) -> None:
    """Their leaf, or what stands above it, is no longer stored: that alone would make them alive."""
    leaf, node = np.arange(240, 360) + verify_slot(0), np.arange(14_400, 28_800) + verify_slot(0)
    tree = lab.quick_shred([*leaf, *node])
    for dead in (leaf, node):
        for few in ([dead[0]], [dead[-1], dead[7]], dead[:8]):
            assert not tree.alive(few).any()
        assert not tree.alive(dead).any()
        assert not tree.slot_keys(dead)[1].any()
        with pytest.raises(SlotDead):
            tree.slot_key(int(dead[0]))
    beside = [verify_slot(at) for at in (239, 360, 14_399, 28_800)]
    assert tree.alive(beside).all()
    assert tree.alive(beside * 3).all()


def test_any_copy_of_the_current_epoch_gives_the_same_keys(lab: Lab) -> None:
    lab.shred(verify_slot(5))
    early = lab.save("early.db")
    lab.store.index_put_many([(b"a" * 32, b"1")])
    slots = np.arange(1000) + verify_slot(0)
    with KeysStore.open(early, VAULT) as store:
        other, _ = open_tree(store, VAULT, [candidate(lab.root())])
        assert (other.slot_keys(slots)[0] == lab.tree.slot_keys(slots)[0]).all()


def test_two_vaults_of_one_root_share_no_keys(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    with pytest.raises(RootError):
        open_tree(lab.store, b"another vault id", [candidate(lab.root(), b"another vault id")])


def test_no_root_opens_keys_db(lab: Lab) -> None:
    before = lab.path.read_bytes()
    for candidates in ([], [candidate(os.urandom(32))]):
        with pytest.raises(RootError, match=r"no root opens keys\.db") as caught:
            open_tree(lab.store, VAULT, candidates)
        assert caught.value.next
    assert lab.path.read_bytes() == before


def test_the_candidate_that_opens_the_tree_wins(lab: Lab) -> None:
    staged = candidate(os.urandom(32))
    for order in (0, 1):
        candidates = [staged, candidate(lab.root())]
        _, winner = open_tree(lab.store, VAULT, candidates[:: 1 - 2 * order])
        assert winner.root == lab.root()


def test_a_candidate_with_a_false_fingerprint_is_not_used(lab: Lab) -> None:
    real = candidate(lab.root())
    with pytest.raises(RootError):
        open_tree(lab.store, VAULT, [type(real)(bytes(32), "current", real.root)])


@pytest.mark.parametrize("column", ["blob", "fingerprint", "epoch"])
@pytest.mark.parametrize("copy", [0, 1])
def test_a_damaged_root_node_copy_is_reported_and_the_other_serves(lab: Lab, column: str, copy: int) -> None:
    value = 99 if column == "epoch" else b"damaged"
    sql(lab.path, f"UPDATE top SET {column} = ? WHERE copy = ?", (value, copy))
    tree, _ = open_tree(lab.store, VAULT, [candidate(lab.root())])
    assert tree.damage == (f"keys.db: root node, copy {copy}",)
    assert tree.slot_key(verify_slot(1)) == lab.tree.slot_key(verify_slot(1))
    assert tree.is_current() is (column != "fingerprint")


def test_both_root_node_copies_damaged(lab: Lab) -> None:
    root = candidate(lab.root())
    sql(lab.path, "UPDATE top SET blob = x'00'")
    with pytest.raises(IntegrityError, match="root node"):
        open_tree(lab.store, VAULT, [root])
    sql(lab.path, "DELETE FROM top")
    with pytest.raises(RootError):
        open_tree(lab.store, VAULT, [root])


@pytest.mark.parametrize("copy", [0, 1])
@pytest.mark.parametrize(
    "damage", ["UPDATE node SET blob = x'00'", "UPDATE node SET epoch = 77", "DELETE FROM node"]
)
def test_a_damaged_branch_node_copy_is_reported_and_the_other_serves(
    lab: Lab, damage: str, copy: int
) -> None:
    lab.shred(verify_slot(5))
    sql(lab.path, f"{damage} WHERE id = ?", (row_id(1, 1, 0, copy),))
    tree, _ = open_tree(lab.store, VAULT, [candidate(lab.root())])
    assert tree.slot_key(verify_slot(6)) == lab.tree.slot_key(verify_slot(6))
    assert tree.damage == (f"keys.db: node 1/1/0, copy {copy}",)


@pytest.mark.parametrize("level", [2, 3])
def test_a_damaged_node_stops_its_own_slots_only(lab: Lab, level: int) -> None:
    lab.shred(verify_slot(5))
    far = lab.tree.slot_key(verify_slot(500_000))
    sql(lab.path, "UPDATE node SET blob = zeroblob(3900) WHERE id = ?", (row_id(1, level, 0),))
    tree, _ = open_tree(lab.store, VAULT, [candidate(lab.root())])
    with pytest.raises(IntegrityError, match="does not open"):
        tree.slot_key(verify_slot(6))
    with pytest.raises(IntegrityError):
        tree.slot_keys([verify_slot(6)])
    with pytest.raises(IntegrityError):
        tree.alive([verify_slot(6)])
    assert tree.slot_key(verify_slot(500_000)) == far


def test_a_tree_swapped_by_another_process_says_so(lab: Lab) -> None:
    lab.shred(verify_slot(5))
    other = KeysStore.open(lab.path, VAULT)
    stale, _ = open_tree(other, VAULT, [candidate(lab.root())])
    lab.shred(verify_slot(6))
    assert not stale.is_current()
    assert lab.tree.is_current()
    with pytest.raises(TreeStale):
        stale.slot_key(verify_slot(7))
    assert stale.slot_key(slot_id(2, 0)) == lab.tree.slot_key(slot_id(2, 0))
    other.close()


def test_the_cache_is_bounded(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree_module, "_CACHED_NODES", 5)
    keys = [lab.tree.slot_key(verify_slot(14400 * i)) for i in range(50)]
    assert len(lab.tree._cache) <= 5
    assert [lab.tree.slot_key(verify_slot(14400 * i)) for i in range(50)] == keys


def test_many_threads_read_the_same_keys(lab: Lab) -> None:
    slots = [verify_slot(14400 * i + 7) for i in range(100)]
    lab.shred(*(slot + 1 for slot in slots))
    expected = [lab.tree.slot_key(slot) for slot in slots]
    tree, _ = open_tree(lab.store, VAULT, [candidate(lab.root())])
    found: list[list[bytes]] = []

    def read() -> None:
        keys, _ = tree.slot_keys(slots)
        found.append([tree.slot_key(slot) for slot in slots])
        found.append([bytes(key) for key in keys])

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 16


def test_a_million_neighbouring_slot_keys(lab: Lab) -> None:
    slots = np.arange(1_000_000) + verify_slot(0)
    keys, alive = lab.tree.slot_keys(slots)
    assert alive.all()
    assert bytes(keys[777_777]) == lab.tree.slot_key(verify_slot(777_777))


def test_a_known_tree_serves_only_while_its_root_node_and_its_root_stand(lab: Lab) -> None:
    known, held = lab.tree, lab.provider.candidates()
    assert open_tree(lab.store, VAULT, held, known)[0] is known
    for roots in (
        [],
        [candidate(os.urandom(32))],
        [Candidate(held[0].fingerprint, "current", os.urandom(32))],
    ):
        with pytest.raises(RootError):
            open_tree(lab.store, VAULT, roots, known)
    with KeysStore.open(lab.path, VAULT) as other:
        again = open_tree(other, VAULT, held, known)[0]
        assert again is not known
        assert again.slot_key(verify_slot(5)) == known.slot_key(verify_slot(5))


@pytest.mark.parametrize("copy", [0, 1])
def test_damage_is_found_beside_a_known_tree(lab: Lab, copy: int) -> None:
    known, held = lab.tree, lab.provider.candidates()
    sql(lab.path, "UPDATE top SET blob = zeroblob(length(blob)) WHERE copy = ?", (copy,))
    again = open_tree(lab.store, VAULT, held, known)[0]
    assert again is not known
    assert again.damage == (f"keys.db: root node, copy {copy}",)


def test_a_known_tree_of_an_older_epoch_is_not_believed(lab: Lab) -> None:
    old = lab.tree
    lab.shred(verify_slot(5))
    new = open_tree(lab.store, VAULT, lab.provider.candidates(), old)[0]
    assert new.epoch == old.epoch + 1
    assert not new.alive([verify_slot(5)])[0]


def test_nodes_that_are_used_stay_and_of_the_others_the_oldest_goes(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree_module, "_CACHED_NODES", 5)
    lab.tree.slot_key(verify_slot(0))
    kept = lab.tree.node(1, 3, 0)
    for at in range(1, 9):
        lab.tree.slot_key(verify_slot(120 * at))
        assert lab.tree.node(1, 3, 0) is kept
        assert len(lab.tree._cache) == min(3 + at, 5)


def test_what_a_root_node_and_many_keys_were_copied_from_is_zeroed(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[bytes] = []
    copied: list[npt.NDArray[np.uint64]] = []

    def opening(key: bytes, blob: bytes, aad: bytes) -> bytes:
        opened.append(open_sealed(key, blob, aad))
        return opened[-1]

    def unsorted(keys: npt.NDArray[np.uint64], order: npt.NDArray[np.int64] | None) -> object:
        copied.append(keys)
        return slots_module.unsorted(keys, order)

    monkeypatch.setattr(tree_module, "open_sealed", opening)
    monkeypatch.setattr(tree_module, "unsorted", unsorted)
    tree, _ = open_tree(lab.store, VAULT, [candidate(lab.root())])
    assert len(opened) == 1
    assert not any(opened[0])
    keys, _ = tree.slot_keys([verify_slot(7), verify_slot(3)])
    assert keys.any(axis=1).all()
    assert not copied[0].any()
