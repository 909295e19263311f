"""``facekeep keys move``: other root holders."""

from __future__ import annotations

from pathlib import Path

import click

from facekeep.cli import output
from facekeep.cli.answers import tell_extent
from facekeep.cli.opened import open_vault
from facekeep.cli.options import State, common, with_state
from facekeep.errors import UsageError
from facekeep.operations import recovering
from facekeep.vault import Holders, Moved, Planned, Why


@click.command("move", short_help="Change who holds the root.")
@click.option("--root", metavar="URI", help="The first holder from now on.")
@click.option(
    "--mirror", "mirrors", multiple=True, metavar="URI",
    help="A further holder of every root; repeat it. Those that are not named leave.",
)  # fmt: skip
@click.option("--no-mirror", is_flag=True, help="Have no mirror.")
@click.option("--recovery", metavar="FILE", help="Public key of the recovery key from now on.")
@click.option("--no-recovery", is_flag=True, help="Have no recovery key.")
@click.option(
    "--lost", multiple=True, metavar="URI",
    help="A holder that is gone for good and is not asked to destroy its root; repeat it. "
    "'recovery:' is the file of the recovery key.",
)  # fmt: skip
@click.option(
    "--dry-run",
    is_flag=True,
    help="Say who would join and leave, and about how long it takes; nothing is done.",
)
@click.option(
    "--reason", "why", type=click.Choice([each.value for each in Why]), default=Why.MIGRATION.value,
    show_default=True, help="Why, for the log.",
)  # fmt: skip
@common
@with_state
def command(
    state: State,
    root: str | None,
    mirrors: tuple[str, ...],
    no_mirror: bool,
    recovery: str | None,
    no_recovery: bool,
    lost: tuple[str, ...],
    dry_run: bool,
    why: str,
) -> None:
    """Change who holds the root.

    New holders get a fresh root; those that leave destroy what they have, and must be within reach for it.
    Write a holder that stays as it stands in vault.toml. Processes that have the vault open follow.
    """
    if mirrors and no_mirror:
        raise UsageError("--mirror and --no-mirror contradict each other")
    if recovery and no_recovery:
        raise UsageError("--recovery and --no-recovery contradict each other")
    offline = [recovering.uri_of(Path(recovery))] if recovery else [] if no_recovery else None
    with open_vault(state) as vault:
        gone = [uri for each in lost for uri in (vault.settings.recovery if each == "recovery:" else [each])]
        wanted = Holders(root, mirrors if mirrors or no_mirror else None, offline, gone)
        if dry_run:
            tell_plan(vault.keys.plan_move(wanted), as_json=state.json)
            return
        done = vault.keys.move(wanted, Why(why))
    tell(done, as_json=state.json)


def tell_plan(plan: Planned, *, as_json: bool) -> None:
    """Say who would hold the root, what would be written, and about how long it takes."""
    if as_json:
        output.json_line(plan.to_json())
        return
    tell_extent(plan.extent.to_json())
    _tell_holders(plan.moved, "leaves")


def tell(done: Moved, *, as_json: bool) -> None:
    """Say who holds the root now."""
    if as_json:
        output.json_line(done.to_json())
        return
    if done.entry is None:
        output.say("nothing was to be moved")
    else:
        output.say(f"moved, log entry {done.entry}; processes that have the vault open follow")
    _tell_holders(done, "left")


def _tell_holders(done: Moved, left: str) -> None:
    for uri in done.holders:
        output.data("holder", recovering.shown(uri))
    for uri in done.left:
        output.data(left, recovering.shown(uri))
    if any(uri.startswith("recovery:") for uri in done.holders):
        output.say(f"with the recovery key, {recovering.WEAKENING}")
