"""``facekeep restore``: a data backup merged into the living vault."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import click

from facekeep.cli import output
from facekeep.cli.lost_log import Lost, restart_log
from facekeep.cli.opened import open_vault
from facekeep.cli.options import State, common, with_state
from facekeep.cli.problems import PARTLY_DONE
from facekeep.cli.progress import Progress
from facekeep.errors import UsageError
from facekeep.operations.transfer import RestoreReport

_SHOWN = 20  # slots named on a screen


@click.command("restore", short_help="Merge a data backup of any age.")
@click.argument("file", required=False)
@click.option("--dry-run", is_flag=True, help="Only say who would return, and who stays erased and why.")
@click.option(
    "--no-backup", is_flag=True, help="There is no backup of a lost vault.db: list what is missing."
)
@click.option(
    "--lost-log", is_flag=True, help="log.db is lost with every copy: begin a new one that says so."
)
@click.option("--checkpoint", metavar="FILE", help="With --lost-log: the newest published checkpoint.")
@click.option("--no-checkpoint", is_flag=True, help="With --lost-log: none was ever published.")
@click.option("--yes", is_flag=True, help="With --lost-log: the settings that are shown are the right ones.")
@click.option(
    "--private", metavar="FILE", type=click.Path(path_type=Path),
    help="With --lost-log: every root holder is lost too; the recovery key's private file.",
)  # fmt: skip
@click.option("--root", metavar="URI", help="With --private: the new root holder.")
@common
@with_state
def command(
    state: State,
    file: str | None,
    dry_run: bool,
    no_backup: bool,
    lost_log: bool,
    checkpoint: str | None,
    no_checkpoint: bool,
    yes: bool,
    private: Path | None,
    root: str | None,
) -> int:
    """Merge a data backup of any age.

    Grants whose keys live return; whoever was erased stays erased. The order of backups does not matter.
    Where vault.db is lost, an empty one is made first. With --lost-log a FILE stands for a lost vault.db,
    and the private recovery key for root holders that are all lost: the vault gets a new one.
    """
    if lost_log:
        if dry_run or no_backup:
            raise UsageError("--dry-run and --no-backup do not go with --lost-log")
        if (checkpoint is None) is not no_checkpoint:
            raise UsageError(
                "name the newest published checkpoint, or say that there is none",
                next="facekeep restore --lost-log --checkpoint FILE, or --no-checkpoint",
            )
        _check_there(file)
        if root is not None and private is None:
            raise UsageError("--root goes with --private: no root is replaced without a recovery key")
        return restart_log(state, Lost(file, checkpoint, private, root), yes=yes)
    if checkpoint is not None or no_checkpoint or yes or private is not None or root is not None:
        raise UsageError("--checkpoint, --no-checkpoint, --yes, --private and --root go with --lost-log")
    if (file is None) is not no_backup:
        raise UsageError("name either a backup or --no-backup", next="facekeep restore FILE")
    _check_there(file)
    with open_vault(state, lost_data=not dry_run) as vault, Progress("merging") as progress:
        report = vault.restore(file, progress=progress, dry_run=dry_run)
    if state.json:
        output.json_line(_told(report, dry_run=dry_run))
    else:
        _tell(report, dry_run=dry_run, no_backup=no_backup)
    return PARTLY_DONE if report.refused else 0


def _check_there(file: str | None) -> None:
    if file is not None and not Path(file).is_file():
        raise UsageError(f"there is no backup at {Path(file).name}")


def _told(report: RestoreReport, *, dry_run: bool) -> dict[str, object]:
    told: dict[str, object] = {
        "rows": report.rows,
        "merged": report.merged,
        "present": report.present,
        "dead": report.dead,
        "refused": report.refused,
        "missing": list(report.missing),
        "dry_run": dry_run,
    }
    if dry_run:
        told["returning"] = [each.to_json() for each in report.returning]
        told["staying"] = [each.to_json() for each in report.staying]
        told["refusals"] = [each.to_json() for each in report.refusals]
    return told


def _tell(report: RestoreReport, *, dry_run: bool, no_backup: bool) -> None:
    output.data("in the backup", report.rows)
    output.data("would return" if dry_run else "returned", report.merged)
    output.data("here already", report.present)
    output.data("erased, and stay so", report.dead)
    _reasons(each.reason for each in report.staying)
    output.data("refused", report.refused)
    _reasons(each.reason for each in report.refusals)
    output.data("still missing", len(report.missing))
    if report.refused:
        output.warn(
            f"{output.counted(report.refused, 'row')} did not match the log, or the person was enrolled anew",
            "nothing is lost in the vault; try a backup that was not altered",
        )
    if report.missing:
        slots = ", ".join(str(slot) for slot in report.missing[:_SHOWN])
        more = " and more" if len(report.missing) > _SHOWN else ""
        if no_backup:
            count = output.counted(len(report.missing), "living grant")
            output.say(
                f"without a backup nothing can be had back: {count} lost; the ids were in vault.db too"
            )
            output.say("if a backup turns up, restore it: what is missing now returns then")
        output.warn(
            f"living grants without a row, slots {slots}{more}",
            "enrol the people anew (--existing replace), or shred them"
            if no_backup
            else "restore a newer backup, or shred the people concerned",
        )


def _reasons(reasons: Iterable[str]) -> None:
    for reason, count in sorted(Counter(reasons).items()):
        output.data(f"  {reason}", count)
