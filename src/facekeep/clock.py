"""Wall-clock time as an injectable dependency. Milliseconds since 1970-01-01T00:00:00Z everywhere."""

from __future__ import annotations

import time
from typing import Protocol

MS_PER_DAY = 86_400_000


class Clock(Protocol):
    """Anything that tells the time."""

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch."""
        ...


class SystemClock:
    """The machine's clock. Whether it is sane is judged against the log, by the gate."""

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch."""
        return time.time_ns() // 1_000_000
