"""Proof files: strict and canonical, and the checkpoint verbatim."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facekeep.errors import FormatError
from facekeep.formats.checkpoint import Checkpoint
from facekeep.formats.note import Note, Signature
from facekeep.formats.tlogproof import MAX_EXTRA, MAX_HASHES, ConsistencyProof, InclusionProof

NOTE = Note(Checkpoint("o", 8, bytes(32)).encode(), (Signature("o", b"kkid", b"s" * 64),))
HASHES = (bytes(range(32)), bytes(range(1, 33)), bytes(range(2, 34)))
PROOF = InclusionProof(5, HASHES, NOTE)
EXTRA = dataclasses.replace(PROOF, extra=b"hello")
OLD = ConsistencyProof(6, HASHES, NOTE)
DATA, DATA_EXTRA, DATA_OLD = PROOF.encode(), EXTRA.encode(), OLD.encode()


def test_proofs_round_trip() -> None:
    assert InclusionProof.parse(DATA) == PROOF
    assert InclusionProof.parse(DATA_EXTRA) == EXTRA
    assert ConsistencyProof.parse(DATA_OLD) == OLD
    assert PROOF.checkpoint == OLD.checkpoint == Checkpoint("o", 8, bytes(32))


def test_the_form_is_c2sp_s() -> None:
    hashes = (
        b"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\nAQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=\n"
        b"AgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4fICE=\n\n"
    )
    assert b"c2sp.org/tlog-proof@v1\nindex 5\n" + hashes + NOTE.encode() == DATA
    assert b"c2sp.org/tlog-proof@v1\nextra aGVsbG8=\nindex 5\n" + hashes + NOTE.encode() == DATA_EXTRA
    assert b"old 6\n" + hashes + NOTE.encode() == DATA_OLD


def test_a_tree_of_one_entry_has_no_hash_lines() -> None:
    note = Note(Checkpoint("o", 1, bytes(32)).encode(), NOTE.signatures)
    data = InclusionProof(0, (), note).encode()
    assert data.startswith(b"c2sp.org/tlog-proof@v1\nindex 0\n\no\n1\n")
    assert InclusionProof.parse(data).hashes == ()


@pytest.mark.parametrize(
    ("why", "data"),
    [
        ("empty", b""),
        ("another version", DATA.replace(b"@v1", b"@v2")),
        ("no header", DATA.partition(b"\n")[2]),
        ("carriage returns", DATA.replace(b"\n", b"\r\n")),
        ("a leading zero", DATA.replace(b"index 5", b"index 05")),
        ("a sign", DATA.replace(b"index 5", b"index +5")),
        ("two spaces", DATA.replace(b"index 5", b"index  5")),
        ("no index", DATA.replace(b"index 5\n", b"")),
        ("two indices", DATA.replace(b"index 5\n", b"index 5\nindex 5\n")),
        ("an index at the size", DATA.replace(b"index 5", b"index 8")),
        ("an index of 2^63", DATA.replace(b"index 5", b"index %d" % 2**63)),
        ("extra after the index", DATA.replace(b"index 5\n", b"index 5\nextra aGVsbG8=\n")),
        ("two extras", DATA_EXTRA.replace(b"extra aGVsbG8=\n", b"extra aGVsbG8=\nextra aGVsbG8=\n")),
        ("an empty extra", DATA_EXTRA.replace(b"aGVsbG8=", b"")),
        ("a malleable extra", DATA_EXTRA.replace(b"aGVsbG8=", b"aGVsbG9=")),
        ("a malleable hash", DATA.replace(b"Hh8=", b"Hh9=")),
        ("a short hash", DATA.replace(b"AAEC", b"", 1)),
        ("a blank line among the hashes", DATA.replace(b"index 5\n", b"index 5\n\n")),
        ("no blank line", DATA.replace(b"\n\n", b"\n", 1)),
        ("trailing bytes", DATA + b"x"),
        ("a trailing newline", DATA + b"\n"),
        ("no checkpoint", DATA[: DATA.index(b"\n\n") + 2]),
        ("an unsigned checkpoint", DATA[: DATA.rindex(b"\n\n") + 1]),
        ("an extension line", DATA.replace(b"AAA=\n\n", b"AAA=\nmore\n\n")),
        ("a leading zero in the checkpoint", DATA.replace(b"o\n8\n", b"o\n08\n")),
        ("a consistency proof", DATA_OLD),
        ("bytes before", b"\n" + DATA),
        ("not UTF-8", DATA.replace(b"index", b"ind\xffx")),
    ],
)
def test_a_malformed_inclusion_proof_is_refused(why: str, data: bytes) -> None:
    del why
    with pytest.raises(FormatError):
        InclusionProof.parse(data)


@pytest.mark.parametrize(
    ("why", "data"),
    [
        ("empty", b""),
        ("a leading zero", DATA_OLD.replace(b"old 6", b"old 06")),
        ("an old size above the new", DATA_OLD.replace(b"old 6", b"old 9")),
        ("no old size", DATA_OLD.partition(b"\n")[2]),
        ("an inclusion proof", DATA),
        ("trailing bytes", DATA_OLD + b"x"),
        ("carriage returns", DATA_OLD.replace(b"\n", b"\r\n")),
        ("a malleable hash", DATA_OLD.replace(b"Hh8=", b"Hh9=")),
    ],
)
def test_a_malformed_consistency_proof_is_refused(why: str, data: bytes) -> None:
    del why
    with pytest.raises(FormatError):
        ConsistencyProof.parse(data)


@pytest.mark.parametrize("kind", [InclusionProof, ConsistencyProof])
def test_more_hashes_than_any_tree_needs_are_refused(kind: type[InclusionProof | ConsistencyProof]) -> None:
    good = kind(5, (bytes(32),) * MAX_HASHES, NOTE).encode()
    assert len(kind.parse(good).hashes) == MAX_HASHES
    line = good.split(b"\n")[2]
    with pytest.raises(FormatError):
        kind.parse(good.replace(b"\n\n", b"\n" + line + b"\n\n", 1))
    with pytest.raises(FormatError):
        kind(5, (bytes(32),) * (MAX_HASHES + 1), NOTE).encode()


def test_a_huge_file_is_refused_before_it_is_read() -> None:
    with pytest.raises(FormatError):
        InclusionProof.parse(b"x" * 2_000_000)
    with pytest.raises(FormatError):
        InclusionProof(5, HASHES, NOTE, bytes(MAX_EXTRA + 1)).encode()


@given(st.binary(max_size=200))
def test_any_bytes_are_a_canonical_proof_or_refused(data: bytes) -> None:
    head = b"c2sp.org/tlog-proof@v1\n"
    for candidate in (data, head + data, head + b"index 1\n" + data + b"\n" + NOTE.encode()):
        try:
            proof = InclusionProof.parse(candidate)
        except FormatError:
            continue
        assert proof.encode() == candidate
