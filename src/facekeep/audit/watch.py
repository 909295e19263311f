"""Watching an export: the last checkpoint is kept, so that a rewritten log is caught (SPEC §12.5).

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
from facekeep.audit.opening import check_in_force, keyring_of, open_trusted
from facekeep.audit.report import Report
from facekeep.audit.steps import OnStep, Steps
from facekeep.auditlog import proofs
from facekeep.auditlog.exported import ExportDirectory, ExportedTree
from facekeep.auditlog.restarting import named
from facekeep.auditlog.signed import Cosigner
from facekeep.errors import Busy, IntegrityError, StoreError
from facekeep.files import PUBLIC, open_lock, replace, unlock
from facekeep.formats.checkpoint import Checkpoint
from facekeep.formats.entries import parse
from facekeep.formats.note import MAX_BYTES, Signature, VerifierKey

#: The steps of SPEC §12.5, in its words.
WATCH_STEPS: Final = MappingProxyType(
    {
        "W1": "the checkpoint seen last is signed by the log's keys",
        "W2": "the export's checkpoint is signed by the log's keys, and is of the same log",
        "W3": "the export's tiles lead to its root",
        "W4": "the log is not smaller than it was",
        "W5": "the log begins with what was seen last",
        "W6": "both are signed by the keys that were in force",
    }
)


@dataclass(frozen=True, slots=True)
class Seen:
    """A look at the log: the checkpoint, how many entries were seen before (None: a first look)."""

    checkpoint: Checkpoint
    before: int | None
    report: Report
    cosignature: Signature | None


@dataclass(frozen=True, slots=True)
class Watcher:
    """What one look needs: keys, where the last checkpoint is kept, and whether a restart was accepted."""

    keys: Sequence[VerifierKey]
    state: Path
    restarted: bool
    steps: Steps


def watch(
    directory: Path,
    keys: Sequence[VerifierKey],
    state: Path,
    *,
    time_ms: int,
    witness: Cosigner | None = None,
    restarted: bool = False,
    on_step: OnStep | None = None,
) -> Seen:
    """Compare an export with the checkpoint in ``state``, keep the new one, cosign it.

    ``restarted``: go on with a log that was begun anew; what was seen before is kept beside ``state``.
    Raises RuleBroken naming the step, and then ``state`` is as it was; StoreError, Busy.
    """
    with _locked(state):
        export = ExportDirectory(directory)
        data = export.checkpoint()
        watcher = Watcher(keys, state, restarted, Steps(WATCH_STEPS, on_step))
        newer, older = _look(watcher, export, data)
        if restarted and older is not None:
            _keep(state.with_name(f"{state.name}.until-{older.size}"), read_file(state, MAX_BYTES))
        _keep(state, data)
        signature = None if witness is None else witness.sign(newer, time_ms)
        return Seen(newer, None if older is None else older.size, watcher.steps.report(), signature)


def _look(watcher: Watcher, export: ExportDirectory, data: bytes) -> tuple[Checkpoint, Checkpoint | None]:
    keys, state, steps = watcher.keys, watcher.state, watcher.steps
    seen, older = None, None
    if state.exists() or state.is_symlink():
        with steps.step("W1") as said:  # SPEC §12.5 step 1
            seen = read_file(state, MAX_BYTES)
            older = open_trusted(seen, keys, export, earlier=True)
            said.append(f"{older.size} entries")
    else:
        steps.skip("W1", "nothing was seen before")
    with steps.step("W2") as said:  # SPEC §12.5 step 2
        newer = open_trusted(data, keys, export, origin=None if older is None else older.origin)
        steps.checkpoint = newer
        said.append(f"{newer.size} entries")
    with steps.step("W3"):  # SPEC §12.5 step 3
        tree = ExportedTree(export, newer)
    if older is None:
        steps.skip("W4", "nothing was seen before")
        steps.skip("W5", "nothing was seen before")
    elif watcher.restarted:
        _begun_anew(steps, tree, older)
    else:
        _continues(steps, tree, older)
    with steps.step("W6"):  # SPEC §12.5 step 6
        keyring = keyring_of(newer.origin, keys, tree.entries())
        check_in_force(keyring, data, None if watcher.restarted else seen)
    return newer, older


def _continues(steps: Steps, tree: ExportedTree, older: Checkpoint) -> None:
    newer = tree.checkpoint
    with steps.step("W4"), _unless_begun_anew(tree):  # SPEC §12.5 step 4
        if newer.size < older.size:
            raise IntegrityError(f"it had {older.size} entries and now has {newer.size}")
    with steps.step("W5"), _unless_begun_anew(tree):  # SPEC §12.5 step 5
        path = proofs.consistency_proof(tree.directory.hashes(newer.size), older.size, newer.size)
        proofs.verify_consistency(older.size, older.root, newer.size, newer.root, path)


def _begun_anew(steps: Steps, tree: ExportedTree, older: Checkpoint) -> None:
    """Hold a restart to what was seen of the lost log: the trees it names are not others of these sizes."""
    steps.skip("W4", "the log was begun anew")
    with steps.step("W5") as said:  # SPEC §12.5 step 5
        first = parse(next(tree.entries()))
        if first["type"] != "restart":
            raise IntegrityError("the log was not begun anew: its first entry is no restart")
        lost = [named(first, "pin")] + ([named(first, "seen")] if first["seen"] is not None else [])
        if any(size == older.size and root != older.root for size, root in lost):
            raise IntegrityError(f"the restart names another log of {older.size} entries than was seen")
        size = max(size for size, _ in lost)
        said.append(f"begun anew; the lost log had {size} entries at least, {older.size} were seen")


@contextlib.contextmanager
def _unless_begun_anew(tree: ExportedTree) -> Iterator[None]:
    """Say of a log that is not continued whether it says itself that it was begun anew."""
    try:
        yield
    except IntegrityError as error:
        if b'"type":"restart"' not in next(tree.entries(), b""):
            raise
        raise IntegrityError(
            "the log was begun anew (its first entry is a restart), and does not continue what was seen",
            next="keep this state, ask the operator what became of the lost log; then go on with --restarted",
        ) from error


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
