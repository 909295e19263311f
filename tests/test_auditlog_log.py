"""The log as its callers use it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from auditlog_help import (
    BRANCH,
    BY,
    KEY,
    NOW,
    VAULT,
    FakeClock,
    Lab,
    decision,
    destroy,
    destroyed,
    genesis,
    granted,
    grants,
)
from facekeep.auditlog.log import AuditLog, ControlMoved
from facekeep.auditlog.pending import Ranges
from facekeep.errors import ClockError, FormatError, IntegrityError, UsageError
from facekeep.formats import entries
from facekeep.store import logdb


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def test_a_log_begins_with_genesis_and_only_once(lab: Lab) -> None:
    head = lab.log.head()
    assert (head.size, head.control_seq, head.epoch) == (1, 1, 1)
    assert lab.log.entry(0)["type"] == "genesis"
    with pytest.raises(IntegrityError, match="not empty"):
        AuditLog.create(logdb.open_log(lab.path, VAULT), (), KEY, VAULT, lab.clock, genesis=genesis())


def test_a_log_that_does_not_begin_with_genesis_is_not_made(tmp_path: Path) -> None:
    database = logdb.create_log(tmp_path / "log.db", VAULT)
    with pytest.raises(IntegrityError):
        AuditLog.create(database, (), KEY, VAULT, FakeClock(), genesis=decision())
    assert logdb.last_index(database.connection()) == -1


def test_appended_entries_are_read_again(lab: Lab) -> None:
    items = grants(*range(BRANCH, BRANCH + 20))
    assert lab.log.append(items) == [1, 2]
    assert lab.log.append([]) == []
    assert lab.log.entry(2) == items[1]
    assert lab.log.entry_of_slot(BRANCH + 19) == (2, items[1])
    assert lab.log.entry_of_slot(BRANCH + 20) is None
    assert [index for index, _ in lab.log.entries(0, 99)] == [0, 1, 2]
    assert list(lab.log.entries(2, 2)) == []
    for index in (-1, 3):
        with pytest.raises(IntegrityError, match="does not exist"):
            lab.log.entry(index)


def test_an_operation_is_appended_whole(lab: Lab) -> None:
    with pytest.raises(IntegrityError, match="not appended together"):
        lab.log.append(grants(*range(BRANCH, BRANCH + 200))[:1])
    assert lab.log.head().size == 1
    assert lab.log.append(grants(BRANCH)) == [1]


def test_a_malformed_entry_is_refused_before_anything_is_written(lab: Lab) -> None:
    with pytest.raises(FormatError):
        lab.log.append([*grants(BRANCH), {"type": "note"}])
    assert lab.log.head().size == 1


def test_completion_and_the_next_intent_go_together(lab: Lab) -> None:
    lab.grant(BRANCH)
    first = lab.log.append(grants(BRANCH + 1, op="renew"))[0]
    indices = lab.log.append([granted(first), *destroy(BRANCH, op="renew")])
    assert indices == [4, 5]
    lab.log.append([destroyed(5)])
    assert lab.log.head().open == ()


def test_slot_reuse_is_refused_and_the_log_goes_on(lab: Lab) -> None:
    first = lab.grant(BRANCH)
    lab.log.append(destroy(BRANCH))
    lab.log.append([destroyed(first + 2)])
    with pytest.raises(IntegrityError, match="was given out before"):
        lab.log.append(grants(BRANCH))
    assert lab.grant(BRANCH + 1) == lab.log.head().size - 2


def test_completion_without_an_opening_is_refused(lab: Lab) -> None:
    with pytest.raises(IntegrityError, match="entry 1: it completes what is not"):
        lab.log.append([granted(0)])
    assert lab.log.head().size == 1


def test_the_void_of_a_destroy_is_refused(lab: Lab) -> None:
    lab.grant(BRANCH)
    first = lab.log.append(destroy(BRANCH))[0]
    with pytest.raises(IntegrityError, match="voids what is not an open grant"):
        lab.log.append(destroy(BRANCH, op="void", voids=[first]))


def test_a_void_names_every_slot_it_voids(lab: Lab) -> None:
    first = lab.log.append(grants(*range(BRANCH, BRANCH + 20)))[0]
    with pytest.raises(IntegrityError, match=f"does not name its slot {BRANCH + 19}"):
        lab.log.append(destroy(*range(BRANCH, BRANCH + 19), op="void", voids=[first]))
    lab.log.append(destroy(*range(BRANCH, BRANCH + 20), op="void", voids=[first]))
    assert lab.log.pending().destroying(BRANCH + 19)
    assert not lab.log.pending().granting(BRANCH + 19)
    assert lab.log.verify().size == 4


def test_a_grant_voided_in_its_own_append_names_every_slot_too(lab: Lab) -> None:
    with pytest.raises(IntegrityError, match="does not name its slot"):
        lab.log.append([*grants(BRANCH, BRANCH + 1), *destroy(BRANCH, op="void", voids=[1])])
    lab.log.append([*grants(BRANCH, BRANCH + 1), *destroy(BRANCH, BRANCH + 1, op="void", voids=[1])])


def test_pending_follows_the_operations(lab: Lab) -> None:
    first = lab.log.append(grants(BRANCH, BRANCH + 5))[0]
    assert lab.log.pending().granting(BRANCH + 5)
    assert not lab.log.pending().granting(BRANCH + 1)
    assert lab.log.pending() is lab.log.pending()
    lab.log.append([granted(first)])
    lab.log.append(destroy(BRANCH))
    pending = lab.log.pending()
    assert (len(pending.granting_slots), pending.destroying_slots.spans()) == (0, [(BRANCH, 1)])
    slots = np.array([BRANCH, BRANCH + 5], dtype=np.int64)
    assert pending.mask(slots).tolist() == [True, False]
    other = lab.open()
    assert other.pending() == pending or other.pending().destroying(BRANCH)
    lab.log.append([destroyed(3)])
    assert not lab.log.pending().destroying(BRANCH)
    assert not other.pending().destroying(BRANCH)


def test_ranges_know_their_members() -> None:
    ranges = Ranges([(10, 2), (5, 1), (12, 3), (11, 2), (20, 1)])
    assert ranges.spans() == [(5, 1), (10, 5), (20, 1)]
    members = [slot for slot in range(30) if slot in ranges]
    assert members == [5, 10, 11, 12, 13, 14, 20]
    assert len(ranges) == 7
    slots = np.arange(30, dtype=np.int64)
    assert slots[ranges.mask(slots)].tolist() == members
    assert not Ranges().mask(slots).any()
    assert 3 not in Ranges()


def test_a_decision_is_appended_if_nothing_moved(lab: Lab) -> None:
    assert lab.decide() == 1
    seq = lab.log.head().control_seq
    lab.grant(BRANCH)
    with pytest.raises(ControlMoved):
        lab.log.decide(decision(), control_seq=seq, valid_until_ms=2**53, allow=True)
    body = entries.decision_body(decision())
    lab.log.decide(body, control_seq=seq + 2, valid_until_ms=2**53, allow=True)
    assert lab.log.head().size == 5


def test_a_permit_runs_out_at_the_append(lab: Lab) -> None:
    lab.log.decide(decision(), control_seq=1, valid_until_ms=NOW + 1, allow=True)
    lab.clock.ms = NOW + 1
    with pytest.raises(ControlMoved):
        lab.log.decide(decision(), control_seq=1, valid_until_ms=NOW + 1, allow=True)


def test_allow_and_bytes_must_agree(lab: Lab) -> None:
    with pytest.raises(UsageError):
        lab.log.decide(decision(), control_seq=1, valid_until_ms=2**53, allow=False)
    with pytest.raises(FormatError):
        lab.log.decide(entries.encode(genesis()), control_seq=1, valid_until_ms=2**53, allow=False)


def test_a_clock_set_back_denies_and_stops_operations(lab: Lab) -> None:
    lab.log.decide(decision(time_ms=NOW + 60_000), control_seq=1, valid_until_ms=2**53, allow=True)
    size = lab.log.head().size
    with pytest.raises(ClockError):
        lab.decide()
    with pytest.raises(ClockError):
        lab.log.append(grants(BRANCH))
    assert lab.log.head().size == size
    lab.log.decide(decision(reason="clock"), control_seq=1, valid_until_ms=2**53, allow=False)
    lab.log.append([entries.clock(NOW + 60_000, by=BY, time_ms=NOW)])
    lab.decide()
    assert lab.log.verify().high_ms == NOW


def test_the_pin_of_a_log_is_in_it_later(lab: Lab) -> None:
    lab.decide(5)
    pin = lab.log.head().pin()
    lab.decide(5)
    lab.log.check_pin(*pin)
    assert lab.log.verify().size == 11
    lab.log.check_pin(0, bytes(32), bytes(32))
    lab.log.verify()


def test_verify_reports_its_progress(lab: Lab) -> None:
    lab.decide(3)
    calls: list[tuple[int, int]] = []
    lab.log.verify(lambda done, total: calls.append((done, total)))
    assert calls == [(4, 4)]


def test_control_since_gives_what_is_no_decision(lab: Lab) -> None:
    lab.decide(3)
    lab.grant(BRANCH)
    lab.decide(2)
    first = lab.log.append(destroy(BRANCH))[0]
    assert [index for index, _ in lab.log.control_since()] == [0, 4, 5, first]
    for start in range(first + 2):
        expected = [index for index in (0, 4, 5, first) if index >= start]
        assert [index for index, _ in lab.open().control_since(start)] == expected
        assert [index for index, _ in lab.log.control_bodies(start)] == expected
    lab.decide(2)
    again = lab.log.append([destroyed(first)])[0]
    assert [entry["type"] for _, entry in lab.log.control_since(first + 1)] == ["destroyed"]
    assert list(lab.log.control_since(again + 1)) == []


def test_two_openings_see_each_other(lab: Lab) -> None:
    other = lab.open()
    lab.decide(2)
    assert other.head() == lab.log.head()
    lab.decide(1, other)
    assert lab.log.head() == other.head()
    assert lab.log.verify() == other.verify()


def test_a_closed_log_opens_again(lab: Lab) -> None:
    lab.decide(2)
    head = lab.log.head()
    assert lab.reopen().head() == head
