"""Wall-clock time as an injectable dependency. Milliseconds since 1970-01-01T00:00:00Z everywhere."""

from __future__ import annotations

import time
from typing import Protocol, runtime_checkable

MS_PER_DAY = 86_400_000


@runtime_checkable
class Clock(Protocol):
    """Anything that tells the time.

    One that also has ``elapsed_ms()``, milliseconds that really went by since some moment, is held to it.
    """

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch."""
        ...


class SystemClock:
    """The machine's clock. Whether it is sane is judged against the log, by the gate."""

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch."""
        return time.time_ns() // 1_000_000

    def elapsed_ms(self) -> int:
        """Milliseconds since the machine was started, asleep or awake: nobody can set them."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
