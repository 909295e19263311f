"""``facekeep backup``: sealed templates and records in one file."""

from __future__ import annotations

import click

from facekeep.cli import output
from facekeep.cli.opened import open_vault
from facekeep.cli.options import State, common, with_state


@click.command("backup", short_help="Write a data backup while the vault is in use.")
@click.argument("file")
@common
@with_state
def command(state: State, file: str) -> None:
    """Write a data backup while the vault is in use.

    It holds sealed templates and records, no key and no log. A file that exists is never overwritten.
    """
    with open_vault(state) as vault:
        made = vault.backup(file)
    if state.json:
        output.json_line({"rows": made.rows, "sha256": made.sha256, "size": made.size})
        return
    output.line(f"{output.counted(made.rows, 'grant')}, SHA-256 {made.sha256}")
