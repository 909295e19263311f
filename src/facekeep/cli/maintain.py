"""``facekeep maintain``: what is due, in one command that may run as often as one likes."""

from __future__ import annotations

import click

from facekeep.cli import output
from facekeep.cli.opened import open_vault
from facekeep.cli.options import State, common, with_state
from facekeep.cli.progress import Progress
from facekeep.operations.maintain import MaintenanceStep

_WORDS = {"not_due": "not due", "off": "not set up"}


@click.command("maintain", short_help="Do what is due; for cron or a timer.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--yes", is_flag=True, help="Expire what waits for a person. Not for a timer.")
@click.option("--checkpoints", metavar="DIR", help="Where a checkpoint goes, if not where the settings say.")
@common
@with_state
def command(state: State, dry_run: bool, yes: bool, checkpoints: str | None) -> int:
    """Do what is due; for cron or a timer.

    Pending operations are finished, grants past their grace destroyed, root, tree and signing keys rotated, a
    checkpoint is published. A step that fails stops no other. What is not due stays as it is.
    """
    with open_vault(state) as vault, Progress("maintaining") as progress:
        done = vault.maintain(
            confirmed=yes, checkpoints=checkpoints, dry_run=dry_run, progress=progress.named
        )
    if state.json:
        output.json_line(done.to_json())
        return done.exit_code
    for step in done.steps:
        said = "" if step.state == "failed" else step.message
        output.line(f"{step.name:<12}{_WORDS.get(step.state, step.state):<12}{said}".rstrip())
    for step in done.steps:
        if step.state in {"failed", "waiting"}:
            _tell(step)
    return done.exit_code


def _tell(step: MaintenanceStep) -> None:
    code = "waiting" if step.error is None else step.error.code
    output.say(f"{step.name}: {step.message} ({code})")
    output.hint(f"next: {step.next}")
