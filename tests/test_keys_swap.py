from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from facekeep.crypto import primitives
from facekeep.errors import ErasurePending, FormatError, IntegrityError, RootError, StoreError, TreeFull
from facekeep.formats.ids import BRANCH_SLOTS, slot_id
from facekeep.formats.nodes import EMPTY_PIN, Kind, Pin
from facekeep.keys import plan as plan_module
from facekeep.keys import swap as swap_module
from facekeep.keys.file_provider import FileProvider
from facekeep.keys.plan import plan
from facekeep.keys.provider import Receipt, placeholder
from facekeep.keys.settle import settle
from facekeep.keys.swap import Swap, initial
from facekeep.keys.tree import open_tree
from facekeep.store.keysdb import KeysStore
from keys_help import ALL_GIVEN, NOW, VAULT, Lab, candidate, sql, verify_slot

STEPS = [f"{when} {name}" for name in ("stage", "write", "verify", "promote") for when in ("before", "after")]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def stored(lab: Lab) -> int:
    count = sql(lab.path, "SELECT count(*) FROM node")[0][0]
    assert isinstance(count, int)
    return count


def test_a_swap_kills_its_slots_and_nothing_else(lab: Lab) -> None:
    slots = np.arange(2000) + verify_slot(0)
    before, _ = lab.tree.slot_keys(slots)
    dead = slots[[0, 1, 119, 120, 777, 1999]]
    old = lab.tree
    tree = lab.shred(*dead.tolist())
    keys, alive = tree.slot_keys(slots)
    assert set(slots[~alive].tolist()) == set(dead.tolist())
    assert (keys[alive] == before[alive]).all()
    assert tree.epoch == old.epoch + 1
    assert tree.fingerprint != old.fingerprint
    assert [each.fingerprint for each in lab.provider.candidates()] == [tree.fingerprint]


def test_a_swap_of_nothing_replaces_the_root_alone(lab: Lab) -> None:
    key = lab.tree.slot_key(verify_slot(9))
    old = lab.root()
    tree = lab.shred()
    assert lab.root() != old
    assert stored(lab) == 0
    assert tree.slot_key(verify_slot(9)) == key


def test_slots_already_dead_are_fine_and_re_key_nothing(lab: Lab) -> None:
    lab.shred(verify_slot(5))
    rows = sql(lab.path, "SELECT * FROM node ORDER BY id")
    lab.shred(verify_slot(5), verify_slot(5))
    assert sql(lab.path, "SELECT * FROM node ORDER BY id") == rows


def test_each_node_on_the_paths_is_re_keyed_exactly_once(lab: Lab) -> None:
    slots = [verify_slot(i) for i in (0, 1, 120, 14400, 14401)] + [slot_id(2, 0)]
    writes = plan(lab.tree, slots, new_root=os.urandom(32), pin=EMPTY_PIN, now_ms=NOW, alloc=ALL_GIVEN)
    rows = [repr(row).partition(", epoch")[0] for row in writes.rows]
    assert len(rows) == len(set(rows)) == (3 + 2 + 1) + 3 + 1


def test_the_pin_and_the_time_stand_in_the_new_root_node(lab: Lab) -> None:
    pin = Pin(9, b"r" * 32, b"c" * 32)
    tree, _ = Swap(lab.store, lab.tree, [lab.provider], [], pin=pin, now_ms=NOW + 5, alloc=ALL_GIVEN).run()
    assert tree.pin == pin
    assert tree.swapped_at_ms == NOW + 5


def test_a_wholly_dead_leaf_is_pruned(lab: Lab) -> None:
    lab.shred(*(verify_slot(i) for i in range(60)))
    assert stored(lab) == 4
    tree = lab.shred(*(verify_slot(i) for i in range(60, 120)))
    assert stored(lab) == 3
    assert not tree.alive([verify_slot(i) for i in range(120)]).any()
    assert tree.alive([verify_slot(120)]).all()


def test_a_wholly_dead_level_two_node_is_pruned_with_its_leaves(lab: Lab) -> None:
    lab.shred(verify_slot(5), verify_slot(14399), verify_slot(14400))
    assert stored(lab) == 2 + 2 + 3
    tree = lab.shred(*(verify_slot(i) for i in range(14400)))
    assert stored(lab) == 2 + 1 + 1
    assert not tree.alive(np.arange(14400) + verify_slot(0)).any()
    assert tree.alive([verify_slot(14401)]).all()


