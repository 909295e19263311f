"""Checkpoints: what is signed, what opens, and whose keys count."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from auditlog_help import NOW, VAULT
from facekeep.auditlog import proofs
from facekeep.auditlog.checkpoints import Checkpoints
from facekeep.auditlog.merkle import leaf_hash
from facekeep.auditlog.signed import Cosigner, LogSigner, open_checkpoint
from facekeep.errors import FormatError, IntegrityError, UsageError
from facekeep.formats import entries
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
