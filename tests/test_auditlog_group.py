"""Group commit: one durable transaction for many threads; nobody waits forever, nobody is told too early."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest.mock import Mock

import pytest

from auditlog_help import BRANCH, NOW, VAULT, Lab, decision, granted, grants
from facekeep.auditlog.group import ControlMoved, Group, Request
from facekeep.errors import Busy, IntegrityError, StoreError
from facekeep.store import logdb

Waiting = Callable[[], None]


def in_threads(count: int, work: Callable[[int], None]) -> None:
    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a thread was never woken"


def test_many_threads_share_commits(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    commits = []
    commit = lab.log._group._commit

    def counted(batch: Sequence[Request], waiting: Waiting) -> None:
        commits.append(len(batch))
        commit(batch, waiting)

    lab.log._group._commit = counted
    indices: list[int] = []

    def work(_: int) -> None:
        indices.extend(lab.decide() for _ in range(50))

    in_threads(16, work)
    assert sorted(indices) == list(range(1, 801))
    assert sum(commits) == 800
    assert len(commits) < 600
    assert lab.log.verify().size == 801


def test_control_entries_and_decisions_mix(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    moved = 0
    done = threading.Event()

    def work(number: int) -> None:
        nonlocal moved
        if number == 0:
            for at in range(40):
                lab.grant(BRANCH + at)
            done.set()
            return
        while not done.is_set():
            seq = lab.log.head().control_seq
            try:
                index = lab.log.decide(decision(), control_seq=seq, valid_until_ms=2**53, allow=True)
            except ControlMoved:
                moved += 1
            else:
                controls = sum(1 for at, _ in lab.log.control_since() if at < index)
                assert controls == seq

    in_threads(4, work)
    assert lab.log.verify().control_seq == 81


def test_what_is_refused_does_not_hold_up_the_others(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    barrier = threading.Barrier(8)
    refused: list[int] = []

    def work(number: int) -> None:
        barrier.wait()
        for _ in range(30):
            try:
                lab.log.decide(decision(), control_seq=1 + number % 2, valid_until_ms=2**53, allow=True)
            except ControlMoved:
                refused.append(number)

    in_threads(8, work)
    assert len(refused) == 120
    assert lab.log.verify().size == 121


def test_a_refused_operation_leaves_no_trace_in_its_group(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.grant(BRANCH)

    def work(number: int) -> None:
        for _ in range(20):
            if number % 2:
                with pytest.raises(IntegrityError, match="given out before"):
                    lab.log.append([*grants(BRANCH + 500 + number), *grants(BRANCH)])
            else:
                lab.decide()

    in_threads(6, work)
    assert lab.log.verify().control_seq == 3
    assert lab.log.entry_of_slot(BRANCH + 501) is None


def test_an_exception_reaches_every_waiting_thread() -> None:
    entered, gate = threading.Event(), threading.Event()
    calls = 0

    def commit(batch: Sequence[Request], _: Waiting) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            entered.set()
            gate.wait(30)
            for request in batch:
                request.first = 0
            return
        raise StoreError("no space", next="make some")

    group = Group(commit)
    raised: list[StoreError] = []

    def work(number: int) -> None:
        if number:
            entered.wait(30)
        try:
            group.submit(Request())
        except StoreError as error:
            raised.append(error)

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(12)]
    for thread in threads:
        thread.start()
    while len(group._queue) < 11:
        time.sleep(0.001)
    gate.set()
    for thread in threads:
        thread.join(30)
    assert len(raised) == 11
    assert len({id(error) for error in raised}) == 11
    assert {(str(error), error.next) for error in raised} == {("no space", "make some")}


@pytest.mark.parametrize("fault", [ValueError("a bug"), MemoryError()])
def test_a_bug_in_a_commit_is_no_answer_for_anybody(fault: Exception) -> None:
    def commit(_: Sequence[Request], __: Waiting) -> None:
        raise fault

    group = Group(commit)
    for _ in range(3):
        with pytest.raises(StoreError, match="could not be written"):
            group.submit(Request())


def test_an_interrupted_leader_leaves_nobody_waiting() -> None:
    entered, gate = threading.Event(), threading.Event()
    calls = 0

    def commit(batch: Sequence[Request], _: Waiting) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            entered.set()
            gate.wait(30)
            raise KeyboardInterrupt
        for number, request in enumerate(batch):
            request.first = number

    group = Group(commit)
    ends: list[str] = []

    def work(number: int) -> None:
        if number:
            entered.wait(30)
        try:
            group.submit(Request())
            ends.append("done")
        except KeyboardInterrupt:
            ends.append("interrupted")

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(5)]
    for thread in threads:
        thread.start()
    while len(group._queue) < 4:
        time.sleep(0.001)
    gate.set()
    for thread in threads:
        thread.join(30)
    assert sorted(ends) == ["done"] * 4 + ["interrupted"]


def test_an_interrupted_follower_passes_the_leadership_on() -> None:
    def commit(batch: Sequence[Request], _: Waiting) -> None:
        for request in batch:
            request.first = 7

    group = Group(commit)
    group._led = True  # some other thread leads

    class Interrupted(Request):
        __slots__ = ()

        def wait(self, _: float) -> bool:
            group._hand_over()  # and makes this one its successor, just as the signal comes
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        group.submit(Interrupted())
    assert group.submit(Request()) == 7


def test_a_leader_interrupted_while_it_gathers_leaves_nobody_waiting() -> None:
    def commit(batch: Sequence[Request], _: Waiting) -> None:
        for request in batch:
            request.first = 7

    group = Group(commit)
    answers: list[int] = []
    follower = threading.Thread(target=lambda: answers.append(group.submit(Request())), daemon=True)

    def interrupted(*_: object, **__: object) -> bool:
        group._gathered = gathered
        follower.start()
        while len(group._queue) < 2:
            time.sleep(0.001)
        raise KeyboardInterrupt

    gathered, group._gathered = group._gathered, Mock(acquire=interrupted)
    group._active = 3
    with pytest.raises(KeyboardInterrupt):
        group.submit(Request())
    follower.join(30)
    assert answers == [7]
    assert group.submit(Request()) == 7


@pytest.mark.parametrize("where", ["_lead", "_hand_over", "_gather"])
def test_a_signal_takes_the_leader_away_at_any_statement(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it leads, and before it wakes anybody: whoever waits finds out, and leads."""

    def commit(batch: Sequence[Request], _: Waiting) -> None:
        for request in batch:
            request.first = 7

    group, own = Group(commit), getattr(Group, where)
    answers: list[int] = []
    follower = threading.Thread(target=lambda: answers.append(group.submit(Request())), daemon=True)

    def interrupted(*_: object) -> object:
        monkeypatch.setattr(Group, where, own)
        follower.start()
        while len(group._queue) < (1 if where == "_hand_over" else 2):
            time.sleep(0.001)
        raise KeyboardInterrupt

    monkeypatch.setattr(Group, where, interrupted)
    with pytest.raises(KeyboardInterrupt):
        group.submit(Request())
    follower.join(30)
    assert answers == [7]
    assert group.submit(Request()) == 7


