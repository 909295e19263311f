"""``facekeep init``: a vault, its root key, its live copies and its first principal."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from facekeep.access.tokens import default_file
from facekeep.cli import output
from facekeep.cli.opened import root_uri, secrets
from facekeep.cli.options import State, common, with_state
from facekeep.cli.problems import then
from facekeep.cli.tokens import reserved
from facekeep.errors import UsageError
from facekeep.operations import recovering
from facekeep.operations.recovering import key_of
from facekeep.vault import Vault


@dataclass(frozen=True, slots=True)
class _Made:
    path: Path
    vault_id: str
    root: str
    mirrors: tuple[str, ...]
    copies: tuple[str, ...]
    recovery: str | None
    region: str
    principal: str
    token_file: Path


@click.command("init", short_help="Make a vault, its root key and its first principal.")
@click.option(
    "--root", metavar="URI",
    help="Where the root key goes, for example file:/mnt/keys/staff.root; by default your data directory.",
)  # fmt: skip
@click.option(
    "--mirror", "mirrors", multiple=True, metavar="URI", help="A further holder of every root; repeat it."
)
@click.option(
    "--copy", "copies", multiple=True, metavar="DIR", help="Directory for live second copies; repeat it."
)
@click.option("--no-copy", is_flag=True, help="Accept that one lost file loses the vault.")
@click.option(
    "--recovery", metavar="FILE",
    help="Public key of an offline recovery key; it weakens erasure, see 'facekeep keys recovery new'.",
)  # fmt: skip
@click.option("--region", default="ZZ", show_default=True, metavar="CC", help="Country of processing.")
@click.option("--label", default="first principal", show_default=True, help="Name of the first principal.")
@common
@with_state
def command(
    state: State,
    root: str | None,
    mirrors: tuple[str, ...],
    copies: tuple[str, ...],
    no_copy: bool,
    recovery: str | None,
    region: str,
    label: str,
) -> None:
    """Make a vault, its root key and its first principal.

    The first principal has every role. Its token goes to --token-file, by default to a file that later
    commands find by themselves. The root key belongs on another disk than the vault.
    """
    if copies and no_copy:
        raise UsageError("--copy and --no-copy contradict each other")
    path = state.path()
    uri = None if recovery is None else recovering.uri_of(Path(recovery))
    if not copies and not no_copy:
        copies = _ask_for_copy(as_json=state.json)
    named = state.token_file or os.environ.get("FACEKEEP_TOKEN_FILE")
    wanted = Path(named) if named else None
    left = f"if {path.name} was made, remove it and its root holders: its token is lost; then make it anew"
    if os.path.lexists(path):
        left = "choose another path; nothing there was touched"  # somebody's living vault, say
    with reserved(wanted) as place, then(left):
        asked = secrets(state)
        with Vault.create(
            path,
            root=root,
            mirrors=mirrors,
            copies=copies,
            region=region,
            label=label,
            recovery=uri,
            secrets=asked,
        ) as vault:
            identity, token = vault.vault_id, vault.token or ""
        with then(left, errors=True):
            file = place.keep(token, identity)
    made = _Made(
        path,
        identity,
        root_uri(path),
        mirrors,
        copies,
        uri and key_of(uri),
        region,
        token.split(".")[1],
        file,
    )
    _tell(made, as_json=state.json)


def _ask_for_copy(*, as_json: bool) -> tuple[str, ...]:
    if as_json or not sys.stdin.isatty() or not sys.stderr.isatty():
        return ()
    question = f"{output.PREFIX}directory on another disk for live copies of keys.db and log.db (empty: none)"
    answer: str = click.prompt(question, default="", show_default=False, err=True)
    return (answer,) if answer.strip() else ()


def _tell(made: _Made, *, as_json: bool) -> None:
    if as_json:
        output.json_line(
            {
                "vault": made.vault_id,
                "path": str(made.path),
                "root": made.root,
                "mirrors": list(made.mirrors),
                "copies": list(made.copies),
                "recovery": made.recovery and {"key": made.recovery, "weakening": recovering.WEAKENING},
                "region": made.region,
                "principal": made.principal,
                "token_file": str(made.token_file),
            }
        )
        return
    output.data("vault", made.path, made.vault_id)
    output.data("root key", made.root)
    for mirror in made.mirrors:
        output.data("mirror", mirror)
    for copy in made.copies:
        output.data("live copies", copy)
    if made.recovery:
        output.data("recovery key", made.recovery)
    output.data("token", made.token_file)
    if made.recovery:
        output.say(f"with the recovery key, {recovering.WEAKENING}")
    if not made.copies:
        output.warn(
            "keys.db and log.db have no live second copy: one lost file would lose the vault",
            "facekeep settings --copy DIR, on another disk, before you enrol anybody",
        )
    file = os.environ.get("FACEKEEP_TOKEN_FILE")
    before = {
        "FACEKEEP_TOKEN": bool(os.environ.get("FACEKEEP_TOKEN")),
        "FACEKEEP_TOKEN_FILE": bool(file) and Path(file or "") != made.token_file,
    }
    for name, comes in before.items():
        if comes:
            output.warn(f"{name} is set and comes before the new token", f"unset {name}")
    _tell_split(made)


_SPLIT: Final = {
    "door": "service",
    "desk": "registrar",
    "ops": "operator",
    "audit": "auditor",
    "privacy": "dpo",
}


def _tell_split(made: _Made) -> None:
    vault = shlex.quote(str(made.path))
    output.say("the first principal may do everything; before production split it:")
    for label, role in _SPLIT.items():
        output.hint(
            f"  facekeep principal add {label} --role {role} --new-token-file {label}.token --vault {vault}"
        )
    output.hint(f"  facekeep principal revoke {made.principal} --token-file ops.token --vault {vault}")
    if made.token_file == default_file(made.vault_id):
        output.hint(f"  rm {shlex.quote(str(made.token_file))}")
