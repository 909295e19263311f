"""``facekeep principal``: who may use the vault, and for what."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from facekeep.access.roles import Role
from facekeep.cli import output
from facekeep.cli.opened import open_vault
from facekeep.cli.options import State, common, with_state
from facekeep.cli.problems import then
from facekeep.cli.tokens import reserved

_LOST: Final = (
    "look with 'facekeep principal list': one that was added has lost its token, so revoke it and add another"
)


@click.group("principal", short_help="Add, list and revoke who may use the vault.")
@common
def command() -> None:
    """Add, list and revoke who may use the vault."""


@command.command("add", short_help="Add a principal; its token is shown once.")
@click.argument("label")
@click.option(
    "--role", "roles", multiple=True, required=True, type=click.Choice([role.value for role in Role]),
    help="What they may do; repeat it.",
)  # fmt: skip
@click.option(
    "--new-token-file", metavar="FILE", help="Write the new token there (mode 0600), not on the screen."
)
@common
@with_state
def add(state: State, label: str, roles: tuple[str, ...], new_token_file: str | None) -> None:
    """Add a principal; its token is shown once.

    The vault keeps only a hash of the token.
    """
    wanted = [Role(role) for role in roles]
    with open_vault(state) as vault:
        if new_token_file is None:
            with then(_LOST):
                identity, token = vault.add_principal(label, wanted)
                _tell_token(identity, token, as_json=state.json)
            return
        with reserved(Path(new_token_file)) as place, then(_LOST):
            identity, token = vault.add_principal(label, wanted)
            with then(_LOST, errors=True):
                file = place.keep(token, vault.vault_id)
    if state.json:
        output.json_line({"principal": identity, "token_file": str(file)})
        return
    output.data(identity, file)


def _tell_token(identity: str, token: str, *, as_json: bool) -> None:
    if as_json:
        output.json_line({"principal": identity, "token": token})
        return
    output.line(token)
    output.say(f"principal {identity}; the token is shown once and kept nowhere")


@command.command("list", short_help="List principals.")
@common
@with_state
def listing(state: State) -> None:
    """List principals: id, state, roles, label."""
    with open_vault(state) as vault:
        found = vault.principals()
    if state.json:
        people = [{"id": p.id, "label": p.label, "roles": list(p.roles), "state": p.state} for p in found]
        output.json_line({"principals": people})
        return
    for each in found:
        output.data(each.id, each.state, ",".join(each.roles), each.label)


@command.command("revoke", short_help="Destroy a principal's record.")
@click.argument("identity", metavar="ID")
@common
@with_state
def revoke(state: State, identity: str) -> None:
    """Destroy a principal's record: its token opens nothing from then on, in any process."""
    with open_vault(state, to_erase=True) as vault:
        index = vault.revoke_principal(identity)
    if state.json:
        output.json_line({"principal": identity, "revocation": index})
        return
    output.line(f"revoked {identity}; log entry {index}")