class Crowd:
    """Three commits: of one thread, of the eight that queued meanwhile, and of one more that queued then.

    ``third`` is the third commit, during which ``answered`` says how many of the eight were woken.
    """

    def __init__(self, third: Callable[[Sequence[Request], Waiting], None]) -> None:
        self.group = Group(self._commit)
        self.answered: list[int] = []
        self._third, self._calls = third, 0
        self._entered = [threading.Event() for _ in range(2)]
        self._gates = [threading.Event() for _ in range(2)]

    def _commit(self, batch: Sequence[Request], waiting: Waiting) -> None:
        self._calls += 1
        if self._calls == 3:
            return self._third(batch, waiting)
        self._entered[self._calls - 1].set()
        self._gates[self._calls - 1].wait(30)
        waiting()
        for number, request in enumerate(batch):
            request.first = number
        return None

    def run(self, last: Request | None = None) -> None:
        """Return when everybody was answered."""
        threads = [threading.Thread(target=self._ask, args=(Request(),), daemon=True) for _ in range(9)]
        threads.append(threading.Thread(target=self._ask, args=(last or Request(),), daemon=True))
        threads[0].start()
        self._entered[0].wait(30)
        for thread in threads[1:9]:
            thread.start()
        queued(self.group, 8)
        self._gates[0].set()
        self._entered[1].wait(30)
        threads[9].start()
        queued(self.group, 1)
        self._gates[1].set()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive(), "a thread was never woken"

    def _ask(self, request: Request) -> None:
        with contextlib.suppress(StoreError, KeyboardInterrupt):
            self.answered.append(self.group.submit(request))


