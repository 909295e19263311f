"""The ``signing`` entry: what it binds, and which keys lead to which."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, cast

import pytest

from auditlog_help import BY, NOW, VAULT
from facekeep.auditlog.checkpoints import Checkpoints
from facekeep.auditlog.rotation import Keyring, check, signing_entry
from facekeep.auditlog.signed import LogSigner, open_checkpoint, verify_raw
from facekeep.crypto.signing import MlDsa44Signer
from facekeep.errors import FacekeepError, FormatError, IntegrityError
from facekeep.formats import entries
from facekeep.formats.canonical import JsonObject
from facekeep.formats.checkpoint import origin_of
from tree_help import OTHER_VAULT, SIGNING_KEY, TreeLab, altered, grown, refused, signer

NOTE = grown(300).signed(256)
KEYS = signer().keys


@pytest.fixture
def lab(tmp_path: Path) -> TreeLab:
    return TreeLab(tmp_path)


def rotate(lab: TreeLab) -> int:
    entry = lab.checkpoints.rotation(lab.checkpoints.snapshot(), by=BY, time_ms=NOW)
    return lab.log.append([entry])[0]


def test_rotation_changes_the_keys_and_old_keys_vouch_for_new_ones(lab: TreeLab) -> None:
    lab.fill(300)
    first = lab.checkpoints.make(lab.checkpoints.snapshot(), NOW)
    at = [rotate(lab), rotate(lab)]
    lab.fill(600)
    snapshot = lab.checkpoints.snapshot()
    assert snapshot.signing == tuple(at)
    note = lab.checkpoints.make(snapshot, NOW)
    assert refused(open_checkpoint, note, KEYS)
    open_checkpoint(note, signer(3).keys)
    assert lab.checkpoints.all_keys(snapshot) == KEYS + signer(2).keys + signer(3).keys
    assert lab.checkpoints.check_own(snapshot, first).size == 300
    keyring = Keyring(origin_of(VAULT), KEYS[:1])
    for index in at:
        keyring.follow(index, lab.log.entry(index))
    assert keyring.keys_at(at[0]) == KEYS
    assert keyring.keys_at(at[0] + 1) == signer(2).keys
    assert keyring.keys_at(600) == signer(3).keys
    assert lab.open_tree().make(lab.checkpoints.snapshot(), NOW)


def test_a_new_key_does_not_vouch_for_an_old_one() -> None:
    keyring = Keyring(origin_of(VAULT), signer(2).keys)
    keyring.follow(5, signing_entry(signer(1), signer(2), by=None, time_ms=NOW))
    assert keyring.keys_at(6) == signer(2).keys
    with pytest.raises(IntegrityError):
        keyring.keys_at(5)


def test_an_old_key_does_not_open_what_came_after_its_rotation() -> None:
    keyring = Keyring(origin_of(VAULT), KEYS)
    keyring.follow(255, signing_entry(signer(1), signer(2), by=None, time_ms=NOW))
    assert refused(open_checkpoint, NOTE, keyring.keys_at(256))
    open_checkpoint(NOTE, keyring.keys_at(255))


def test_keys_that_the_log_never_had_vouch_for_nothing() -> None:
    keyring = Keyring(origin_of(VAULT), signer(9).keys)
    keyring.follow(5, signing_entry(signer(1), signer(2), by=None, time_ms=NOW))
    with pytest.raises(IntegrityError):
        keyring.keys_at(100)
    with pytest.raises(IntegrityError):
        Keyring(origin_of(VAULT), signer(1, OTHER_VAULT).keys)


@pytest.mark.parametrize(("old", "new"), [(1, 3), (2, 3), (1, 2)])
def test_a_rotation_that_does_not_follow_is_refused(old: int, new: int) -> None:
    keyring = Keyring(origin_of(VAULT), KEYS)
    if (old, new) == (1, 2):  # a second time
        keyring.follow(5, signing_entry(signer(1), signer(2), by=None, time_ms=NOW))
    with pytest.raises(IntegrityError):
        keyring.follow(9, signing_entry(signer(old), signer(new), by=None, time_ms=NOW))


def test_a_rotation_of_another_log_is_refused() -> None:
    entry = signing_entry(signer(1, OTHER_VAULT), signer(2, OTHER_VAULT), by=None, time_ms=NOW)
    with pytest.raises(IntegrityError):
        Keyring(origin_of(VAULT), KEYS).follow(5, entry)
    with pytest.raises(IntegrityError):
        signing_entry(signer(1), signer(2, OTHER_VAULT), by=None, time_ms=NOW)


def test_a_rotation_to_the_same_keys_is_refused() -> None:
    with pytest.raises(IntegrityError):
        signing_entry(signer(1), signer(1), by=None, time_ms=NOW)


def rotation() -> dict[str, Any]:
    return dict(signing_entry(signer(1), signer(2), by=BY, time_ms=NOW))


@pytest.mark.parametrize("field", ["generation", "time_ms", "nonce", "by", "v", "previous", "keys"])
def test_every_field_of_a_rotation_is_signed(field: str) -> None:
    entry, other = rotation(), dict(signing_entry(signer(2), signer(3), by=None, time_ms=NOW + 1))
    entry[field] = other[field] if field != "v" else 2
    with pytest.raises(IntegrityError):
        check(entry)


@pytest.mark.parametrize("at", range(4))
def test_each_of_the_four_signatures_of_a_rotation_counts(at: int) -> None:
    entry = rotation()
    good = bytes.fromhex(entry["signatures"][at])
    for body in altered(good, 1 + len(good) // 64):
        changed = [*entry["signatures"][:at], body.hex(), *entry["signatures"][at + 1 :]]
        with pytest.raises(IntegrityError):
            check({**entry, "signatures": changed})


def test_signatures_in_another_order_or_number_are_refused() -> None:
    entry = rotation()
    for order in ((2, 3, 0, 1), (1, 0, 2, 3), (0, 1), (0, 1, 0, 1)):
        with pytest.raises(IntegrityError):
            check({**entry, "signatures": [entry["signatures"][at] for at in order]})
    with pytest.raises(IntegrityError):
        verify_raw((), (), b"")


def test_keys_of_other_types_or_order_are_refused() -> None:
    entry = rotation()
    for keys in (entry["keys"][::-1], entry["keys"][:1] * 2):
        with pytest.raises(FacekeepError):
            check({**entry, "keys": keys})


class Forger(LogSigner):
    """Signs truly with keys of types or names that no log has."""

    def __init__(self, generation: int, *, twice: bool = False, name: str | None = None) -> None:
        super().__init__(SIGNING_KEY, VAULT, generation)
        own, other = self.keys[0], LogSigner(SIGNING_KEY, VAULT, generation + 10)
        if twice:
            self._ml_dsa_44 = cast("MlDsa44Signer", other._ed25519)
            self.keys = (own, other.keys[0])
        if name is not None:
            self.keys = (own, dataclasses.replace(self.keys[1], name=name))


@pytest.mark.parametrize("forged", [{"twice": True}, {"name": "facekeep.example/else"}], ids=str)
@pytest.mark.parametrize("both", [False, True])
def test_a_well_signed_rotation_to_keys_of_two_names_or_of_one_type(
    forged: dict[str, Any], both: bool
) -> None:
    old: LogSigner = Forger(1, **forged) if both else signer(1)
    with pytest.raises(IntegrityError, match="does not name an Ed25519 and an ML-DSA-44 key of one log"):
        signing_entry(old, Forger(2, **forged), by=BY, time_ms=NOW)
    with pytest.raises(IntegrityError, match="does not name an Ed25519 and an ML-DSA-44 key of one log"):
        signing_entry(Forger(1, **forged), signer(2), by=BY, time_ms=NOW)


@pytest.mark.parametrize(
    "change",
    [
        {"generation": 1},
        {"keys": []},
        {"keys": ["a b+00000000+AAAA"] * 2},
        {"signatures": []},
        {"signatures": ["00" * 64] * 5},
        {"signatures": ["AB" * 64] * 4},
        {"signatures": ["00" * 63] * 4},
        {"more": 1},
    ],
)
def test_a_malformed_signing_entry_is_not_an_entry(change: JsonObject) -> None:
    with pytest.raises(FormatError):
        entries.encode({**rotation(), **change})


def test_a_signing_entry_has_the_nonce_that_is_given() -> None:
    assert signing_entry(signer(1), signer(2), by=BY, time_ms=NOW, nonce="ab" * 16)["nonce"] == "ab" * 16


def test_a_signing_entry_fits_a_bundle() -> None:
    assert len(entries.encode(rotation())) < 16_384


def test_nothing_without_a_domain_is_signed_raw() -> None:
    with pytest.raises(IntegrityError):
        signer().sign_raw(grown(300).checkpoint(256).encode().encode())


def test_a_log_that_names_other_keys_than_the_tree_gives_is_not_signed(lab: TreeLab) -> None:
    other = Checkpoints(lab.tree, b"o" * 32, VAULT)
    lab.log.append([other.rotation(other.snapshot(), by=None, time_ms=NOW)])
    with pytest.raises(IntegrityError):
        lab.checkpoints.make(lab.checkpoints.snapshot(), NOW)
