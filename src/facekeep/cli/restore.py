"""``facekeep restore``: a data backup merged into the living vault."""

from __future__ import annotations

import click

from facekeep.cli import output
from facekeep.cli.opened import open_vault
from facekeep.cli.options import State, common, with_state
from facekeep.cli.problems import PARTLY_DONE
from facekeep.cli.progress import Progress
from facekeep.operations.transfer import RestoreReport

_SHOWN = 20  # slots named on a screen


@click.command("restore", short_help="Merge a data backup of any age.")
@click.argument("file")
@click.option("--dry-run", is_flag=True, help="Only say what would come back.")
@common
@with_state
def command(state: State, file: str, dry_run: bool) -> int:
    """Merge a data backup of any age.

    Grants whose keys live return; whoever was erased stays erased. The order of backups does not matter.
    """
    with open_vault(state) as vault, Progress("merging") as progress:
        report = vault.restore(file, progress=progress, dry_run=dry_run)
    if state.json:
        output.json_line(
            {
                "rows": report.rows,
                "merged": report.merged,
                "present": report.present,
                "dead": report.dead,
                "refused": report.refused,
                "missing": list(report.missing),
                "dry_run": dry_run,
            }
        )
    else:
        _tell(report, dry_run=dry_run)
    return PARTLY_DONE if report.refused else 0


def _tell(report: RestoreReport, *, dry_run: bool) -> None:
    output.data("in the backup", report.rows)
    output.data("would return" if dry_run else "returned", report.merged)
    output.data("here already", report.present)
    output.data("erased, and stay so", report.dead)
    output.data("refused", report.refused)
    output.data("still missing", len(report.missing))
    if report.refused:
        output.warn(
            f"{output.counted(report.refused, 'row')} did not match the log, or the person was enrolled anew",
            "nothing is lost in the vault; try a backup that was not altered",
        )
    if report.missing:
        slots = ", ".join(str(slot) for slot in report.missing[:_SHOWN])
        more = " and more" if len(report.missing) > _SHOWN else ""
        output.warn(
            f"living grants without a row, slots {slots}{more}",
            "restore a newer backup, or shred the people concerned",
        )