@pytest.fixture
def _waits_to_be_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have nobody find out by itself that its request is done."""
    monkeypatch.setattr("facekeep.auditlog.group._PATIENCE_S", 60)


def queued(group: Group, count: int) -> None:
    while len(group._queue) < count:
        time.sleep(0.001)


@pytest.mark.usefixtures("_waits_to_be_woken")
def test_a_crowd_that_was_answered_is_woken_when_the_next_leader_waits_for_the_disk() -> None:
    woken: list[int] = []

    def third(batch: Sequence[Request], waiting: Waiting) -> None:
        time.sleep(0.1)
        woken.append(len(crowd.answered))
        waiting()
        while len(crowd.answered) < 9:
            time.sleep(0.001)
        for request in batch:
            request.first = 9

    crowd = Crowd(third)
    crowd.run()
    assert woken == [2]  # the first, and who led the eight
    assert sorted(crowd.answered) == [0, *range(8), 9]


@pytest.mark.usefixtures("_waits_to_be_woken")
@pytest.mark.parametrize("fault", [None, StoreError("no space"), KeyboardInterrupt()])
def test_a_crowd_is_woken_where_the_next_leader_never_waits_for_the_disk(fault: BaseException | None) -> None:
    def third(batch: Sequence[Request], _: Waiting) -> None:
        if fault is not None:
            raise fault
        batch[0].error = StoreError("refused")

    crowd = Crowd(third)
    crowd.run()
    assert sorted(crowd.answered) == [0, *range(8)]


def test_a_crowd_does_not_wait_for_a_leader_that_is_stuck() -> None:
    """Another process may hold log.db: who was answered finds out."""

    def third(batch: Sequence[Request], _: Waiting) -> None:
        while len(crowd.answered) < 9:
            time.sleep(0.001)
        batch[0].first = 9

    crowd = Crowd(third)
    crowd.run()
    assert sorted(crowd.answered) == [0, *range(8), 9]


@pytest.mark.usefixtures("_waits_to_be_woken")
def test_a_crowd_is_woken_where_the_next_leader_is_taken_away_before_it_leads() -> None:
    class Interrupted(Request):
        __slots__ = ()

        def wait(self, _: float) -> bool:
            while not self.leads:
                time.sleep(0.001)
            raise KeyboardInterrupt

    crowd = Crowd(lambda *_: None)
    crowd.run(Interrupted())
    assert sorted(crowd.answered) == [0, *range(8)]
    assert crowd.group._done == []


def test_who_was_taken_into_a_batch_that_nobody_finished_is_told_so() -> None:
    """Neither "written" nor an endless wait: nobody knows."""
    group = Group(lambda *_: None)
    group._led = True
    lost = Request()
    submit = threading.Thread(target=lambda: told.append(outcome(group, lost)), daemon=True)
    told: list[str] = []
    submit.start()
    while lost not in group._queue:
        time.sleep(0.001)
    group._queue.remove(lost)  # a leader took it, and was interrupted before anything else
    submit.join(30)
    assert told == ["it is not known whether the entry was written: another thread was interrupted"]


def outcome(group: Group, request: Request) -> str:
    try:
        return str(group.submit(request))
    except StoreError as error:
        return str(error)


def test_a_storm_of_signals_leaves_nobody_waiting() -> None:
    """In a process of its own: a measurement would be interrupted as well, with its locks held."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    storm = Path(__file__).parent / "group_storm.py"
    ran = subprocess.run([sys.executable, storm], env=env, check=False, capture_output=True, timeout=300)
    assert (ran.returncode, ran.stderr) == (0, b"")


def test_a_lock_held_by_another_process_stops_nothing(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.log._writer._connection.execute("PRAGMA busy_timeout=20")
    other = logdb.open_log(lab.path, VAULT)
    with other.transaction(), pytest.raises(Busy, match="not written to"):
        lab.decide()
    assert lab.decide() == 1


def test_the_time_of_a_group_is_the_greatest(tmp_path: Path) -> None:
    lab = Lab(tmp_path)

    def work(number: int) -> None:
        entry = decision(time_ms=NOW + number)
        lab.log.decide(entry, control_seq=1, valid_until_ms=2**53, allow=True)

    in_threads(8, work)
    assert lab.log.verify().high_ms == NOW + 7
    lab.log.append([*grants(BRANCH), granted(9)])
    assert lab.log.verify().size == 11
