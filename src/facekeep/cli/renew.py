"""``facekeep renew``: new terms for scopes that a person already has."""

from __future__ import annotations

from typing import Any

import click

from facekeep.cli.answers import tell_receipt
from facekeep.cli.opened import now_ms, open_vault
from facekeep.cli.options import State, common, with_state
from facekeep.cli.terms import Statement, consent_options


@click.command("renew", short_help="Give a person's scopes new terms.")
@click.argument("subject")
@consent_options
@common
@with_state
def command(state: State, /, subject: str, **said: Any) -> None:  # noqa: ANN401 - the fields of Statement
    """Give a person's scopes new terms.

    Each scope gets a new key, and the old one is destroyed.
    """
    consent = Statement(**said).consent(now_ms())
    with open_vault(state) as vault:
        receipt = vault.renew(subject, consent)
    tell_receipt(receipt, "renewed; the old keys are destroyed", as_json=state.json)
