"""``facekeep backup``: sealed templates and records in one file; or what such a file is worth now."""

from __future__ import annotations

import click

from facekeep.cli import output
from facekeep.cli.opened import open_vault
from facekeep.cli.options import State, common, with_state
from facekeep.cli.problems import PARTLY_DONE
from facekeep.cli.progress import Progress
from facekeep.operations.backups import BackupCheck


@click.command("backup", short_help="Write a data backup while the vault is in use.")
@click.argument("file")
@click.option("--verify", is_flag=True, help="Write nothing: say what an existing backup is worth now.")
@common
@with_state
def command(state: State, file: str, verify: bool) -> int:
    """Write a data backup while the vault is in use.

    It holds sealed templates and records, no key and no log, and a manifest that says what it holds. It is
    read back before it gets its name. A file that exists is never overwritten.
    """
    if verify:
        return _verify(state, file)
    with open_vault(state) as vault, Progress("backing up") as progress:
        made = vault.backup(file, progress)
    if state.json:
        output.json_line({**made.manifest.to_json(), "sha256": made.sha256})
        return 0
    output.line(f"{output.counted(made.rows, 'grant')}, SHA-256 {made.sha256}")
    output.say(
        f"read back and whole; it shows the vault at {made.size} log entries, epoch {made.manifest.epoch}"
    )
    return 0


def _verify(state: State, file: str) -> int:
    with open_vault(state) as vault, Progress("verifying") as progress:
        found = vault.check_backup(file, progress)
    if state.json:
        output.json_line(found.to_json())
    else:
        _tell(found)
    return PARTLY_DONE if found.strange else 0


def _tell(found: BackupCheck) -> None:
    output.data("in the backup", found.rows)
    output.data("living", found.living)
    output.data("erased, and stay so", found.dead)
    output.data("not what the log announced", found.strange)
    output.data("living grants of the vault that it holds", f"{found.covered} of {found.grants}")
    if found.manifest is not None:
        output.data("taken at log size", found.manifest.size)
        output.data("taken in epoch", found.manifest.epoch)
    else:
        output.say("note: it was made by an earlier facekeep and has no manifest; the log knows its hash")
    if found.entry is None:
        output.say("note: no entry of the log names this file; its manifest says that it is this vault's")
    if found.covered < found.grants:
        output.warn(
            f"{output.counted(found.grants - found.covered, 'living grant')} not in it",
            "facekeep backup FILE, under another name",
        )
