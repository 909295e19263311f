"""``facekeep keys recover``: the vault back from the recovery key when every root holder is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from facekeep.access.tokens import find_token
from facekeep.cli import output
from facekeep.cli.opened import secrets
from facekeep.cli.options import State, common, with_state
from facekeep.clock import SystemClock
from facekeep.operations import recovering
from facekeep.operations.rescue import rescue
from facekeep.operations.rotation import Why
from facekeep.store import settingsfile

SEEN: Final = (
    "next: this machine has seen the private key: make another, then facekeep keys move --recovery FILE"
)


@click.command("recover", short_help="Give a vault whose root is lost a new one, with the recovery key.")
@click.option(
    "--private", required=True, metavar="FILE", type=click.Path(path_type=Path), help="Private key's file."
)
@click.option("--root", metavar="URI", help="The new root holder; by default a file in your data directory.")
@click.option(
    "--reason", "why", type=click.Choice([each.value for each in Why]), default=Why.OTHER.value,
    show_default=True, help="Why, for the log.",
)  # fmt: skip
@common
@with_state
def command(state: State, private: Path, root: str | None, why: str) -> None:
    """Give a vault whose root is lost a new one, with the recovery key.

    The root sealed to the recovery key opens the vault; a new holder gets a fresh root at once. Holders that
    do not answer are given up, and the log says so. May be run again after any interruption.
    Where log.db is lost too: 'facekeep restore --lost-log --private FILE'.
    """
    path = state.path()
    token = find_token(state.token_file, settingsfile.read(path).vault_id.hex())
    key = recovering.load_private(private)
    asked = secrets(state)
    done = rescue(path, key, token, SystemClock(), asked, root_uri=root, why=Why(why))
    if state.json:
        output.json_line({"key": key.mark.hex(), **done.to_json()})
        return
    output.data("root key", done.root_uri)
    output.data("epoch", done.epoch)
    for uri in done.lost:
        output.data("given up", uri)
    output.say("the vault has a fresh root; old roots open no present file")
    output.hint(SEEN)
