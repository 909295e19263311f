"""``facekeep withdraw``: the end of consent to some scopes."""

from __future__ import annotations

import click

from facekeep.cli.answers import tell_erasure
from facekeep.cli.opened import open_vault
from facekeep.cli.options import State, common, with_state
from facekeep.cli.terms import scope_option


@click.command("withdraw", short_help="Destroy the keys of a person's scopes.")
@click.argument("subject")
@scope_option
@common
@with_state
def command(state: State, subject: str, scopes: tuple[str, ...]) -> None:
    """Destroy the keys of a person's scopes.

    With the last scope the person is gone from the vault, though a backup may still hold their pseudonym.
    """
    with open_vault(state, to_erase=True) as vault:
        erasure = vault.withdraw(subject, scopes)
    tell_erasure(erasure, "withdrawn", as_json=state.json)
