"""Verifying that a log continues an older checkpoint of it: the steps of SPEC.md §11.2, in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final, Protocol

from facekeep.audit.opening import open_trusted, step
from facekeep.audit.report import Report, RuleBroken, verdicts
from facekeep.auditlog import proofs
from facekeep.auditlog.exported import ExportDirectory
from facekeep.auditlog.signed import open_note
from facekeep.errors import IntegrityError
from facekeep.formats.checkpoint import Checkpoint
from facekeep.formats.note import VerifierKey
from facekeep.formats.tlogproof import ConsistencyProof

#: The words of SPEC.md §11.2.
CONSISTENCY_STEPS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "C1": "the older checkpoint is signed by the log's keys",
        "C2": "the newer checkpoint is signed by the log's keys, and is of the same log",
        "C3": "the newer tree is not smaller, and the proof is from the older one",
        "C4": "the newer tree begins with the older one",
    }
)


class _Newer(Protocol):
    """Where the newer checkpoint and the proof come from."""

    export: ExportDirectory | None

    def checkpoint(self, keys: Sequence[VerifierKey], origin: str) -> Checkpoint: ...

    def proof(self, old: int, new: int) -> tuple[bytes, ...]: ...


class _Export:
    """An export: the proof is made of its tiles, which are believed only for what it proves."""

    def __init__(self, directory: Path) -> None:
        self.export: ExportDirectory | None = ExportDirectory(directory)
        self._files = ExportDirectory(directory)

    def checkpoint(self, keys: Sequence[VerifierKey], origin: str) -> Checkpoint:
        return open_trusted(self._files.checkpoint(), keys, self.export, origin=origin)

    def proof(self, old: int, new: int) -> tuple[bytes, ...]:
        return proofs.consistency_proof(self._files.hashes(new), old, new)


class _Proof:
    """A file with a consistency proof (§10.6)."""

    export: ExportDirectory | None = None

    def __init__(self, data: bytes) -> None:
        self._data = data

    def checkpoint(self, keys: Sequence[VerifierKey], origin: str) -> Checkpoint:
        return open_note(ConsistencyProof.parse(self._data).note, keys, origin=origin).checkpoint

    def proof(self, old: int, new: int) -> tuple[bytes, ...]:
        found = ConsistencyProof.parse(self._data)
        if found.old != old:
            raise IntegrityError(f"the proof to {new} entries is from {found.old}, the checkpoint has {old}")
        return found.hashes


def verify_consistency(old: bytes, new: Path | bytes, keys: Sequence[VerifierKey]) -> Report:
    """Verify that a log continues ``old``; ``new`` is an export's directory or a proof's bytes.

    Raises RuleBroken, whose ``report`` has every verdict; StoreError where there is no export.
    """
    source: _Newer = _Export(new) if isinstance(new, Path) else _Proof(new)
    held: list[str] = []
    newer: Checkpoint | None = None
    try:
        with step("C1"):  # [C1]
            older = open_trusted(old, keys, source.export)
        held.append("C1")
        with step("C2"):  # [C2]
            newer = source.checkpoint(keys, older.origin)
        held.append("C2")
        with step("C3"):  # [C3]
            if newer.size < older.size:
                raise IntegrityError(f"the log had {older.size} entries and now has {newer.size}")
            hashes = source.proof(older.size, newer.size)
        held.append("C3")
        with step("C4"):  # [C4]
            proofs.verify_consistency(older.size, older.root, newer.size, newer.root, hashes)
        held.append("C4")
    except RuleBroken as error:
        error.report = _report(newer, held, error)
        raise
    return _report(newer, held, counts={"entries": newer.size, "entries before": older.size})


def _report(
    newer: Checkpoint | None,
    held: Sequence[str],
    error: RuleBroken | None = None,
    counts: Mapping[str, int] | None = None,
) -> Report:
    return Report.of(newer, verdicts(CONSISTENCY_STEPS, held, error), counts)
