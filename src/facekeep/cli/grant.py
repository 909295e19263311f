"""``facekeep grant``: further scopes, from a grant that is still valid."""

from __future__ import annotations

from typing import Any

import click

from facekeep.cli.answers import tell_receipt
from facekeep.cli.opened import now_ms, open_vault
from facekeep.cli.options import State, common, with_state
from facekeep.cli.terms import Statement, consent_options


@click.command("grant", short_help="Add scopes that a person has consented to since.")
@click.argument("subject")
@consent_options
@common
@with_state
def command(state: State, /, subject: str, **said: Any) -> None:  # noqa: ANN401 - the fields of Statement
    """Add scopes that a person has consented to since.

    A valid grant of theirs is opened once to seal the templates again, and the log says so.
    """
    consent = Statement(**said).consent(now_ms())
    with open_vault(state) as vault:
        receipt = vault.grant(subject, consent)
    tell_receipt(receipt, "granted", as_json=state.json)
