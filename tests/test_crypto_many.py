"""Loops over many keys and blobs give the bytes of the single calls."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facekeep.crypto import many
from facekeep.crypto import primitives as p
from facekeep.errors import IntegrityError

KEYS = st.binary(min_size=32, max_size=32).filter(any)
TEXTS = st.lists(st.binary(max_size=200), max_size=8)


@settings(deadline=None)
@given(KEYS, TEXTS)
def test_macs(key: bytes, messages: list[bytes]) -> None:
    assert many.mac_many(key, messages) == [p.mac(key, message) for message in messages]


@settings(deadline=None)
@given(st.lists(KEYS, max_size=8), st.binary(max_size=40))
def test_slot_keys(keys: list[bytes], prefix: bytes) -> None:
    places = [bytes((at,)) * 24 for at in range(len(keys))]
    expected = [b"".join(p.slot_kdf(key, prefix + place)) for key, place in zip(keys, places, strict=True)]
    assert many.derive_many(keys, prefix, places) == expected


def test_a_destroyed_key_is_never_used() -> None:
    with pytest.raises(IntegrityError):
        many.derive_many([b"k" * 32, bytes(32)], b"", [b"a", b"b"])


@settings(deadline=None)
@given(KEYS, TEXTS)
def test_blobs_under_one_key(key: bytes, texts: list[bytes]) -> None:
    ends = [b"%d" % at for at in range(len(texts))]
    blobs = many.seal_all(key, texts, b"prefix", ends)
    assert len({blob[2:14] for blob in blobs}) == len(blobs)
    for blob, text, end in zip(blobs, texts, ends, strict=True):
        assert p.open_sealed(key, blob, b"prefix" + end) == text


@settings(deadline=None)
@given(st.lists(st.tuples(KEYS, st.binary(min_size=1, max_size=60), st.binary(max_size=60)), max_size=6))
def test_pairs_under_their_own_keys(given_: list[tuple[bytes, bytes, bytes]]) -> None:
    keys = [key for key, _, _ in given_]
    middles = [b"m%d" % at for at in range(len(keys))]
    blobs = [(memoryview(first), second) for _, first, second in given_]
    pairs = many.seal_pairs(keys, blobs, middles, (b"one", b"two"))
    for (key, first, second), middle, (sealed, record) in zip(given_, middles, pairs, strict=True):
        assert p.open_sealed(key, sealed, b"one" + middle) == first
        assert p.open_sealed(key, record, b"two" + middle + p.sha256(sealed)) == second


def test_pieces() -> None:
    assert many.cut(b"abcdef", 2) == [b"ab", b"cd", b"ef"]
    drawn = many.random_many(50, 16)
    assert {len(each) for each in drawn} == {16}
    assert len(set(drawn)) == 50
