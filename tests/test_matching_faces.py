"""The rule by which one face of several is the subject's."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facekeep.errors import ImageError
from facekeep.limits import LIMITS
from facekeep.matching.faces import DOMINANCE, Box, choose


def square(side: float, *, sure: bool = True) -> Box:
    return Box(0, 0, side, side, sure)


def test_no_face() -> None:
    with pytest.raises(ImageError, match=r"^'a.jpg': no face found$"):
        choose([], "'a.jpg'")


def test_one_face() -> None:
    assert choose([square(LIMITS.face_side)], "x") == 0


def test_a_small_face_is_refused() -> None:
    with pytest.raises(ImageError, match="smaller than 40 pixels"):
        choose([Box(0, 0, 200, LIMITS.face_side - 1)], "x")


def test_the_largest_of_several() -> None:
    assert choose([square(50), square(142), square(100)], "x") == 1


def test_two_people_of_like_size_are_refused_with_their_number() -> None:
    with pytest.raises(ImageError, match="3 faces found") as caught:
        choose([square(100), square(50), square(90)], "x")
    assert "crop" in caught.value.next


def test_an_unsure_box_as_large_does_not_count() -> None:
    assert choose([square(91, sure=False), square(90)], "x") == 1


def test_an_unsure_box_that_is_far_larger_does() -> None:
    with pytest.raises(ImageError, match="2 faces"):
        choose([square(140, sure=False), square(90)], "x")


def test_unsure_boxes_among_themselves_follow_the_common_rule() -> None:
    assert choose([square(90, sure=False)], "x") == 0
    with pytest.raises(ImageError, match="2 faces"):
        choose([square(91, sure=False), square(90, sure=False)], "x")


boxes = st.builds(Box, st.just(0), st.just(0), st.integers(-5, 500), st.integers(-5, 500), st.booleans())


@given(st.lists(boxes, max_size=6))
def test_what_is_chosen_dominates_and_order_does_not_matter(faces: list[Box]) -> None:
    answers = set()
    for order in itertools.islice(itertools.permutations(faces), 24):
        try:
            chosen = order[choose(order, "x")]
        except ImageError as error:
            answers.add(str(error))
            continue
        answers.add(repr(chosen))
        others = list(order)
        others.remove(chosen)
        assert min(chosen.width, chosen.height) >= LIMITS.face_side
        assert all(other.area * DOMINANCE <= chosen.area for other in others if other.sure)
        assert all(other.area <= chosen.area * DOMINANCE for other in others)
    assert len(answers) == 1
