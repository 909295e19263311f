"""Limits on matching: a log of decisions beyond them is found, by rule and index."""

from __future__ import annotations

import pytest

from audit_help import (
    ALICE,
    DAY,
    MODEL,
    OPERATOR,
    SECOND,
    SERVICE,
    Book,
    expect,
    founded,
    honest,
    i,
    item,
    limits,
    v,
)
from facekeep.errors import FormatError
from facekeep.formats import entries
from facekeep.formats.canonical import JsonObject

SET = bytes(32)


def narrow(value_e6: int = 500_000, *, scores: bool = False) -> JsonObject:
    return limits(value_e6, 400_000, scores=scores, top=1)


def book(matching: JsonObject | None) -> Book:
    """A vault with limits since its genesis; a person with one photograph, one with several."""
    log = founded()
    del log.entries[0]["matching"]
    if matching is not None:
        log.entries[0]["matching"] = matching
    log.grant("enroll", item(v(0), ALICE), item(i(0), ALICE), item(v(1), b"m" * 32, count=4))
    return log


def searched(log: Book, **values: object) -> int:
    index = log.identify(i(0), candidates=[i(0)])
    log.entries[index].update({"mean_e6": 400_000, **values})
    return index


def changed(log: Book, matching: JsonObject | None) -> None:
    log.add(entries.settings(b"s" * 32, SET, by=OPERATOR, time_ms=log.now, matching=matching))


def test_decisions_within_the_limits_pass() -> None:
    log = book(narrow())
    log.verify(v(0), ALICE)
    log.entries[log.verify(v(1), b"m" * 32)]["threshold_e6"] = 400_000
    searched(log, most=1)
    changed(log, None)  # a move of the root: the limits stay
    log.verify(v(0), ALICE)
    changed_again = narrow(300_000, scores=True)
    log.add(entries.settings(b"t" * 32, b"s" * 32, by=OPERATOR, time_ms=log.now, matching=changed_again))
    log.entries[log.verify(v(0), ALICE)].update(threshold_e6=300_000, score=True)
    report = honest(log)
    assert not any("limits" in note for note in report.notes)
    assert report.counts["scores told"] == 1


@pytest.mark.parametrize(
    "values", [{"threshold_e6": 500_001}, {"threshold_e6": 400_000}, {"score": True}, {"model": MODEL}]
)
def test_a_verification_beyond_the_limits(values: JsonObject) -> None:
    given = narrow()
    if "model" in values:
        given["thresholds"] = []
    else:
        given["search_thresholds"] = []
    log = book(given)
    index = log.verify(v(0), ALICE)
    log.entries[index].update(values)
    expect(log.bodies(), "R36", index)


def test_a_mean_judged_by_the_limit_of_one_photograph() -> None:
    log = book(narrow())
    index = log.verify(v(1), b"m" * 32)
    expect(log.bodies(), "R36", index)


def test_a_reference_of_two_photographs_is_judged_by_the_limit_of_means() -> None:
    log = book(narrow())
    log.grant("enroll", item(v(2), b"n" * 32, count=2))
    index = log.verify(v(2), b"n" * 32)
    expect(log.bodies(), "R36", index)
    log.entries[index]["threshold_e6"] = 400_000
    honest(log)


@pytest.mark.parametrize("search", [False, True])
def test_a_decision_in_a_region_that_the_settings_do_not_allow(search: bool) -> None:
    log = book(None)
    log.entries[0]["regions"] = ["DE"]
    index = log.identify(i(0)) if search else log.verify(v(0), ALICE)
    honest(log)
    log.entries[0]["regions"] = ["AT"]
    expect(log.bodies(), "R37", index)


@pytest.mark.parametrize("values", [{"mean_e6": 499_999}, {"threshold_e6": 10**9}, {"score": True}])
def test_a_search_beyond_the_limits(values: JsonObject) -> None:
    log = book(narrow())
    index = searched(log, **values)
    expect(log.bodies(), "R36", index)


def test_a_search_that_hides_the_limit_for_means() -> None:
    log = book(narrow())
    index = log.identify(i(0), candidates=[i(0)])
    expect(log.bodies(), "R36", index)


def test_a_search_that_names_too_many() -> None:
    log = book(narrow())
    log.grant("enroll", item(i(1), b"n" * 32))
    index = log.identify(i(0), i(1), candidates=[i(0), i(1)])
    log.entries[index]["mean_e6"] = 400_000
    expect(log.bodies(), "R36", index)


