from __future__ import annotations

import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from facekeep.auditlog.setdigest import SetDigest

MEMBERS = st.lists(st.tuples(st.integers(0, 2**53 - 1), st.binary(min_size=16, max_size=16)), max_size=12)


def literal(members: list[tuple[int, bytes]]) -> bytes:
    """SPEC §6.4, word for word."""
    total = np.zeros(1024, dtype=object)
    for slot, grant in members:
        data = b"facekeep/v1/set-element\0" + slot.to_bytes(8, "big") + grant
        raw = hashlib.shake_128(data).digest(2048)
        total += np.array([int.from_bytes(raw[at : at + 2], "little") for at in range(0, 2048, 2)])
    packed = b"".join((int(value) % 2**16).to_bytes(2, "little") for value in total)
    return hashlib.sha256(b"facekeep/v1/set\0" + packed).digest()


@given(MEMBERS)
def test_it_is_the_digest_of_the_specification_in_any_order(members: list[tuple[int, bytes]]) -> None:
    one, other = SetDigest(), SetDigest()
    for slot, grant in members:
        one.add(slot, grant)
    other.add_many([slot for slot, _ in reversed(members)], [grant for _, grant in reversed(members)])
    assert one.digest() == other.digest() == literal(members)


@given(MEMBERS, MEMBERS)
def test_removing_undoes_adding(kept: list[tuple[int, bytes]], gone: list[tuple[int, bytes]]) -> None:
    digest = SetDigest()
    for slot, grant in gone + kept:
        digest.add(slot, grant)
    for slot, grant in gone:
        digest.remove(slot, grant)
    assert digest.digest() == literal(kept)


def test_a_copy_is_independent() -> None:
    digest = SetDigest()
    before = digest.digest()
    copy = digest.copy()
    copy.add(1, b"g" * 16)
    assert digest.digest() == before != copy.digest()


def test_slot_and_grant_both_count() -> None:
    digests = set()
    for slot, grant in [(1, b"a" * 16), (1, b"b" * 16), (2, b"a" * 16)]:
        digest = SetDigest()
        digest.add(slot, grant)
        digests.add(digest.digest())
    assert len(digests) == 3
