"""Recovery, decision by decision: what an open operation was, what is finished, and what waits."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from facekeep.access.core import Core, View
from facekeep.auditlog.head import Open
from facekeep.errors import ErasurePending, IntegrityError, StoreError
from facekeep.formats.canonical import JsonObject
from facekeep.operations import recover as module
from facekeep.operations.destroy import Destruction

CURRENT, OTHER = bytes([1]) * 8, bytes([2]) * 8
TREE: JsonObject = {"type": "rotation", "what": "tree"}
ROOT: JsonObject = {"type": "rotation", "what": "root"}
ROTATE: JsonObject = {"type": "destroy", "op": "rotate"}
SHRED: JsonObject = {"type": "destroy", "op": "shred"}
TEMPLATES = Open(3, 1, "rotation", "templates")


def view_of(**fields: object) -> Any:  # noqa: ANN401 - as much of a view as is asked for
    said = {
        "operations": (),
        "rotations": (),
        "open": (),
        "epoch": 1,
        "fingerprint": CURRENT,
        **{
            key: value
            for key, value in fields.items()
            if key not in {"sought", "kinds", "dead", "destroying"}
        },
    }
    dead, destroying = fields.get("dead", set()), fields.get("destroying", set())
    return SimpleNamespace(
        head=SimpleNamespace(**said),
        tree=SimpleNamespace(
            epoch=2,
            fingerprint=CURRENT,
            alive=lambda slots: np.array([slot not in cast("set[int]", dead) for slot in slots], np.bool_),
        ),
        pending=SimpleNamespace(
            sought=fields.get("sought", {}), destroying=cast("set[int]", destroying).__contains__
        ),
        kind_of=lambda slot: slot // 100,
    )


def core_of(view: object = None, **fields: object) -> Core:
    seen = view or view_of()
    return cast("Core", SimpleNamespace(view=lambda: seen, **fields))


@pytest.mark.parametrize(
    ("before", "entry", "rekeys", "recycles"),
    [
        (TREE, ROTATE, True, False),
        (ROOT, ROTATE, False, False),
        ({}, ROTATE, False, True),
        ({"type": "decision", "what": "tree"}, ROTATE, False, True),
        (TREE, SHRED, False, False),
        ({}, SHRED, False, False),
    ],
)
def test_what_a_rotation_of_roots_does_besides(
    before: JsonObject, entry: JsonObject, rekeys: bool, recycles: bool
) -> None:
    inside, alone = core_of(view_of(rotations=(TEMPLATES,))), core_of()
    assert module._rekeys(before, entry) is rekeys
    assert module._recycles(inside, before, 9, entry) is recycles
    assert module._recycles(inside, before, 2, entry) is False  # it began before the rotation of templates
    assert module._recycles(alone, before, 9, entry) is False
    operation = [(9, entry)]
    assert module._does_more(inside, operation, {8: before}) is (rekeys or recycles)
    assert module._does_more(alone, operation, {8: before, 7: TREE}) is rekeys


def held(monkeypatch: pytest.MonkeyPatch, *states: tuple[bytes, str]) -> None:
    found = tuple(SimpleNamespace(fingerprint=mark, state=state) for mark, state in states)
    monkeypatch.setattr(module, "_held", lambda _: found)


@pytest.mark.parametrize(
    ("states", "strays"),
    [
        ([(CURRENT, "current")], False),
        ([(CURRENT, "staged")], True),
        ([(OTHER, "current")], True),
        ([(CURRENT, "current"), (OTHER, "staged")], True),
        ([], False),
    ],
)
def test_a_root_beside_the_one_in_use_is_a_stray(
    monkeypatch: pytest.MonkeyPatch, states: list[tuple[bytes, str]], strays: bool
) -> None:
    held(monkeypatch, *states)
    assert module._have_strays((), CURRENT) is strays


def test_before_the_swap_of_a_move_only_those_are_settled_that_have_the_root_and_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    has = {"one": {CURRENT}, "both": {CURRENT, OTHER}, "new": {OTHER}, "two new": {OTHER, bytes(8)}}
    settled: list[list[str]] = []
    monkeypatch.setattr(module, "marks", has.__getitem__)
    monkeypatch.setattr(module, "in_use", lambda *_: "winner")
    monkeypatch.setattr(module, "settle", lambda _keys, _winner, holders: settled.append(holders))
    held(monkeypatch)
    core = core_of(providers=tuple(has), readers=(), keys=None)
    module._settle_filled(core, CURRENT)
    assert settled == [["both"]]
    module._settle_filled(core_of(providers=("one", "new"), readers=(), keys=None), CURRENT)
    assert settled == [["both"]]


@pytest.mark.parametrize("awaiting", [True, False])
@pytest.mark.parametrize("is_settled", [True, False])
@pytest.mark.parametrize("strays", [True, False])
def test_strays_are_dropped_where_there_are_some_and_nobody_has_looked(
    monkeypatch: pytest.MonkeyPatch, awaiting: bool, is_settled: bool, strays: bool
) -> None:
    done: list[str] = []
    monkeypatch.setattr(module, "awaiting_swap", lambda *_: awaiting)
    monkeypatch.setattr(module, "_have_strays", lambda *_: strays)
    monkeypatch.setattr(module, "_settle", lambda *_: done.append("all"))
    monkeypatch.setattr(module, "_settle_filled", lambda *_: done.append("filled"))
    core = core_of(is_settled=is_settled, providers=())
    module._drop_strays(core, core.view())
    assert done == (["filled"] if awaiting else ["all"] if strays and not is_settled else [])


@pytest.mark.parametrize(("op", "ends"), [("renew", "renew"), ("enroll", "reseal"), ("reseal", "reseal")])
def test_what_a_grant_replaces_ends_under_its_op(monkeypatch: pytest.MonkeyPatch, op: str, ends: str) -> None:
    seen: list[tuple[object, ...]] = []
    monkeypatch.setattr(module, "complete_grants", lambda *given: seen.append(given[2:]))
    monkeypatch.setattr(module, "_replaced", lambda *_: [7])
    module._finish_grant(core_of(), [(4, {"type": "grant", "op": op})])
    assert seen == [(4, [7], ends)]


def test_replaced_are_the_living_ones_of_the_same_scope() -> None:
    items: Any = [{"tag": "aa", "slot": 210}]
    ledger = SimpleNamespace(slots_of=lambda _: [201, 202, 203, 210, 301])
    core = core_of(view_of(dead={202}, destroying={203}), ledger=ledger)
    assert module._replaced(core, [(4, {"type": "grant", "grants": items})]) == [201]


@pytest.mark.parametrize("fails", ["check_rekeyable", "index_tags"])
def test_a_tree_is_not_re_keyed_while_the_index_cannot_be_made(
    monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise StoreError("a copy is away", next="bring it back")

    monkeypatch.setattr(module, "check_rekeyable", lambda *_, **__: None)
    monkeypatch.setattr(module, "index_tags", lambda *_: None)
    module._check_rekeyable(core_of(), view_of())
    monkeypatch.setattr(module, fails, failing)
    with pytest.raises(ErasurePending, match="cannot be re-keyed yet: a copy is away") as caught:
        module._check_rekeyable(core_of(), view_of())
    assert caught.value.next == "bring it back"


def test_a_swap_that_stands_may_be_anothers_or_want_a_holder(monkeypatch: pytest.MonkeyPatch) -> None:
    filled: list[bytes] = []
    monkeypatch.setattr(module, "has_unfilled", lambda *_: False)
    monkeypatch.setattr(module, "_settle_filled", lambda _core, mark: filled.append(mark))
    two = view_of(open=(Open(4, 1, "destroy", "shred"), Open(5, 1, "destroy", "rotate")))
    one = view_of(open=(Open(4, 1, "grant", ""), Open(5, 1, "destroy", "rotate")))
    plain = Destruction("shred", [1])
    for what in (Destruction("rotate", (), rekey=True), Destruction("rotate", (), recycle=True)):
        module._check_its_own(core_of(), cast("View", one), what)
        with pytest.raises(ErasurePending, match="finished first"):
            module._check_its_own(core_of(), cast("View", two), what)
    module._check_its_own(core_of(), cast("View", two), plain)
    monkeypatch.setattr(module, "has_unfilled", lambda *_: True)
    with pytest.raises(ErasurePending, match="gets a fresh root first"):
        module._check_its_own(core_of(), cast("View", one), plain)
    assert filled == [CURRENT]


@pytest.mark.parametrize("alive", [True, False])
def test_a_swap_that_stands_is_completed_and_is_not_made_again(
    monkeypatch: pytest.MonkeyPatch, alive: bool
) -> None:
    done: list[str] = []
    for name in ("finish", "complete", "_check_its_own", "_settle"):
        monkeypatch.setattr(module, name, lambda *_, name=name: done.append(name))
    monkeypatch.setattr(module, "_orphans", lambda *_: [bytes(32)])
    core = core_of(
        view_of(dead=set() if alive else {5}), finished=[], forget_tree=lambda: done.append("forgot")
    )
    entry: JsonObject = {"type": "destroy", "op": "shred", "slots": [[5, 1]], "tags": ["aa"]}
    module._finish_destroy(core, [(9, entry)], {})
    assert done == (["finish"] if alive else ["_check_its_own", "_settle", "forgot", "complete"])
    (ended,) = core.finished
    assert (ended.first, ended.op) == (9, "shred")
    assert (set(ended.slots), set(ended.tags), set(ended.hashes)) == ({5}, {b"\xaa"}, {bytes(32)})


def recovered(
    monkeypatch: pytest.MonkeyPatch, view: object, but: tuple[int, ...] = ()
) -> tuple[bool, list[str]]:
    done: list[str] = []
    log = SimpleNamespace(
        resync_copies=lambda: done.append("log"), verified=lambda _: pytest.fail("looked up")
    )
    keys = SimpleNamespace(resync_copies=lambda: done.append("keys"))
    core = core_of(view, log=log, keys=keys, forget_tree=lambda: done.append("forgot"))
    monkeypatch.setattr(module, "_drop_strays", lambda *_: done.append("strays"))
    return module.recover(core, but), done


def test_where_nothing_is_open_copies_are_brought_up_and_strays_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert recovered(monkeypatch, view_of()) == (True, ["keys", "log", "forgot", "strays"])


def test_whom_nobody_can_find_and_what_is_the_callers_is_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    operations = (Open(4, 1, "destroy", "shred"), Open(6, 1, "destroy", "shred"))
    view = view_of(operations=operations, sought={4: (b"", b"")})
    assert recovered(monkeypatch, view, (6,))[0] is True


@pytest.mark.parametrize(
    ("rows", "logged", "dead", "opens", "written"),
    [
        ([201, 202], True, set(), True, True),
        ([201], True, set(), True, False),
        ([201, 202], False, set(), True, False),
        ([201, 202], True, {202}, True, False),
        ([201, 202], True, set(), False, False),
    ],
)
def test_a_grant_is_written_where_all_its_rows_open(
    monkeypatch: pytest.MonkeyPatch, rows: list[int], logged: bool, dead: set[int], opens: bool, written: bool
) -> None:
    def open_record(_key: bytes, _row: object) -> None:
        if not opens:
            raise IntegrityError("x")

    def slot_keys(_view: object, slots: Any) -> Any:  # noqa: ANN401 - arrays
        return np.zeros((len(slots), 32), np.uint8), np.array([slot not in dead for slot in slots])

    monkeypatch.setattr(module, "without_records", lambda found: found)
    core = core_of(
        data=SimpleNamespace(by_slots=lambda _: [SimpleNamespace(slot=slot) for slot in rows]),
        are_logged=lambda found: np.array([logged] * len(found)),
        slot_keys=slot_keys,
        sealer=SimpleNamespace(open_record=open_record),
    )
    grants: Any = [{"slot": 201}, {"slot": 202}]
    assert module._is_written(core, [(4, {"type": "grant", "grants": grants})]) is written
