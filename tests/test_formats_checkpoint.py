"""Checkpoint texts: exactly three lines, canonical numbers, canonical base64."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facekeep.errors import FormatError
from facekeep.formats.checkpoint import EMPTY_ROOT, Checkpoint, origin_of, vault_of

ROOT = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
GOOD = f"facekeep/{'76' * 16}\n70000\n{ROOT}\n"


def test_a_checkpoint_round_trips() -> None:
    found = Checkpoint.parse(GOOD)
    assert found == Checkpoint(origin_of(b"v" * 16), 70_000, bytes(range(32)))
    assert found.encode() == GOOD
    assert vault_of(found.origin) == b"v" * 16


@pytest.mark.parametrize(
    ("why", "text"),
    [
        ("empty", ""),
        ("one line", "origin\n"),
        ("two lines", "origin\n1\n"),
        ("an extension line", GOOD + "more\n"),
        ("an empty fourth line", GOOD + "\n"),
        ("an empty first line", "\n" + GOOD),
        ("a blank line inside", GOOD.replace("70000\n", "70000\n\n")),
        ("no final newline", GOOD[:-1]),
        ("carriage returns", GOOD.replace("\n", "\r\n")),
        ("U+2028 for newlines", GOOD.replace("\n", "\u2028")),
        ("a leading zero", GOOD.replace("70000", "070000")),
        ("zero twice", GOOD.replace("70000", "00")),
        ("a plus sign", GOOD.replace("70000", "+70000")),
        ("a minus sign", GOOD.replace("70000", "-1")),
        ("an underscore", GOOD.replace("70000", "70_000")),
        ("a space before", GOOD.replace("70000", " 70000")),
        ("a space after", GOOD.replace("70000", "70000 ")),
        ("a hexadecimal size", GOOD.replace("70000", "0x10")),
        ("Arabic-Indic digits", GOOD.replace("70000", "\u0667\u0660")),
        ("full-width digits", GOOD.replace("70000", "\uff17")),
        ("superscript digits", GOOD.replace("70000", "\u00b2")),
        ("a fraction", GOOD.replace("70000", "7e4")),
        ("2^63", GOOD.replace("70000", str(2**63))),
        ("a very long size", GOOD.replace("70000", "9" * 5000)),
        ("base64 with spare bits", GOOD.replace("Hh8=", "Hh9=")),
        ("base64 without padding", GOOD.replace("Hh8=", "Hh8")),
        ("a longer root", GOOD.replace(ROOT, ROOT[:-1] + "A")),
        ("a shorter root", GOOD.replace(ROOT, ROOT[:-4])),
        ("a hexadecimal root", GOOD.replace(ROOT, bytes(32).hex())),
        ("size 0 with another root", GOOD.replace("70000", "0")),
        ("size 0 with Go's zero root", "o\n0\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"),
        ("an origin with a space", GOOD.replace("facekeep/", "face keep/")),
        ("an origin with a plus", GOOD.replace("facekeep/", "face+keep/")),
        ("an origin that is too long", "o" * 256 + GOOD[41:]),
    ],
)
def test_a_malformed_checkpoint_is_refused(why: str, text: str) -> None:
    del why
    with pytest.raises(FormatError):
        Checkpoint.parse(text)


def test_size_0_has_the_root_of_nothing() -> None:
    empty = Checkpoint("o", 0, EMPTY_ROOT)
    assert Checkpoint.parse(empty.encode()) == empty


def test_the_greatest_size_is_one_that_every_peer_can_hold() -> None:
    assert Checkpoint.parse(GOOD.replace("70000", str(2**63 - 1))).size == 2**63 - 1


@pytest.mark.parametrize("size", [-1, 2**63, True, 1.0, "1"])
def test_a_value_without_canonical_text_is_refused(size: object) -> None:
    with pytest.raises(FormatError):
        Checkpoint("o", size, bytes(32))  # type: ignore[arg-type]


def test_a_root_of_another_length_is_refused() -> None:
    with pytest.raises(FormatError):
        Checkpoint("o", 1, bytes(31))


@pytest.mark.parametrize("origin", ["other/" + "76" * 16, "facekeep/" + "7" * 31, "facekeep/" + "AB" * 16])
def test_another_kind_of_log_has_no_vault(origin: str) -> None:
    with pytest.raises(FormatError):
        vault_of(origin)


def test_a_vault_id_of_another_length_has_no_origin() -> None:
    with pytest.raises(FormatError):
        origin_of(bytes(15))


@given(st.text(max_size=200))
def test_any_text_is_a_canonical_checkpoint_or_refused(text: str) -> None:
    for candidate in (text, f"origin\n{text}\n{ROOT}\n", f"{text}\n1\n{ROOT}\n"):
        try:
            found = Checkpoint.parse(candidate)
        except FormatError:
            continue
        assert found.encode() == candidate
