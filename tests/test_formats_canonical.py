"""Canonical JSON against the rfc8785 package, and what it refuses."""

from __future__ import annotations

import json

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from facekeep.errors import FormatError
from facekeep.formats.canonical import JsonObject, JsonValue, dumps, encode_text, encode_trusted, loads

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
KEYS = st.text(st.characters(max_codepoint=127))
SCALARS = st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | TEXT
VALUES: st.SearchStrategy[JsonValue] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)
OBJECTS: st.SearchStrategy[JsonObject] = st.dictionaries(KEYS, VALUES, max_size=6)


@settings(deadline=None)
@given(OBJECTS)
def test_it_is_rfc_8785(value: JsonObject) -> None:
    encoded = dumps(value)
    assert encoded == rfc8785.dumps(value)
    assert encoded == encode_trusted(value)
    assert loads(encoded) == value


@settings(deadline=None)
@given(TEXT)
def test_one_text_is_rfc_8785(text: str) -> None:
    assert encode_text(text) == rfc8785.dumps(text)


@settings(deadline=None)
@given(OBJECTS, st.integers(0, 3))
def test_another_spelling_of_the_same_value_is_refused(value: JsonObject, how: int) -> None:
    other = [
        json.dumps(value, indent=1),
        json.dumps(value, sort_keys=True, separators=(", ", ":")),
        json.dumps(dict(sorted(value.items(), reverse=True)), separators=(",", ":"), ensure_ascii=False),
        json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True),
    ][how].encode()
    if other != dumps(value):
        with pytest.raises(FormatError):
            loads(other)


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_parse_to_what_they_encode_or_are_refused(raw: bytes) -> None:
    try:
        value = loads(raw)
    except FormatError:
        return
    assert dumps(value) == raw


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"1", b"[]", b'"x"', b"null", b"{", b'{"a":1}\n', b' {"a":1}', b'{"a":1.0}', b'{"a":1e2}',
        b'{"a":-0}', b'{"a":01}', b'{"a":NaN}', b'{"a":Infinity}', b'{"a":9007199254740992}',
        b'{"a":-9007199254740992}', b'{"a":1,"a":1}', b'{"b":1,"a":1}', b'{"a":"\\u0061"}', b'{"a":"\\/"}',
        b'{"a":"\xff"}', b'{"a":"\\ud800"}', b'\xef\xbb\xbf{"a":1}', b'{"\xc3\xa9":1}', b'{"a":"\x00"}',
        b"[" * 100_000, b'{"a":' * 5_000,
    ],
)  # fmt: skip
def test_what_is_not_canonical_is_refused(raw: bytes) -> None:
    with pytest.raises(FormatError):
        loads(raw)


@pytest.mark.parametrize(
    "value",
    [
        {"a": 1.5},
        {"a": 2**53},
        {"a": -(2**53)},
        {"é": 1},
        {1: 1},
        {"a": b"x"},
        {"a": (1,)},
        {"a": {"b": {1}}},
    ],
)
def test_what_has_no_canonical_form_is_refused(value: dict[str, JsonValue]) -> None:
    with pytest.raises(FormatError):
        dumps(value)


def test_lone_surrogates_are_refused() -> None:
    with pytest.raises(FormatError):
        encode_text("\ud800")
    with pytest.raises(FormatError):
        dumps({"a": "\udfff"})