def test_the_last_living_child_makes_its_parents_wholly_dead(lab: Lab) -> None:
    lab.quick_shred(np.arange(1, BRANCH_SLOTS) + verify_slot(0))
    assert stored(lab) == 4
    tree = lab.shred(verify_slot(0))
    assert stored(lab) == 0
    assert [branch for _, branch, _ in tree.branches()] == [0, 2]


def test_a_wholly_dead_branch_frees_its_position_under_a_fresh_key(lab: Lab) -> None:
    lab.shred(verify_slot(5))
    before = lab.tree.root_node.node.child(1)
    tree = lab.quick_shred(np.arange(BRANCH_SLOTS) + verify_slot(0))
    assert tree.branches() == ((0, 0, Kind.SYSTEM), (2, 2, Kind.IDENTIFY))
    free = tree.root_node.node.child(1)
    assert free not in (before, bytes(32))
    tree = lab.shred(take=(Kind.TRAIN,))
    assert tree.branches() == ((0, 0, Kind.SYSTEM), (1, 3, Kind.TRAIN), (2, 2, Kind.IDENTIFY))
    assert tree.root_node.node.child(1) != free
    assert not tree.alive([verify_slot(0)])[0]
    assert tree.alive([slot_id(3, 0)])[0]
    assert lab.shred(verify_slot(0)).alive([slot_id(3, 0)])[
        0
    ]  # branch 1 stays dead, and named slots are fine


def test_a_position_is_recycled_in_the_same_swap(lab: Lab) -> None:
    lab.shred(take=[Kind.SHARE] * 117)
    root = lab.root_path.read_bytes()
    with pytest.raises(TreeFull):
        lab.shred(take=[Kind.SHARE])
    assert lab.root_path.read_bytes() == root
    tree = lab.quick_shred(np.arange(BRANCH_SLOTS) + verify_slot(0), take=[Kind.EVALUATE])
    assert tree.branches()[1] == (1, 120, Kind.EVALUATE)
    assert len(tree.branches()) == 120


@pytest.mark.parametrize("slot", [-1, slot_id(3, 0), slot_id(1, 0) + BRANCH_SLOTS, 2**53])
def test_a_slot_that_never_was_is_refused(lab: Lab, slot: int) -> None:
    with pytest.raises(FormatError):
        plan(lab.tree, [slot], new_root=b"r" * 32, pin=EMPTY_PIN, now_ms=NOW, alloc=ALL_GIVEN)


def test_an_unknown_kind_is_refused(lab: Lab) -> None:
    with pytest.raises(FormatError):
        plan(lab.tree, [], new_root=b"r" * 32, pin=EMPTY_PIN, now_ms=NOW, alloc=ALL_GIVEN, take=[9])
    with pytest.raises(FormatError):
        plan(lab.tree, [], new_root=b"r" * 32, pin=EMPTY_PIN, now_ms=NOW, alloc=ALL_GIVEN, take=[Kind.FREE])


def test_more_kinds_than_positions_are_refused(tmp_path: Path) -> None:
    store = KeysStore.create(tmp_path / "keys.db", VAULT)
    with pytest.raises(TreeFull):
        initial(store, VAULT, b"r" * 32, NOW, [Kind.VERIFY] * 120)
    tree = initial(store, VAULT, b"r" * 32, NOW, [Kind.VERIFY] * 119)
    assert len(tree.branches()) == 120


