"""``facekeep shred``: erasure, of one person or of a list."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from facekeep.cli import output
from facekeep.cli.answers import tell_erasure
from facekeep.cli.opened import open_vault
from facekeep.cli.options import State, common, with_state
from facekeep.cli.progress import Progress
from facekeep.errors import StoreError, UsageError


@click.command("shred", short_help="Erase people in every copy and every backup.")
@click.argument("subjects", nargs=-1)
@click.option("--from", "listed", metavar="FILE", help="One id a line; - for standard input.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@common
@with_state
def command(state: State, subjects: tuple[str, ...], listed: str | None, yes: bool) -> None:
    """Erase people in every copy and every backup.

    All of them in one batch, or none if one id is unknown. Nobody can undo it.
    """
    named = [*subjects, *(read_ids(listed) if listed else [])]
    if not named:
        raise UsageError("no subject was named", next="name ids, or a list with --from FILE")
    if not yes:
        _ask(len(set(named)), piped=listed == "-", as_json=state.json)
    with open_vault(state, to_erase=True) as vault, Progress("collecting keys") as progress:
        erasure = vault.shred(*named, progress=progress)
    tell_erasure(erasure, "shredded", as_json=state.json)


def read_ids(source: str) -> list[str]:
    """Ids of a file or of standard input, one a line, exactly as written; empty lines are left out."""
    try:
        raw = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
        lines = raw.decode("utf-8").split("\n")
    except OSError as error:
        raise StoreError(f"the list {Path(source).name}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise UsageError("the list of ids is not UTF-8 text") from None
    return [line.removesuffix("\r") for line in lines if line.removesuffix("\r")]


def _ask(count: int, *, piped: bool, as_json: bool) -> None:
    if piped or as_json or not sys.stdin.isatty() or not sys.stderr.isatty():
        raise UsageError("shredding is not asked about here; nothing was shredded", next="add --yes")
    what = output.counted(count, "person", "people")
    question = f"{output.PREFIX}erase {what} for good? nobody can undo it"
    if not click.confirm(question, err=True):
        raise UsageError("nothing was shredded", next="answer y, or add --yes")
