"""The commands in one table, imported when they are used: ``facekeep --help`` loads none of them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import ClassVar, Final, cast

import click

#: command -> (module of facekeep.cli, what it does; the same words open the command's help)
COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "init": ("init", "Make a vault, its root key and its first principal."),
    "enroll": ("enroll", "Seal the templates of one person or of many, under consent."),
    "grant": ("grant", "Add scopes that a person has consented to since."),
    "renew": ("renew", "Give a person's scopes new terms."),
    "withdraw": ("withdraw", "Destroy the keys of a person's scopes."),
    "verify": ("verify", "Compare a photograph with one person."),
    "identify": ("identify", "Search everybody who consented to it."),
    "shred": ("shred", "Erase people in every copy and every backup."),
    "backup": ("backup", "Write a data backup while the vault is in use."),
    "restore": ("restore", "Merge a data backup of any age."),
    "subjects": ("subjects", "List people and their grants."),
    "status": ("status", "Show the state of the vault, or one decision."),
    "check": ("check", "Verify everything that can be verified."),
    "principal": ("principal", "Add, list and revoke who may use the vault."),
    "maintain": ("maintain", "Do what is due; for cron or a timer."),
    "settings": ("settings", "Show or change regions, copies, schedule and limits on matching."),
    "keys": ("keys", "Rotate keys, change who holds the root."),
    "clock": ("clock", "Accept the clock's time after it ran ahead."),
    "audit": ("audit", "Keys, checkpoints, exports and proofs for auditors."),
    "demo": ("demo", "Show the whole story on two public portraits, or on yours."),
}


#: the same for ``facekeep keys``
KEYS: Final[dict[str, tuple[str, str]]] = {
    "show": ("keys_show", "Show who holds the root."),
    "rotate": ("keys_rotate", "Replace root, tree, templates or signing keys."),
    "move": ("keys_move", "Change who holds the root."),
    "resume": ("keys_resume", "Finish what waits for a holder or was interrupted."),
    "recovery": ("keys_recovery", "Make an offline recovery key, split it, join its shares."),
    "recover": ("keys_recover", "Give a vault whose root is lost a new one, with the recovery key."),
}


class Lazy(click.Group):
    """A group whose commands are imported when they are called."""

    table: ClassVar[Mapping[str, tuple[str, str]]] = COMMANDS

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the commands in the table's order."""
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - likewise
        """Import one command."""
        if cmd_name not in self.table:
            return None
        module = importlib.import_module(f"facekeep.cli.{self.table[cmd_name][0]}")
        return cast("click.Command", module.command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - likewise
        """Write the list without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_text) for name, (_, help_text) in self.table.items()])
