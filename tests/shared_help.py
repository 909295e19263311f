"""The logs of the shared cases, told again in today's entries under keys of our own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from audit_help import NOW, write_export
from facekeep.auditlog.exported import ExportDirectory
from facekeep.auditlog.merkle import Frontier, leaf_hash
from facekeep.auditlog.signed import LogSigner
from facekeep.crypto.primitives import domain, sha256
from facekeep.formats import canonical, entries
from facekeep.formats.checkpoint import Checkpoint
from facekeep.formats.ids import BRANCH_SLOTS
from facekeep.formats.note import KeyType, Note, VerifierKey
from facekeep.formats.tiles import Bundle


class Retold(NamedTuple):
    """What a case gives a verifier."""

    export: Path
    keys: list[VerifierKey]
    older: bytes | None
    good: bool


class _Keys:
    """A key of our own for each of a case's: whoever held one there holds one here."""

    def __init__(self, vault: bytes) -> None:
        self._vault = vault
        self._of: dict[tuple[str, bytes], VerifierKey] = {}

    def ours(self, text: str) -> VerifierKey:
        return self._signer(text).keys[VerifierKey.parse(text).type is not KeyType.ED25519]

    def sign(self, text: str, message: bytes) -> str:
        signatures = self._signer(text).sign_raw(message)
        return signatures[VerifierKey.parse(text).type is not KeyType.ED25519].hex()

    def signer(self, note: Note) -> LogSigner:
        ed25519, ml_dsa_44 = (self._of[line.name, line.key_id].encode() for line in note.signatures)
        made, other = self._signer(ed25519), self._signer(ml_dsa_44)
        made._ml_dsa_44, made.keys = other._ml_dsa_44, (made.keys[0], other.keys[1])
        return made

    def _signer(self, text: str) -> LogSigner:
        theirs = VerifierKey.parse(text)
        self._of[theirs.name, theirs.key_id] = theirs
        return LogSigner(sha256(text.encode()), self._vault)


def retold(directory: Path, case: Path) -> Retold:
    """Write a case's log below ``directory`` as today's vault would have written it."""
    told = list(_entries(ExportDirectory(case / "export")))
    keys = _Keys(bytes.fromhex(told[0]["vault"]))
    given = [keys.ours(line) for line in (case / "keys.vkey").read_text().splitlines() if line]
    bodies = [entries.encode(_today(entry, keys)) for entry in told]
    write_export(directory, bodies, keys.signer(Note.parse((case / "export/checkpoint").read_bytes())))
    older = None
    if (case / "older.checkpoint").exists():
        note = Note.parse((case / "older.checkpoint").read_bytes())
        older = _checkpoint(keys.signer(note), bodies[: Checkpoint.parse(note.text).size])
    return Retold(directory, given, older, case.name.endswith("_good"))


def _entries(export: ExportDirectory) -> Iterator[dict[str, Any]]:
    size = Checkpoint.parse(Note.parse(export.checkpoint()).text).size
    for first in range(0, size, 256):
        for body in export.bundle(Bundle(first // 256, min(256, size - first))):
            yield json.loads(body)


def _today(entry: dict[str, Any], keys: _Keys) -> dict[str, Any]:
    """Return an entry without what follows from the rest of it."""
    kind = entry["type"]
    if kind in ("granted", "destroyed"):
        del entry["recovery"]
    if kind == "clock":
        del entry["accepted_ms"]
    if kind == "rotation":
        del entry["suite"]
    if kind == "decision":
        entry = {key: value for key, value in entry.items() if value is not None or key == "by"}
    if kind == "restarted":
        alloc = dict(entry.pop("alloc"))
        del entry["grants"], entry["principals"]
        entry["next"] = alloc.pop(0)
        entry["closed"] = [branch for branch, index in alloc.items() if index == BRANCH_SLOTS]
    if kind in ("restart", "signing"):
        theirs = [*entry.get("previous", ()), *entry["keys"]]
        entry |= {
            key: [keys.ours(each).encode() for each in entry[key]]
            for key in ("previous", "keys")
            if key in entry
        }
        del entry["signatures"]
        message = domain(kind) + canonical.dumps(entry)
        entry["signatures"] = [keys.sign(each, message) for each in theirs]
    return entry


def _checkpoint(signer: LogSigner, bodies: Sequence[bytes]) -> bytes:
    frontier = Frontier()
    for body in bodies:
        frontier.append(leaf_hash(body))
    return signer.sign(Checkpoint(signer.origin, frontier.size, frontier.root()), NOW)
