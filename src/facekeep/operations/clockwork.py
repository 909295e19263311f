"""Accepting the clock's time when the log has seen a later one."""

from __future__ import annotations

from facekeep.access.core import Core
from facekeep.access.roles import Action
from facekeep.access.session import Session
from facekeep.errors import UsageError
from facekeep.formats import entries
from facekeep.limits import LIMITS
from facekeep.operations.writing import writing


def accept_clock(core: Core, session: Session) -> tuple[int, int]:
    """Log that the present time is right, and return (accepted ms, the later time the log had seen).

    For a clock that once ran ahead. Raises UsageError when the clock needs no acceptance.
    """
    with writing(core, session, Action.CLOCK) as view:
        now, high = core.clock.wall_ms(), view.head.high_ms
        if now >= high - LIMITS.clock_slack_ms:
            raise UsageError("the clock does not stand before the log; there is nothing to accept")
        # Denials go on meanwhile; none of them can raise the log's time above ``high``.
        core.log.append([entries.clock(high, by=session.by, time_ms=now)])
        core.clock.trust()
        return now, high
