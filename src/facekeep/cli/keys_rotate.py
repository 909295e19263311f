"""``facekeep keys rotate``: root, tree, templates, signing keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import click

from facekeep.cli import output
from facekeep.cli.answers import tell_extent
from facekeep.cli.opened import open_vault
from facekeep.cli.options import State, common, with_state
from facekeep.cli.progress import Progress
from facekeep.formats.canonical import JsonObject
from facekeep.vault import Selection, Why

P = ParamSpec("P")
R = TypeVar("R")


def _options(function: Callable[P, R]) -> Callable[P, R]:
    """Add what every rotation takes."""
    for option in (
        click.option("--dry-run", is_flag=True, help="Say what would be done, and about how long it takes."),
        click.option(
            "--reason", "why", type=click.Choice([each.value for each in Why]), default=Why.SCHEDULED.value,
            show_default=True, help="Why, for the log.",
        ),
    ):  # fmt: skip
        function = option(function)
    return function


@click.group("rotate", short_help="Replace root, tree, templates or signing keys.")
@common
def command() -> None:
    """Replace root, tree, templates or signing keys.

    Each may be interrupted and typed again: it goes on.
    """


@command.command("root", short_help="Replace the root with every holder.")
@_options
@common
@with_state
def root(state: State, why: str, dry_run: bool) -> None:
    """Replace the root with every holder: the same few writes, however large the vault.

    Whoever copied the old root and an old keys.db can still derive the keys that were in use then: after a
    leak rotate the templates, too.
    """
    with open_vault(state) as vault:
        if dry_run:
            _tell(vault.keys.extent("root").to_json(), as_json=state.json)
            return
        done = vault.keys.rotate_root(Why(why))
    _tell(done.to_json(), as_json=state.json)


@command.command("tree", short_help="Give the key tree's nodes and the subject index fresh keys.")
@_options
@common
@with_state
def tree(state: State, why: str, dry_run: bool) -> None:
    """Give the key tree's nodes and the subject index fresh keys; templates stay as they are."""
    with open_vault(state) as vault:
        if dry_run:
            _tell(vault.keys.extent("tree").to_json(), as_json=state.json)
            return
        with Progress("reading records") as progress:
            done = vault.keys.rotate_tree(Why(why), progress)
    _tell(done.to_json(), as_json=state.json)


@command.command("templates", short_help="Seal templates again under new keys.")
@click.option("--model", metavar="ID", help="Only those of this model.")
@click.option("--before-epoch", type=int, metavar="N", help="Only those granted before this root epoch.")
@_options
@common
@with_state
def templates(state: State, model: str | None, before_epoch: int | None, why: str, dry_run: bool) -> None:
    """Seal templates again under new keys, and destroy the old ones.

    After it no kept copy of an earlier root or key file opens anything that lives. Consent stays as it is.
    What has lapsed is left. A rotation that was begun before is gone on with, as it was selected then.
    """
    selection = Selection(model, before_epoch)
    with open_vault(state) as vault:
        if dry_run:
            _tell(vault.keys.estimate(selection).to_json(), as_json=state.json)
            return
        with Progress("sealing again") as progress:
            done = vault.keys.rotate_templates(Why(why), selection, progress)
    _tell(done.to_json(), as_json=state.json)
    if done.resumed and not state.json:
        output.warn(
            "this went on with a rotation begun before, as it was selected and for the reason given then",
            "if a root or key file may have been copied since it was begun, rotate the templates once more",
        )
    if done.left and not state.json:
        output.warn(
            f"left as it was: {output.counted(done.left, 'grant')} that lapsed, has no row, or was altered",
            "facekeep check names them",
        )


@command.command("signing", short_help="Give the log new signing keys.")
@_options
@common
@with_state
def signing(state: State, why: str, dry_run: bool) -> None:
    """Give the log new signing keys, cross-signed by the old; hand the new ones to your auditors."""
    with open_vault(state) as vault:
        if dry_run:
            _tell(vault.keys.extent("signing").to_json(), as_json=state.json)
            return
        with Progress("reading the log") as progress:
            index, keys = vault.keys.rotate_signing(Why(why), progress)
    found = [key.encode() for key in keys]
    if state.json:
        output.json_line({"entry": index, "keys": found, "what": "signing"})
        return
    for each in found:
        output.line(each)
    output.say(f"signing keys rotated, log entry {index}; give these to your auditors")


def _tell(done: JsonObject, *, as_json: bool) -> None:
    found = dict(done)
    if as_json:
        output.json_line(found)
        return
    if "dry_run" in found:
        tell_extent(found)
        return
    output.say(f"rotated: {found.pop('what')}")
    for key, value in found.items():
        output.data(key, value)
