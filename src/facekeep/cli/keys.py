"""``facekeep keys``: rotation, and who holds the root; a module a command, ``registry.KEYS`` the table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import click

from facekeep.cli.options import common
from facekeep.cli.registry import KEYS, Lazy


class _Keys(Lazy):
    """The group, whose commands are imported when they are called."""

    table: ClassVar[Mapping[str, tuple[str, str]]] = KEYS


@click.group("keys", cls=_Keys, short_help="Rotate keys, change who holds the root.")
@common
def command() -> None:
    """Rotate keys, change who holds the root.

    Three things are rotated, and they are not the same: the root, which is quick; the key tree; the templates
    themselves, which are sealed again under new keys. All go on while people are verified.
    """
