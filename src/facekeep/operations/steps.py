"""Named points inside operations, so that tests can stop a process at each of them."""

from __future__ import annotations

from collections.abc import Callable

_observers: list[Callable[[str], None]] = []


def observe(observer: Callable[[str], None]) -> None:
    """Have ``observer`` called with the name of every step reached in this process."""
    _observers.append(observer)


def reached(step: str) -> None:
    """Say that an operation has come to ``step``."""
    for observer in _observers:
        observer(step)
