"""A process whose main thread is interrupted at random statements of a group commit (test_auditlog_group)."""

from __future__ import annotations

import contextlib
import itertools
import signal
import threading
from collections.abc import Callable, Sequence
from random import Random

from facekeep.auditlog.group import Group, Request
from facekeep.errors import StoreError


class Signalled(BaseException):
    """What a signal handler raises."""


def storm() -> None:
    """The main thread is interrupted at random statements while others commit."""
    count, done = itertools.count(), threading.Event()
    seen: list[int] = []
    armed = False

    def commit(batch: Sequence[Request], waiting: Callable[[], None]) -> None:
        waiting()
        for request in batch:
            request.first = next(count)

    def work() -> None:
        while not done.is_set():
            with contextlib.suppress(StoreError):  # the batch of an interrupted leader
                seen.append(group.submit(Request()))

    def raises(*_: object) -> None:
        if armed:
            raise Signalled

    group, random = Group(commit), Random(7)
    before = signal.signal(signal.SIGALRM, raises)
    threads = [threading.Thread(target=work, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(4_000):
            armed = False
            signal.setitimer(signal.ITIMER_REAL, random.random() * 0.0005 + 1e-5)
            with contextlib.suppress(Signalled):
                armed = True
                try:
                    with contextlib.suppress(StoreError):
                        seen.append(group.submit(Request()))
                finally:
                    armed = False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    done.set()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), "a thread waits for a leader that went away"
    assert len(seen) == len(set(seen))


if __name__ == "__main__":
    storm()
