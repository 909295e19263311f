"""Checkpoints: what is signed, what opens, and whose keys count."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, cast

import pytest

from auditlog_help import BY, NOW, VAULT
from facekeep.auditlog import proofs
from facekeep.auditlog.checkpoints import Checkpoints
from facekeep.auditlog.merkle import leaf_hash
from facekeep.auditlog.rotation import Keyring, check, signing_entry
from facekeep.auditlog.signed import Cosigner, LogSigner, open_checkpoint, verify_raw
from facekeep.crypto.signing import MlDsa44Signer
from facekeep.errors import FacekeepError, FormatError, IntegrityError, UsageError
from facekeep.formats import entries
from facekeep.formats.canonical import JsonObject
from facekeep.formats.checkpoint import EMPTY_ROOT, Checkpoint, origin_of
from facekeep.formats.note import KeyType, Note, Signature, VerifierKey
from facekeep.formats.tlogproof import ConsistencyProof
from tree_help import OTHER_VAULT, SIGNING_KEY, TreeLab, altered, grown, refused, signer

TREE = grown(300)
KEYS = signer().keys
NOTE = TREE.signed(256)
COSIGNED = KeyType.COSIGNATURE_ML_DSA_44


@pytest.fixture
def lab(tmp_path: Path) -> TreeLab:
    return TreeLab(tmp_path)


def with_lines(*lines: Signature) -> bytes:
    return Note(Note.parse(NOTE).text, lines).encode()


# --- opening -------------------------------------------------------------------------------------


def test_a_checkpoint_opens_under_both_keys_or_either() -> None:
    for keys in (KEYS, KEYS[:1], KEYS[1:]):
        opened = open_checkpoint(NOTE, keys, origin=origin_of(VAULT))
        assert opened.checkpoint == TREE.checkpoint(256)
        assert {each.key for each in opened.signatures} == set(keys)
    times = [each.timestamp for each in open_checkpoint(NOTE, KEYS).signatures]
    assert times == [None, NOW // 1000]


def test_every_altered_byte_is_refused() -> None:
    for data in altered(NOTE):
        assert refused(open_checkpoint, data, KEYS)


@pytest.mark.parametrize("cut", range(1, 100, 7))
def test_a_truncated_checkpoint_is_refused(cut: int) -> None:
    assert refused(open_checkpoint, NOTE[:-cut], KEYS)


def test_another_vault_s_checkpoint_is_refused() -> None:
    other = LogSigner(SIGNING_KEY, OTHER_VAULT)
    note = other.sign(TREE.checkpoint(256, other.origin), NOW)
    assert refused(open_checkpoint, note, KEYS)
    with pytest.raises(IntegrityError, match="another log"):
        open_checkpoint(note, other.keys, origin=origin_of(VAULT))
    open_checkpoint(note, other.keys)
    with pytest.raises(IntegrityError, match="another log"):
        other.sign(TREE.checkpoint(256), NOW)


def test_another_vault_s_key_under_our_name_is_refused() -> None:
    other = LogSigner(SIGNING_KEY, OTHER_VAULT)
    names = [dataclasses.replace(key, name=origin_of(VAULT)) for key in other.keys]
    note = Note.parse(other.sign(TREE.checkpoint(256, other.origin), NOW))
    lines = [
        Signature(key.name, key.key_id, line.body) for key, line in zip(names, note.signatures, strict=True)
    ]
    assert refused(open_checkpoint, with_lines(*lines), KEYS)
    forged = [
        Signature(key.name, key.key_id, line.body) for key, line in zip(KEYS, note.signatures, strict=True)
    ]
    assert refused(open_checkpoint, with_lines(*forged), KEYS)


def test_a_signature_of_another_key_type_is_refused() -> None:
    """The right key's plain signature is no cosignature, and a cosignature no plain signature."""
    public = KEYS[0].public
    cosigner = VerifierKey(KEYS[0].name, KeyType.COSIGNATURE_ED25519, public)
    line = Note.parse(NOTE).signatures[0]
    as_cosignature = Signature(cosigner.name, cosigner.key_id, bytes(8) + line.body)
    assert refused(open_checkpoint, with_lines(as_cosignature), [*KEYS[:1], cosigner])
    short = Signature(cosigner.name, cosigner.key_id, line.body)
    assert refused(open_checkpoint, with_lines(line, short), [*KEYS[:1], cosigner])
    open_checkpoint(with_lines(line, short), KEYS[:1])  # an unknown line is ignored
    long = Signature(KEYS[0].name, KEYS[0].key_id, bytes(8) + line.body)
    assert refused(open_checkpoint, with_lines(long), KEYS[:1])


