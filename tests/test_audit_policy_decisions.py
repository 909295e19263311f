"""Decisions: an honest log passes, one smuggled or edited decision is found, by its rule and index."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from audit_help import (
    ALICE,
    BOB,
    DAY,
    DORA,
    NOW,
    OPERATOR,
    SECOND,
    SERVICE,
    Book,
    Entry,
    expect,
    founded,
    honest,
    i,
    item,
    set_of,
    story,
    v,
)
from facekeep.audit.report import Verdict

STORY = story()
AT = STORY.at
Change = Callable[[list[Entry]], object]


def edit(index: int, **values: object) -> Change:
    return lambda log: log[index].update(values)


def test_the_honest_story_breaks_no_rule() -> None:
    report = honest(STORY.book)
    judged = {step.id for step in report.steps if step.verdict is Verdict.HOLDS}
    assert judged == {"L4", *(f"R{number}" for number in range(1, 39))} - {"R10"}
    assert report.counts["entries"] == len(STORY.book.entries)
    assert report.counts["subjects erased"] == 1
    said = {word: report.counts[word] for word in ("denied", "verify", "identify", "shred", "withdraw")}
    assert said == {"denied": 1, "verify": 1, "identify": 6, "shred": 1, "withdraw": 1}


# R22: the grant is complete, not destroyed, nor about to be


def smuggled(book: Book, slot: int, tag: bytes) -> int:
    return book.verify(slot, tag)


def test_a_decision_smuggled_in_after_the_withdrawal_was_announced() -> None:
    book = founded()
    book.grant("enroll", item(v(0), ALICE), item(i(0), ALICE))
    book.intend("withdraw", v(0))
    expect_last(book, smuggled(book, v(0), ALICE), "R22")


def test_a_decision_smuggled_in_after_the_withdrawal_was_completed() -> None:
    book = founded()
    book.grant("enroll", item(v(0), ALICE), item(i(0), ALICE))
    book.destroy("withdraw", v(0))
    expect_last(book, smuggled(book, v(0), ALICE), "R22")


def test_a_decision_smuggled_in_after_the_erasure() -> None:
    book = founded()
    book.grant("enroll", item(v(0), ALICE), item(i(0), ALICE))
    book.destroy("shred", v(0), i(0), tags=[ALICE])
    expect_last(book, smuggled(book, v(0), ALICE), "R22")


def test_a_decision_on_a_grant_that_is_only_announced() -> None:
    book = founded()
    first = book.announce("enroll", item(v(0), ALICE))
    book.verify(v(0), ALICE)
    book.granted(first)
    expect(book.bodies(), "R22", first + 1)


def test_a_decision_on_a_grant_whose_predecessor_it_was() -> None:
    book = founded()
    book.grant("enroll", item(v(0), ALICE))
    book.grant("renew", item(v(1), ALICE, v(0)))
    book.destroy("renew", v(0))
    book.verify(v(1), ALICE)
    honest(book)
    expect_last(book, book.verify(v(0), ALICE), "R22")


def test_a_decision_on_a_grant_that_recovery_voided() -> None:
    book = founded()
    first = book.announce("enroll", item(v(0), ALICE))
    book.destroy("void", v(0), voids=[first], by=None)
    expect_last(book, book.verify(v(0), ALICE), "R22")


def test_a_decision_on_a_slot_that_was_never_granted() -> None:
    book = founded()
    expect_last(book, book.verify(v(7), ALICE), "R22")


def expect_last(book: Book, index: int, rule: str) -> None:
    """The last decision breaks the rule, and nothing before it does."""
    assert index == len(book.entries) - 1
    expect(book.bodies(), rule, index)
    book.entries.pop()
    honest(book)


# R23 to R25: the subject, the scope, the model, the window, the region


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"tag": BOB.hex()}, "R23"),
        ({"model": "raw:other"}, "R23"),
        ({"slot": i(1), "tag": BOB.hex()}, "R23"),
        ({"slot": i(0), "scope": "identify"}, "R23"),
        ({"scope": "share"}, "R23"),
        ({"region": "FR"}, "R25"),
        ({"region": "EU"}, "R25"),
        ({"by": OPERATOR}, "R12"),
        ({"by": SECOND}, "R11"),
        ({"by": None}, "R11"),
    ],
)
def test_an_edited_1_to_1_decision(values: Entry, rule: str) -> None:
    expect(STORY.doctored(edit(AT["verify"], **values)), rule, AT["verify"])


@pytest.mark.parametrize(
    ("offset", "rule"), [(-1, "R24"), (0, None), (DAY - 1, None), (DAY, "R24"), (2 * DAY, "R24")]
)
def test_the_window_is_half_open(offset: int, rule: str | None) -> None:
    book = founded()
    book.grant("enroll", item(v(0), ALICE, begins=NOW + DAY, expires=NOW + 2 * DAY))
    book.now = NOW + DAY + offset
    index = book.verify(v(0), ALICE)
    if rule is None:
        honest(book)
    else:
        expect(book.bodies(), rule, index)


@pytest.mark.parametrize(
    ("regions", "region", "held"),
    [
        (("EU",), "DE", True),
        (("EU",), "EU", True),
        (("EU",), "CH", False),
        (("DE",), "EU", False),
        (("CH", "EU"), "CH", True),
        (("ZZ",), "ZZ", True),
        (("ZZ",), "DE", False),
    ],
)
def test_regions(regions: tuple[str, ...], region: str, held: bool) -> None:
    book = founded()
    book.grant("enroll", item(v(0), ALICE, regions=regions), item(i(0), ALICE, regions=regions))
    index = book.verify(v(0), ALICE)
    book.entries[index]["region"] = region
    if held:
        book.identify(i(0), region=region)
        honest(book)
    else:
        expect(book.bodies(), "R25", index)
        book.entries.pop()
        book.identify(excluded=1, region=region)
        honest(book)
        expect([*book.bodies()[:-1], *with_member(book, region)], "R26", index)


def with_member(book: Book, region: str) -> list[bytes]:
    book.entries.pop()
    book.identify(i(0), region=region)
    return book.bodies()[-1:]


def test_a_denial_proves_nothing_and_needs_nothing() -> None:
    book = founded()
    book.verify(v(9), DORA, reason="scope", by="f" * 16)
    honest(book)


# R26: the set


def test_a_gallery_that_held_one_lapsed_grant() -> None:
    """At ``lapsed`` 40 days have passed: only Bob's renewed grant is valid, Alice's is not."""

    def change(log: list[Entry]) -> None:
        log[AT["lapsed"]].update(count=2, excluded=1, set=set_of(i(0), i(4)))

    expect(STORY.doctored(change), "R26", AT["lapsed"])


def test_a_gallery_that_held_one_lapsed_grant_and_told_the_right_count() -> None:
    expect(STORY.doctored(edit(AT["lapsed"], set=set_of(i(0)))), "R26", AT["lapsed"])


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ((i(0),), "one is lacking"),
        ((i(0), i(1), i(2)), "one has not begun"),
        ((i(0), i(1), i(3)), "one is not granted for the region"),
        ((i(0), i(1), v(0)), "one is of another scope"),
        ((i(0), i(2)), "one is exchanged"),
        ((i(0), i(0)), "one is there twice"),
    ],
)
def test_a_gallery_that_held_another_set(members: tuple[int, ...], why: str) -> None:
    def change(log: list[Entry]) -> None:
        entry = log[AT["identify"]]
        entry.update(count=len(members), set=set_of(*members), excluded=4 - len(members))

    expect(STORY.doctored(change), "R26", AT["identify"])
    assert why


def test_a_gallery_that_kept_a_destroyed_grant() -> None:
    def change(log: list[Entry]) -> None:
        log[AT["after renewal"]].update(count=3, set=set_of(i(0), i(1), i(4)), excluded=1)

    expect(STORY.doctored(change), "R26", AT["after renewal"])


def test_a_gallery_that_kept_a_grant_whose_withdrawal_was_announced() -> None:
    book = founded()
    book.grant("enroll", item(i(0), ALICE), item(i(1), BOB))
    book.identify(i(0), i(1))
    book.intend("withdraw", i(0))
    index = book.identify(i(0), i(1))
    expect(book.bodies(), "R26", index)
    book.entries.pop()
    book.identify(i(1))
    honest(book)


def test_a_gallery_in_grants_of_another_scope() -> None:
    change = edit(AT["identify"], scope="verify", candidates=[], result="no_match")
    expect(STORY.doctored(change), "R26", AT["identify"])


def test_a_gallery_that_hides_a_grant_as_omitted_and_compares_it() -> None:
    def change(log: list[Entry]) -> None:
        log[AT["omitted"]].update(count=2, set=set_of(i(0), i(4)))

    expect(STORY.doctored(change), "R26", AT["omitted"])


def test_two_searches_that_omit_different_rows_and_nothing_between() -> None:
    def book(*, lie: bool) -> Book:
        book = founded()
        book.grant("enroll", item(i(0), ALICE), item(i(1), BOB), item(i(2), DORA))
        book.identify(i(1), i(2), excluded=1, omitted=[i(0)])
        book.identify(*((i(1), i(2)) if lie else (i(0), i(2))), excluded=1, omitted=[i(1)])
        return book

    honest(book(lie=False))
    expect_last(book(lie=True), 8, "R26")


# R27 and R28: candidates, what was left out


@pytest.mark.parametrize(
    "slot",
    [i(1), i(2), i(3), v(0), v(3), i(9)],
    ids=["destroyed", "erased", "region", "scope", "other", "never"],
)
def test_a_candidate_that_was_not_compared(slot: int) -> None:
    change = edit(AT["after shred"], candidates=[slot])
    expect(STORY.doctored(change), "R27", AT["after shred"])


def test_a_candidate_that_was_omitted() -> None:
    change = edit(AT["omitted"], candidates=[i(0)], result="match")
    expect(STORY.doctored(change), "R27", AT["omitted"])


def test_a_lapsed_candidate() -> None:
    change = edit(AT["lapsed"], candidates=[i(0)], result="match")
    expect(STORY.doctored(change), "R27", AT["lapsed"])


@pytest.mark.parametrize("excluded", [0, 1, 3])
def test_the_grants_left_out_are_counted(excluded: int) -> None:
    expect(STORY.doctored(edit(AT["identify"], excluded=excluded)), "R28", AT["identify"])


@pytest.mark.parametrize("slot", [i(1), i(2), v(3), i(40)], ids=["destroyed", "erased", "scope", "never"])
def test_only_living_grants_are_omitted(slot: int) -> None:
    change = edit(AT["after shred"], omitted=[[slot, 1]])
    expect(STORY.doctored(change), "R28", AT["after shred"])


def test_a_search_by_a_principal_who_was_revoked() -> None:
    expect(STORY.doctored(edit(AT["lapsed"], by=SERVICE)), "R11", AT["lapsed"])


def test_decisions_of_one_commit_may_step_back_across_an_expiry() -> None:
    book = founded()
    book.grant("enroll", item(i(0), ALICE, expires=NOW + DAY), item(i(1), BOB, begins=NOW + DAY))
    for offset in (-1, 0, 1, -2, 2, -3):
        book.now = NOW + DAY + offset
        member = i(0) if offset < 0 else i(1)
        book.identify(member, excluded=1)
    honest(book)
    index = len(book.entries) - 1
    book.entries[index].update(set=set_of(i(1)))
    expect(book.bodies(), "R26", index)
