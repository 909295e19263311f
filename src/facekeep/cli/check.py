"""``facekeep check``: verify everything; the exit status is that of the worst finding's error class."""

from __future__ import annotations

from collections.abc import Sequence

import click

from facekeep.cli import output
from facekeep.cli.opened import open_vault, scrub_vault
from facekeep.cli.options import State, common, with_state
from facekeep.cli.progress import Progress
from facekeep.errors import IntegrityError
from facekeep.operations.check import CheckReport, Finding
from facekeep.operations.scrub import ScrubReport


@click.command("check", short_help="Verify everything that can be verified.")
@click.option("--repair", is_flag=True, help="Rebuild the subject index from the sealed records first.")
@click.option(
    "--scrub",
    is_flag=True,
    help="Put a damaged node, file, copy or root holder right from what is whole first.",
)
@common
@with_state
def command(state: State, repair: bool, scrub: bool) -> int:
    """Verify everything that can be verified.

    Files, key tree, log, every sealed blob, and each against the others. Opens no template, changes nothing
    unless --repair or --scrub is given.
    """
    scrubbed = None
    if scrub:
        with Progress("scrubbing") as progress:
            scrubbed = scrub_vault(state, progress.named)
    with open_vault(state) as vault, Progress("checking") as progress:
        rebuilt = vault.repair_index() if repair else None
        report = vault.check(progress.named)
    if state.json:
        told: dict[str, object] = {
            "ok": report.ok,
            "rows": report.rows,
            "entries": report.entries,
            "findings": [finding.to_json() for finding in report.findings],
            "missing": list(report.missing),
            "notes": list(report.notes),
        }
        if rebuilt is not None:
            told["index_rows"] = rebuilt
        if scrubbed is not None:
            told["scrub"] = scrubbed.to_json()
        output.json_line(told)
    else:
        if scrubbed is not None:
            _tell_scrub(scrubbed)
        _tell(report, rebuilt)
    return worst([*report.findings, *(scrubbed.left if scrubbed is not None else ())])


def worst(findings: Sequence[Finding]) -> int:
    """Exit status of the worst finding: damage first, then the higher number; 0 without any."""
    ranks = [(issubclass(each.error, IntegrityError), each.error.exit_code) for each in findings]
    return max(ranks)[1] if ranks else 0


def _tell_scrub(report: ScrubReport) -> None:
    for repair in report.repairs:
        output.line(f"{repair.file}: {repair.message}")
    for finding in report.left:
        output.line(f"{finding.file}: {finding.message} ({finding.error.code})")
        output.line(f"  next: {finding.next}")
    output.say(f"{output.counted(len(report.repairs), 'repair')}")


def _tell(report: CheckReport, rebuilt: int | None) -> None:
    if rebuilt is not None:
        output.say(f"the subject index was rebuilt with {output.counted(rebuilt, 'row')}")
    for finding in report.findings:
        output.line(f"{finding.file}: {finding.message} ({finding.error.code})")
        output.line(f"  next: {finding.next}")
    if report.missing:
        output.warn(
            f"{output.counted(len(report.missing), 'living grant')} without a row in vault.db",
            "restore a newer backup, or shred the people concerned",
        )
    for note in report.notes:
        output.say(f"note: {note}")
    rows, entries = (
        output.counted(report.rows, "row"),
        output.counted(report.entries, "log entry", "log entries"),
    )
    wrong = output.counted(len(report.findings), "finding")
    if report.ok:
        output.line(f"whole: {rows} and {entries} verified")
    else:
        output.say(f"{wrong} in {rows} and {entries}")