def test_a_stripped_ml_dsa_signature_is_refused_by_who_has_that_key() -> None:
    lines = Note.parse(NOTE).signatures
    for line in lines:
        with pytest.raises(IntegrityError, match="type 0x0"):
            open_checkpoint(with_lines(line), KEYS)
    open_checkpoint(with_lines(lines[0]), KEYS[:1])


def test_a_known_key_s_bad_signature_spoils_the_note_wherever_it_stands() -> None:
    good = Note.parse(NOTE).signatures
    bad = Signature(KEYS[0].name, KEYS[0].key_id, bytes(64))
    for lines in ((bad, *good), (*good, bad), (good[0], bad, good[1])):
        assert refused(open_checkpoint, with_lines(*lines), KEYS)


def test_unknown_lines_are_ignored_even_when_they_share_name_or_id() -> None:
    good = Note.parse(NOTE).signatures
    stranger = Signature("stranger", KEYS[0].key_id, bytes(64))
    namesake = Signature(KEYS[0].name, b"nope", bytes(64))
    opened = open_checkpoint(with_lines(stranger, namesake, *good), KEYS)
    assert {each.key for each in opened.signatures} == set(KEYS)


def test_without_a_key_of_the_log_nothing_opens() -> None:
    witness = Cosigner("witness.example", b"w" * 32)
    for keys in ((), (witness.key,), LogSigner(SIGNING_KEY, OTHER_VAULT).keys):
        with pytest.raises(IntegrityError, match="no key is known"):
            open_checkpoint(NOTE, keys)


def test_two_keys_that_look_alike_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VerifierKey, "key_id", property(lambda _: b"same"))
    with pytest.raises(UsageError):
        open_checkpoint(NOTE, KEYS)


def test_a_key_of_small_order_opens_nothing() -> None:
    weak = VerifierKey(KEYS[0].name, KeyType.ED25519, (1).to_bytes(32, "little"))
    line = Signature(weak.name, weak.key_id, (1).to_bytes(32, "little") + bytes(32))
    assert refused(open_checkpoint, with_lines(line), [weak])


def test_a_signed_text_that_is_no_checkpoint_is_refused() -> None:
    checkpoint = TREE.checkpoint(256)
    for text in (checkpoint.encode() + "more\n", checkpoint.encode().replace("256", "0256"), "hello\n"):
        own = signer()._ed25519
        note = Note(text, (Signature(KEYS[0].name, KEYS[0].key_id, own.sign(text.encode())),)).encode()
        with pytest.raises(FormatError):
            open_checkpoint(note, KEYS[:1])


