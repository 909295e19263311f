"""``facekeep keys recovery``: the offline key itself, made, split and joined; no vault is needed."""

from __future__ import annotations

from pathlib import Path

import click

from facekeep.cli import output
from facekeep.cli.options import State, common, with_state
from facekeep.operations import recovering


@click.group("recovery", short_help="Make an offline recovery key, split it, join its shares.")
@common
def command() -> None:
    """Make an offline recovery key, split it, join its shares.

    On a machine without the vault, best without a network. No command here opens a vault.
    """


@command.command("new", short_help="Make a recovery key: a private and a public file.")
@click.option(
    "--private", required=True, metavar="FILE", type=click.Path(path_type=Path), help="New file, mode 0600."
)
@click.option(
    "--public", required=True, metavar="FILE", type=click.Path(path_type=Path), help="New file, for init."
)
@common
@with_state
def new(state: State, private: Path, public: Path) -> None:
    """Make a recovery key: a private file to keep offline, a public one for 'init --recovery'."""
    key = recovering.new_pair(private, public)
    if state.json:
        output.json_line(
            {
                "key": key.mark.hex(),
                "private": str(private),
                "public": str(public),
                "weakening": recovering.WEAKENING,
            }
        )
        return
    output.data("key id", key.mark.hex())
    output.data("private", private)
    output.data("public", public)
    output.say(recovering.WEAKENING)
    output.hint("next: take the private file offline, and name the public one: facekeep init --recovery FILE")


@command.command("split", short_help="Split the private key among people.")
@click.argument("private", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--shares", required=True, type=int, metavar="N", help="How many shares, at most 16.")
@click.option("--threshold", required=True, type=int, metavar="M", help="How many give the key back.")
@click.option(
    "--out", required=True, metavar="DIR", type=click.Path(path_type=Path), help="Where the shares go."
)
@common
@with_state
def split(state: State, private: Path, shares: int, threshold: int, out: Path) -> None:
    """Split the private key into shares of 33 words (SLIP-39), any M of which give it back."""
    files = recovering.split(private, shares, threshold, out)
    if state.json:
        output.json_line({"shares": [str(file) for file in files], "threshold": threshold})
        return
    for file in files:
        output.data("share", file)
    output.say(f"any {threshold} of the {shares} shares give the private key back, fewer give nothing")
    output.hint(f"next: give each to somebody else, try 'join' with {threshold}, then destroy {private}")


@command.command("join", short_help="Join shares into the private key.")
@click.argument("shares", nargs=-1, required=True, metavar="SHARE...", type=click.Path(path_type=Path))
@click.option(
    "--out", required=True, metavar="FILE", type=click.Path(path_type=Path), help="New file, mode 0600."
)
@common
@with_state
def join(state: State, shares: tuple[Path, ...], out: Path) -> None:
    """Join shares into the private key. A share that was copied by hand is a file of its 33 words."""
    key = recovering.join(shares, out)
    if state.json:
        output.json_line({"key": key.mark.hex(), "private": str(out)})
        return
    output.data("key id", key.mark.hex())
    output.data("private", out)
