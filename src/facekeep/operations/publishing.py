"""Publishing checkpoints: a file where others see it, then an entry that says so (SPEC §9.2)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from facekeep import files
from facekeep.access.core import Core
from facekeep.access.roles import Action
from facekeep.access.session import Session
from facekeep.crypto.primitives import sha256
from facekeep.errors import UsageError
from facekeep.formats import entries
from facekeep.operations import auditing
from facekeep.operations.steps import reached
from facekeep.operations.writing import writing
from facekeep.store.sqlite import translated


def publish(
    core: Core, session: Session, directory: Path, progress: Callable[[int, int], None] | None = None
) -> str:
    """Write a checkpoint where others see it, then say so in the log; returns the file's name.

    A file that was written and not logged is one more checkpoint of this log: the next run writes another.
    """
    with auditing.signing(core) as checkpoints:
        snapshot = checkpoints.snapshot(progress)
        note = checkpoints.make(snapshot, core.clock.now_ms())
    if not directory.is_dir():
        raise UsageError(
            "the directory for checkpoints cannot be reached",
            next="make it, or mount its disk, then try again",
        )
    name = f"{snapshot.size:012d}.checkpoint"
    for each in (name, "latest.checkpoint"):
        with translated(each):
            files.replace(directory / each, note, files.PUBLIC)
    reached("checkpoint.written")
    with writing(core, session, Action.MAINTAIN):
        if checkpoint_is_due(core):
            now = core.clock.now_ms()
            core.log.append(
                [entries.checkpoint(sha256=sha256(note), size=snapshot.size, by=session.by, time_ms=now)]
            )
    reached("checkpoint.logged")
    return name


def checkpoint_is_due(core: Core) -> bool:
    """Whether one is due that goes to a directory named on the command line, too."""
    last = core.ledger.history().newest("checkpoint")
    period = core.settings.schedule.ms("checkpoint_hours")
    return bool(period) and (last is None or core.clock.now_ms() >= int(str(last["time_ms"])) + period)
