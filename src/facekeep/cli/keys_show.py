"""``facekeep keys show``: who holds the root, of which kind, and whether they answer."""

from __future__ import annotations

import click

from facekeep.cli import output
from facekeep.cli.opened import open_vault
from facekeep.cli.options import State, common, with_state
from facekeep.operations import recovering


@click.command("show", short_help="Show who holds the root.")
@common
@with_state
def command(state: State) -> None:
    """Show who holds the root: class, state, URI, and what its receipts do not cover."""
    with open_vault(state) as vault:
        found = vault.keys.holders()
    if state.json:
        output.json_line({"holders": [each.to_json() for each in found]})
        return
    for each in found:
        output.data(each.klass, each.state, recovering.shown(each.uri), ",".join(each.limits))
