"""Watching an export: the last checkpoint is kept, so that a rewritten log is caught (SPEC.md §12.5).

What was seen is durable before anything is cosigned, and one state file is used by one process at a time.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from facekeep.audit.inputs import read_file
from facekeep.audit.opening import open_trusted
from facekeep.audit.report import Report
from facekeep.audit.steps import OnStep, Steps
from facekeep.auditlog import proofs
from facekeep.auditlog.exported import ExportDirectory, ExportedTree
from facekeep.auditlog.signed import Cosigner
from facekeep.errors import Busy, IntegrityError, StoreError
from facekeep.files import PUBLIC, open_lock, replace, unlock
from facekeep.formats.checkpoint import Checkpoint
from facekeep.formats.note import MAX_BYTES, Signature, VerifierKey

#: The steps of SPEC.md §12.5, in its words.
WATCH_STEPS: Final = MappingProxyType(
    {
        "W1": "the checkpoint seen last is signed by the log's keys",
        "W2": "the export's checkpoint is signed by the log's keys, and is of the same log",
        "W3": "the export's tiles lead to its root",
        "W4": "the log is not smaller than it was",
        "W5": "the log begins with what was seen last",
    }
)


@dataclass(frozen=True, slots=True)
class Seen:
    """A look at the log: the checkpoint, how many entries were seen before (None: a first look)."""

    checkpoint: Checkpoint
    before: int | None
    report: Report
    cosignature: Signature | None


def watch(
    directory: Path,
    keys: Sequence[VerifierKey],
    state: Path,
    *,
    time_ms: int,
    witness: Cosigner | None = None,
    on_step: OnStep | None = None,
) -> Seen:
    """Compare an export with the checkpoint in ``state``, keep the new one, cosign it.

    Raises RuleBroken naming the step, and then ``state`` is as it was; StoreError, Busy.
    """
    with _locked(state):
        return _watch(directory, keys, state, time_ms, witness, Steps(WATCH_STEPS, on_step))


def _watch(
    directory: Path,
    keys: Sequence[VerifierKey],
    state: Path,
    time_ms: int,
    witness: Cosigner | None,
    steps: Steps,
) -> Seen:
    export = ExportDirectory(directory)
    data = export.checkpoint()
    older = None
    if state.exists() or state.is_symlink():
        with steps.step("W1") as said:  # SPEC.md §12.5 step 1
            older = open_trusted(read_file(state, MAX_BYTES), keys, export)
            said.append(f"{older.size} entries")
    else:
        steps.skip("W1", "nothing was seen before")
    with steps.step("W2") as said:  # SPEC.md §12.5 step 2
        newer = open_trusted(data, keys, export, origin=None if older is None else older.origin)
        steps.checkpoint = newer
        said.append(f"{newer.size} entries")
    with steps.step("W3"):  # SPEC.md §12.5 step 3
        ExportedTree(export, newer)
    if older is None:
        steps.skip("W4", "nothing was seen before")
        steps.skip("W5", "nothing was seen before")
    else:
        with steps.step("W4"):  # SPEC.md §12.5 step 4
            if newer.size < older.size:
                raise IntegrityError(f"it had {older.size} entries and now has {newer.size}")
        with steps.step("W5"):  # SPEC.md §12.5 step 5
            path = proofs.consistency_proof(export.hashes(newer.size), older.size, newer.size)
            proofs.verify_consistency(older.size, older.root, newer.size, newer.root, path)
    _keep(state, data)
    signature = None if witness is None else witness.sign(newer, time_ms)
    return Seen(newer, None if older is None else older.size, steps.report(), signature)


def _keep(state: Path, data: bytes) -> None:
    try:
        replace(state, data, PUBLIC)
    except OSError as error:
        raise StoreError(f"{state.name} cannot be written: {error.strerror}") from error


@contextlib.contextmanager
def _locked(state: Path) -> Iterator[None]:
    name = state.with_name(state.name + ".lock")
    try:
        descriptor = open_lock(name)
    except OSError as error:
        raise StoreError(f"{name.name}: {error.strerror}", next="name a state file you can write") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise Busy("another watcher uses the same state file") from None
    finally:
        unlock(descriptor)