# --- witnesses -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [KeyType.COSIGNATURE_ED25519, COSIGNED])
def test_a_witness_s_cosignature_is_verified_and_told_apart(kind: KeyType) -> None:
    witness = Cosigner("witness.example/w1", b"w" * 32, kind)
    line = witness.sign(TREE.checkpoint(256), NOW)
    note = with_lines(*Note.parse(NOTE).signatures, line)
    assert open_checkpoint(note, KEYS).cosigners == ()
    (found,) = open_checkpoint(note, [*KEYS, witness.key]).cosigners
    assert (found.key, found.timestamp) == (witness.key, NOW // 1000)
    for body in altered(line.body, 61):
        wrong = with_lines(*Note.parse(NOTE).signatures, dataclasses.replace(line, body=body))
        assert refused(open_checkpoint, wrong, [*KEYS, witness.key])


def test_a_cosignature_of_another_checkpoint_is_refused() -> None:
    witness = Cosigner("witness.example/w1", b"w" * 32)
    line = witness.sign(TREE.checkpoint(255), NOW)
    note = with_lines(*Note.parse(NOTE).signatures, line)
    assert refused(open_checkpoint, note, [*KEYS, witness.key])


def test_a_witness_alone_does_not_speak_for_the_log() -> None:
    witness = Cosigner("witness.example/w1", b"w" * 32)
    assert refused(open_checkpoint, with_lines(witness.sign(TREE.checkpoint(256), NOW)), [*KEYS, witness.key])


def test_a_plain_key_cannot_cosign() -> None:
    with pytest.raises(UsageError):
        Cosigner("w", b"w" * 32, KeyType.ED25519)


# --- making --------------------------------------------------------------------------------------


def test_a_checkpoint_says_what_the_head_says(lab: TreeLab) -> None:
    lab.fill(300)
    snapshot = lab.checkpoints.snapshot()
    note = lab.checkpoints.make(snapshot, NOW)
    opened = open_checkpoint(note, lab.checkpoints.keys(snapshot), origin=origin_of(VAULT))
    assert opened.checkpoint == Checkpoint(origin_of(VAULT), 300, lab.log.head().root())
    assert len(opened.signatures) == 2


def test_keys_follow_from_the_slot_and_the_vault(lab: TreeLab) -> None:
    snapshot = lab.checkpoints.snapshot()
    assert lab.checkpoints.keys(snapshot) == KEYS
    assert Checkpoints(lab.tree, b"o" * 32, VAULT).keys(snapshot) != KEYS
    assert [key.encode().split("+")[0] for key in KEYS] == [f"facekeep/{VAULT.hex()}"] * 2


def test_a_tree_without_entries_is_not_signed(lab: TreeLab) -> None:
    snapshot = lab.checkpoints.snapshot()
    snapshot.head = dataclasses.replace(snapshot.head, size=0, frontier=())
    with pytest.raises(IntegrityError):
        lab.checkpoints.make(snapshot, NOW)


def test_size_0_opens_and_proves_nothing() -> None:
    empty = signer().sign(Checkpoint(origin_of(VAULT), 0, EMPTY_ROOT), NOW)
    assert open_checkpoint(empty, KEYS).checkpoint.size == 0


def test_proofs_of_a_real_log_verify_for_whoever_has_the_key(lab: TreeLab) -> None:
    lab.fill(700)
    early = lab.checkpoints.make(lab.checkpoints.snapshot(), NOW)
    lab.fill(1000)
    snapshot = lab.checkpoints.snapshot()
    note = lab.checkpoints.make(snapshot, NOW)
    for index, checkpoint in ((0, note), (999, note), (699, early), (0, early)):
        opened = open_checkpoint(checkpoint, KEYS).checkpoint
        leaf = leaf_hash(entries.encode(lab.log.entry(index)))
        path = snapshot.inclusion(index, opened.size)
        proofs.verify_inclusion(leaf, index, opened.size, path, opened.root)
    made = ConsistencyProof.parse(lab.checkpoints.consistency(snapshot, 700, note).encode())
    old = open_checkpoint(early, KEYS).checkpoint
    proofs.verify_consistency(700, old.root, 1000, made.checkpoint.root, made.hashes)


def test_a_checkpoint_of_a_fork_gets_no_proof(lab: TreeLab) -> None:
    lab.fill(300)
    snapshot = lab.checkpoints.snapshot()
    fork = signer().sign(TREE.checkpoint(256), NOW)
    with pytest.raises(IntegrityError, match="fork"):
        lab.checkpoints.consistency(snapshot, 3, fork)


def test_a_checkpoint_beyond_the_log_is_a_rollback(lab: TreeLab) -> None:
    lab.fill(200)
    with pytest.raises(IntegrityError, match="256 entries, the log has 200"):
        lab.checkpoints.check_own(lab.checkpoints.snapshot(), NOTE)


# --- rotation ------------------------------------------------------------------------------------


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


def test_a_signing_entry_fits_a_bundle() -> None:
    assert len(entries.encode(rotation())) < 16_384


def test_nothing_without_a_domain_is_signed_raw() -> None:
    with pytest.raises(IntegrityError):
        signer().sign_raw(TREE.checkpoint(256).encode().encode())


def test_a_log_that_names_other_keys_than_the_tree_gives_is_not_signed(lab: TreeLab) -> None:
    other = Checkpoints(lab.tree, b"o" * 32, VAULT)
    lab.log.append([other.rotation(other.snapshot(), by=None, time_ms=NOW)])
    with pytest.raises(IntegrityError):
        lab.checkpoints.make(lab.checkpoints.snapshot(), NOW)
