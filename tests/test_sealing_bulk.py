"""Many templates at a time: what fails is named, is zero, and was not opened."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from facekeep.consent.consent import Consent, Holding, Notice, build_record, subject_tag
from facekeep.crypto import bulk
from facekeep.errors import IntegrityError
from facekeep.formats.terms import Scope
from facekeep.sealing.bulk import open_references
from facekeep.sealing.many import Place, Plain, seal_grants
from facekeep.sealing.permit import mint
from facekeep.sealing.sealer import Sealer, template_bytes
from facekeep.store.sealedrows import SealedRows
from facekeep.store.vaultdb import GrantRow, without_records

VAULT = bytes(range(16))
FIRST = 3 << 21
SALT = b"s" * 32
SEALER = Sealer.of(VAULT)


def key(at: int) -> bytes:
    return bytes((at + 1,)) * 32


def stack(at: int, count: int) -> npt.NDArray[np.float32]:
    return np.arange(4 * count, dtype=np.float32).reshape(count, 4) + at


def sealed(at: int, count: int = 1) -> GrantRow:
    consent = Consent((Scope.IDENTIFY,), Notice(b"n" * 32, "en"), 2_000_000).settled(1_000, "DE")
    holding = Holding("alice", SALT, 1, "raw:m/1", "l2", 4, count)
    record, terms = build_record(consent, Scope.IDENTIFY, holding, 1_000)
    tag = subject_tag(VAULT, SALT, b"alice")
    place = Place(FIRST + at, b"g" * 16, *SEALER.keys(key(at), FIRST + at, b"g" * 16))
    plain = Plain(tag, "raw:m/1", terms, record, template_bytes(stack(at, count)))
    return seal_grants(SEALER, [place], [plain])[0]


def opened(rows: SealedRows, permitted: set[int] | None = None) -> tuple[npt.NDArray[np.float32], list[int]]:
    keys = np.frombuffer(b"".join(key(slot - FIRST) for slot in rows.slots.tolist()), np.uint8)
    permit = mint(frozenset(rows.slots.tolist() if permitted is None else permitted))
    raw = bytearray(b"7" * 16 * len(rows))
    failed = open_references(SEALER, permit, rows, keys.reshape(-1, 32), memoryview(raw), 4)
    return np.frombuffer(raw, np.float32).reshape(-1, 4), failed


@pytest.mark.parametrize("counts", [[1, 1, 1, 1], [2, 2, 2, 2], [1, 3, 1, 2]])
def test_row_0_of_each_is_opened(counts: list[int]) -> None:
    rows = without_records([sealed(at, count) for at, count in enumerate(counts)])
    out, failed = opened(rows)
    assert failed == []
    assert (out == np.stack([stack(at, 1)[0] for at in range(4)])).all()


def test_some_of_a_window_are_opened() -> None:
    rows = without_records([sealed(at) for at in range(6)])
    out, failed = opened(rows.only(np.array([False, True, False, True, True, False])))
    assert failed == []
    assert out[:, 0].tolist() == [1, 3, 4]


def test_nothing_is_opened_of_no_rows() -> None:
    assert opened(without_records([]))[1] == []


CHANGES: dict[str, dict[str, object]] = {
    "a grant id": {"grant_id": b"h" * 16},
    "a tag": {"tag": b"t" * 32},
    "terms": {"terms": bytes(88)},
    "a commitment": {"commitment": bytes(32)},
    "a suite": {"templates": b"\0\2" + sealed(2).templates[2:]},
    "a nonce": {"templates": sealed(2).templates[:2] + bytes(12) + sealed(2).templates[14:]},
    "a tag of the cipher": {"templates": sealed(2).templates[:-1] + b"\0"},
    "no templates": {"templates": b""},
    "less than a header": {"templates": b"\0\1"},
    "a short blob": {"templates": sealed(2).templates[:-1]},
    "a long blob": {"templates": sealed(2).templates + bytes(4_000_000)},
}


@pytest.mark.parametrize("what", CHANGES)
def test_another_spoils_one_row_and_leaves_zeros(what: str) -> None:
    rows = [sealed(at) for at in range(5)]
    rows[2] = rows[2]._replace(**CHANGES[what])  # type: ignore[arg-type]
    out, failed = opened(without_records(rows))
    assert failed == [2]
    assert out[:, 0].tolist() == [0, 1, 0, 3, 4]
    assert not out[2].any()


def test_all_blobs_shorter_than_a_header_fail() -> None:
    rows = [sealed(at)._replace(templates=b"\0\1") for at in range(3)]
    out, failed = opened(without_records(rows))
    assert failed == [0, 1, 2]
    assert not out.any()


def test_what_no_permit_covers_or_no_commitment_names_is_not_decrypted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used: list[bytes] = []

    original = bulk.AESGCM  # type: ignore[attr-defined] # not for anybody else

    def counting(each: bytes) -> object:
        used.append(each)
        return original(each)

    rows = without_records([sealed(at) for at in range(4)])
    heads = rows.heads.copy()
    heads[1, -1] ^= 1  # its commitment
    monkeypatch.setattr(bulk, "AESGCM", counting)
    out, failed = opened(replace(rows, heads=heads), {FIRST, FIRST + 1, FIRST + 3})
    assert failed == [1, 2]
    assert len(used) == 2
    assert out[:, 0].tolist() == [0, 0, 0, 3]


def test_a_destroyed_key_opens_nothing() -> None:
    rows = without_records([sealed(at) for at in range(3)])
    keys = np.ones((3, 32), np.uint8)
    keys[1] = 0
    permit = mint(frozenset(rows.slots.tolist()))
    out = memoryview(bytearray(48))
    with pytest.raises(IntegrityError, match="destroyed key"):
        open_references(SEALER, permit, rows, keys, out, 4)
    assert not any(out)
