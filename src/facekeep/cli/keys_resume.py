"""``facekeep keys resume``: pending erasures, an interrupted move."""

from __future__ import annotations

import click

from facekeep.cli import output
from facekeep.cli.opened import open_vault
from facekeep.cli.options import State, common, with_state
from facekeep.errors import ErasurePending


@click.command("resume", short_help="Finish what waits for a holder or was interrupted.")
@common
@with_state
def command(state: State) -> None:
    """Finish what waits for a holder or was interrupted: erasures, a move.

    A rotation of templates goes on with 'facekeep keys rotate templates'.
    """
    with open_vault(state) as vault:
        moved = vault.keys.resume()
        pending = vault.keys.pending()
    if state.json:
        move = None if moved.entry is None else moved.to_json()
        output.json_line({"finished": list(moved.finished), "move": move, "pending": list(pending)})
    if moved.entry is not None and not state.json:
        output.say(f"the move is finished, log entry {moved.entry}")
    if moved.finished and not state.json:
        many = output.counted(len(moved.finished), "operation")
        output.say(f"{many} of log entry {', '.join(map(str, moved.finished))} finished, pending until now")
    if pending:
        raise ErasurePending(
            f"{output.counted(len(pending), 'operation')} of log entry {', '.join(map(str, pending))} still "
            "waits for a root holder or a live copy; access to what it destroys is denied"
        )
    if not state.json:
        output.say("nothing is pending any more" if moved.finished else "nothing is pending")
