"""What a verified shredding proof says, as values: for people to read, and for certificates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from facekeep.audit.report import Report
from facekeep.formats.bundle import Statement, not_proved
from facekeep.formats.canonical import JsonObject
from facekeep.formats.checkpoint import Checkpoint
from facekeep.formats.note import VerifierKey

#: What is said besides where no exported log was given: keys are replaced because they may be known (§10.8).
KEYS_IN_FORCE: Final[Mapping[str, str]] = {
    "keys_in_force": "that the keys which signed it were still the log's: an exported log shows it"
}


@dataclass(frozen=True, slots=True)
class ProvenGrant:
    """One grant of the subject and its end. Times in ms; ``entry`` and ``ended_by`` are log indices."""

    slot: int
    scope: str
    model: str
    granted_ms: int
    not_before_ms: int
    expires_at_ms: int
    regions: tuple[str, ...]
    entry: int
    ended_op: str
    ended_by: int
    ended_ms: int

    def to_json(self) -> JsonObject:
        """Return it as JSON."""
        return {
            "ended_by": self.ended_by,
            "ended_ms": self.ended_ms,
            "ended_op": self.ended_op,
            "entry": self.entry,
            "expires_at_ms": self.expires_at_ms,
            "granted_ms": self.granted_ms,
            "model": self.model,
            "not_before_ms": self.not_before_ms,
            "regions": list(self.regions),
            "scope": self.scope,
            "slot": self.slot,
        }


@dataclass(frozen=True, slots=True)
class Root:
    """A root key's public traces: the epoch it began and its fingerprint (32 bytes)."""

    epoch: int
    fingerprint: bytes

    def to_json(self) -> JsonObject:
        """Return it as JSON."""
        return {"epoch": self.epoch, "fingerprint": self.fingerprint.hex()}


@dataclass(frozen=True, slots=True)
class Proven:
    """A shredding proof of which every step held, except those that were not asked for.

    ``subject`` is the person's id, only where the tag's opening was given; ``complete`` is True only where an
    exported log showed that the subject had no other grant.
    """

    vault: bytes
    tag: bytes
    checkpoint: Checkpoint
    signed_at_s: int | None  # POSIX seconds: the log's own statement
    op: str
    erasure: int
    completion: int
    requested_ms: int
    completed_ms: int
    before: Root
    after: Root
    receipts: tuple[JsonObject, ...]
    grants: tuple[ProvenGrant, ...]
    statement: Statement
    made_ms: int
    report: Report = field(repr=False)
    subject: str | None = None
    complete: bool = False
    restarted: bool = False  # the log begins with a restart: its predecessor is lost
    keys: tuple[VerifierKey, ...] = ()  # of the log, that verified
    scopes: tuple[str, ...] = ()  # of a withdrawal; none: every grant of the tag was erased

    def to_json(self) -> JsonObject:
        """Return it as JSON."""
        return {
            "after": self.after.to_json(),
            "before": self.before.to_json(),
            "checkpoint": {
                "origin": self.checkpoint.origin,
                "root": self.checkpoint.root.hex(),
                "signed_at_s": self.signed_at_s,
                "size": self.checkpoint.size,
            },
            "complete": self.complete,
            "completed_ms": self.completed_ms,
            "completion": self.completion,
            "erasure": self.erasure,
            "fingerprints": [key.fingerprint() for key in self.keys],
            "grants": [grant.to_json() for grant in self.grants],
            "made_ms": self.made_ms,
            "not_proved": self.not_proved(),
            "op": self.op,
            "receipts": list(self.receipts),
            "requested_ms": self.requested_ms,
            "scopes": list(self.scopes),
            "statement": self.statement.to_json(),
            "steps": self.report.to_json()["steps"],
            "subject": self.subject,
            "tag": self.tag.hex(),
            "vault": self.vault.hex(),
        }

    def not_proved(self) -> JsonObject:
        """Return what stays unproved after these steps."""
        shown = {"all_grants"} if self.complete else set()
        if self.subject is not None:
            shown.add("whose_tag")
        words = not_proved(restarted=self.restarted, scopes=self.scopes)
        told = words if self.complete else {**words, **KEYS_IN_FORCE}
        return {word: text for word, text in told.items() if word not in shown}
