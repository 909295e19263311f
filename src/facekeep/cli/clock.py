"""``facekeep clock accept``: go on after the clock ran ahead."""

from __future__ import annotations

import click

from facekeep.cli import output
from facekeep.cli.opened import open_vault
from facekeep.cli.options import State, common, with_state
from facekeep.cli.times import written


@click.group("clock", short_help="Accept the clock's time after it ran ahead.")
@common
def command() -> None:
    """Accept the clock's time after it ran ahead.

    A vault refuses to work while the clock stands before the newest log entry: an expiry could otherwise be
    put off by setting the clock back.
    """


@command.command("accept", short_help="Say that the present time is right.")
@common
@with_state
def accept(state: State) -> None:
    """Say that the present time is right and the log's was not. The log keeps both."""
    with open_vault(state) as vault:
        accepted, high = vault.accept_clock()
    if state.json:
        output.json_line({"accepted_ms": accepted, "high_ms": high})
        return
    output.line(f"accepted {written(accepted)}; the log had seen {written(high)}")
