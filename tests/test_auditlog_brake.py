"""The brake by itself: what it reads back, what ends a day, what begins it anew."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from facekeep.auditlog import brake
from facekeep.auditlog.brake import SEARCH, Asked, Brake
from facekeep.formats import entries
from facekeep.formats.canonical import JsonObject
from facekeep.formats.matching import Matching

DAY = 86_400_000
NOON = 20_000 * DAY + DAY // 2
BY, TAG = "00" * 8, "11" * 32


class Bodies:
    """A log's entries as bytes, and how many of them were read."""

    def __init__(self, *items: JsonObject) -> None:
        self.items = list(items)
        self.read = 0

    def __call__(self, start: int, stop: int) -> Iterator[bytes]:
        for item in self.items[start:stop]:
            self.read += 1
            yield entries.encode(item)


def decided(time_ms: int = NOON, *, match: bool = False) -> JsonObject:
    return entries.decision_verify(
        by=BY, time_ms=time_ms, reason="ok", scope="verify", region="DE", model="m/1", threshold_e6=1,
        tag=bytes.fromhex(TAG), slot=1, match=match,
    )  # fmt: skip


def denied(time_ms: int = NOON) -> JsonObject:
    return entries.decision_verify(
        by=BY,
        time_ms=time_ms,
        reason="rate",
        scope="verify",
        region="DE",
        model="m/1",
        tag=bytes.fromhex(TAG),
    )


def made(bodies: Bodies, **limits: int) -> Brake:
    made = Brake(Matching(**limits))  # type: ignore[arg-type]
    made.follow(bodies, len(bodies.items), NOON)
    return made


def test_it_reads_the_answers_of_today_and_nothing_twice() -> None:
    bodies = Bodies(*[decided(NOON - DAY)] * 3, *[decided()] * 5, denied())
    found = made(bodies)
    assert found.refuses(BY, TAG, NOON)
    assert not found.refuses(BY, TAG, NOON + 30_000)
    assert not found.refuses("22" * 8, TAG, NOON)
    assert not found.refuses(BY, "33" * 32, NOON)
    read = bodies.read
    bodies.items.append(decided(match=True))
    found.follow(bodies, len(bodies.items), NOON)
    assert bodies.read == read + 1
    assert not found.refuses(BY, TAG, NOON)


def test_yesterday_is_not_read_far_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(brake, "_STEP", 4)
    bodies = Bodies(*[decided(NOON - DAY)] * 100, *[decided()] * 5)
    assert made(bodies).refuses(BY, TAG, NOON)
    assert bodies.read < 20


def test_what_is_read_back_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(brake, "_STEP", 4)
    monkeypatch.setattr(brake, "FOLLOWED", 6)
    assert made(Bodies(*[decided()] * 5, denied())).refuses(BY, TAG, NOON)
    assert not made(Bodies(*[decided()] * 5, *[denied()] * 6)).refuses(BY, TAG, NOON)


def test_a_clock_entry_begins_anew() -> None:
    clock = entries.clock(NOON + DAY, by=BY, time_ms=NOON)
    assert not made(Bodies(*[decided()] * 5, clock)).refuses(BY, TAG, NOON)
    assert made(Bodies(*[decided(NOON + DAY)] * 9, clock, *[decided()] * 5)).refuses(BY, TAG, NOON)


def test_a_log_that_is_shorter_than_it_was_is_read_anew() -> None:
    bodies = Bodies(*[decided()] * 5)
    found = made(bodies)
    found.follow(Bodies(decided(match=True)), 1, NOON)
    assert not found.refuses(BY, TAG, NOON)


def test_an_answer_of_the_day_before_that_comes_late_counts_today() -> None:
    found = Brake(Matching(asks=2, failures=0))
    midnight = NOON + DAY // 2
    found.note(Asked(BY, TAG, matched=True), midnight)
    found.note(Asked(BY, TAG, matched=True), midnight - 1)
    assert found.refuses(BY, TAG, midnight)
    assert not found.refuses(BY, TAG, midnight + DAY)


def test_searches_have_a_number_and_no_pauses() -> None:
    found = Brake(Matching(searches=7))
    for _ in range(7):
        assert not found.refuses(BY, SEARCH, NOON)
        found.note(Asked(BY, SEARCH, matched=False), NOON)
    assert found.refuses(BY, SEARCH, NOON)


def test_nothing_is_refused_where_the_settings_set_no_number() -> None:
    found = Brake(Matching(asks=0, failures=0, searches=0))
    for _ in range(1_000):
        found.note(Asked(BY, TAG, matched=False), NOON)
        found.note(Asked(BY, SEARCH, matched=False), NOON)
    assert not found.refuses(BY, TAG, NOON)
    assert not found.refuses(BY, SEARCH, NOON)


def test_a_row_without_end_waits_no_longer_than_the_longest() -> None:
    found = Brake(Matching(asks=0))
    for _ in range(200):
        found.note(Asked(BY, TAG, matched=False), NOON)
    assert found.refuses(BY, TAG, NOON + 3_599_999)
    assert not found.refuses(BY, TAG, NOON + 3_600_000)
