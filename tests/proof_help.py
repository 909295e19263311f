"""Shredding proofs over logs and keys of our own: what a dishonest operator can make."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from auditlog_help import BY, FINGERPRINT, NOW, VAULT, genesis
from facekeep.audit.bundle import DOMAIN, verify
from facekeep.audit.proven import Proven
from facekeep.audit.report import RuleBroken
from facekeep.audit.steps import OnStep
from facekeep.auditlog import proofs
from facekeep.crypto.primitives import domain, sha256
from facekeep.formats import entries
from facekeep.formats.bundle import Held, ShreddingProof, Statement
from facekeep.formats.canonical import JsonObject
from facekeep.formats.ids import slot_id
from facekeep.formats.note import Note
from facekeep.formats.opening import Opening
from facekeep.formats.terms import Scope, Terms
from tree_help import Grown, signer

Log: TypeAlias = list[JsonObject]
SALT = b"s" * 32
TAG = sha256(domain("subject-tag"), VAULT, SALT, b"ada")
OTHER = b"o" * 32
OPENING = Opening(TAG, SALT, "ada")
VERIFY_SLOT, IDENTIFY_SLOT, OTHER_SLOT = slot_id(1, 0), slot_id(2, 0), slot_id(1, 1)
KEYS = signer().keys
ERASURE, COMPLETION = 3, 4
RECEIPT: JsonObject = {"class": "erasing", "scheme": "file", "action": "destroyed", "limits": ["copied_file"]}


def item(slot: int, tag: bytes = TAG, terms: bytes | None = None) -> JsonObject:
    scope = Scope.VERIFY if slot >> 21 == 1 else Scope.IDENTIFY
    packed = Terms(scope, NOW, NOW + 1000, ("DE",), 1, 16, bytes(32)).pack()
    return entries.grant_item(
        slot=slot, grant=b"g" * 16, tag=tag, commitment=b"c" * 32, terms=terms or packed, model="dlib/1"
    )


def grant(*items: JsonObject) -> JsonObject:
    return entries.grant_entries("enroll", items, by=BY, time_ms=NOW)[0]


def granted(of: int) -> JsonObject:
    return entries.granted(of, by=BY, time_ms=NOW)


def destroy(*slots: int, op: str = "shred", tags: Iterable[bytes] = (TAG,)) -> JsonObject:
    return entries.destroy_entries(op, slots, tags=tags, by=BY, time_ms=NOW + 1)[0]


def destroyed(
    of: int,
    epoch: int = 2,
    previous: bytes = FINGERPRINT,
    fingerprint: bytes = b"g" * 32,
    receipts: Sequence[JsonObject] = (RECEIPT,),
) -> JsonObject:
    return entries.destroyed(
        of,
        epoch=epoch,
        fingerprint=fingerprint,
        previous=previous,
        receipts=receipts,
        by=BY,
        time_ms=NOW + 2,
    )


def story() -> Log:
    """Ada is enrolled beside somebody else, and erased."""
    return [
        genesis(),
        grant(item(VERIFY_SLOT), item(OTHER_SLOT, OTHER), item(IDENTIFY_SLOT)),
        granted(1),
        destroy(VERIFY_SLOT, IDENTIFY_SLOT),
        destroyed(ERASURE),
    ]


def forge(
    log: Log,
    keep: Iterable[int] = (0, 1, 3, 4),
    *,
    erasure: int = ERASURE,
    tag: bytes = TAG,
    vault: bytes = VAULT,
    size: int | None = None,
    statement: Statement | None = None,
    scopes: tuple[str, ...] = (),
    both: bool = True,
) -> bytes:
    """Bundle of those entries of a log, signed by its keys; the checkpoint by both, or by the Ed25519 key."""
    grown = Grown(entries.encode(entry) for entry in log)
    of = len(log) if size is None else size
    held = tuple(
        Held(index, log[index], proofs.inclusion_proof(grown.at(of), index, of) if index < of else ())
        for index in keep
    )
    note = Note.parse(grown.signed(of))
    note = note if both else Note(note.text, note.signatures[:1])
    bundle = ShreddingProof(vault, tag, erasure, NOW, note, held, statement or Statement("0.1.0"), scopes)
    return bundle.signed(signer().sign_raw(DOMAIN + bundle.unsigned())).encode()


def step_of(call: Callable[..., object], *arguments: object, **named: object) -> str:
    """Which step a call breaks; ``none`` where all hold."""
    try:
        call(*arguments, **named)
    except RuleBroken as error:
        return error.rule
    return "none"


def broken(data: bytes, opening: Opening | None = None) -> str:
    """Which step a bundle breaks."""
    return step_of(verify, data, KEYS, opening=opening)


def proven(data: bytes, opening: Opening | None = None, on_step: OnStep | None = None) -> Proven:
    return verify(data, KEYS, opening=opening, on_step=on_step)
