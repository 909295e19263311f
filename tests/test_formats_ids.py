"""Slots, hex, model ids, subject ids, ranges."""

from __future__ import annotations

import itertools
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facekeep.errors import FormatError, UsageError
from facekeep.formats.ids import (
    BRANCH_SLOTS,
    check_model_id,
    check_subject_id,
    from_hex,
    from_ranges,
    slot_id,
    split_slot,
    to_ranges,
)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, BRANCH_SLOTS - 1))
def test_a_slot_is_its_branch_and_index(branch: int, index: int) -> None:
    slot = slot_id(branch, index)
    assert slot == branch * 2**21 + index
    assert slot < 2**53
    assert split_slot(slot) == (branch, index)


@pytest.mark.parametrize(("branch", "index"), [(-1, 0), (2**32, 0), (0, -1), (0, BRANCH_SLOTS)])
def test_slots_outside_the_tree_are_refused(branch: int, index: int) -> None:
    with pytest.raises(FormatError):
        slot_id(branch, index)


@pytest.mark.parametrize("slot", [-1, BRANCH_SLOTS, 2**21 - 1, 2**53, 2**64])
def test_slot_ids_outside_the_tree_are_refused(slot: int) -> None:
    with pytest.raises(FormatError):
        split_slot(slot)


@settings(deadline=None)
@given(st.sets(st.integers(0, 300) | st.integers(2**21, 2**21 + 50)))
def test_ranges_are_ascending_and_do_not_touch(slots: set[int]) -> None:
    ranges = to_ranges(list(slots))
    assert from_ranges(ranges) == sorted(slots)
    for (first, count), (after, _) in itertools.pairwise(ranges):
        assert first + count < after
    assert all(count > 0 for _, count in ranges)


@settings(deadline=None)
@given(st.binary(min_size=4, max_size=4))
def test_hex_is_lower_case_and_exact(raw: bytes) -> None:
    text = raw.hex()
    assert from_hex(text, 4, "x") == raw
    for wrong in (text.upper() if text.upper() != text else text + "0", text[:-1], text + "00", f" {text}"):
        with pytest.raises(FormatError):
            from_hex(wrong, 4, "x")


@pytest.mark.parametrize("value", [None, 1, b"00000000", "0x000000", "\u0660" * 8, "0000000g", "0000000\n"])
def test_what_is_no_hex_is_refused(value: object) -> None:
    with pytest.raises(FormatError):
        from_hex(value, 4, "x")


@pytest.mark.parametrize("text", ["", "A", "a" * 41, "a b", "a\n", "é", "a\0", "a\\b"])
def test_bad_model_ids_are_refused(text: str) -> None:
    with pytest.raises(FormatError):
        check_model_id(text)


def test_good_model_ids_are_kept() -> None:
    for text in ("raw:x/1", "a" * 40, "dlib-resnet.v1/19.24"):
        assert check_model_id(text) == text


@settings(deadline=None)
@given(st.text(max_size=40))
def test_a_subject_id_is_kept_byte_for_byte_or_refused(text: str) -> None:
    try:
        raw = check_subject_id(text)
    except UsageError:
        return
    assert raw.decode("utf-8") == text == text.strip() == unicodedata.normalize("NFC", text)
    assert not any(unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for char in text)


@pytest.mark.parametrize(
    "text",
    [
        "", " ", " a", "a ", "a\tb", "a\u200db", "a\u2028b", "\ufeffa", "a\u202eb", "e\u0301", "\u212b",
        "x" * 513, "\N{GREEK SMALL LETTER ALPHA}" * 257, "a\u00a0", "\ud800",
    ],
)  # fmt: skip
def test_bad_subject_ids_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        check_subject_id(text)


def test_good_subject_ids_are_kept() -> None:
    for text in ("a", "Zoë Müller", "李雷", "x" * 512, "../../etc/passwd", "' OR 1=1 --", "a b"):
        assert check_subject_id(text) == text.encode()
