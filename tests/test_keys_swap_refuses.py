"""What a swap refuses before it destroys the old root, and what it mends; each check alone (SPEC §3.5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from facekeep.errors import ErasurePending, IntegrityError
from facekeep.formats.ids import slot_id
from facekeep.formats.nodes import EMPTY_PIN, Kind
from facekeep.keys.file_provider import FileProvider
from facekeep.keys.plan import Rekey
from facekeep.keys.provider import placeholder
from facekeep.keys.swap import Swap
from facekeep.keys.tree import TreeStale
from facekeep.keys.verify import key_of
from keys_help import NOW, VAULT, Lab, sql, verify_slot

NO_KEYS = Rekey({}, lambda: ())
ALLOC: Mapping[int, int] = {0: 17, 1: 300, 2: 9}


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def swap_of(
    lab: Lab,
    dead: Sequence[int] = (),
    *,
    rekey: Rekey | None = None,
    drop: Sequence[int] = (),
    alloc: Mapping[int, int] = ALLOC,
) -> Swap:
    return Swap(
        lab.store,
        lab.tree,
        [lab.provider],
        dead,
        pin=EMPTY_PIN,
        now_ms=NOW,
        alloc=alloc,
        rekey=rekey,
        drop=drop,
    )


def refused(lab: Lab, swap: Swap, alter: Callable[[Swap], None], said: str) -> None:
    """Write a swap, make it expect another outcome, and see the old root kept."""
    swap.stage()
    swap.write()
    alter(swap)
    with pytest.raises(IntegrityError, match=said):
        swap.verify()
    assert {each.fingerprint for each in lab.provider.candidates()} > {lab.tree.fingerprint}


def test_a_slot_that_no_destruction_may_touch_has_another_key(lab: Lab) -> None:
    def another(swap: Swap) -> None:
        swap._witness_key = bytes(32)

    refused(lab, swap_of(lab, [verify_slot(5)]), another, "changed a living slot")


def test_the_epoch_is_not_the_next(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def later(_swap: Swap) -> None:
        monkeypatch.setattr(Swap, "epoch", 7)

    refused(lab, swap_of(lab, [verify_slot(5)]), later, "did not destroy")


def test_a_slot_that_should_be_dead_lives(lab: Lab) -> None:
    def another(swap: Swap) -> None:
        swap._dead = swap._dead + 1

    refused(lab, swap_of(lab, [verify_slot(5)]), another, "did not destroy")


def test_a_branch_that_should_end_stands(lab: Lab) -> None:
    def ends(swap: Swap) -> None:
        swap._drop = (2,)

    refused(lab, swap_of(lab), ends, "left a branch")


def test_a_branch_ends_with_its_last_slot_and_the_one_that_was_never_given_out(lab: Lab) -> None:
    kept = key_of(lab.tree, slot_id(2, 8))
    tree, receipts = swap_of(lab, drop=[1]).run()
    assert tree.branches() == ((0, 0, Kind.SYSTEM), (2, 2, Kind.IDENTIFY))
    assert [each.action for each in receipts] == ["promoted", "destroyed"]
    assert key_of(tree, slot_id(2, 8)) == kept


def test_the_last_slot_that_was_given_out_may_be_destroyed(lab: Lab) -> None:
    tree, _ = swap_of(lab, [verify_slot(299), verify_slot(300)]).run()
    assert tree.alive([verify_slot(at) for at in (298, 299, 300, 301)]).tolist() == [True, False, False, True]


def test_a_tree_is_re_keyed_and_a_slot_of_the_vaults_own_gets_its_key(lab: Lab) -> None:
    lab.shred(verify_slot(5))
    before = key_of(lab.tree, verify_slot(6))
    tree, _ = swap_of(lab, rekey=Rekey({1: b"k" * 32}, lambda: ())).run()
    assert tree.slot_key(1) == b"k" * 32
    assert key_of(tree, verify_slot(6)) == before


def test_a_slot_of_the_vaults_own_did_not_get_its_key(lab: Lab) -> None:
    def another(swap: Swap) -> None:
        swap._rekey = Rekey({1: b"l" * 32}, lambda: ())

    refused(lab, swap_of(lab, rekey=Rekey({1: b"k" * 32}, lambda: ())), another, "did not get its new key")


def test_a_tree_was_not_re_keyed_whole(lab: Lab) -> None:
    lab.alloc = dict(ALLOC)
    lab.shred(verify_slot(5), verify_slot(200))

    def whole(swap: Swap) -> None:
        swap._rekey = NO_KEYS

    refused(lab, swap_of(lab, [verify_slot(6)]), whole, "not re-keyed whole")


def test_another_swap_came_first(lab: Lab) -> None:
    """Slots that it granted would be called never given out by what this one knows."""
    late = swap_of(lab, [verify_slot(5)])
    tree = lab.shred(verify_slot(6))
    with pytest.raises(TreeStale, match="swapped by another process"):
        late.stage()
    assert len(lab.provider.candidates()) == 1
    assert lab.store.read_fingerprints() == (tree.fingerprint, tree.fingerprint)


@pytest.mark.parametrize("column", ["blob", "fingerprint"])
@pytest.mark.parametrize("copy", [0, 1])
def test_a_row_of_the_root_node_that_was_damaged_is_mended_and_the_swap_goes_on(
    lab: Lab, copy: int, column: str
) -> None:
    sql(lab.path, f"UPDATE top SET {column} = zeroblob(length({column})) WHERE copy = ?", (copy,))
    tree, _ = swap_of(lab, [verify_slot(5)]).run()
    assert not tree.alive([verify_slot(5)]).any()
    assert tree.damage == ()


def test_a_whole_tree_is_not_written_twice(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(lab.store), "mend_top", lambda *_: pytest.fail("nothing was damaged"))
    tree, _ = swap_of(lab, [verify_slot(5)]).run()
    assert tree.epoch == 2


def test_a_root_whose_rows_do_not_open_was_not_written(lab: Lab) -> None:
    swap = swap_of(lab, [verify_slot(5)])
    assert not swap._written()
    swap.stage()
    swap.write()
    assert swap._written()
    sql(lab.path, "UPDATE top SET blob = zeroblob(length(blob))")
    assert not swap._written()


def test_copies_have_the_first_epoch_from_the_beginning(tmp_path: Path) -> None:
    copy = tmp_path / "usb" / "keys.db"
    Lab(tmp_path, [copy])
    assert sql(copy, "SELECT epoch FROM top") == sql(tmp_path / "keys.db", "SELECT epoch FROM top")


def test_a_new_holder_takes_part_only_where_the_vault_moves(lab: Lab, tmp_path: Path) -> None:
    new = FileProvider(tmp_path / "new.key", VAULT)
    new.provision(placeholder(VAULT))
    swap = swap_of(lab)
    swap._providers = (lab.provider, new)
    with pytest.raises(ErasurePending, match="does not have the root in use"):
        swap.stage()
    assert lab.tree.is_current()
