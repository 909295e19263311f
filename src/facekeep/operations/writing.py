"""The frame of every operation that changes a vault: the role, the writer lock, recovery, the clock."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from facekeep.access.core import Core, View
from facekeep.access.roles import Action
from facekeep.access.session import Session
from facekeep.auditlog.group import ControlMoved
from facekeep.errors import Busy, ClockError
from facekeep.limits import LIMITS
from facekeep.operations.recover import recover

#: An erasure waits for no clock: its entries have the time that really went by.
_UNDER_ANY_CLOCK: Final = frozenset((Action.CLOCK, Action.SHRED, Action.WITHDRAW))
T = TypeVar("T")
_ATTEMPTS: Final = 64
_MANY: Final = 512  # grants or subjects


@contextlib.contextmanager
def writing(core: Core, session: Session, action: Action) -> Iterator[View]:
    """Hold the vault for one operation; what a dead process left open is finished first."""
    session.require(action)
    core.require_whole()
    with core.lock.held() as outermost:
        if outermost and action is not Action.CLOCK:
            recover(core)
        view = core.view()
        session.require(action, view)
        if action is not Action.CLOCK:
            check_clock(core, view)
        if action not in _UNDER_ANY_CLOCK:
            _check_steady(core)
        yield view


def as_found(work: Callable[[], T]) -> T:
    """Do what is announced in the state in which it was prepared; again where the log has moved meanwhile.

    The writer lock alone does not tell: erasures are announced without it, and its file can be moved.
    """
    for _ in range(_ATTEMPTS):
        with contextlib.suppress(ControlMoved):
            return work()
    raise Busy("the vault is changed all the time; what was asked for was not begun")


def check_clock(core: Core, view: View) -> None:
    """Raise ClockError when the clock stands before what the log has seen."""
    behind = view.head.high_ms - core.clock.now_ms()
    if behind > LIMITS.clock_slack_ms:
        raise ClockError(
            f"the clock stands {behind // 1000} s before the last log entry: only erasures go on"
        )


def _check_steady(core: Core) -> None:
    """Raise ClockError when the clock was set since the vault was opened."""
    if not core.clock.is_steady:
        raise ClockError(
            "the clock was set by more than a minute since the vault was opened: only erasures go on",
            next="set it right; if its present time is the right one, close the vault and open it again",
        )


@contextlib.contextmanager
def uncollected(count: int) -> Iterator[None]:
    """Pause Python's search for cycles while ``count`` grants or subjects are worked on, where they are many.

    Their values hold no cycles, and are there all at once: looking through them takes a tenth of the time.
    """
    pause = count >= _MANY and gc.isenabled()
    if pause:
        gc.disable()
    try:
        yield
    finally:
        if pause:
            gc.enable()
