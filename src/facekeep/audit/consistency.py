"""Verifying that a log continues an older checkpoint of it: the steps of SPEC §11.2, in order."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Final, Protocol

from facekeep.audit.opening import check_in_force, is_restart, keyring_of, open_trusted
from facekeep.audit.report import Report
from facekeep.audit.steps import Steps
from facekeep.auditlog import proofs
from facekeep.auditlog.exported import ExportDirectory, ExportedTree
from facekeep.auditlog.signed import open_note
from facekeep.errors import FacekeepError, IntegrityError
from facekeep.formats.checkpoint import Checkpoint
from facekeep.formats.note import VerifierKey
from facekeep.formats.tlogproof import ConsistencyProof

#: The words of SPEC §11.2.
CONSISTENCY_STEPS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "C1": "the older checkpoint is signed by the log's keys",
        "C2": "the newer checkpoint is signed by the log's keys, and is of the same log",
        "C3": "the newer tree is not smaller, and the proof is from the older one",
        "C4": "the newer tree begins with the older one",
        "C5": "both are signed by the keys that were in force",
    }
)


class _Newer(Protocol):
    """Where the newer checkpoint and the proof come from."""

    export: ExportDirectory | None
    note: bytes  # of an export: the newer checkpoint

    def checkpoint(self, keys: Sequence[VerifierKey], origin: str) -> Checkpoint: ...

    def proof(self, old: int, new: int) -> tuple[bytes, ...]: ...


class _Export:
    """An export: the proof is made of its tiles, which are believed only for what it proves."""

    def __init__(self, directory: Path) -> None:
        self.export: ExportDirectory | None = ExportDirectory(directory)
        self._files = ExportDirectory(directory)
        self.note = self._files.checkpoint()

    def checkpoint(self, keys: Sequence[VerifierKey], origin: str) -> Checkpoint:
        return open_trusted(self.note, keys, self.export, origin=origin)

    def proof(self, old: int, new: int) -> tuple[bytes, ...]:
        return proofs.consistency_proof(self._files.hashes(new), old, new)


class _Proof:
    """A file with a consistency proof (§10.6)."""

    export: ExportDirectory | None = None
    note = b""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def checkpoint(self, keys: Sequence[VerifierKey], origin: str) -> Checkpoint:
        return open_note(ConsistencyProof.parse(self._data).note, keys, origin=origin).checkpoint

    def proof(self, old: int, new: int) -> tuple[bytes, ...]:
        found = ConsistencyProof.parse(self._data)
        if found.old != old:
            raise IntegrityError(f"the proof to {new} entries is from {found.old}, the checkpoint has {old}")
        return found.hashes


@contextlib.contextmanager
def _told(source: _Newer, newer: Checkpoint) -> Iterator[None]:
    """Say of a log that does not go on whether it says itself that it was begun anew."""
    try:
        yield
    except IntegrityError as error:
        if not is_restart(_first(source, newer)):
            raise
        raise IntegrityError(
            f"{error}; it was begun anew (its first entry is a restart), and continues no log of before that",
            next="ask the operator what became of the lost log; if you saw it after that, this is a fork",
        ) from error


def _first(source: _Newer, newer: Checkpoint) -> bytes:
    """Entry 0 of an export, if it can be read; what it says is not authenticated."""
    with contextlib.suppress(FacekeepError):
        if source.export is not None:
            return next(source.export.entries(0, newer.size), b"")
    return b""


def verify_consistency(old: bytes, new: Path | bytes, keys: Sequence[VerifierKey]) -> Report:
    """Verify that a log continues ``old``; ``new`` is an export's directory or a proof's bytes.

    Raises RuleBroken, whose ``report`` has every verdict; StoreError where there is no export.
    """
    source: _Newer = _Export(new) if isinstance(new, Path) else _Proof(new)
    steps = Steps(CONSISTENCY_STEPS)
    with steps.step("C1"):  # [C1]
        older = open_trusted(old, keys, source.export, earlier=True)
    with steps.step("C2"):  # [C2]
        steps.checkpoint = newer = source.checkpoint(keys, older.origin)
    with steps.step("C3"), _told(source, newer):  # [C3]
        if newer.size < older.size:
            raise IntegrityError(f"the log had {older.size} entries and now has {newer.size}")
        hashes = source.proof(older.size, newer.size)
    with steps.step("C4"), _told(source, newer):  # [C4]
        proofs.verify_consistency(older.size, older.root, newer.size, newer.root, hashes)
    if source.export is None:
        steps.skip("C5", "no export was given")
    else:
        with steps.step("C5"):  # [C5]
            tree = ExportedTree(source.export, newer)
            check_in_force(keyring_of(newer.origin, keys, tree.entries()), source.note, old)
    return replace(steps.report(), counts={"entries": newer.size, "entries before": older.size})
