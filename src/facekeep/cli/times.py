"""Times as people write them: 365d, 12h, 2027-05-01, 2027-05-01T12:00Z. Always UTC; ms inside."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from facekeep.clock import MS_PER_DAY
from facekeep.errors import ConsentError, UsageError

_SPAN = re.compile(r"([0-9]{1,6})([dh])\Z")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}(:[0-9]{2})?Z)?\Z")
_UNIT_MS = {"d": MS_PER_DAY, "h": MS_PER_DAY // 24}
_FORMS = "write a time as 365d, 12h, 2027-05-01 or 2027-05-01T12:00Z (UTC)"


def span_ms(text: str) -> int:
    """Length of a span such as ``30d`` or ``12h``; raises UsageError."""
    found = _span(text)
    if found is None:
        raise UsageError("that is no span of time", next="write it as 30d or 12h")
    return found


def moment_ms(text: str, now_ms: int, what: str) -> int:
    """Return the moment a person named; ``what`` names it in the ConsentError.

    A span counts from now; a date is the moment that day begins.
    """
    found = _span(text)
    if found is not None:
        return now_ms + found
    if not _DATE.match(text):
        raise ConsentError(f"{what} is not a time facekeep can read", next=_FORMS)
    try:
        return int(datetime.fromisoformat(text.removesuffix("Z")).replace(tzinfo=UTC).timestamp()) * 1000
    except ValueError:
        raise ConsentError(f"{what} is a day or hour that does not exist", next=_FORMS) from None


def _span(text: str) -> int | None:
    match = _SPAN.match(text)
    return int(match[1]) * _UNIT_MS[match[2]] if match else None


def written(time_ms: int) -> str:
    """Return a moment as ``2027-05-01T12:00Z``."""
    try:
        return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%MZ")
    except (ValueError, OverflowError, OSError):
        return f"{time_ms} ms"
