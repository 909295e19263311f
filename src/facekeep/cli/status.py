"""``facekeep status``: the vault on one screen, for machines too, or the log entry behind one decision."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path

import click

from facekeep import files
from facekeep.cli import output
from facekeep.cli.opened import open_vault
from facekeep.cli.options import State, common, with_state
from facekeep.cli.prometheus import render
from facekeep.cli.times import written
from facekeep.errors import UsageError
from facekeep.formats.canonical import JsonObject, JsonValue
from facekeep.store.sqlite import translated

_LABEL = 14  # columns of the first column
_WIDTH = 79  # columns of the screen
_UNITS = ((86_400_000, "days"), (3_600_000, "h"), (60_000, "min"))  # ms


@click.command("status", short_help="Show the state of the vault, or one decision.")
@click.option(
    "--decision", "identity", metavar="ID", help="Show what the log says about one answer or refusal."
)
@click.option(
    "--prometheus",
    metavar="FILE",
    help="Write Prometheus text, - for standard output. FILE is replaced whole.",
)
@common
@with_state
def command(state: State, identity: str | None, prometheus: str | None) -> None:
    """Show the state of the vault, or one decision."""
    if prometheus is not None and (state.json or identity is not None):
        raise UsageError("--prometheus is a form of its own", next="leave --json and --decision out")
    with open_vault(state) as vault:
        found = vault.status() if identity is None else vault.decision(identity)
    if prometheus is not None:
        _publish(found, prometheus)
    elif state.json:
        output.json_line(found)
    elif identity is None:
        _tell(found)
    else:
        for key, value in found.items():
            if value is not None:
                output.data(key, _plain(value))


def _publish(found: JsonObject, target: str) -> None:
    text = render(found)
    if target != "-":
        with translated(Path(target).name):
            files.replace(Path(target), text.encode(), files.PUBLIC)
        return
    for each in text.splitlines():
        output.line(each)


def _tell(found: JsonObject) -> None:
    for label, text in _lines(found):
        output.line(f"{label:<{_LABEL}}{text}")
    output.line("")
    for each in _table(found):
        output.line(each)
    for warning in _objects(found["warnings"]):
        output.warn(str(warning["message"]), str(warning["next"]))


def _lines(found: JsonObject) -> Iterator[tuple[str, str]]:
    now = _number(found["time_ms"])
    yield "vault", f"{found['vault']}  region {found['region']}"
    yield "epoch", f"{found['epoch']}, {_ago(now, found['swapped_at_ms'])}"
    yield "log", f"{_number(found['entries']):,} entries"
    for at, holder in enumerate(_objects(found["holders"])):
        yield "" if at else "root", _holder(holder)
    recovery = found["recovery"]
    said = f"{str(recovery['key'])[:16]}: {recovery['weakening']}" if isinstance(recovery, dict) else "none"
    for at, text in enumerate(textwrap.wrap(said, _WIDTH - _LABEL)):
        yield "" if at else "recovery key", text
    copies = _copies(found)
    for at, text in enumerate(copies or ["none"]):
        yield "copies" if not at else "", text
    yield "backup", _backup(found, now)
    last = found["checkpoint"]
    said = (
        f"{_number(last['size']):,} entries, {_ago(now, last['time_ms'])}"
        if isinstance(last, dict)
        else "none"
    )
    yield "checkpoint", said
    yield "pending", _pending(found)
    yield "due", ", ".join(_due(found)) or "nothing"
    following = [each for each in _objects(found["due"]) if not each["due"]]
    if following:
        first = min(following, key=lambda each: _number(each["due_ms"]))
        yield "next", f"{first['what']}, {written(_number(first['due_ms']))}"


def _holder(holder: JsonObject) -> str:
    """``file (wrapping over erasing), mirror, current``."""
    klass = f"wrapping over {holder['class']}" if holder["layers"] else str(holder["class"])
    role = [] if holder["role"] in {"first", holder["class"]} else [str(holder["role"])]
    damaged = ["damaged"] if holder["state"] != "away" and holder["trouble"] else []
    return ", ".join([f"{holder['scheme']} ({klass})", *role, str(holder["state"]), *damaged])


def _copies(found: JsonObject) -> list[str]:
    """Return a line for each directory: what state its two files are in."""
    states: dict[str, list[str]] = {}
    for copy in _objects(found["copies"]):
        states.setdefault(str(Path(str(copy["path"])).parent), []).append(f"{copy['file']} {copy['state']}")
    whole = {"keys.db current", "log.db current"}
    return [f"{where}: {'current' if set(of) == whole else ', '.join(of)}" for where, of in states.items()]


def _backup(found: JsonObject, now: int) -> str:
    last = found["backup"]
    if not isinstance(last, dict):
        return "none"
    return f"{output.counted(_number(last['rows']), 'grant')}, {_ago(now, last['time_ms'])}"


def _pending(found: JsonObject) -> str:
    said = output.counted(_number(found["pending"]), "operation")
    rotations = found["rotations"]
    if isinstance(rotations, list) and rotations:
        said += f", a rotation: {', '.join(map(str, rotations))}"
    if found["missing"]:
        said += f"; {output.counted(_number(found['missing']), 'grant')} without a row"
    if found["rows_dead"]:
        said += f"; {output.counted(_number(found['rows_dead']), 'row')} left of destroyed grants"
    return said


def _due(found: JsonObject) -> list[str]:
    return [str(each["what"]) for each in _objects(found["due"]) if each["due"]]


def _table(found: JsonObject) -> Iterator[str]:
    """Grants and slots by scope, aligned."""
    scopes = found["scopes"]
    row = "{:<14}{:>12}{:>12}{:>12}{:>14}{:>14}".format
    yield row("grants", "live", "expired", "pending", "slots used", "free")
    for scope, counts in scopes.items() if isinstance(scopes, dict) else ():
        if isinstance(counts, dict) and (counts["used"] or not any(_used(scopes))):
            numbers = (f"{_number(counts[key]):,}" for key in ("live", "expired", "pending", "used", "free"))
            yield row(scope, *numbers)
    yield f"{'free branches':<14}{_number(found['branches_free'])} of 1,728,000 slots each, for any scope"


def _used(scopes: JsonValue) -> list[JsonValue]:
    return (
        [each["used"] for each in scopes.values() if isinstance(each, dict)]
        if isinstance(scopes, dict)
        else []
    )


def _ago(now: int, then: JsonValue) -> str:
    """``2027-01-15T08:00Z (3 h ago)``."""
    ms = _number(then)
    past = max(now - ms, 0)
    unit, word = next((each for each in _UNITS if past >= 2 * each[0]), _UNITS[-1])
    return f"{written(ms)} ({past // unit} {word} ago)"


def _number(value: JsonValue) -> int:
    return value if isinstance(value, int) else 0


def _objects(values: JsonValue) -> list[JsonObject]:
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []


def _plain(value: JsonValue) -> str:
    return value if isinstance(value, str) else json.dumps(value)
