"""Whether the clock was set while a vault is open."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, cast

from facekeep.clock import Clock
from facekeep.limits import LIMITS

_DRIFT: Final = 10_000  # a clock that nobody sets may gain or lose one part in as many


class SteadyClock:
    """A clock that is held to the time that went by since a vault was opened (SPEC §7, Clock).

    Where it was set by more than ``LIMITS.clock_jump_ms`` since then, ``is_steady`` is False, and the time
    told is the one that it would have come to: no entry gets another's.
    """

    def __init__(self, clock: Clock) -> None:
        """Begin with the present time."""
        self._clock = clock
        self._elapsed = cast("Callable[[], int] | None", getattr(clock, "elapsed_ms", None))
        self.trust()

    @staticmethod
    def of(clock: Clock) -> SteadyClock:
        """Hold a clock from now on; one that is held already stays as it is."""
        return clock if isinstance(clock, SteadyClock) else SteadyClock(clock)

    def trust(self) -> None:
        """Take the present time for the right one."""
        self._wall_ms = self._clock.now_ms()
        self._since_ms = 0 if self._elapsed is None else self._elapsed()

    def wall_ms(self) -> int:
        """Milliseconds since the Unix epoch, as the clock has them."""
        return self._clock.now_ms()

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch."""
        return self._look()[0]

    @property
    def is_steady(self) -> bool:
        """Whether nobody has set the clock since."""
        return self._look()[1]

    def _look(self) -> tuple[int, bool]:
        wall = self._clock.now_ms()
        if self._elapsed is None:
            return wall, True
        elapsed = self._elapsed() - self._since_ms
        expected = self._wall_ms + elapsed
        steady = abs(wall - expected) <= LIMITS.clock_jump_ms + elapsed // _DRIFT
        return (wall if steady else expected), steady
