"""Verifying an exported log: every step and rule of SPEC §11.1, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from facekeep.audit.opening import open_trusted, step
from facekeep.audit.replay import replay
from facekeep.audit.report import LOG_STEPS, Report, RuleBroken, verdicts
from facekeep.auditlog.exported import ExportDirectory, ExportedTree
from facekeep.auditlog.rotation import Keyring
from facekeep.auditlog.signed import open_checkpoint
from facekeep.formats.checkpoint import Checkpoint, vault_of
from facekeep.formats.note import VerifierKey

Progress = Callable[[int, int], None]


def verify_log(directory: Path, keys: Sequence[VerifierKey], *, progress: Progress | None = None) -> Report:
    """Verify an export under verifier keys of its log, all of them or some.

    Raises RuleBroken, whose ``report`` has every verdict; StoreError where there is no export. ``progress``
    is called with (entries done, entries in all).
    """
    export = ExportDirectory(directory)
    data = export.checkpoint()
    held: list[str] = []
    checkpoint: Checkpoint | None = None
    try:
        with step("L1"):  # [L1]
            checkpoint = open_trusted(data, keys, export)
            vault_of(checkpoint.origin)
        held.append("L1")
        with step("L2"):  # [L2]
            tree = ExportedTree(export, checkpoint)
        held.append("L2")
        keyring = Keyring(checkpoint.origin, keys)
        found = replay(  # [L3] to [R38]
            _authentic(tree), checkpoint=checkpoint, keyring=keyring, judged=held, progress=progress
        )
        with step("R10"):  # [R10] the keys that signed are those in force
            open_checkpoint(data, keyring.keys_at(checkpoint.size), origin=checkpoint.origin)
    except RuleBroken as error:
        if error.report is None:
            error.report = Report.of(checkpoint, verdicts(LOG_STEPS, held, error))
        raise
    return found


def _authentic(tree: ExportedTree) -> Iterator[bytes]:
    """Yield the entries; the first that does not hash to the tree is RuleBroken."""
    with step("L3"):  # [L3]
        yield from tree.entries()
