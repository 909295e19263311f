"""Proof files: strict and canonical, and the checkpoint verbatim."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facekeep.errors import FormatError
from facekeep.formats.checkpoint import Checkpoint
from facekeep.formats.note import Note, Signature
from facekeep.formats.tlogproof import MAX_HASHES, ConsistencyProof

NOTE = Note(Checkpoint("o", 8, bytes(32)).encode(), (Signature("o", b"kkid", b"s" * 64),))
HASHES = (bytes(range(32)), bytes(range(1, 33)), bytes(range(2, 34)))
OLD = ConsistencyProof(6, HASHES, NOTE)
DATA = OLD.encode()


def test_a_proof_is_a_witness_request() -> None:
    assert ConsistencyProof.parse(DATA) == OLD
    assert OLD.checkpoint == Checkpoint("o", 8, bytes(32))
    hashes = (
        b"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\nAQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=\n"
        b"AgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4fICE=\n\n"
    )
    assert b"old 6\n" + hashes + NOTE.encode() == DATA


@pytest.mark.parametrize(
    ("why", "data"),
    [
        ("empty", b""),
        ("no old size", DATA.partition(b"\n")[2]),
        ("two old sizes", DATA.replace(b"old 6\n", b"old 6\nold 6\n")),
        ("an old size above the new", DATA.replace(b"old 6", b"old 9")),
        ("an old size of 2^63", DATA.replace(b"old 6", b"old %d" % 2**63)),
        ("a leading zero", DATA.replace(b"old 6", b"old 06")),
        ("a sign", DATA.replace(b"old 6", b"old +6")),
        ("two spaces", DATA.replace(b"old 6", b"old  6")),
        ("carriage returns", DATA.replace(b"\n", b"\r\n")),
        ("a malleable hash", DATA.replace(b"Hh8=", b"Hh9=")),
        ("a short hash", DATA.replace(b"AAEC", b"", 1)),
        ("a blank line among the hashes", DATA.replace(b"old 6\n", b"old 6\n\n")),
        ("no blank line", DATA.replace(b"\n\n", b"\n", 1)),
        ("trailing bytes", DATA + b"x"),
        ("a trailing newline", DATA + b"\n"),
        ("bytes before", b"\n" + DATA),
        ("no checkpoint", DATA[: DATA.index(b"\n\n") + 2]),
        ("an unsigned checkpoint", DATA[: DATA.rindex(b"\n\n") + 1]),
        ("an extension line", DATA.replace(b"AAA=\n\n", b"AAA=\nmore\n\n")),
        ("a leading zero in the checkpoint", DATA.replace(b"o\n8\n", b"o\n08\n")),
        ("not UTF-8", DATA.replace(b"old", b"ol\xff")),
    ],
)
def test_a_malformed_proof_is_refused(why: str, data: bytes) -> None:
    del why
    with pytest.raises(FormatError):
        ConsistencyProof.parse(data)


def test_more_hashes_than_any_tree_needs_are_refused() -> None:
    good = ConsistencyProof(5, (bytes(32),) * MAX_HASHES, NOTE).encode()
    assert len(ConsistencyProof.parse(good).hashes) == MAX_HASHES
    line = good.split(b"\n")[2]
    with pytest.raises(FormatError):
        ConsistencyProof.parse(good.replace(b"\n\n", b"\n" + line + b"\n\n", 1))
    with pytest.raises(FormatError):
        ConsistencyProof(5, (bytes(32),) * (MAX_HASHES + 1), NOTE).encode()


def test_a_huge_file_is_refused_before_it_is_read() -> None:
    with pytest.raises(FormatError, match="too long"):
        ConsistencyProof.parse(b"x" * 2_000_000)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_canonical_proof_or_refused(data: bytes) -> None:
    for candidate in (data, b"old " + data, b"old 1\n" + data + b"\n" + NOTE.encode()):
        try:
            proof = ConsistencyProof.parse(candidate)
        except FormatError:
            continue
        assert proof.encode() == candidate
