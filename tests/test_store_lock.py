"""The writer lock alone: one holder at a time, over threads and processes, of the file that is there."""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from facekeep.errors import Busy, FacekeepError
from facekeep.store import lock as module
from facekeep.store.lock import WriterLock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vault.lock"


class Clock:
    """The time: a second later whenever it is asked for. ``asleep`` is called in place of waiting."""

    def __init__(self) -> None:
        self.now = 0.0
        self.asleep: Callable[[], object] = lambda: None

    def monotonic(self) -> float:
        self.now += 1
        return self.now

    def sleep(self, _seconds: float) -> None:
        self.asleep()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


def in_thread(function: Callable[[], object]) -> list[object]:
    """What a function returns or raises in another thread."""
    told: list[object] = []

    def run() -> None:
        try:
            told.append(function())
        except FacekeepError as error:
            told.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return told


def in_child(function: Callable[[], object]) -> None:
    """Call a function in a forked process; it must return."""
    pid = os.fork()
    if not pid:
        try:
            function()
            os._exit(0)
        except BaseException:  # noqa: BLE001 - the parent sees the exit code
            traceback.print_exc()
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def taken(path: Path) -> bool:
    """Whether somebody else could take the lock now."""
    try:
        with WriterLock(path).held(0) as outermost:
            return outermost
    except Busy:
        return False


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_one_at_a_time_and_as_often_as_one_likes_within_it(path: Path) -> None:
    lock, before = WriterLock(path), descriptors()
    for _ in range(2):
        assert not lock.still_held()
        with lock.held(0) as first:
            assert first
            assert lock.still_held()
            assert not taken(path)
            with lock.held(0) as second:
                assert not second
                with lock.held(0) as third:
                    assert not third
            assert lock.still_held()
            assert not taken(path)
        assert taken(path)
    assert descriptors() == before


def test_another_thread_is_told_so_and_comes_in_afterwards(path: Path) -> None:
    lock = WriterLock(path)

    def enter() -> bool:
        with lock.held(0) as first:
            return first

    with lock.held(0):
        (told,) = in_thread(enter)
        assert isinstance(told, Busy)
        assert "another thread" in str(told)
    assert in_thread(enter) == [True]
    assert enter()


@pytest.mark.parametrize(("asked", "waits"), [(-3.0, 0), (0.0, 0), (2.5, 2.5)])
def test_a_thread_waits_as_long_as_it_is_told(path: Path, asked: float, waits: float) -> None:
    class Held:
        timeouts: list[float] = []  # noqa: RUF012 - of one test

        def acquire(self, *, timeout: float) -> bool:
            self.timeouts.append(timeout)
            return False

    lock, held = WriterLock(path), Held()
    lock._thread_lock = held  # type: ignore[assignment] # what it needs of one
    with pytest.raises(Busy), lock.held(asked):
        pass
    assert held.timeouts.pop() == waits


def test_another_process_is_waited_for_until_the_time_is_over(path: Path, clock: Clock) -> None:
    before = descriptors()
    with WriterLock(path).held(0):
        with pytest.raises(Busy, match="another process"), WriterLock(path).held(7):
            pass
        assert clock.now >= 8
    with WriterLock(path).held(0):
        now = clock.now
        with pytest.raises(Busy, match="another process"), WriterLock(path).held(0):
            pass
        assert clock.now <= now + 2
    assert descriptors() == before


def test_who_waits_gets_it_when_the_other_lets_go(path: Path, clock: Clock) -> None:
    other = WriterLock(path).held(0)
    other.__enter__()
    clock.asleep = lambda: other.__exit__(None, None, None)
    with WriterLock(path).held(5) as first:
        assert first


def test_a_file_that_was_replaced_between_opening_and_locking_is_left(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, times, real = descriptors(), [1], module._flock

    def replacing(descriptor: int, deadline: float) -> None:
        if times[0]:
            times[0] -= 1
            path.unlink()
            path.touch()
        real(descriptor, deadline)

    monkeypatch.setattr(module, "_flock", replacing)
    lock = WriterLock(path)
    with lock.held(5) as first:
        assert first
        assert lock.still_held()
        assert descriptors() == before + 1
    times[0] = 100
    with pytest.raises(Busy, match="again and again"), lock.held(5):
        pass
    assert 0 < times[0] < 98  # it was tried, and then given up
    assert clock.now > 5
    assert descriptors() == before


def test_a_lock_whose_file_is_away_or_another_is_no_longer_held(path: Path) -> None:
    lock = WriterLock(path)
    with lock.held(0):
        path.unlink()
        assert not lock.still_held()
        path.touch()
        assert not lock.still_held()
    assert not lock.still_held()


def test_a_child_has_not_its_parents_lock_and_may_not_take_it(path: Path) -> None:
    idle = [WriterLock(path.with_name(f"{at}.lock")) for at in range(4)]
    for each in idle:
        each.let_go()
    lock = WriterLock(path)

    def look() -> None:
        assert not lock.still_held()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
        assert not taken(path)
        for each in [lock, *idle]:
            with pytest.raises(FacekeepError), each.held(0):
                pass

    with lock.held(0):
        descriptor = lock._descriptor
        in_child(look)
        assert lock.still_held()
        assert not taken(path)
    in_child(lambda: _take(path))


def _take(path: Path) -> None:
    assert taken(path)


def test_a_process_without_standard_input_holds_its_lock_too(path: Path) -> None:
    """The first descriptor that is free is 0 then."""

    def look() -> None:
        os.close(0)
        lock = WriterLock(path)
        with lock.held(0):
            assert lock._descriptor == 0
            assert lock.still_held()
            in_child(lambda: _closed(0))

    in_child(look)


def _closed(descriptor: int) -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


@pytest.fixture(autouse=True)
def _nothing_is_held_afterwards(path: Path) -> Iterator[None]:
    yield
    assert taken(path)
