"""Rules R31 to R34 (SPEC §11): what rotations may do, doctored one way at a time."""

from __future__ import annotations

from typing import Any

import pytest

from audit_help import (
    ALICE,
    BOB,
    CAROL,
    DAY,
    NOW,
    SERVICE,
    Book,
    Entry,
    expect,
    founded,
    fresh_i,
    fresh_v,
    honest,
    i,
    item,
    story,
    v,
)

STORY = story()
AT = STORY.at


def enrolled() -> Book:
    """Alice in verify slot 0, Bob in 1: the next entry is 7."""
    book = founded()
    book.grant("enroll", item(v(0), ALICE), item(v(1), BOB))
    return book


# R31


@pytest.mark.parametrize("what", ["root", "tree"])
def test_a_root_replaced_after_saying_why(what: str) -> None:
    book = enrolled()
    book.rotation(what)
    book.destroy("rotate")
    honest(book)


def test_a_root_replaced_without_saying_why() -> None:
    book = enrolled()
    expect_at = book.destroy("rotate")
    expect(book.bodies(), "R31", expect_at)


def test_a_rotation_that_is_announced_and_not_done() -> None:
    book = enrolled()
    book.rotation("root")
    at = book.destroy("extend")
    expect(book.bodies(), "R31", at)


def test_a_decision_between_a_rotation_and_its_intent() -> None:
    book = enrolled()
    book.rotation("root")
    at = book.verify(v(0), ALICE)
    book.destroy("rotate")
    expect(book.bodies(), "R31", at)


def test_a_rotation_finished_by_another_hand() -> None:
    book = enrolled()
    book.rotation("root")
    at = book.destroy("rotate", by=SERVICE)
    expect(book.bodies(), "R31", at)


def test_one_reason_serves_one_rotation() -> None:
    book = enrolled()
    book.rotation("root")
    book.destroy("rotate")
    at = book.destroy("rotate")
    expect(book.bodies(), "R31", at)


def test_a_root_replaced_in_a_move_that_has_ended() -> None:
    book = enrolled()
    first = book.rotation("move")
    book.destroy("rotate")
    book.rotated(first)
    honest(book)
    at = book.destroy("rotate")
    expect(book.bodies(), "R31", at)


def test_two_rotations_of_the_same_at_once() -> None:
    book = enrolled()
    book.rotation("templates", below={1: 2})
    at = book.rotation("templates", below={1: 2})
    expect(book.bodies(), "R31", at)


def test_the_end_of_a_rotation_that_is_not_open() -> None:
    book = enrolled()
    at = book.rotated(5)
    expect(book.bodies(), "R31", at)


# R32


def resealed(book: Book, new: Entry) -> int:
    at = book.grant("reseal", new)
    book.destroy("reseal", new["from"])
    return at


def test_templates_resealed_outside_a_rotation() -> None:
    book = enrolled()
    expect_at = resealed(book, item(fresh_v(0), ALICE, v(0)))
    expect(book.bodies(), "R32", expect_at)


@pytest.mark.parametrize(
    "selects",
    [
        {"below": {1: 1}},
        {"below": {2: 9}},
        {"below": {1: 2}, "model": "raw:x"},
    ],
)
def test_templates_resealed_that_were_not_selected(selects: dict[str, Any]) -> None:
    book = enrolled()
    book.rotation("templates", **selects)
    at = resealed(book, item(fresh_v(0), BOB, v(1)))
    expect(book.bodies(), "R32", at)


@pytest.mark.parametrize(
    "window", [{"expires": NOW + 31 * DAY}, {"begins": NOW - DAY}, {"regions": ("DE", "FR")}]
)
def test_a_rotation_that_extends_a_consent(window: dict[str, object]) -> None:
    book = enrolled()
    book.rotation("templates", below={1: 2})
    at = resealed(book, item(fresh_v(0), ALICE, v(0), **window))  # type: ignore[arg-type] # one key of Window
    expect(book.bodies(), "R32", at)


@pytest.mark.parametrize("below", [{1: 2}, {1: 1}])
def test_templates_resealed_where_whoever_had_an_old_root_knows_the_keys(below: dict[int, int]) -> None:
    book = enrolled()
    book.rotation("templates", below=below)
    at = resealed(book, item(v(2), ALICE, v(0)))
    expect(book.bodies(), "R32", at)


def test_templates_resealed_in_a_branch_that_is_not_selected_and_was_in_use_before() -> None:
    book = enrolled()
    book.grant("enroll", item(fresh_v(0), CAROL))
    book.rotation("templates", below={1: 2})
    at = resealed(book, item(fresh_v(1), ALICE, v(0)))
    expect(book.bodies(), "R32", at)


def test_a_branch_that_is_new_in_the_rotation_is_shared_with_who_is_enrolled_meanwhile() -> None:
    book = enrolled()
    first = book.rotation("templates", below={1: 2})
    book.grant("enroll", item(fresh_v(0), CAROL))
    resealed(book, item(fresh_v(1), ALICE, v(0)))
    resealed(book, item(fresh_v(2), BOB, v(1)))
    book.rotated(first)
    honest(book)


# R33


@pytest.mark.parametrize("left", [0, 1, 3])
def test_a_rotation_that_hides_what_it_left(left: int) -> None:
    expect(STORY.doctored(lambda found: found[AT["rotated"]].update(left=left)), "R33", AT["rotated"])


def test_a_rotation_that_was_complete() -> None:
    book = enrolled()
    first = book.rotation("templates", below={1: 2})
    resealed(book, item(fresh_v(0), ALICE, v(0)))
    resealed(book, item(fresh_v(1), BOB, v(1)))
    book.rotated(first)
    honest(book)
    book.verify(fresh_v(0), ALICE)
    honest(book)
    at = book.verify(v(0), ALICE)
    expect(book.bodies(), "R22", at)


# R34


def test_a_checkpoint_of_a_log_that_was_not_there_yet() -> None:
    at = AT["checkpoint"]
    expect(STORY.doctored(lambda found: found[at].update(size=at + 1)), "R34", at)


def test_a_search_after_a_rotation_compares_the_new_slots() -> None:
    book = founded()
    book.grant("enroll", item(i(0), ALICE))
    first = book.rotation("templates", below={2: 1})
    resealed(book, item(fresh_i(0), ALICE, i(0)))
    book.rotated(first)
    book.identify(fresh_i(0))
    honest(book)
    at = book.identify(i(0))
    expect(book.bodies(), "R26", at)


@pytest.mark.parametrize("what", ["root", "tree", "signing"])
def test_a_rotation_that_is_announced_at_a_logs_end(what: str) -> None:
    book = founded()
    index = book.rotation(what)
    expect(book.bodies(), "R31", index)
