"""The frontier against RFC 6962 read literally, and against pymerkle."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facekeep.auditlog.merkle import EMPTY_ROOT, Frontier, leaf_hash, node_hash
from facekeep.errors import FormatError

LEAVES = [f"entry {number}".encode() for number in range(300)]


def naive_root(entries: list[bytes]) -> bytes:
    """RFC 6962 §2.1, word for word."""
    if not entries:
        return hashlib.sha256(b"").digest()
    if len(entries) == 1:
        return hashlib.sha256(b"\0" + entries[0]).digest()
    split = 1
    while split * 2 < len(entries):
        split *= 2
    return hashlib.sha256(b"\1" + naive_root(entries[:split]) + naive_root(entries[split:])).digest()


def test_every_size_to_300_has_the_root_of_the_rfc() -> None:
    frontier = Frontier()
    assert frontier.root() == EMPTY_ROOT == naive_root([])
    for size, entry in enumerate(LEAVES, 1):
        frontier.append(leaf_hash(entry))
        assert frontier.size == size
        assert frontier.root() == naive_root(LEAVES[:size])
        assert len(frontier.hashes()) == size.bit_count()


def test_every_size_to_300_has_the_root_of_pymerkle() -> None:
    pymerkle = pytest.importorskip("pymerkle")
    peer = pymerkle.InmemoryTree(algorithm="sha256")
    frontier = Frontier()
    for entry in LEAVES:
        peer.append_entry(entry)
        frontier.append(leaf_hash(entry))
        assert frontier.root() == (peer.get_root() if hasattr(peer, "get_root") else peer.get_state())


@given(st.integers(0, 300), st.integers(0, 40))
def test_a_frontier_taken_up_again_goes_on_alike(first: int, more: int) -> None:
    frontier = Frontier()
    for entry in LEAVES[:first]:
        frontier.append(leaf_hash(entry))
    again = Frontier(frontier.size, frontier.hashes())
    for entry in LEAVES[first : first + more]:
        frontier.append(leaf_hash(entry))
        again.append(leaf_hash(entry))
    assert again.root() == frontier.root()


@pytest.mark.parametrize(
    ("size", "hashes"), [(-1, []), (0, [b"x" * 32]), (3, [b"x" * 32]), (1, [b"x" * 31]), (2, [])]
)
def test_hashes_that_do_not_fit_the_size_are_refused(size: int, hashes: list[bytes]) -> None:
    with pytest.raises(FormatError):
        Frontier(size, hashes)


def test_a_leaf_is_never_a_node() -> None:
    assert leaf_hash(b"l" * 32 + b"r" * 32) != node_hash(b"l" * 32, b"r" * 32)
