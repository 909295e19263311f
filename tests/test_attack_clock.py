"""The clock is set while a vault is open: it is held to the time that really went by."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from facekeep.access.steadyclock import SteadyClock
from facekeep.clock import SystemClock
from facekeep.errors import ClockError, UsageError
from facekeep.limits import LIMITS
from vaultlab import (
    DAY,
    MODEL,
    NOW,
    VERIFY,
    FakeClock,
    Lab,
    core,
    identify_reason,
    log_entries,
    matches,
    prove,
    reason,
)

HOUR = 3_600_000


class Machine(FakeClock):
    """A clock of a machine that also counts: ``passes`` is time going by, ``ms`` can be set by anybody."""

    def __init__(self) -> None:
        super().__init__()
        self.counted = 17_000

    def elapsed_ms(self) -> int:
        return self.counted

    def passes(self, ms: int) -> None:
        self.ms += ms
        self.counted += ms


@pytest.fixture
def clock() -> Machine:
    return Machine()


@pytest.fixture
def lab(tmp_path: Path, clock: Machine) -> Lab:
    lab = Lab(tmp_path, clock=clock).create()
    lab.enrol("alice", "bob", days=1)
    lab.enrol("carol", days=30, not_before_ms=NOW + 10 * DAY)
    return lab


def test_set_back_to_after_the_last_entry_it_accepts_nobody_who_has_expired(lab: Lab, clock: Machine) -> None:
    with lab.open() as vault:
        clock.passes(2 * DAY)
        clock.ms = NOW + HOUR  # after every entry there is
        assert reason(vault, "alice") == "clock"
        assert identify_reason(vault, "alice") == "clock"
        clock.ms = NOW + 2 * DAY
        assert reason(vault, "alice") == "expired"
        prove(vault)


def test_set_forward_it_opens_nobody_whose_time_has_not_come(lab: Lab, clock: Machine) -> None:
    with lab.open() as vault:
        clock.ms += 11 * DAY
        assert reason(vault, "carol") == "clock"
        assert identify_reason(vault, "carol") == "clock"
        clock.ms = NOW
        assert reason(vault, "carol") == "not_before"
        assert matches(vault, "alice"), "no entry has the time to which it was set"
        prove(vault)


@pytest.mark.parametrize("step", [-HOUR, HOUR, 400 * DAY])
def test_nothing_is_changed_under_a_clock_that_was_set(lab: Lab, clock: Machine, step: int) -> None:
    """Nobody is enrolled or renewed by another time than the true one."""
    with lab.open() as vault:
        clock.passes(HOUR * 2)
        size = len(log_entries(vault))
        clock.ms += step
        for action in (
            lambda: vault.enroll_many([lab.enrolment("dora")]),
            lambda: vault.renew("alice", lab.consent(VERIFY)),
            lambda: vault.backup(lab.base / "data.backup"),
        ):
            with pytest.raises(ClockError, match="set by more than a minute"):
                action()
        assert len(log_entries(vault)) == size
        vault.withdraw("alice", [VERIFY])  # an erasure waits for no clock
        vault.shred("bob")
        assert {entry["time_ms"] for entry in log_entries(vault)[size:]} == {NOW + 2 * HOUR}
        clock.ms -= step
        prove(vault)
    lab.clean()


def test_a_gallery_that_is_open_neither_drops_nor_keeps_by_another_time(lab: Lab, clock: Machine) -> None:
    with lab.open() as vault, vault.gallery(model=MODEL) as gallery:
        clock.ms += 2 * DAY
        gallery.refresh()
        assert len(gallery._rows.known()) == 2
        clock.ms -= 2 * DAY
        clock.passes(2 * DAY)
        clock.ms -= 2 * DAY
        gallery.refresh()
        assert gallery._rows.known() == []


def test_a_change_of_settings_does_not_make_it_forget(lab: Lab, clock: Machine) -> None:
    with lab.open() as vault:
        clock.passes(2 * DAY)
        vault.change_settings(schedule=["root_days=7"])
        clock.ms -= DAY + HOUR
        assert reason(vault, "alice") == "clock"
        assert core(vault).clock.now_ms() == NOW + 2 * DAY


def test_a_machine_that_slept_and_a_clock_that_is_corrected(lab: Lab, clock: Machine) -> None:
    with lab.open() as vault:
        clock.passes(HOUR * 12)  # the lid was closed
        assert matches(vault, "alice")
        clock.ms += LIMITS.clock_jump_ms  # the time server found it late
        assert matches(vault, "alice")
        clock.ms += 10_000
        assert reason(vault, "alice") == "clock"
        clock.passes(28 * HOUR)  # a hundredth of a percent is what a clock may lose, unset
        assert reason(vault, "alice") == "expired"


def test_an_operator_who_finds_the_present_time_right_opens_the_vault_again(lab: Lab, clock: Machine) -> None:
    with lab.open() as vault:
        clock.ms += 11 * DAY
        assert reason(vault, "carol") == "clock"
        with pytest.raises(UsageError):
            vault.accept_clock()
    with lab.open() as vault:
        assert matches(vault, "carol")


def test_a_time_before_the_log_is_accepted_as_ever(lab: Lab, clock: Machine) -> None:
    clock.ms += 40 * DAY
    lab.do(lambda vault: reason(vault, "alice"))
    with lab.open() as vault:
        clock.ms = NOW
        assert reason(vault, "alice") == "clock"
        assert vault.accept_clock() == (NOW, NOW + 40 * DAY)
        assert matches(vault, "alice")


def test_a_clock_that_does_not_count_is_believed() -> None:
    clock = FakeClock()
    steady = SteadyClock(clock)
    clock.ms += 400 * DAY
    assert steady.is_steady
    assert steady.now_ms() == NOW + 400 * DAY
    assert SteadyClock.of(steady) is steady


def test_the_machines_own_clock_is_steady() -> None:
    clock = SystemClock()
    steady = SteadyClock(clock)
    before = clock.elapsed_ms()
    time.sleep(0.01)
    assert clock.elapsed_ms() > before
    assert steady.is_steady
    assert abs(steady.now_ms() - steady.wall_ms()) < LIMITS.clock_jump_ms
