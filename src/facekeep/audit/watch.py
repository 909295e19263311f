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
from facekeep.audit.opening import check_in_force, is_restart, keyring_of, open_trusted
from facekeep.audit.report import Report
from facekeep.audit.steps import OnStep, Steps
from facekeep.auditlog import proofs
from facekeep.auditlog.exported import ExportDirectory, ExportedTree
from facekeep.auditlog.merkle import leaf_hash
from facekeep.auditlog.restarting import named
from facekeep.auditlog.signed import Cosigner
from facekeep.errors import Busy, IntegrityError, StoreError, UsageError
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


_LEAVE_OUT: Final = "leave out --restarted: with it every further restart would be accepted unseen"


@dataclass(frozen=True, slots=True)
class Seen:
    """A look at the log: the checkpoint, how many entries were seen before (None: a first look)."""

    checkpoint: Checkpoint
    before: int | None
    report: Report
    cosignature: Signature | None


@dataclass(slots=True)
class Watcher:
    """What one look needs: keys, where the last checkpoint is kept, and whether a restart may be accepted.

    ``kept`` is where the last checkpoint goes because a restart was accepted.
    """

    keys: Sequence[VerifierKey]
    state: Path
    restarted: bool
    steps: Steps
    kept: Path | None = None


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

    ``restarted``: go on with a log that was begun anew, once for each restart; what was seen before it is
    kept beside ``state``. Raises UsageError for one that continues what was seen; RuleBroken naming the step,
    StoreError, Busy. Then ``state`` is as it was.
    """
    with _locked(state):
        export = ExportDirectory(directory)
        data = export.checkpoint()
        watcher = Watcher(keys, state, restarted, Steps(WATCH_STEPS, on_step))
        newer, older = _look(watcher, export, data)
        if watcher.kept is not None:
            _keep(watcher.kept, b"" if older is None else read_file(state, MAX_BYTES))
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
        watcher.kept = _begun_anew(watcher, tree, older)
    else:
        _continues(watcher, tree, older)
    with steps.step("W6"):  # SPEC §12.5 step 6
        if older is None:
            watcher.kept = _restart(watcher, tree)  # is known from now on
        keyring = keyring_of(newer.origin, keys, tree.entries())
        check_in_force(keyring, data, None if watcher.kept is not None else seen)
    return newer, older


def _continues(watcher: Watcher, tree: ExportedTree, older: Checkpoint) -> None:
    newer, steps = tree.checkpoint, watcher.steps
    with steps.step("W4"), _unless_begun_anew(watcher, tree):  # SPEC §12.5 step 4
        if newer.size < older.size:
            raise IntegrityError(f"it had {older.size} entries and now has {newer.size}")
    with steps.step("W5"), _unless_begun_anew(watcher, tree):  # SPEC §12.5 step 5
        _check_continued(tree, older)


def _check_continued(tree: ExportedTree, older: Checkpoint) -> None:
    newer = tree.checkpoint
    path = proofs.consistency_proof(tree.directory.hashes(newer.size), older.size, newer.size)
    proofs.verify_consistency(older.size, older.root, newer.size, newer.root, path)


def _is_continued(tree: ExportedTree, older: Checkpoint) -> bool:
    if tree.checkpoint.size < older.size:
        return False
    try:
        _check_continued(tree, older)
    except IntegrityError:
        return False
    return True


def _begun_anew(watcher: Watcher, tree: ExportedTree, older: Checkpoint) -> Path:
    """Hold a restart to what was seen of the lost log: the trees it names are not others of these sizes.

    Return where that is kept.
    """
    if _is_continued(tree, older):
        raise UsageError("the log continues what was seen last: none was begun anew", next=_LEAVE_OUT)
    watcher.steps.skip("W4", "the log was begun anew")
    with watcher.steps.step("W5") as said:  # SPEC §12.5 step 5
        first, kept = parse(next(tree.entries())), _restart(watcher, tree)
        if kept is None:
            raise IntegrityError("the log was not begun anew: its first entry is no restart")
        if _is_known(watcher, kept):
            raise IntegrityError(f"it does not continue what was seen since its restart ({kept.name})")
        lost = [named(first, "pin")] + ([named(first, "seen")] if first["seen"] is not None else [])
        if any(size == older.size and root != older.root for size, root in lost):
            raise IntegrityError(f"the restart names another log of {older.size} entries than was seen")
        size = max(size for size, _ in lost)
        said.append(f"begun anew; the lost log had {size} entries at least, {older.size} were seen")
        return kept


def _restart(watcher: Watcher, tree: ExportedTree) -> Path | None:
    """Return where is kept what was seen before the log's restart; None where it begins with none."""
    first = next(tree.entries(), b"")
    name = f"{watcher.state.name}.until-{leaf_hash(first)[:8].hex()}"
    return watcher.state.with_name(name) if is_restart(first) else None


def _is_known(watcher: Watcher, kept: Path) -> bool:
    """Whether what was seen last is of the log that the restart began: something else was seen before it."""
    return kept.exists() and read_file(kept, MAX_BYTES) != read_file(watcher.state, MAX_BYTES)


@contextlib.contextmanager
def _unless_begun_anew(watcher: Watcher, tree: ExportedTree) -> Iterator[None]:
    """Say of a log that is not continued whether it says itself that it was begun anew, since."""
    try:
        yield
    except IntegrityError as error:
        kept = _restart(watcher, tree)
        if kept is None or _is_known(watcher, kept):
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
