"""A destruction alone: what it asks of the swap, in which order, and what an error says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from facekeep.access.core import Core, View
from facekeep.errors import ErasurePending, FacekeepError, IntegrityError, StoreError
from facekeep.formats.canonical import JsonObject
from facekeep.formats.entries import destroy_entries
from facekeep.formats.ids import BRANCH_SLOTS, slot_id
from facekeep.keys.slots import Int64
from facekeep.operations import destroy as module
from facekeep.operations import steps
from facekeep.operations.destroy import Destruction, destroy, finish, idle_branches, intent, living_slots
from vaultlab import NOW

OPS = ("shred", "withdraw", "expire", "renew", "reseal", "rotate", "extend", "revoke", "void")
BY = "ab" * 8
OLD, NEW = bytes([1]) * 8, bytes([2]) * 8
BY = "ab" * 8
KINDS = {0: 1, 1: 2, 2: 3, 3: 2, 4: 2}  # branch 4 is the newest of its kind


@dataclass
class Inside:
    """A vault made of plain values, which writes down what is done to it."""

    alloc: dict[int, int] = field(default_factory=dict)
    granted: list[int] = field(default_factory=list)
    dead: set[int] = field(default_factory=set)
    high_ms: int = NOW
    fails: dict[str, Exception] = field(default_factory=dict)
    done: list[Any] = field(default_factory=list)
    asked: dict[str, Any] = field(default_factory=dict)
    slots: Sequence[int] = ()
    is_locked: bool = True
    swapped: bool = False
    keys: None = None
    providers: tuple[()] = ()

    def __post_init__(self) -> None:
        self.log = self.data = self.ledger = self.clock = self.lock = self

    def view(self) -> View:
        head = SimpleNamespace(
            pin=lambda: (3, bytes(32), bytes(32)), alloc=self.alloc, fingerprint=OLD, high_ms=self.high_ms
        )
        tree = SimpleNamespace(
            epoch=7 + self.swapped, fingerprint=NEW if self.swapped else OLD, alive=self.alive
        )
        of = {kind: sorted(b for b, each in KINDS.items() if each == kind) for kind in KINDS.values()}
        made = SimpleNamespace(head=head, tree=tree, kinds=KINDS, branches_of=of.__getitem__)
        return cast("View", made)

    def alive(self, slots: Int64) -> Any:  # noqa: ANN401 - a mask
        return np.array([slot not in self.dead for slot in slots.tolist()], np.bool_)

    def now_ms(self) -> int:
        return NOW

    def head(self) -> SimpleNamespace:
        return SimpleNamespace(high_ms=self.high_ms)

    def all_slots(self) -> Int64:
        return np.array(self.granted, np.int64)

    def append(self, items: Sequence[JsonObject]) -> list[int]:
        self.done.extend(items)
        return [41]

    def delete(self, slots: Sequence[int]) -> None:
        if "delete" in self.fails:
            raise self.fails["delete"]
        self.done.append(("deleted", list(slots)))

    def still_held(self) -> bool:
        return self.is_locked

    def forget_tree(self, made: object) -> None:
        self.done.append(("forgot", made))


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch) -> Inside:
    made = Inside()

    class Swap:
        def __init__(self, *given: object, **asked: object) -> None:
            made.slots, made.asked = cast("Sequence[int]", given[3]), asked

        def run(self) -> tuple[str, list[SimpleNamespace]]:
            if "swap" in made.fails:
                raise made.fails["swap"]
            made.swapped = True
            return "the tree", [SimpleNamespace(to_json=lambda: {"holder": "file"})]

    monkeypatch.setattr(module, "Swap", Swap)
    monkeypatch.setattr(module, "check_leaving", lambda *_: None)
    monkeypatch.setattr(module, "still_leaving", lambda *_: ("leaving",))
    monkeypatch.setattr(module, "awaiting_swap", lambda *_: False)
    monkeypatch.setattr(module, "rekey", lambda *_: "fresh keys")
    return made


def core(inside: Inside) -> Core:
    return cast("Core", inside)


@pytest.fixture
def reached() -> Iterator[list[str]]:
    seen: list[str] = []
    steps.observe(seen.append)
    yield seen
    steps._observers.remove(seen.append)


def completions(inside: Inside) -> list[Mapping[str, Any]]:
    return [each for each in inside.done if isinstance(each, dict) and each["type"] == "destroyed"]


@pytest.mark.parametrize("op", OPS)
def test_rows_of_principals_go_with_what_takes_a_principal_back(inside: Inside, op: str) -> None:
    finish(core(inside), BY, 41, Destruction(op, [5, 6]))
    assert inside.asked["principals"] == ([5, 6] if op in {"revoke", "void"} else ())
    assert inside.slots == [5, 6]


def test_nothing_is_re_keyed_or_dropped_but_where_it_is_asked_for(inside: Inside) -> None:
    finish(core(inside), BY, 41, Destruction("shred", [5]))
    assert (inside.asked["rekey"], inside.asked["drop"], inside.asked["take"]) == (None, (), ())
    finish(core(inside), BY, 41, Destruction("rotate", (), rekey=True, take=[2]))
    assert (inside.asked["rekey"], inside.asked["drop"], inside.asked["take"]) == ("fresh keys", (), [2])
    finish(core(inside), BY, 41, Destruction("rotate", (), recycle=True))
    assert (inside.asked["rekey"], inside.asked["drop"]) == (None, [1, 3])


def test_the_swap_is_told_of_index_rows_and_of_holders_that_leave(inside: Inside) -> None:
    finish(core(inside), BY, 41, Destruction("shred", [5], hashes=[bytes(32)]))
    assert inside.asked["index_hashes"] == [bytes(32)]
    assert inside.asked["leaving"] == ("leaving",)


def test_dead_rows_are_deleted_after_the_log_says_destroyed(inside: Inside, reached: list[str]) -> None:
    assert destroy(core(inside), BY, Destruction("shred", [5])) == 41
    said = [each if isinstance(each, tuple) else each["type"] for each in inside.done]
    assert said == ["destroy", ("forgot", "the tree"), "destroyed", ("deleted", [5])]
    assert reached == ["destroy.announced", "destroy.completed", "destroy.rows-deleted"]
    (entry,) = completions(inside)
    assert (entry["of"], entry["epoch"]) == (41, 8)
    assert (entry["fingerprint"], entry["previous"]) == (NEW.hex(), OLD.hex())
    assert (entry["receipts"], entry["by"]) == ([{"holder": "file"}], BY)


def test_rows_that_the_caller_deletes_stay(inside: Inside) -> None:
    finish(core(inside), BY, 41, Destruction("reseal", [5], rows_stay=True))
    assert len(completions(inside)) == 1
    assert ("deleted", [5]) not in inside.done


def test_a_vault_file_that_is_damaged_holds_up_no_erasure(inside: Inside) -> None:
    inside.fails["delete"] = IntegrityError("vault.db is damaged")
    finish(core(inside), None, 41, Destruction("shred", [5]))
    assert [each["by"] for each in completions(inside)] == [None]
    inside.fails["delete"] = StoreError("disk full")
    with pytest.raises(StoreError):
        finish(core(inside), BY, 41, Destruction("shred", [5]))


@pytest.mark.parametrize(
    ("op", "said"),
    [
        ("shred", "denied to everybody"),
        ("withdraw", "denied to everybody"),
        ("expire", "denied to everybody"),
        ("revoke", "denied to everybody"),
        ("extend", "room for further grants"),
        ("renew", "the new grants stand"),
        ("reseal", "the new grants stand"),
        ("rotate", "a new root is announced"),
        ("void", "undone now is denied"),
    ],
)
def test_an_error_says_how_things_stand_and_nothing_is_said_to_be_destroyed(
    inside: Inside, op: str, said: str
) -> None:
    inside.fails["swap"] = StoreError("disk full", next="make room")
    with pytest.raises(StoreError, match=rf"{said}.*: disk full") as caught:
        finish(core(inside), BY, 41, Destruction(op, [5]))
    assert caught.value.next == "make room"
    assert inside.done == [("forgot", None)]  # the swap may have been written
    with pytest.raises(StoreError, match="operation of log entry 41, begun before, is not finished"):
        finish(core(inside), None, 41, Destruction(op, [5]))


def test_what_is_no_error_of_ours_is_not_told_as_one(inside: Inside) -> None:
    inside.fails["swap"] = ZeroDivisionError("x")
    with pytest.raises(ZeroDivisionError, match=r"^x$"):
        finish(core(inside), BY, 41, Destruction("shred", [5]))


def test_the_swap_stops_where_the_lock_is_no_longer_ours(inside: Inside) -> None:
    finish(core(inside), BY, 41, Destruction("shred", [5]))
    inside.asked["guard"]()
    inside.is_locked = False
    with pytest.raises(ErasurePending, match=r"vault\.lock") as caught:
        inside.asked["guard"]()
    assert isinstance(caught.value, FacekeepError)


def test_an_intent_is_never_dated_before_the_log(inside: Inside) -> None:
    for high, expected in ((NOW - 5, NOW), (NOW + 5, NOW + 5)):
        inside.high_ms = high
        (entry,) = intent(core(inside), BY, Destruction("shred", [5], tags=[bytes(32)]))
        same = destroy_entries("shred", [5], tags=[bytes(32)], by=BY, time_ms=expected)[0]
        assert {**entry, "nonce": None} == {**same, "nonce": None}


# -- who lives in a branch


def test_the_slots_of_an_open_branch_are_those_that_were_given_out(inside: Inside) -> None:
    inside.alloc, inside.dead = {1: 4}, {slot_id(1, 2)}
    view = inside.view()
    assert living_slots(core(inside), view, 1).tolist() == [slot_id(1, at) for at in (0, 1, 3)]
    assert living_slots(core(inside), view, 1, below=3).tolist() == [slot_id(1, at) for at in (0, 1)]
    assert living_slots(core(inside), view, 1, below=9).tolist() == [slot_id(1, at) for at in (0, 1, 3)]
    assert living_slots(core(inside), view, 2).tolist() == []


def test_of_a_branch_that_was_closed_the_log_says_which_were_given_out(inside: Inside) -> None:
    inside.alloc = {1: BRANCH_SLOTS, 2: 9}
    inside.granted = [slot_id(1, 3), slot_id(1, 800), slot_id(2, 1)]
    inside.dead = {slot_id(1, 3)}
    assert living_slots(core(inside), inside.view(), 1).tolist() == [slot_id(1, 800)]
    assert living_slots(core(inside), inside.view(), 1, below=800).tolist() == []


def test_a_branch_is_idle_where_nobody_lives_and_another_gives_out_slots(inside: Inside) -> None:
    inside.alloc = {0: 0, 1: 2, 2: 0, 3: 2, 4: 0}
    inside.dead = {slot_id(1, 0), slot_id(1, 1), slot_id(3, 0)}
    assert idle_branches(core(inside), inside.view()) == [1]
    inside.dead.add(slot_id(3, 1))
    assert idle_branches(core(inside), inside.view()) == [1, 3]


def test_a_holder_that_may_not_leave_yet_stops_the_swap(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leaves(*_: object) -> None:
        raise ErasurePending("a holder leaves before the root has moved")

    monkeypatch.setattr(module, "check_leaving", leaves)
    with pytest.raises(ErasurePending, match="a holder leaves"):
        finish(core(inside), None, 41, Destruction("shred", [5]))
    assert inside.done == []