def test_a_million_slots_at_once_stay_in_bounded_memory(tmp_path: Path) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import resource, pathlib, numpy as np\n"
        "from keys_help import Lab, verify_slot\n"
        "lab = Lab(pathlib.Path(sys.argv[2]))\n"
        "base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "slots = np.arange(1, 1_728_000, 2) + verify_slot(0)\n"
        "lab.tree, _ = lab.swap(slots).run()\n"
        "assert not lab.tree.alive(slots).any() and lab.tree.alive(slots - 1).all()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base)\n"
    )
    here = str(Path(__file__).parent)
    run = subprocess.run(
        [sys.executable, "-c", script, here, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert (
        int(run.stdout) < 300_000
    )  # kB; the rows alone are 14,400 x 4 kB, SQLite's cache 64 MB a connection


# -- living keys never change


@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_living_keys_never_change_across_two_hundred_swaps(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Five runs of forty swaps, of slots clustered so that leaves and level-2 nodes die wholly too."""
    lab = Lab(tmp_path_factory.mktemp("swaps"))
    pool = np.concatenate([np.arange(360), np.arange(14400, 28800), [500_000, 1_727_999]]) + verify_slot(0)
    first, _ = lab.tree.slot_keys(pool)
    dead: set[int] = set()
    spans = st.tuples(st.integers(0, len(pool) - 1), st.sampled_from([1, 2, 60, 120, 1000, 14400]))
    for _ in range(40):
        chosen = [
            slot for at, count in data.draw(st.lists(spans, max_size=4)) for slot in pool[at : at + count]
        ]
        dead.update(int(slot) for slot in chosen)
        keys, alive = lab.quick_shred(np.array(chosen, dtype=np.int64)).slot_keys(pool)
        assert set(pool[~alive].tolist()) == dead
        assert (keys[alive] == first[alive]).all()
    lab.store.close()


# -- a key seals at most one blob


def test_a_node_key_seals_at_most_one_blob(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[bytes] = []
    real = primitives.seal

    def watched(key: bytes, plaintext: bytes, aad: bytes) -> bytes:
        used.append(key)
        return real(key, plaintext, aad)

    monkeypatch.setattr(plan_module, "seal", watched)
    rng = np.random.default_rng(3)
    for _ in range(20):
        lab.shred(*(rng.integers(0, 50_000, 30) + verify_slot(0)).tolist())
    assert len(used) > 400
    assert len(set(used)) == len(used)


def test_a_failed_write_is_tried_again_under_another_root(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the first, uncommitted blob could be dug out of the WAL and opened with the second's root."""
    used: list[bytes] = []
    real = primitives.seal

    def watched(key: bytes, plaintext: bytes, aad: bytes) -> bytes:
        used.append(key)
        return real(key, plaintext, aad)

    monkeypatch.setattr(plan_module, "seal", watched)
    swap = lab.swap([verify_slot(5)])
    swap.stage()
    first = swap.fingerprint
    with monkeypatch.context() as patch:
        patch.setattr("facekeep.store.keysdb.apply_swap", failing_after_rows)
        with pytest.raises(StoreError):
            swap.write()
    swap.write()
    assert swap.fingerprint != first
    assert len(set(used)) == len(used) == 2 * 4
    assert first not in {each.fingerprint for each in lab.provider.candidates()}
    tree = swap.verify()
    swap.promote()
    assert not tree.alive([verify_slot(5)])[0]


def failing_after_rows(_: object, writes: object) -> None:
    list(writes.rows)  # type: ignore[attr-defined]
    raise StoreError("disk full")


# -- steps, crashes, recovery


class Killed(BaseException):
    """Stands for SIGKILL."""


def test_every_step_may_be_repeated(lab: Lab) -> None:
    swap = lab.swap([verify_slot(5)])
    steps: list[Callable[[], object]] = [swap.stage, swap.write, swap.verify, swap.promote]
    receipts: list[object] = []
    for step in steps:
        step()
        receipts.append(step())
        for earlier in steps[: steps.index(step)]:
            earlier()
    assert receipts[-1] == swap.promote()
    assert all(isinstance(each, Receipt) for each in swap.promote())
    assert [each.action for each in swap.promote()] == ["promoted", "destroyed"]
    assert len(lab.provider.candidates()) == 1


def test_the_hook_hears_every_step_in_order(lab: Lab) -> None:
    heard: list[str] = []
    lab.swap([verify_slot(5)], on_step=heard.append).run()
    assert heard == STEPS


@pytest.mark.parametrize("where", STEPS)
def test_stopped_at_any_step_recovery_ends_in_a_whole_tree(lab: Lab, where: str) -> None:
    living = lab.tree.slot_key(verify_slot(6))
    old = lab.root()

    def stop(step: str) -> None:
        if step == where:
            raise Killed

    with pytest.raises(Killed):
        lab.swap([verify_slot(5)], on_step=stop).run()
    tree = lab.recover()
    written = STEPS.index(where) >= STEPS.index("after write")
    assert tree.alive([verify_slot(5)])[0] != written
    assert len(lab.provider.candidates()) == 1
    tree = lab.shred(verify_slot(5))
    assert not tree.alive([verify_slot(5)])[0]
    assert tree.slot_key(verify_slot(6)) == living
    assert lab.root() != old


@pytest.mark.parametrize("where", STEPS)
def test_kill_9_at_any_step(tmp_path: Path, where: str) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import os, pathlib, signal\n"
        "from keys_help import Lab, verify_slot\n"
        "base = pathlib.Path(sys.argv[2])\n"
        "lab = Lab(base, [base / 'usb' / 'keys.db'])\n"
        "print(lab.tree.slot_key(verify_slot(6)).hex(), flush=True)\n"
        "stop = lambda step: os.kill(os.getpid(), signal.SIGKILL) if step == sys.argv[3] else None\n"
        "lab.swap([verify_slot(5)], on_step=stop).run()\n"
    )
    arguments = [str(Path(__file__).parent), str(tmp_path), where]
    run = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False
    )
    assert run.returncode == -9, run.stderr
    copies = [tmp_path / "usb" / "keys.db"]
    provider = FileProvider(tmp_path / "root.key", VAULT)
    with KeysStore.open(tmp_path / "keys.db", VAULT, copies) as store:
        tree, winner = open_tree(store, VAULT, provider.candidates())
        settle(store, winner, [provider])
        assert tree.alive([verify_slot(5)])[0] == (STEPS.index(where) < STEPS.index("after write"))
        assert tree.slot_key(verify_slot(6)).hex() == run.stdout.strip()
        tree, _ = Swap(
            store, tree, [provider], [verify_slot(5)], pin=EMPTY_PIN, now_ms=NOW, alloc=ALL_GIVEN
        ).run()
        assert not tree.alive([verify_slot(5)])[0]
        assert [each.state for each in store.copies_state()] == ["current"]


@pytest.mark.parametrize("how", ["before", "after"])
@pytest.mark.parametrize("number", range(1, 12))
def test_the_root_file_failing_at_any_write_of_a_swap(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, number: int, how: str
) -> None:
    """An I/O error, whether it persisted or not: the swap ends or is pending; recovery finishes it."""
    real, count = os.fsync, [0]

    def fsync(descriptor: int) -> None:
        count[0] += 1
        if count[0] != number or how == "after":
            real(descriptor)
        if count[0] == number:
            raise OSError(5, "Input/output error")

    living = lab.tree.slot_key(verify_slot(6))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        try:
            lab.swap([verify_slot(5)]).run()
        except ErasurePending:
            assert count[0] == number
    lab.recover()
    assert lab.shred(verify_slot(5)).slot_key(verify_slot(6)) == living
    assert len(lab.provider.candidates()) == 1


# -- several holders


def mirrored(lab: Lab) -> list[FileProvider]:
    second = FileProvider(lab.directory / "second.key", VAULT)
    second.provision(lab.root())
    return [lab.provider, second]


def test_every_holder_promotes_and_destroys(lab: Lab) -> None:
    holders = mirrored(lab)
    tree, receipts = Swap(
        lab.store, lab.tree, holders, [verify_slot(5)], pin=EMPTY_PIN, now_ms=NOW, alloc=ALL_GIVEN
    ).run()
    assert [each.action for each in receipts] == ["promoted", "destroyed"] * 2
    assert {each.candidates()[0].fingerprint for each in holders} == {tree.fingerprint}


def test_a_holder_that_is_away_stops_the_swap_before_the_keys_change(lab: Lab) -> None:
    holders = mirrored(lab)
    away = holders[1].path.rename(lab.directory / "away.key")
    before = sql(lab.path, "SELECT * FROM top")
    with pytest.raises(ErasurePending):
        Swap(lab.store, lab.tree, holders, [verify_slot(5)], pin=EMPTY_PIN, now_ms=NOW, alloc=ALL_GIVEN).run()
    assert sql(lab.path, "SELECT * FROM top") == before
    away.rename(holders[1].path)
    tree, _ = Swap(
        lab.store, lab.tree, holders, [verify_slot(5)], pin=EMPTY_PIN, now_ms=NOW, alloc=ALL_GIVEN
    ).run()
    assert not tree.alive([verify_slot(5)])[0]


def test_a_holder_away_at_promotion_is_brought_up_by_recovery(lab: Lab) -> None:
    holders = mirrored(lab)
    old = holders[1].path.read_bytes()
    swap = Swap(lab.store, lab.tree, holders, [verify_slot(5)], pin=EMPTY_PIN, now_ms=NOW, alloc=ALL_GIVEN)
    swap.stage()
    swap.write()
    swap.verify()
    holders[1].path.write_bytes(old)  # it never heard of the new root
    tree, winner = open_tree(lab.store, VAULT, [each for holder in holders for each in holder.candidates()])
    assert winner.fingerprint == swap.fingerprint
    settle(lab.store, winner, holders, previous=lab.tree.fingerprint)
    assert [[each.fingerprint for each in holder.candidates()] for holder in holders] == [
        [tree.fingerprint]
    ] * 2


def test_settle_never_drops_on_the_word_of_a_root_that_does_not_open_the_tree(lab: Lab) -> None:
    before = lab.root_path.read_bytes()
    with pytest.raises(RootError):
        settle(lab.store, candidate(os.urandom(32)), [lab.provider])
    assert lab.root_path.read_bytes() == before


def test_a_holder_keeps_the_only_root_it_has_until_it_has_the_new_one(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new holder has a placeholder: cut off between dropping it and staging, it would have nothing."""
    new = FileProvider(lab.directory / "new.key", VAULT)
    new.provision(placeholder(VAULT))
    held: list[int] = []
    drop = FileProvider.drop

    def counted(provider: FileProvider, fingerprint: bytes) -> Receipt:
        done = drop(provider, fingerprint)
        held.append(len(provider.candidates()))
        return done

    monkeypatch.setattr(FileProvider, "drop", counted)
    swap = Swap(
        lab.store, lab.tree, [lab.provider, new], [], pin=EMPTY_PIN, now_ms=NOW, alloc=ALL_GIVEN, moving=True
    )
    tree, _ = swap.run()
    assert held
    assert 0 not in held
    assert [each.fingerprint for each in new.candidates()] == [tree.fingerprint]


def test_a_provider_that_gives_back_another_root_stops_the_swap(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FileProvider, "read_back", lambda *_: b"x" * 32)
    with pytest.raises(ErasurePending):
        lab.swap([verify_slot(5)]).run()
    assert lab.tree.is_current()


@pytest.mark.parametrize(("column", "at"), [("fingerprint", 1), ("blob", 0), ("blob", 1)])
def test_a_copys_root_node_that_was_altered_is_mended_before_anything_is_written(
    tmp_path: Path, column: str, at: int
) -> None:
    target = tmp_path / "usb" / "keys.db"
    lab = Lab(tmp_path, [target])
    lab.shred(verify_slot(5))
    lab.store.close()
    whole = sql(target, "SELECT * FROM top ORDER BY copy")
    sql(target, f"UPDATE top SET {column} = ? WHERE copy = ?", (b"\1" * 32, at))
    lab.store = KeysStore.open(lab.path, VAULT, [target])
    swap = lab.swap([verify_slot(6)])
    swap.stage()
    assert sql(target, "SELECT * FROM top ORDER BY copy") == whole
    swap.write()
    assert not swap.verify().alive([verify_slot(5), verify_slot(6)]).any()
    swap.promote()


# -- verification


def test_verification_refuses_a_slot_that_lives(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    real = plan
    monkeypatch.setattr(swap_module, "plan", lambda tree, slots, **rest: real(tree, slots[1:], **rest))
    swap = lab.swap([verify_slot(5), verify_slot(900_000)])
    swap.stage()
    swap.write()
    with pytest.raises(IntegrityError, match="did not destroy"):
        swap.verify()
    assert len(lab.provider.candidates()) == 2


@pytest.mark.parametrize("damage", ["UPDATE node SET blob = zeroblob(3900)", "DELETE FROM node"])
@pytest.mark.parametrize("copy", [False, True])
def test_verification_opens_every_touched_path(tmp_path: Path, damage: str, copy: bool) -> None:
    lab = Lab(tmp_path, [tmp_path / "usb" / "keys.db"])
    slots = [verify_slot(i) for i in (5, 14400, 900_000)]
    swap = lab.swap(slots)
    swap.stage()
    swap.write()
    target = tmp_path / "usb" / "keys.db" if copy else lab.path
    for (row,) in sql(target, "SELECT id FROM node"):
        kept = sql(target, "SELECT * FROM node WHERE id = ?", (row,))[0]
        sql(target, damage + " WHERE id = ?", (row,))
        with pytest.raises(IntegrityError):
            swap.verify()
        sql(target, "INSERT OR REPLACE INTO node VALUES (?, ?, ?)", kept)
    swap.verify()
