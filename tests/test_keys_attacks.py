"""Attacks on promise 2, erased stays erased, by whoever holds the files, old and new, and the root."""

from __future__ import annotations

import itertools
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from facekeep.crypto.primitives import expand_node, open_sealed
from facekeep.errors import FacekeepError, IntegrityError, RootError, SlotDead, StoreError
from facekeep.formats.nodes import (
    CHILDREN_LEN,
    decode_node,
    decode_root,
    node_aad,
    node_info,
    root_aad,
    root_fingerprint,
    row_id,
)
from facekeep.keys.tree import open_tree
from facekeep.store.keysdb import KeysStore, PrincipalRow
from keys_help import VAULT, Lab, candidate, copy_file, sql, verify_slot

VICTIM = verify_slot(1_000_005)
NEIGHBOUR = verify_slot(1_000_006)
LEAF = 1_000_005 // 120
PATH = ((1, 1, 0), (1, 2, LEAF // 120), (1, 3, LEAF))


class Scene:
    """A vault with a history: keys.db saved at every epoch, the victim shredded in the middle of it."""

    def __init__(self, directory: Path) -> None:
        self.lab = Lab(directory)
        self.saved = [self.lab.save("epoch-1.db")]
        self.roots = [self.lab.root()]
        self.key = self.lab.tree.slot_key(VICTIM)
        self.neighbour = self.lab.tree.slot_key(NEIGHBOUR)
        self._epoch(verify_slot(1_000_100))  # the path is stored before the victim's end
        self._epoch(VICTIM)
        self.last_living = 1  # index into saved: the newest copy in which the victim lives
        self._epoch(verify_slot(1_000_300), verify_slot(3))
        self._epoch(verify_slot(1_000_007))
        self.root = self.roots[-1]
        self.lab.store.close()

    def _epoch(self, *slots: int) -> None:
        self.lab.shred(*slots)
        self.roots.append(self.lab.root())
        self.saved.append(self.lab.save(f"epoch-{self.lab.tree.epoch}.db"))

    def forge(self, name: str = "forged.db") -> Path:
        """Return a copy of the current keys.db, to be altered."""
        return copy_file(self.saved[-1], self.lab.directory / name)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return Scene(tmp_path_factory.mktemp("scene"))


def attempt(path: Path, root: bytes, slot: int = VICTIM) -> bytes | None:
    """Open keys.db as the vault does and ask for a slot's key; None for any refusal of ours."""
    try:
        with KeysStore.open(path, VAULT) as store:
            tree, _ = open_tree(store, VAULT, [candidate(root)])
            keys, alive = tree.slot_keys([slot])
            assert bool(alive[0]) == bool(tree.alive([slot])[0])
            key = tree.slot_key(slot)
            assert key == bytes(keys[0])
            return key
    except (IntegrityError, RootError, SlotDead):
        return None


def node_rows(path: Path) -> dict[int, tuple[object, ...]]:
    return {int(str(row[0])): row for row in sql(path, "SELECT id, epoch, blob FROM node")}


def reachable_keys(paths: list[Path], roots: list[bytes]) -> set[bytes]:
    """Every key that any blob of any file yields, starting from ``roots``: the strongest reader there is.

    Every key that a stored node or the path yields is tried on every blob of the victim's path, and as the
    key of a derived node at every place there.
    """
    tops = [row for path in paths for row in sql(path, "SELECT epoch, fingerprint, blob FROM top")]
    rows = [row for path in paths for row in sql(path, "SELECT id, epoch, blob FROM node")]
    places = {row_id(*place): place for place in PATH} | {row_id(1, 1, 0, 1): PATH[0]}
    blobs = {(place, row[1], row[2]) for row in rows if (place := places.get(int(str(row[0]))))}
    known: set[bytes] = set()
    held = set(roots)
    while fresh := held - known - {bytes(32)}:
        known |= fresh
        derived = [derived_along_the_path(key) for key in fresh]
        known.update(*(below for below, _ in derived))
        for key in fresh.union(*(chain for _, chain in derived)):
            held |= opened_top(key, tops) | opened_nodes(key, blobs)
    return known


def opened_top(key: bytes, tops: list[tuple[object, ...]]) -> set[bytes]:
    for epoch, mark, blob in tops:
        assert isinstance(epoch, int)
        assert isinstance(mark, bytes)
        assert isinstance(blob, bytes)
        if mark == root_fingerprint(VAULT, key):
            return children(decode_root(open_sealed(key, blob, root_aad(VAULT, epoch, mark))).node.children)
    return set()


def opened_nodes(key: bytes, blobs: set[tuple[tuple[int, int, int], object, object]]) -> set[bytes]:
    found: set[bytes] = set()
    for place, epoch, blob in blobs:
        assert isinstance(epoch, int)
        assert isinstance(blob, bytes)
        try:
            plain = open_sealed(key, blob, node_aad(VAULT, *place, epoch))
        except IntegrityError:
            continue
        found |= children(decode_node(plain, place[1]).children)
    return found


def derived_along_the_path(key: bytes) -> tuple[set[bytes], set[bytes]]:
    """Children of the nodes this key would derive at each place of the path, and those that lie on it."""
    below: set[bytes] = set()
    chain: set[bytes] = set()
    for start in range(len(PATH) if any(key) else 0):
        at = key
        for branch, level, index in PATH[start:]:
            raw = expand_node(node_info(VAULT, branch, level, index), at)
            child = (LEAF // 120, LEAF % 120, 0)[level - 1]
            at = raw[32 * child : 32 * child + 32]
            below |= children(raw)
            chain |= {at} if level < 3 else set()
    return below, chain


def children(raw: bytes) -> set[bytes]:
    assert len(raw) == CHILDREN_LEN
    return {raw[i : i + 32] for i in range(0, CHILDREN_LEN, 32)}


def test_no_combination_of_old_and_new_copies_and_the_current_root_holds_the_key(scene: Scene) -> None:
    keys = reachable_keys(scene.saved, [scene.root])
    assert scene.neighbour in keys  # the search works: it finds who lives
    assert scene.key not in keys


def test_the_same_search_with_a_kept_old_root_does_find_it(scene: Scene) -> None:
    """Holds the attack code to account, and states the limit of the promise."""
    for root in scene.roots[: scene.last_living + 1]:
        assert scene.key in reachable_keys(scene.saved, [root])
    for root in scene.roots[scene.last_living + 1 :]:
        assert scene.key not in reachable_keys(scene.saved, [root])


def test_no_saved_keys_db_opens_the_dead_slot_with_the_current_root(scene: Scene) -> None:
    for number, path in enumerate(scene.saved):
        copied = copy_file(path, path.with_name("tried.db"))
        assert attempt(copied, scene.root) is None
        assert (attempt(copied, scene.root, NEIGHBOUR) is not None) == (number == len(scene.saved) - 1)


def test_an_old_keys_db_is_refused(scene: Scene) -> None:
    for path in scene.saved[:-1]:
        with (
            KeysStore.open(copy_file(path, path.with_name("old.db")), VAULT) as store,
            pytest.raises(RootError, match="older copy"),
        ):
            open_tree(store, VAULT, [candidate(scene.root)])


def test_old_rows_spliced_into_the_new_keys_db_never_revive(scene: Scene) -> None:
    """Every old row alone, and every combination of old rows along the victim's path."""
    path_ids = [row_id(1, 1, 0), row_id(1, 1, 0, 1), row_id(*PATH[1]), row_id(*PATH[2])]
    for old in scene.saved[:-1]:
        rows = node_rows(old)
        choices = [[each] for each in rows] + [
            [each for each in chosen if each in rows]
            for count in range(1, 5)
            for chosen in itertools.combinations(path_ids, count)
        ]
        for chosen in choices:
            forged = scene.forge()
            for each in chosen:
                sql(forged, "INSERT OR REPLACE INTO node VALUES (?, ?, ?)", rows[each])
            assert attempt(forged, scene.root) is None
            assert attempt(forged, scene.root, NEIGHBOUR) in (None, scene.neighbour)


def test_deleted_rows_never_turn_a_stored_node_back_into_a_derived_one(scene: Scene) -> None:
    for place in PATH:
        forged = scene.forge()
        first = row_id(*place)
        sql(forged, "DELETE FROM node WHERE id BETWEEN ? AND ?", (first, first + (place[1] == 1)))
        assert attempt(forged, scene.root) is None
        assert attempt(forged, scene.root, NEIGHBOUR) is None


def test_an_old_root_node_spliced_in_never_revives(scene: Scene) -> None:
    for old, copies in itertools.product(scene.saved[:-1], [(0,), (1,), (0, 1)]):
        forged = scene.forge()
        for copy in copies:
            row = sql(old, "SELECT * FROM top WHERE copy = ?", (copy,))[0]
            sql(forged, "INSERT OR REPLACE INTO top VALUES (?, ?, ?, ?)", row)
        assert attempt(forged, scene.root) is None
        expected = None if len(copies) == 2 else scene.neighbour
        assert attempt(forged, scene.root, NEIGHBOUR) == expected


def test_an_old_branch_row_of_the_other_copy_is_damage_and_no_way_in(scene: Scene) -> None:
    for old, copy in itertools.product(scene.saved[1:-1], (0, 1)):
        forged = scene.forge()
        row = node_rows(old)[row_id(1, 1, 0, 1 - copy)]
        sql(forged, "UPDATE node SET epoch = ?, blob = ? WHERE id = ?", (*row[1:], row_id(1, 1, 0, copy)))
        assert attempt(forged, scene.root) is None
        with KeysStore.open(forged, VAULT) as store:
            tree, _ = open_tree(store, VAULT, [candidate(scene.root)])
            assert tree.slot_key(NEIGHBOUR) == scene.neighbour
            assert tree.damage == (f"keys.db: node 1/1/0, copy {copy}",)


def test_rows_swapped_between_places_are_refused(scene: Scene) -> None:
    rows = node_rows(scene.saved[-1])
    for one, other in itertools.combinations(rows, 2):
        forged = scene.forge()
        for to, source in ((one, other), (other, one)):
            sql(forged, "UPDATE node SET epoch = ?, blob = ? WHERE id = ?", (*rows[source][1:], to))
        assert attempt(forged, scene.root) is None
        assert attempt(forged, scene.root, NEIGHBOUR) in (None, scene.neighbour)


def test_a_row_with_another_epoch_number_is_refused(scene: Scene) -> None:
    for epoch in (0, -1, 1, 2**53, 2**62):
        forged = scene.forge()
        sql(forged, "UPDATE node SET epoch = ?", (epoch,))
        assert attempt(forged, scene.root, NEIGHBOUR) is None


def test_between_write_and_promotion_the_newer_root_node_wins(tmp_path: Path) -> None:
    """With both roots at hand, an old root node put into one row must not roll the tree back."""
    lab = Lab(tmp_path)
    old = sql(lab.path, "SELECT * FROM top WHERE copy = 0")[0]
    swap = lab.swap([VICTIM])
    swap.stage()
    swap.write()
    candidates = lab.provider.candidates()
    assert len(candidates) == 2
    for copy in (0, 1):
        sql(lab.path, "UPDATE top SET epoch = ?, fingerprint = ?, blob = ? WHERE copy = ?", (*old[1:], copy))
        tree, winner = open_tree(lab.store, VAULT, candidates)
        assert winner.fingerprint == swap.fingerprint
        assert not tree.alive([VICTIM])[0]
        assert tree.damage == ("keys.db: root node of epoch 1",)
        new = sql(lab.path, "SELECT * FROM top WHERE copy = ?", (1 - copy,))[0]
        sql(lab.path, "UPDATE top SET epoch = ?, fingerprint = ?, blob = ? WHERE copy = ?", (*new[1:], copy))


def test_a_zero_key_is_refused() -> None:
    with pytest.raises(IntegrityError):
        expand_node(node_info(VAULT, 1, 1, 0), bytes(32))


def test_the_dead_key_stands_nowhere_in_clear(scene: Scene) -> None:
    secrets = [scene.key, scene.neighbour, *scene.roots]
    for path in scene.lab.directory.glob("*.db*"):
        raw = path.read_bytes()
        assert not any(secret in raw for secret in secrets)


# -- damage anywhere in the file


def exercise(path: Path, root: bytes, expected: dict[int, bytes]) -> bool:
    """Do everything a vault does with keys.db; only our errors may leave, and only right keys.

    Returns whether all went well.
    """
    try:
        store = KeysStore.open(path, VAULT)
    except FacekeepError:
        return False
    failed = 0
    with store:
        calls: list[Callable[[], object]] = [
            lambda: keys_hold(store, root, expected),
            store.principal_list,
            lambda: store.principal_get(b"p" * 8),
            lambda: store.index_get(b"h" * 32),
            store.index_count,
            store.generation,
            store.integrity,
            store.copies_state,
            lambda: store.index_put_many([(b"n" * 32, b"v")]),
        ]
        for call in calls:
            try:
                call()
            except FacekeepError:
                failed += 1
    return not failed


def keys_hold(store: KeysStore, root: bytes, expected: dict[int, bytes]) -> None:
    tree, _ = open_tree(store, VAULT, [candidate(root)])
    for slot, key in expected.items():
        try:
            found = tree.slot_key(slot)
        except SlotDead:
            assert not key, "a living slot was called dead"
        except (IntegrityError, StoreError):
            continue
        else:
            assert found == key
    tree.slot_keys(np.array(list(expected)))


@pytest.fixture(scope="module")
def furnished(scene: Scene) -> tuple[Path, dict[int, bytes]]:
    """Return a keys.db with rows in every table, and what its slots must say."""
    path = scene.forge("furnished.db")
    with KeysStore.open(path, VAULT) as store:
        store.principal_put(PrincipalRow(16, b"p" * 8, b"g" * 16, b"c" * 32, b"s" * 90))
        store.index_put_many([(b"h" * 32, b"i" * 62)])
        tree, _ = open_tree(store, VAULT, [candidate(scene.root)])
        slots = [0, NEIGHBOUR, verify_slot(4), verify_slot(77_777)]
        expected = {slot: tree.slot_key(slot) for slot in slots} | {VICTIM: b"", verify_slot(3): b""}
    folded = path.with_name("folded.db")
    with sqlite3.connect(path) as source, sqlite3.connect(folded) as target:
        source.backup(target)
    source.close()
    target.close()
    return folded, expected


def test_flipped_bits_anywhere_give_our_errors_or_the_right_keys(
    furnished: tuple[Path, dict[int, bytes]], scene: Scene
) -> None:
    path, expected = furnished
    raw = path.read_bytes()
    rng = random.Random(11)
    heads = [page + offset for page in range(0, len(raw), 4096) for offset in (0, 1, 3, 5, 7, 8, 9, 11)]
    tried = [*range(100), *heads, *(rng.randrange(len(raw)) for _ in range(250))]
    target = path.with_name("flipped.db")
    outcomes: set[bool] = set()
    for position in tried:
        altered = bytearray(raw)
        altered[position] ^= 1 << rng.randrange(8)
        write_alone(target, bytes(altered))
        outcomes.add(exercise(target, scene.root, expected))
    assert outcomes == {True, False}


def test_garbage_truncation_and_exchanged_pages_give_our_errors_or_the_right_keys(
    furnished: tuple[Path, dict[int, bytes]], scene: Scene
) -> None:
    path, expected = furnished
    raw = path.read_bytes()
    rng = random.Random(12)
    target = path.with_name("garbled.db")
    pages = len(raw) // 4096
    for _ in range(120):
        altered = bytearray(raw)
        match rng.randrange(3):
            case 0:
                at = rng.randrange(len(raw))
                altered[at : at + 64] = rng.randbytes(64)[: len(raw) - at]
            case 1:
                del altered[rng.randrange(len(raw)) :]
            case _:
                one, other = (4096 * rng.randrange(pages) for _ in range(2))
                altered[one : one + 4096], altered[other : other + 4096] = (
                    raw[other : other + 4096],
                    raw[one : one + 4096],
                )
        write_alone(target, bytes(altered))
        exercise(target, scene.root, expected)


def write_alone(target: Path, content: bytes) -> None:
    for end in ("-wal", "-shm"):
        target.with_name(target.name + end).unlink(missing_ok=True)
    target.write_bytes(content)
