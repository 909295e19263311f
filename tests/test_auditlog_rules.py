"""Each rule of SPEC §6.8, broken once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditlog_help import (
    BRANCH,
    BY,
    FINGERPRINT,
    NOW,
    decision,
    destroy,
    destroyed,
    genesis,
    granted,
    grants,
)
from facekeep.auditlog.head import Head
from facekeep.auditlog.merkle import Frontier, leaf_hash
from facekeep.auditlog.pending import Ranges
from facekeep.auditlog.rules import State, advance
from facekeep.errors import IntegrityError
from facekeep.formats import entries
from facekeep.formats.canonical import JsonObject, JsonValue

LATE = NOW + 10_000


def run(*items: JsonObject) -> Head:
    head = Head.empty(b"0" * 32)
    for entry in items:
        head = advance(head, entries.validate(entry), leaf_hash(entries.encode(entry)), b"c" * 32)
    return head


def principal(slot: int = 16) -> JsonObject:
    return entries.principal(
        principal=BY, slot=slot, grant=b"g" * 16, commitment=b"c" * 32, roles=["admin"], by=None, time_ms=NOW
    )


def settings(previous: bytes) -> JsonObject:
    return entries.settings(b"n" * 32, previous, by=BY, time_ms=NOW)


def clock(high: int) -> JsonObject:
    return entries.clock(high, by=BY, time_ms=NOW)


MANY = grants(*range(BRANCH, BRANCH + 300))
OPEN = [genesis(), *grants(BRANCH)]
ODD = (3 << 21) + 7


@pytest.mark.parametrize(
    ("items", "rule"),
    [
        ([decision()], "entry 0: genesis is the first"),
        ([genesis(), genesis()], "entry 1: genesis is the first"),
        ([genesis(LATE), decision()], "entry 1: its time is before"),
        ([genesis(LATE), *grants(BRANCH)], "entry 1: its time is before"),
        ([genesis(), clock(NOW + 1)], "entry 1: it does not name the time"),
        ([genesis(), MANY[0], decision()], "entry 2: it stands between two parts"),
        ([genesis(), MANY[0], granted(1)], "entry 2: it stands between two parts"),
        ([genesis(), MANY[0], MANY[2]], "entry 2: it is not the next part"),
        ([genesis(), MANY[1]], "entry 1: it is not the next part"),
        ([genesis(), MANY[0], MANY[1] | {"op": "renew"}], "entry 2: it is not the next part"),
        ([genesis(), MANY[0], MANY[1] | {"parts": 4}], "entry 2: it is not the next part"),
        ([genesis(), MANY[0], grants(BRANCH + 900)[0]], "entry 2: it is not the next part"),
        ([*OPEN, *grants(BRANCH)], "slot 4194304 was given out before"),
        ([genesis(), *grants(BRANCH + 1), *grants(BRANCH)], "was given out before"),
        ([genesis(), *grants(BRANCH + 1, BRANCH)], "was given out before"),
        ([genesis(), principal(15)], "was given out before, or is reserved"),
        ([genesis(), principal(16), principal(16)], "was given out before"),
        ([genesis(), principal(BRANCH)], "only principals stand in branch 0"),
        ([genesis(), *grants(20)], "only principals stand in branch 0"),
        ([*OPEN, *destroy(BRANCH + 1)], "never given out"),
        ([*OPEN, *destroy(3 << 21)], "never given out"),
        ([genesis(), granted(1)], "completes what is not an open grant"),
        ([*OPEN, granted(0)], "completes what is not an open grant"),
        ([*OPEN, granted(1), granted(1)], "completes what is not an open grant"),
        ([*OPEN, *destroy(BRANCH), granted(2)], "completes what is not an open grant"),
        ([*OPEN, destroyed(1)], "completes what is not an open destruction"),
        (
            [*OPEN, *destroy(BRANCH), destroyed(2), destroyed(2, 3)],
            "completes what is not an open destruction",
        ),
        (
            [*OPEN, *destroy(BRANCH), *destroy(BRANCH, op="void", voids=[2])],
            "voids what is not an open grant",
        ),
        ([*OPEN, granted(1), *destroy(BRANCH, op="void", voids=[1])], "voids what is not an open grant"),
        ([*OPEN, *destroy(BRANCH, op="void", voids=[1]), granted(1)], "completes what is not an open grant"),
        ([*OPEN, *destroy(BRANCH), destroyed(2, 1)], "do not follow from the last root"),
        ([*OPEN, *destroy(BRANCH), destroyed(2, 2, b"x" * 32)], "do not follow from the last root"),
        ([genesis(), settings(b"x" * 32)], "does not name the settings in force"),
        ([*OPEN, *destroy(BRANCH, op="extend")], "its op destroys no slot"),
        ([*OPEN, *destroy(BRANCH, op="rotate")], "its op destroys no slot"),
        ([genesis(), *grants(ODD), *destroy(ODD + 1)], "never given out"),
        ([genesis(), *grants(ODD), *destroy(ODD + 256)], "never given out"),
        ([genesis(), *destroy(3, op="revoke")], "it destroys one of the vault's own keys"),
        ([*OPEN, granted(1), *destroy(BRANCH, op="revoke")], "only a revocation destroys a principal's slot"),
        ([genesis(), principal(), granted(1), *destroy(16)], "only a revocation destroys a principal's slot"),
        ([genesis(), *grants(BRANCH + 1, BRANCH, BRANCH + 2)], "slot 4194304 was given out before"),
        ([*OPEN, *grants(BRANCH, BRANCH + 1, BRANCH + 2)], "slot 4194304 was given out before"),
    ],
)
def test_an_entry_that_breaks_a_rule_is_named(items: Sequence[JsonObject], rule: str) -> None:
    run(*items[:-1])
    with pytest.raises(IntegrityError, match=rule):
        run(*items)


def test_a_life() -> None:
    head = run(
        genesis(),
        principal(),
        granted(1),
        *grants(BRANCH, BRANCH + 1),
        decision(),
        granted(3),
        decision(),
        *grants(BRANCH + 5, op="renew"),
        granted(7),
        *destroy(BRANCH, op="renew"),
        destroyed(9),
        settings(b"s" * 32),
        *destroy(16, op="revoke"),
        destroyed(12, 5, b"g" * 32, b"h" * 32),
    )
    assert head.open == ()
    assert (head.size, head.control_seq) == (14, 12)
    assert head.alloc == {0: 17, 2: 6}
    assert (head.epoch, head.fingerprint, head.settings) == (5, b"h" * 32, b"n" * 32)


def test_a_void_closes_the_grant_and_opens_a_destruction() -> None:
    head = run(*OPEN, *destroy(BRANCH, op="void", voids=[1]))
    assert [(each.first, each.type, each.op) for each in head.open] == [(2, "destroy", "void")]


def test_the_clock_is_set_back_by_its_own_entry_only() -> None:
    late = run(genesis(), decision(time_ms=LATE))
    assert late.high_ms == LATE
    late = run(genesis(), decision(time_ms=LATE), decision(reason="clock"), clock(LATE), decision())
    assert late.high_ms == NOW


def test_the_slack_is_five_seconds() -> None:
    run(genesis(NOW + 5_000), decision())
    with pytest.raises(IntegrityError):
        run(genesis(NOW + 5_001), decision())


def test_a_denial_moves_the_time_and_not_the_control_count() -> None:
    head = run(genesis(), decision(reason="role", time_ms=LATE))
    assert (head.high_ms, head.control_seq, head.size) == (LATE, 1, 2)


def test_a_full_branch_takes_no_more() -> None:
    last = BRANCH + 1_727_999
    with pytest.raises(IntegrityError, match="given out before"):
        run(genesis(), *grants(last), *grants(last))


@given(st.lists(st.sampled_from(["grant", "decision", "denial"]), max_size=20))
def test_advance_and_the_moving_state_agree(kinds: list[str]) -> None:
    state = State(Head.empty(b"0" * 32))
    head = state.head()
    frontier = Frontier()
    for number, kind in enumerate(["genesis", *kinds]):
        entry = {
            "genesis": genesis(),
            "grant": grants(BRANCH + number)[0],
            "decision": decision(time_ms=NOW + number),
            "denial": decision(reason="role"),
        }[kind]
        leaf = leaf_hash(entries.encode(entry))
        frontier.append(leaf)
        head = advance(head, entry, leaf, leaf)
        state.add(entry, leaf, leaf)
        assert state.head() == head == Head.decode(head.encode())
    assert head.root() == frontier.root()
    assert head.fingerprint == FINGERPRINT


def plain(kind: str, **fields: JsonValue) -> JsonObject:
    """An entry as far as its rules go."""
    return {"type": kind, "time_ms": NOW, **fields}


RESTART = plain("restart", settings="5e" * 32, epoch=7, fingerprint="f1" * 8)
ROTATION = plain("rotation", what="templates")


def state_of(*items: JsonObject) -> State:
    state = State(Head.empty(b"0" * 32))
    for entry in items:
        state.add(entry, bytes(32), bytes(32))
    return state


def test_a_log_begins_again_where_the_lost_one_ended() -> None:
    state = state_of(RESTART)
    assert (state.settings, state.epoch, state.fingerprint) == (b"\x5e" * 32, 7, b"\xf1" * 8)
    assert state.alloc == {0: 16}
    state = state_of(RESTART, plain("restarted", next=40, closed=[2, 3]))
    assert state.alloc == {0: 40, 2: 1_728_000, 3: 1_728_000}
    for slot, rule in ((39, "given out before"), (BRANCH, "given out before")):
        entry = principal(slot) if slot < BRANCH else grants(slot)[0]
        with pytest.raises(IntegrityError, match=rule):
            state_of(RESTART, plain("restarted", next=40, closed=[2, 3]), entry)
    assert state_of(RESTART, plain("restarted", next=16, closed=[]), principal(16)).alloc == {0: 17}
    with pytest.raises(IntegrityError, match="entry 1: it gives slots out again"):
        state_of(RESTART, plain("restarted", next=15, closed=[]))


@pytest.mark.parametrize("second", [RESTART, genesis()])
def test_a_log_begins_once(second: JsonObject) -> None:
    with pytest.raises(IntegrityError, match="genesis is the first entry and no other"):
        state_of(RESTART, second)


def test_one_rotation_of_a_kind_is_open_at_a_time() -> None:
    state = state_of(genesis(), ROTATION, decision())
    assert [(each.first, each.parts, each.type, each.op) for each in state.open.values()] == [
        (1, 1, "rotation", "templates")
    ]
    with pytest.raises(IntegrityError, match="entry 3: a rotation of the same is open"):
        state_of(genesis(), ROTATION, decision(), ROTATION)
    assert list(state_of(genesis(), ROTATION, plain("rotation", what="move")).open) == [1, 2]
    ended = plain("rotated", of=1)
    assert not state_of(genesis(), ROTATION, ended).open
    assert list(state_of(genesis(), ROTATION, ended, ROTATION).open) == [3]
    with pytest.raises(IntegrityError, match="ends what is not an open rotation"):
        state_of(genesis(), ROTATION, ended, ended)
    assert not state_of(genesis(), plain("rotation", what="root")).open


def test_only_a_revocation_must_name_a_slot() -> None:
    nothing: JsonObject = {"part": 1, "parts": 1, "slots": [], "voids": [], "tags": []}
    assert list(state_of(genesis(), plain("destroy", op="rotate", **nothing)).open) == [1]
    with pytest.raises(IntegrityError, match="it revokes nobody"):
        state_of(genesis(), plain("destroy", op="revoke", **nothing))


def test_ranges_are_joined_where_they_overlap_or_touch() -> None:
    joined = Ranges([(10, 10), (0, 3), (12, 2), (3, 2), (20, 1), (40, 1)])
    assert joined.spans() == [(0, 5), (10, 11), (40, 1)]
    assert len(joined) == 17
    assert [at for at in range(50) if at in joined] == [*range(5), *range(10, 21), 40]
    assert np.flatnonzero(joined.mask(np.arange(50))).tolist() == [*range(5), *range(10, 21), 40]
    assert not Ranges().mask(np.arange(5)).any()


def test_a_slot_of_an_odd_branch_that_was_given_out_is_destroyed() -> None:
    head = run(genesis(), *grants(ODD), granted(1), *destroy(ODD), destroyed(3))
    assert (head.alloc[3], head.open) == (8, ())
