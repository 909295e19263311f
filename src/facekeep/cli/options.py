"""Options that every command has, before or after its name: --vault, --token-file, --json."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

import click

from facekeep.errors import UsageError

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(slots=True)
class State:
    """What was said on the command line for every command; one object a run."""

    vault: str | None = None
    token_file: str | None = None
    json: bool = False

    def path(self) -> Path:
        """Return where the vault is; raises UsageError when nobody said."""
        named = self.vault or os.environ.get("FACEKEEP_VAULT")
        if not named:
            raise UsageError("no vault was named", next="name it with --vault, or in FACEKEEP_VAULT")
        return Path(named)


with_state = click.make_pass_decorator(State, ensure=True)


def _keep(context: click.Context, parameter: click.Parameter, value: object) -> object:
    if value and parameter.name:
        setattr(context.ensure_object(State), parameter.name, value)
    return value


def common(function: Callable[P, R]) -> Callable[P, R]:
    """Add the options that every command has."""
    for option in (
        click.option(
            "--json", is_flag=True, is_eager=True, expose_value=False, callback=_keep,
            help="Print one JSON object.",
        ),
        click.option(
            "--token-file", metavar="FILE", expose_value=False, callback=_keep,
            help="File that holds your token (or FACEKEEP_TOKEN, or FACEKEEP_TOKEN_FILE).",
        ),
        click.option(
            "--vault", metavar="DIR", expose_value=False, callback=_keep,
            help="The vault (or FACEKEEP_VAULT).",
        ),
    ):  # fmt: skip
        function = option(function)
    return function