def test_limits_that_were_changed_count_from_then_on() -> None:
    log = book(narrow())
    changed(log, narrow(300_000))
    index = log.verify(v(0), ALICE)
    expect(log.bodies(), "R36", index)


def test_an_answer_too_many_in_a_day() -> None:
    log = book(narrow() | {"asks": 3, "failures": 0})
    for _ in range(3):
        log.verify(v(0), ALICE)
    log.verify(v(0), ALICE, by=OPERATOR, reason="role")
    log.now += DAY
    for _ in range(3):
        log.verify(v(0), ALICE)
    honest(log)
    index = log.verify(v(0), ALICE)
    expect(log.bodies(), "R38", index)


def test_an_answer_too_soon_after_five_that_were_none() -> None:
    log = book(narrow())
    index = -1
    for _ in range(6):
        index = log.verify(v(0), ALICE)
        log.entries[index]["result"] = "no_match"
    expect(log.bodies(), "R38", index)
    log.entries[index]["time_ms"] = log.now + 30_000
    honest(log)


def test_a_search_too_many_in_a_day() -> None:
    log = book(narrow() | {"searches": 2})
    index = [searched(log) for _ in range(3)][-1]
    expect(log.bodies(), "R38", index)


def test_limits_that_were_changed_count_what_was_asked_before() -> None:
    log = book(narrow())
    for _ in range(3):
        log.verify(v(0), ALICE)
    changed(log, narrow() | {"asks": 3})
    index = log.verify(v(0), ALICE)
    expect(log.bodies(), "R38", index)


def test_an_operator_setting_the_time_back_begins_the_counting_anew() -> None:
    log = book(narrow() | {"asks": 1})
    log.verify(v(0), ALICE)
    log.now += 60_000
    log.entries[log.verify(None, None, reason="rate")]["time_ms"] = log.now
    high, log.now = log.now, log.now - 30_000
    log.add(entries.clock(high, by=OPERATOR, time_ms=log.now))
    log.verify(v(0), ALICE)
    honest(log)


def test_who_may_change_the_limits_is_not_bound() -> None:
    log = book(narrow())
    log.principal(SECOND, 18, "operator", "service")
    log.entries[log.verify(v(0), ALICE, by=SECOND)].update(threshold_e6=9, score=True)
    honest(log)


def test_a_log_without_limits_has_no_rule_and_says_so() -> None:
    log = book(None)
    log.entries[log.verify(v(0), ALICE, by=SERVICE)]["threshold_e6"] = 9
    assert any("no entry names limits on matching" in note for note in honest(log).notes)


@pytest.mark.parametrize(
    "values",
    [
        {"mean_e6": 500_000},
        {"mean_e6": None},
        {"most": 2},
        {"most": 0},
        {"score": False},
        {"score": 1},
        {"further": 1},
    ],
)
def test_a_key_that_may_be_absent_has_no_other_meaning(values: JsonObject) -> None:
    log = book(narrow())
    entry = log.entries[log.identify(i(0), candidates=[i(0)])]
    with pytest.raises(FormatError):
        entries.encode({**entry, **values})


@pytest.mark.parametrize("values", [{"mean_e6": 1}, {"most": 1}])
def test_a_verification_has_no_key_of_a_search(values: JsonObject) -> None:
    log = book(narrow())
    entry = log.entries[log.verify(v(0), ALICE)]
    with pytest.raises(FormatError):
        entries.encode({**entry, **values})


def test_a_denial_gave_no_score() -> None:
    log = book(narrow())
    entry = log.entries[log.verify(None, None, reason="rate")]
    with pytest.raises(FormatError):
        entries.encode({**entry, "score": True})


@pytest.mark.parametrize(
    "thresholds",
    [[[MODEL, 1, 1], [MODEL, 2, 2]], [["b/1", 1, 1], ["a/1", 1, 1]], [[MODEL, 1]], [[MODEL, -1, 1]]],
)
def test_limits_of_another_form(thresholds: list[object]) -> None:
    given = narrow()
    given["thresholds"] = thresholds  # type: ignore[assignment]
    log = book(given)
    with pytest.raises(FormatError):
        entries.encode(log.entries[0])
