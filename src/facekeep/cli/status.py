"""``facekeep status``: the vault on one screen, or the log entry behind one decision."""

from __future__ import annotations

import json

import click

from facekeep.cli import output
from facekeep.cli.opened import open_vault
from facekeep.cli.options import State, common, with_state
from facekeep.cli.times import written
from facekeep.formats.canonical import JsonObject, JsonValue
from facekeep.formats.terms import Scope

_SYSTEM = 1


@click.command("status", short_help="Show the state of the vault, or one decision.")
@click.option(
    "--decision", "identity", metavar="ID", help="Show what the log says about one answer or refusal."
)
@common
@with_state
def command(state: State, identity: str | None) -> None:
    """Show the state of the vault, or one decision."""
    with open_vault(state) as vault:
        found = vault.status() if identity is None else vault.decision(identity)
    if state.json:
        output.json_line(found)
    elif identity is None:
        _tell(found)
    else:
        for key, value in found.items():
            if value is not None:
                output.data(key, _plain(value))


def _tell(found: JsonObject) -> None:
    output.data("vault", found["vault"])
    output.data("region", found["region"])
    output.data("grants stored", found["rows"])
    for used in _scopes(found["branches"]):
        output.data(*used)
    output.data("log entries", found["entries"])
    output.data("epoch", f"{found['epoch']}, since {written(int(str(found['swapped_at_ms'])))}")
    for holder in _objects(found["holders"]):
        output.data("root holder", f"{holder['scheme']} ({_classes(holder)})")
    recovery = found["recovery"]
    if isinstance(recovery, dict):
        output.data("recovery key", f"{str(recovery['key'])[:16]}: {recovery['weakening']}")
    for copy in _objects(found["copies"]):
        output.data("live copy", f"{copy['path']}: {copy['state']}")
    backup = found["backup"]
    last = (
        f"{output.counted(int(str(backup['rows'])), 'grant')}, {written(int(str(backup['time_ms'])))}"
        if isinstance(backup, dict)
        else "none"
    )
    output.data("last backup", last)
    output.data("missing", found["missing"])
    output.data("pending", found["pending"])
    for warning in _objects(found["warnings"]):
        output.warn(str(warning["message"]), str(warning["next"]))


def _classes(holder: JsonObject) -> str:
    """``erasing``, or ``wrapping over erasing`` where it has outer layers."""
    return f"wrapping over {holder['class']}" if holder["layers"] else str(holder["class"])


def _scopes(branches: JsonValue) -> list[tuple[str, str]]:
    """Grants ever made, by scope."""
    used: dict[int, int] = {}
    for branch in branches.values() if isinstance(branches, dict) else ():
        if isinstance(branch, dict):
            kind = int(str(branch["kind"]))
            used[kind] = used.get(kind, 0) + int(str(branch["used"]))
    return [
        (f"grants ever made, {Scope(kind).word}", str(count))
        for kind, count in sorted(used.items())
        if kind != _SYSTEM
    ]


def _objects(values: JsonValue) -> list[JsonObject]:
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []


def _plain(value: JsonValue) -> str:
    return value if isinstance(value, str) else json.dumps(value)
