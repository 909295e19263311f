"""Times as people write them."""

from __future__ import annotations

import pytest

from facekeep.cli.times import moment_ms, span_ms, written
from facekeep.errors import ConsentError, UsageError

NOW = 1_800_000_000_000  # 2027-01-15T08:00:00Z
DAY = 86_400_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("365d", NOW + 365 * DAY),
        ("12h", NOW + DAY // 2),
        ("0d", NOW),
        ("2027-05-01", 1_809_129_600_000),
        ("2027-05-01T12:30Z", 1_809_174_600_000),
        ("2027-05-01T12:30:15Z", 1_809_174_615_000),
        ("2020-01-01", 1_577_836_800_000),
    ],
)
def test_moments(text: str, expected: int) -> None:
    assert moment_ms(text, NOW, "the expiry") == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "never", "365", "365D", "1w", "-1d", "1.5d", "9999999d", "٣d", "tomorrow", "2027", "2027-5-1"),
        *("2027-02-30", "2027-13-01", "2027-05-01T25:00Z", "2027-05-01T12:00", "2027-05-01T12:00+02:00"),
        *("01.05.2027", "2027-05-01 ", "2027-05-01\n", "0000-01-01", "٢٠٢٧-05-01"),
    ],
)
def test_what_is_no_moment(text: str) -> None:
    with pytest.raises(ConsentError) as caught:
        moment_ms(text, NOW, "the expiry")
    assert "2027-05-01" in caught.value.next


def test_spans() -> None:
    assert span_ms("30d") == 30 * DAY
    with pytest.raises(UsageError):
        span_ms("2027-05-01")


def test_written() -> None:
    assert written(NOW) == "2027-01-15T08:00Z"
    assert written(2**62) == f"{2**62} ms"
