"""Verifying a shredding proof with a public key, offline (SPEC §12.3).

``verify`` raises and never returns a bool; what it returns may be believed as far as ``not_proved`` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Final, cast

from facekeep.audit.facts import Entry, Facts
from facekeep.audit.opening import check_in_force, follow, is_restart, keyring_of
from facekeep.audit.proven import Proven
from facekeep.audit.steps import OnStep, Steps
from facekeep.auditlog.exported import ExportedTree, Progress
from facekeep.auditlog.merkle import leaf_hash
from facekeep.auditlog.proofs import consistency_proof, verify_consistency, verify_inclusion
from facekeep.auditlog.rotation import Keyring
from facekeep.auditlog.signed import LOG_TYPES, Opened, open_note, verify_raw
from facekeep.crypto.primitives import domain, sha256
from facekeep.errors import IntegrityError, UsageError
from facekeep.formats import entries
from facekeep.formats.bundle import ShreddingProof
from facekeep.formats.checkpoint import Checkpoint, origin_of
from facekeep.formats.ids import check_subject_id
from facekeep.formats.note import VerifierKey
from facekeep.formats.opening import Opening

DOMAIN: Final = domain("shredding-proof")

#: The steps of SPEC §12.3, in its words.
PROOF_STEPS: Final = MappingProxyType(
    {
        "P1": "the bundle has the form of a shredding proof",
        "P2": "the checkpoint is signed by the keys of this vault's log",
        "P3": "every entry is in the tree of that checkpoint",
        "P4": "the log is this vault's from its first entry on",
        "P5": "the erasure is in the log and concerns this subject",
        "P6": "the erasure was completed, with receipts",
        "P7": "the root key was replaced: the one before is known, the one after is another",
        "P8": "the grants are the subject's, no slot twice, none after the erasure",
        "P9": "every slot of every grant was destroyed, and each destruction completed",
        "P10": "no entry stands in the bundle without a purpose",
        "P11": "the operator's statement is signed by the log's keys",
        "P12": "the opening leads to the subject tag",
        "P13": "the exported log continues this one and holds no other grant of the subject tag",
    }
)


def verify(
    data: bytes,
    keys: Sequence[VerifierKey],
    *,
    opening: Opening | None = None,
    log: ExportedTree | None = None,
    on_step: OnStep | None = None,
    progress: Progress | None = None,
) -> Proven:
    """Do the steps of SPEC §12.3; raises RuleBroken naming the step, UsageError for useless keys.

    ``log`` is an export under an opened checkpoint, for P13; ``opening`` is the person's, for P12.
    """
    steps = Steps(PROOF_STEPS, on_step)
    with steps.step("P1"):  # SPEC §12.3 step 1
        bundle = ShreddingProof.parse(data)
    with steps.step("P2") as said:  # SPEC §12.3 step 2
        opened = _open(bundle, keys, log)
        steps.checkpoint = opened.checkpoint
        said.append(f"{opened.checkpoint.size} entries")
    with steps.step("P3") as said:  # SPEC §12.3 step 3
        _included(bundle, opened.checkpoint)
        said.append(f"{len(bundle.entries)} entries")
    facts = Facts(bundle)
    with steps.step("P4"):  # SPEC §12.3 step 4
        facts.genesis()
    with steps.step("P5") as said:  # SPEC §12.3 step 5
        facts.erasure()
        said.append(f"{facts.op}, log entry {bundle.erasure}")
    with steps.step("P6") as said:  # SPEC §12.3 step 6
        facts.completion()
        said.append(f"log entry {facts.completed}")
    with steps.step("P7") as said:  # SPEC §12.3 step 7
        facts.roots()
        said.append(f"epoch {facts.before.epoch} to {facts.after.epoch}")
    with steps.step("P8") as said:  # SPEC §12.3 step 8
        facts.grants()
        said.append(f"{len(facts.granted)} grants")
    with steps.step("P9"):  # SPEC §12.3 step 9
        facts.destructions()
    with steps.step("P10"):  # SPEC §12.3 step 10
        facts.nothing_else()
    with steps.step("P11"):  # SPEC §12.3 step 11
        _signed(bundle, opened)
    subject = None
    if opening is None:
        steps.skip("P12", "no opening was given")
    else:
        with steps.step("P12"):  # SPEC §12.3 step 12
            subject = _opened(bundle, opening)
    if log is None:
        steps.skip("P13", "no exported log was given")
    else:
        with steps.step("P13") as said:  # SPEC §12.3 step 13
            _complete(facts, keys, log, progress)
            said.append(f"{log.checkpoint.size} entries")
    signed = [each for each in opened.signatures if each.key.name == opened.checkpoint.origin]
    proven = facts.proven(opened.checkpoint, steps)
    return replace(
        proven,
        subject=subject,
        complete=log is not None,
        signed_at_s=next((each.timestamp for each in signed if each.timestamp is not None), None),
        keys=tuple(each.key for each in signed),
    )


def _open(bundle: ShreddingProof, keys: Sequence[VerifierKey], log: ExportedTree | None) -> Opened:
    """Open the checkpoint; with an export also under the keys that its entries name for that size."""
    origin = origin_of(bundle.vault)
    try:
        return open_note(bundle.checkpoint, keys, origin=origin)
    except IntegrityError:
        if log is None or log.checkpoint.origin != origin:
            raise
        size = Checkpoint.parse(bundle.checkpoint.text).size
        named = keyring_of(origin, keys, log.entries()).named_at(size)
        if not named:
            raise
        return open_note(bundle.checkpoint, named, origin=origin)


def _included(bundle: ShreddingProof, checkpoint: Checkpoint) -> None:
    for held in bundle.entries:
        if held.index >= checkpoint.size:
            raise IntegrityError(
                f"log entry {held.index} is not yet in the checkpoint of {checkpoint.size} entries"
            )
        leaf = leaf_hash(entries.encode(held.entry))
        try:
            verify_inclusion(leaf, held.index, checkpoint.size, held.path, checkpoint.root)
        except IntegrityError as error:
            raise IntegrityError(f"log entry {held.index}: {error}") from error


def _signed(bundle: ShreddingProof, opened: Opened) -> None:
    """Whoever signed the checkpoint signed the bundle, with every key that was verified there."""
    message = DOMAIN + bundle.unsigned()
    for each in opened.signatures:
        if each.key.name == opened.checkpoint.origin and each.key.type in LOG_TYPES:
            verify_raw([each.key], [bundle.signatures[LOG_TYPES.index(each.key.type)]], message)


def _opened(bundle: ShreddingProof, opening: Opening) -> str:
    try:
        subject = check_subject_id(opening.subject)
    except UsageError as error:
        raise IntegrityError(str(error)) from error
    if sha256(domain("subject-tag"), bundle.vault, opening.salt, subject) != bundle.tag:
        raise IntegrityError("the opening is that of another person, or of another enrolment")
    return opening.subject


def _complete(
    facts: Facts, keys: Sequence[VerifierKey], log: ExportedTree, progress: Progress | None
) -> None:
    """Look for the subject's tag and slots in every entry of the export, and follow its keys."""
    note = facts.bundle.checkpoint
    checkpoint, newer = Checkpoint.parse(note.text), log.checkpoint
    size = checkpoint.size
    first = next(log.entries(), b"")
    if is_restart(first) and first != entries.encode(facts.bundle.entries[0].entry):
        raise IntegrityError(
            "the exported log was begun anew (its first entry is a restart), and shows nothing of this one",
            next="ask the operator what became of the lost log; verify with an export of it, or without one",
        )
    if newer.size < size:
        raise UsageError(
            f"the exported log of {newer.size} entries is older than the proof, which needs {size}",
            next="take a newer export",
        )
    reader = log.directory.hashes(newer.size)
    path = consistency_proof(reader, size, newer.size)
    verify_consistency(size, checkpoint.root, newer.size, newer.root, path)
    keyring = Keyring(newer.origin, keys)
    for index, body in enumerate(log.entries(progress=progress)):
        follow(keyring, index, body)
        if facts.may_concern(body):
            facts.judge(index, cast("Entry", entries.parse(body)))
    check_in_force(keyring, log.directory.checkpoint(), note.encode())
