"""Packed terms: strict both ways, and the same judgement one by one and by the million."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facekeep.access.gate import Ask, check_terms
from facekeep.access.roles import Action
from facekeep.errors import FormatError, ScopeUnknown
from facekeep.formats.entryrules import Reason
from facekeep.formats.terms import (
    EU_MEMBERS,
    METRICS,
    TERMS_DTYPE,
    TERMS_LEN,
    Scope,
    Terms,
    check_regions,
    covering_regions,
    expires_at,
    region_number,
    valid_now,
)
from facekeep.formats.terms import REGIONS as COUNTRIES
from facekeep.limits import LIMITS

REGIONS = st.sets(st.sampled_from(["DE", "EU", "FR", "US", "ZZ", "CH", "AD"]), min_size=1, max_size=6)


@st.composite
def terms(draw: st.DrawFn) -> Terms:
    start = draw(st.integers(0, 2_000))
    return Terms(
        draw(st.sampled_from(list(Scope))),
        start,
        start + draw(st.integers(1, 2_000)),
        tuple(sorted(draw(REGIONS))),
        draw(st.integers(1, 64)),
        draw(st.integers(1, 4_096)),
        draw(st.binary(min_size=32, max_size=32)),
        draw(st.sampled_from(METRICS)),
    )


@settings(deadline=None)
@given(terms())
def test_packing_and_unpacking_are_inverse(value: Terms) -> None:
    raw = value.pack()
    assert len(raw) == TERMS_LEN == TERMS_DTYPE.itemsize
    assert Terms.unpack(raw) == value


@settings(deadline=None)
@given(terms(), st.integers(0, TERMS_LEN - 1), st.integers(1, 255))
def test_a_changed_byte_is_other_terms_or_refused(value: Terms, at: int, flip: int) -> None:
    raw = bytearray(value.pack())
    raw[at] ^= flip
    try:
        other = Terms.unpack(bytes(raw))
    except FormatError:
        return
    assert other != value
    assert other.pack() == bytes(raw)


@settings(deadline=None)
@given(st.binary(min_size=80, max_size=96))
def test_any_bytes_are_refused_or_canonical(raw: bytes) -> None:
    try:
        assert Terms.unpack(raw).pack() == raw
    except FormatError:
        return


GOOD = Terms(Scope.VERIFY, 10, 20, ("DE",), 1, 128, bytes(32))


def changed(at: int, data: bytes) -> bytes:
    raw = GOOD.pack()
    return raw[:at] + data + raw[at + len(data) :]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        GOOD.pack()[:-1],
        GOOD.pack() + b"\0",
        changed(0, b"\2"),
        changed(1, b"\0"),
        changed(1, b"\1"),
        changed(1, b"\7"),
        changed(2, b"\0\2"),
        changed(4, (20).to_bytes(8, "big")),
        changed(4, b"\xff" * 8),
        changed(12, (2**53).to_bytes(8, "big")),
        changed(12, bytes(8)),
        changed(20, bytes(2)),
        changed(20, b"de"),
        changed(20, b"DEDE"),
        changed(20, b"FRDE"),
        changed(20, b"DE\0\0FR"),
        changed(20, b"DEF"),
        changed(20, b"\xff\xff"),
        changed(52, b"\0\0"),
        changed(52, b"\0\x41"),
        changed(54, b"\0\0"),
        changed(54, b"\x10\x01"),
    ],
)
def test_terms_that_are_not_canonical_are_refused(raw: bytes) -> None:
    with pytest.raises(FormatError):
        Terms.unpack(raw)


@settings(deadline=None)
@given(
    st.lists(terms(), min_size=1, max_size=8),
    st.sampled_from(["DE", "US", "CH", "FR"]),
    st.integers(0, 4_000),
)
def test_a_million_are_judged_like_one(many: list[Terms], region: str, now: int) -> None:
    rows = np.frombuffer(b"".join(each.pack() for each in many), TERMS_DTYPE)
    for scope in (Scope.VERIFY, Scope.IDENTIFY):
        mask = valid_now(rows, scope, region, now)
        asks = [Ask(Action.VERIFY, scope, "m", each.dimension, each.metric, region) for each in many]
        judged = [check_terms(each, "m", ask, now) for each, ask in zip(many, asks, strict=True)]
        assert mask.tolist() == [reason is Reason.OK for reason in judged]


@settings(deadline=None)
@given(terms())
def test_the_end_stands_in_packed_terms(value: Terms) -> None:
    assert expires_at(value.pack()) == value.expires_at_ms


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"record_digest": bytes(31)}, "32 bytes"),
        ({"record_digest": bytes(33)}, "32 bytes"),
        ({"metric": "l1"}, "unknown metric"),
        ({"count": 0}, "impossible template shape"),
        ({"count": LIMITS.templates + 1}, "impossible template shape"),
        ({"dimension": 0}, "impossible template shape"),
        ({"dimension": LIMITS.dimension + 1}, "impossible template shape"),
        ({"expires_at_ms": GOOD.not_before_ms}, "expire after they begin"),
        ({"not_before_ms": -1}, "expire after they begin"),
        ({"expires_at_ms": 2**53}, "expire after they begin"),
        ({"regions": ()}, "1 to 16"),
    ],
)
def test_terms_that_cannot_be_packed_say_why(change: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        replace(GOOD, **change).pack()


def test_the_largest_and_the_smallest_terms_are_packed() -> None:
    for count, dimension, start, end in (
        (LIMITS.templates, LIMITS.dimension, 2**53 - 2, 2**53 - 1),
        (1, 1, 0, 1),
    ):
        value = replace(GOOD, count=count, dimension=dimension, not_before_ms=start, expires_at_ms=end)
        assert Terms.unpack(value.pack()) == value
        assert value.photographs == max(1, count - 1)


def test_a_grant_for_the_union_covers_its_members_only() -> None:
    assert len(EU_MEMBERS) == 27
    assert set(covering_regions("DE")) == {"DE", "EU"}
    assert set(covering_regions("CH")) == {"CH"}
    assert set(covering_regions("EU")) == {"EU"}
    assert "GB" not in EU_MEMBERS


@pytest.mark.parametrize(
    "regions", [(), ("DE", "DE"), ("FR", "DE"), ("de",), ("D1",), ("DEU",), ("",), ("Ä",)]
)
def test_bad_regions_are_refused(regions: tuple[str, ...]) -> None:
    with pytest.raises(FormatError):
        check_regions(regions)


def test_sixteen_regions_and_no_more() -> None:
    codes = tuple(sorted(COUNTRIES)[:17])
    check_regions(codes[:16])
    with pytest.raises(FormatError):
        check_regions(codes)
    assert region_number("DE") == 0x4445


@pytest.mark.parametrize("code", ["XX", "AA", "UK", "XK", "QM", "AN", "SU", "EA", "de", "D", "DEU", ""])
def test_a_region_that_iso_3166_has_not(code: str) -> None:
    with pytest.raises(FormatError, match="ISO 3166"):
        check_regions((code,))


def test_the_regions_are_those_of_the_specification() -> None:
    text = (Path(__file__).parent.parent / "docs/spec/log.md").read_text()
    listed = re.findall(r"^    ((?:[A-Z]{2} ?)+)$", text, re.MULTILINE)
    assert {code for line in listed for code in line.split()} == COUNTRIES
    assert len(COUNTRIES) == 249 + len(("EU", "ZZ"))
    assert f"`{' '.join(sorted(EU_MEMBERS))}`" in text
    assert EU_MEMBERS < COUNTRIES


@pytest.mark.parametrize("word", ["", "Verify", "VERIFY", "system", "verify ", "x"])
def test_scope_words_are_exact(word: str) -> None:
    with pytest.raises(ScopeUnknown):
        Scope.from_word(word)


def test_scope_words_are_those_of_the_specification() -> None:
    words = ["verify", "identify", "evaluate", "train", "share"]
    assert [scope.word for scope in Scope] == words
    assert [Scope.from_word(word) for word in words] == list(Scope)
    assert [int(scope) for scope in Scope] == [2, 3, 4, 5, 6]


def test_many_packed_terms_are_read_as_one_is() -> None:
    terms = Terms(Scope.IDENTIFY, 5, 9, ("CH", "DE"), 3, 128, bytes(range(32)), "cosine")
    assert TERMS_DTYPE.itemsize == len(terms.pack()) == 88
    (row,) = np.frombuffer(terms.pack(), TERMS_DTYPE)
    assert (row["version"], row["scope"], row["flags"]) == (1, 3, 1)
    assert (row["not_before_ms"], row["expires_at_ms"]) == (5, 9)
    assert (row["count"], row["dimension"]) == (3, 128)
    assert row["regions"].tolist() == [region_number("CH"), region_number("DE"), *[0] * 14]
    assert bytes(row["record_digest"]) == bytes(range(32))


@pytest.mark.parametrize(
    ("field", "value", "valid"),
    [
        ("version", 1, True),
        ("version", 2, False),
        ("version", 0, False),
        ("flags", 0, True),
        ("flags", 2, False),
        ("scope", 2, False),
        ("not_before_ms", 7, True),
        ("not_before_ms", 8, False),
        ("expires_at_ms", 7, False),
        ("expires_at_ms", 8, True),
    ],
)
def test_terms_that_no_version_of_ours_wrote_allow_nothing(field: str, value: int, valid: bool) -> None:
    packed = Terms(Scope.IDENTIFY, 5, 9, ("DE",), 1, 128, bytes(32), "cosine").pack()
    row = np.frombuffer(packed, TERMS_DTYPE).copy()
    row[field] = value
    assert valid_now(row, Scope.IDENTIFY, "DE", 7).tolist() == [valid]
    assert valid_now(row, Scope.IDENTIFY, "FR", 7).tolist() == [False]
