"""Opening the vault that the command line names, as the principal whose token is at hand."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click

from facekeep.access.tokens import find_token
from facekeep.cli import output
from facekeep.cli.options import State
from facekeep.clock import SystemClock
from facekeep.formats.settings import Settings
from facekeep.keys.secrets import Secrets
from facekeep.operations.scrub import ScrubReport
from facekeep.store import settingsfile
from facekeep.vault import Vault


def secrets(state: State) -> Secrets:
    """Secrets of root holders, asked for on a terminal; one that is being chosen is typed twice."""

    def asked(name: str, purpose: str, *, twice: bool) -> bytes | None:
        if state.json or not sys.stdin.isatty() or not sys.stderr.isatty():
            return None
        question = f"{output.PREFIX}{name} for {purpose}"
        again = f"{output.PREFIX}the same {name} again"
        answer: str = click.prompt(
            output.printable(question),
            hide_input=True,
            confirmation_prompt=again if twice else False,
            err=True,
        )
        return answer.encode()

    return Secrets(partial(asked, twice=False), partial(asked, twice=True))


def open_vault(
    state: State, extractor: str | None = None, *, lost_data: bool = False, to_erase: bool = False
) -> Vault:
    """Open it; use the result in a ``with`` statement. ``lost_data``: make a missing vault.db anew."""
    path = state.path()
    token = find_token(state.token_file, settingsfile.read(path).vault_id.hex())
    given = secrets(state)
    return Vault.open(
        path, token=token, extractor=extractor, secrets=given, lost_data=lost_data, to_erase=to_erase
    )


def scrub_vault(state: State, progress: Callable[[str, int, int], None]) -> ScrubReport:
    """Put right what is damaged in a vault that may not open."""
    return Vault.scrub(state.path(), token=find_token_of(state), secrets=secrets(state), progress=progress)


def settings_of(state: State) -> Settings:
    """Read vault.toml; nobody has authenticated it."""
    return settingsfile.read(state.path())


def find_token_of(state: State) -> str:
    """Return the token for a vault that may not open."""
    return find_token(state.token_file, settings_of(state).vault_id.hex())


def root_uri(path: Path) -> str:
    """Return the URI of the vault's root holder, from vault.toml."""
    return settingsfile.read(path).root_uri


def now_ms() -> int:
    """Return the time by the clock that vaults opened here use."""
    return SystemClock().now_ms()
