"""Grants, replacements and destructions: an honest log passes, a doctored one is found."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from audit_help import (
    ALICE,
    BOB,
    CAROL,
    DAY,
    DORA,
    EVE,
    NOW,
    OPERATOR,
    SERVICE,
    Book,
    Entry,
    expect,
    founded,
    fresh_i,
    honest,
    i,
    item,
    story,
    terms_of,
    v,
)
from facekeep.audit.replay import replay
from facekeep.formats.entries import settings, sought
from facekeep.formats.terms import Scope

STORY = story()
AT = STORY.at
Change = Callable[[list[Entry]], object]


def edit(index: int, **values: object) -> Change:
    return lambda log: log[index].update(values)


def edit_grant(index: int, at: int, **values: object) -> Change:
    return lambda log: log[index]["grants"][at].update(values)


def enrolled() -> Book:
    """Alice and Bob for both scopes: entries 5 and 6."""
    book = founded()
    book.grant("enroll", item(v(0), ALICE), item(i(0), ALICE), item(v(1), BOB), item(i(1), BOB))
    return book


# R5, which slots are given out


def test_a_slot_used_twice() -> None:
    book = enrolled()
    index = book.announce("enroll", item(v(0), CAROL))
    expect(book.bodies(), "R5", index)


def test_a_slot_used_again_after_its_destruction() -> None:
    book = enrolled()
    book.destroy("withdraw", v(0))
    expect(book.bodies() + entry(book.announce, "enroll", item(v(0), CAROL), book=book), "R5", 9)


def entry(make: Callable[..., int], *values: object, book: Book, **named: object) -> list[bytes]:
    """Bytes of what ``make`` would add to the book."""
    index = make(*values, **named)
    made = book.bodies()[index:]
    del book.entries[index:]
    return made


def test_a_grant_in_a_branch_of_another_scope() -> None:
    terms = terms_of(Scope.SHARE).hex()
    expect(STORY.doctored(edit_grant(AT["enrol"], 3, terms=terms)), "R5", AT["enrol"])


def test_a_grant_in_the_system_branch_and_a_principal_outside() -> None:
    book = enrolled()
    expect(book.bodies() + entry(book.announce_principal, "9" * 16, v(9), "dpo", book=book), "R5", 7)
    made = item(v(9), CAROL)
    made["slot"] = 30
    expect(book.bodies() + entry(book.announce, "enroll", made, book=book), "R5", 7)


# R13 and R14: terms, and where templates come from


@pytest.mark.parametrize(
    "terms",
    [
        terms_of(Scope.VERIFY, begins=0, expires=NOW - 5_000),
        terms_of(Scope.VERIFY, expires=NOW + 3_660 * DAY + 5_001),
        b"\2" + terms_of(Scope.VERIFY)[1:],
        terms_of(Scope.VERIFY)[:2] + b"\1" + terms_of(Scope.VERIFY)[3:],
        terms_of(Scope.VERIFY)[:20] + bytes(32) + terms_of(Scope.VERIFY)[52:],
        bytes(88),
    ],
    ids=["lapsed", "endless", "version", "flags", "nowhere", "empty"],
)
def test_terms_that_nobody_may_grant(terms: bytes) -> None:
    expect(STORY.doctored(edit_grant(AT["enrol"], 0, terms=terms.hex())), "R13", AT["enrol"])


@pytest.mark.parametrize(("begins", "expires"), [(0, NOW - 4_999), (NOW, NOW + 3_660 * DAY + 5_000)])
def test_terms_that_lapsed_or_end_within_the_slack(begins: int, expires: int) -> None:
    book = founded()
    book.grant("enroll", item(v(0), ALICE, begins=begins, expires=expires))
    honest(book)


@pytest.mark.parametrize(
    ("chapter", "values"),
    [
        ("renew", {"from": None}),
        ("renew", {"from": v(0)}),  # destroyed
        ("renew", {"from": i(0)}),  # Alice's
        ("renew", {"from": i(77)}),  # nobody's
        ("renew", {"model": "raw:other"}),
        ("renew", {"tag": ALICE.hex()}),
        ("renew", {"terms": terms_of(Scope.IDENTIFY, count=3).hex()}),
        ("grant", {"from": None}),
        ("grant", {"from": i(1)}),  # destroyed by the renewal
        ("grant", {"from": i(3)}),  # Dora's
        ("replace", {"from": i(4)}),  # of another scope: what ``grant`` is for
    ],
)
def test_templates_opened_that_may_not_be(chapter: str, values: Entry) -> None:
    expect(STORY.doctored(edit_grant(AT[chapter], 0, **values)), "R14", AT[chapter])


def test_templates_of_an_announced_grant_are_not_opened() -> None:
    book = founded()
    book.announce("enroll", item(v(0), ALICE))
    expect(book.bodies() + entry(book.announce, "grant", item(i(0), ALICE, v(0)), book=book), "R14", 6)


@pytest.mark.parametrize(
    ("offset_ms", "held"),
    [(-5_001, False), (-5_000, True), (0, True), (30 * DAY + 4_999, True), (30 * DAY + 5_000, False)],
)
def test_a_further_scope_is_sealed_from_a_grant_inside_its_window(offset_ms: int, held: bool) -> None:
    book = founded()
    book.grant("enroll", item(v(0), ALICE, begins=NOW, expires=NOW + 30 * DAY))
    book.now = NOW + offset_ms
    index = book.announce("grant", item(i(0), ALICE, v(0), begins=0, expires=NOW + 90 * DAY))
    for each in book.entries[:index]:
        each["time_ms"] = min(each["time_ms"], book.now)
    if not held:
        expect(book.bodies(), "R14", index)
    else:
        book.granted(index)
        honest(book)


def test_a_lapsed_grant_is_renewed_in_its_own_scope() -> None:
    book = enrolled()
    book.now += 31 * DAY
    book.grant("renew", item(v(2), ALICE, v(0), expires=book.now + DAY))
    book.destroy("renew", v(0))
    honest(book)


def test_photographs_are_added_and_none_is_lost() -> None:
    book = founded()
    book.grant("enroll", item(v(0), ALICE, count=3))
    first = book.grant("enroll", item(v(1), ALICE, v(0), count=4))
    book.destroy("reseal", v(0))
    honest(book)
    book.entries[first]["grants"][0]["terms"] = terms_of(Scope.VERIFY, count=2).hex()
    expect(book.bodies(), "R14", first)


# R15: one grant of a scope


def test_a_renewal_that_leaves_its_predecessor() -> None:
    def change(log: list[Entry]) -> None:
        del log[AT["replaced"] :]

    expect(STORY.doctored(change), "R15", AT["renewed"])


def test_a_renewal_whose_predecessor_is_destroyed_only_later() -> None:
    def change(log: list[Entry]) -> None:
        log.insert(AT["replaced"], dict(log[AT["denied"]], time_ms=NOW + 1_000))

    expect(STORY.doctored(change), "R15", AT["renewed"])


@pytest.mark.parametrize(
    ("values", "at"),
    [
        ({"slots": [[i(0), 1]]}, "replaced"),
        ({"slots": [[i(0), 2]]}, "replaced"),
        ({"slots": []}, "replaced"),
        ({"op": "reseal"}, "replaced"),
        ({"by": SERVICE}, "replaced"),
        ({"by": None}, "replaced"),
    ],
)
def test_a_renewal_that_destroys_something_else(values: Entry, at: str) -> None:
    expect(STORY.doctored(edit(AT[at], **values)), "R15", AT[at])


@pytest.mark.parametrize("what", ["withdrawal", "settings", "renewal", "denial"])
def test_what_follows_a_renewal_does_not_stand_for_its_replacement(what: str) -> None:
    book = enrolled()
    index = book.grant("renew", item(v(2), ALICE, v(0))) + 1
    if what == "withdrawal":
        book.intend("withdraw", v(0))
    elif what == "settings":
        book.add(settings(b"s" * 32, bytes(32), by=OPERATOR, time_ms=NOW))
    elif what == "renewal":
        book.announce("renew", item(v(3), ALICE, v(1)))
    else:
        book.verify(None, None, reason="rate")
    expect(book.bodies(), "R15", index)


@pytest.mark.parametrize("op", ["renew", "reseal"])
def test_a_replacement_of_nothing(op: str) -> None:
    for book in (founded(), enrolled()):
        expect(book.bodies() + entry(book.intend, op, book=book), "R15", len(book.entries))


def test_a_replacement_without_new_grants() -> None:
    book = enrolled()
    expect(book.bodies() + entry(book.intend, "reseal", v(0), book=book), "R15", 7)  # its own grants
    expect(book.bodies() + entry(book.intend, "renew", v(0), book=book), "R15", 7)
    book.verify(v(0), ALICE)
    expect(book.bodies() + entry(book.intend, "reseal", v(0), book=book), "R15", 8)


def test_a_second_grant_of_a_scope() -> None:
    book = enrolled()
    first = book.grant("enroll", item(v(2), ALICE))
    book.verify(v(2), ALICE)
    expect(book.bodies(), "R15", first + 1)


def test_two_grants_of_a_scope_in_one_operation() -> None:
    book = founded()
    first = book.grant("enroll", item(v(0), ALICE), item(v(1), ALICE))
    expect(book.bodies(), "R15", first + 1)
    book.destroy("reseal", v(0), v(1))
    expect(book.bodies(), "R15", first + 1)


def test_a_replacement_ends_no_grant_of_another_tag() -> None:
    """Whose grants these were no log shows: a lost grant under an earlier tag takes a withdrawal."""
    book = enrolled()
    book.grant("enroll", item(v(2), CAROL))
    expect(book.bodies() + entry(book.intend, "reseal", v(0), i(0), book=book), "R15", len(book.entries))
    more = book.grant("enroll", item(v(3), ALICE))
    honest_end = len(book.entries)
    book.destroy("reseal", v(0))
    honest(book)
    book.entries[honest_end]["slots"] = [[v(0), 1], [i(0), 1]]
    expect(book.bodies(), "R15", honest_end)
    assert more < honest_end


def test_recovery_completes_a_renewal_whole() -> None:
    book = enrolled()
    first = book.announce("renew", item(v(2), ALICE, v(0)))
    book.granted(first, None)
    done = book.intend("renew", v(0), by=None)
    book.destroyed(done, None)
    honest(book)
    del book.entries[done:]
    expect(book.bodies(), "R15", first + 1)


# R6, who completes what


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"by": SERVICE}, "R6"),
        ({"of": 3}, "R6"),
        ({"of": 4}, "R6"),
        ({"of": 500}, "R6"),
    ],
)
def test_a_completion_by_another_hand_or_of_something_else(values: Entry, rule: str) -> None:
    index = AT["enrol"] + 1
    expect(STORY.doctored(edit(index, **values)), rule, index)
    index = AT["withdraw"] + 1
    expect(STORY.doctored(edit(index, **values)), rule, index)


def test_a_completion_by_recovery() -> None:
    for index in (AT["enrol"] + 1, AT["withdraw"] + 1):
        report = replay(STORY.doctored(edit(index, by=None)))
        assert report.counts["recovered"] == 1


# R7, what recovery voids


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"by": OPERATOR}, "R7"),
        ({"slots": [[v(4), 1]]}, "R7"),
        ({"slots": [[v(4), 1], [i(4), 2]]}, "R7"),
        ({"voids": [5]}, "R7"),
        ({"voids": [9]}, "R7"),
        ({"tags": [EVE.hex()]}, "R18"),
        ({"op": "shred", "by": OPERATOR, "tags": [EVE.hex()]}, "R7"),
    ],
)
def test_a_doctored_void(values: Entry, rule: str) -> None:
    expect(STORY.doctored(edit(AT["void"], **values)), rule, AT["void"])


# R16: what a destruction may name


def test_a_destruction_of_what_was_never_given_out() -> None:
    book = enrolled()
    book.grant("enroll", item(v(5), CAROL))
    index = book.intend("shred", v(4), v(5), tags=[CAROL])
    expect(book.bodies(), "R16", index)
    book.entries[index]["slots"] = [[v(6), 1]]
    expect(book.bodies(), "R16", index)


def test_a_destruction_of_what_was_destroyed_before() -> None:
    book = enrolled()
    book.destroy("withdraw", v(0))
    expect(book.bodies() + entry(book.intend, "withdraw", v(0), i(0), book=book), "R16", 9)


@pytest.mark.parametrize("slot", [0, 1, 2, 15])
def test_the_vaults_own_keys_are_never_destroyed(slot: int) -> None:
    book = enrolled()
    expect(book.bodies() + entry(book.intend, "revoke", slot, book=book), "R16", 7)


@pytest.mark.parametrize("op", ["extend", "rotate"])
def test_a_root_replacement_destroys_no_slot(op: str) -> None:
    book = enrolled()
    made = entry(book.intend, op, v(0), book=book)
    book.entries[1]["roles"] = ["operator"]
    expect(book.bodies() + made, "R16", 7)


def test_an_erasure_may_name_what_an_open_withdrawal_names() -> None:
    """A root holder was away: the withdrawal is pending when the subject asks for erasure."""
    book = enrolled()
    first = book.intend("withdraw", v(0))
    second = book.intend("shred", v(0), i(0), tags=[ALICE])
    book.destroyed(first, None)
    book.destroyed(second, None)
    honest(book)


# R17 and R18: withdrawal, erasure


def test_a_withdrawal_that_names_two_subjects_or_none() -> None:
    expect(STORY.doctored(edit(AT["withdraw"], slots=[[v(0), 2]])), "R17", AT["withdraw"])
    expect(STORY.doctored(edit(AT["withdraw"], slots=[])), "R17", AT["withdraw"])


def test_a_withdrawal_that_leaves_a_grant_of_the_scope() -> None:
    """The subject has a second grant of the scope that an interrupted enrolment announced."""
    book = enrolled()
    book.announce("enroll", item(v(2), ALICE))
    expect(book.bodies() + entry(book.intend, "withdraw", v(0), book=book), "R17", 8)
    book.intend("withdraw", v(0), v(2))
    honest(book)


def test_an_erasure_entry_without_its_destroyed_slots() -> None:
    expect(STORY.doctored(edit(AT["shred"], slots=[])), "R18", AT["shred"])


def test_an_erasure_that_leaves_one_slot() -> None:
    for left in (v(1), i(2)):
        expect(STORY.doctored(edit(AT["shred"], slots=[[left, 1]])), "R18", AT["shred"])


def test_an_erasure_that_leaves_a_slot_that_is_only_announced() -> None:
    book = enrolled()
    first = book.announce("grant", item(slot := (3 << 21), ALICE, v(0)))
    book.entries[first]["grants"][0]["terms"] = terms_of(Scope.SHARE).hex()
    expect(book.bodies() + entry(book.intend, "shred", v(0), i(0), tags=[ALICE], book=book), "R18", 8)
    book.intend("shred", v(0), i(0), slot, tags=[ALICE])
    honest(book)


@pytest.mark.parametrize(
    "values",
    [
        {"tags": []},
        {"tags": [ALICE.hex()]},
        {"tags": [CAROL.hex(), DORA.hex()]},
        {"tags": [CAROL.hex(), "f" * 64]},
        {"slots": [[v(1), 1], [i(2), 2]]},
    ],
    ids=["nobody", "another", "two", "unknown", "more"],
)
def test_a_doctored_erasure(values: Entry) -> None:
    expect(STORY.doctored(edit(AT["shred"], **values)), "R18", AT["shred"])


def test_an_erasure_of_somebody_who_cannot_be_found_names_no_slot() -> None:
    book = enrolled()
    book.destroyed(book.add(sought("shred", b"h" * 16, "0" * 32, by=OPERATOR, time_ms=NOW)))
    honest(book)
    del book.entries[-2]["sought"]
    expect(book.bodies(), "R18", 7)


def test_only_an_erasure_names_subjects() -> None:
    expect(STORY.doctored(edit(AT["withdraw"], tags=[ALICE.hex()])), "R18", AT["withdraw"])


# R19 to R21


def test_a_grant_to_an_erased_subject() -> None:
    book = enrolled()
    book.destroy("shred", v(0), i(0), tags=[ALICE])
    expect(book.bodies() + entry(book.announce, "enroll", item(v(2), ALICE), book=book), "R19", 9)


def test_an_erasure_of_an_announced_grant_that_recovery_then_completes() -> None:
    book = enrolled()
    first = book.announce("enroll", item(v(2), CAROL))
    book.destroy("shred", v(2), tags=[CAROL])
    book.granted(first, None)
    honest(book)
    expect(book.bodies() + entry(book.verify, v(2), CAROL, book=book), "R22", 11)


def test_a_living_grant_destroyed_as_expired() -> None:
    expect(STORY.doctored(edit(AT["expire"], slots=[[i(3), 1], [fresh_i(0), 1]])), "R20", AT["expire"])
    expect(STORY.doctored(edit(AT["expire"], slots=[])), "R20", AT["expire"])


def test_a_revocation_of_something_else() -> None:
    expect(STORY.doctored(edit(AT["revoke"], slots=[[i(3), 1]])), "R21", AT["revoke"])
    expect(STORY.doctored(edit(AT["revoke"], slots=[])), "R21", AT["revoke"])
    expect(STORY.doctored(edit(AT["withdraw"], slots=[[17, 1]])), "R21", AT["withdraw"])


@pytest.mark.parametrize("op", ["revoke", "void"])
def test_a_revocation_of_a_principal_who_never_was(op: str) -> None:
    book = founded()
    voids = [book.announce("enroll", item(v(0), ALICE))] if op == "void" else []
    index = book.intend(op, 18, voids=voids, by=None if op == "void" else OPERATOR)
    expect(book.bodies(), "R16", index)


def test_the_slots_that_destructions_name_are_counted() -> None:
    book = enrolled()
    book.destroy("withdraw", v(0))
    assert honest(book).counts["slots named"] == 1
    book.destroy("shred", v(1), i(1), tags=[BOB])
    assert honest(book).counts["slots named"] == 3


# R29, R30


def test_a_backup_of_a_log_that_was_not_there_yet() -> None:
    expect(STORY.doctored(edit(AT["backup"], size=AT["backup"] + 1)), "R29", AT["backup"])


@pytest.mark.parametrize("values", [{"merged": 2}, {"refused": 0}, {"rows": 8}, {"missing": 5}])
def test_a_restore_that_does_not_account_for_its_rows(values: Entry) -> None:
    expect(STORY.doctored(edit(AT["restore"], **values)), "R30", AT["restore"])


def test_a_restore_that_brings_back_more_than_lives() -> None:
    living = 4
    replay(STORY.doctored(edit(AT["restore"], merged=living, dead=2)))
    expect(STORY.doctored(edit(AT["restore"], merged=living, dead=2, missing=1)), "R30", AT["restore"])
    expect(STORY.doctored(edit(AT["restore"], merged=living + 1, dead=1)), "R30", AT["restore"])
