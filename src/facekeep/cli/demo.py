"""``facekeep demo``: the whole story in under a minute, in a directory of its own."""

from __future__ import annotations

import shlex
import shutil
import sys
import tempfile
import time
from pathlib import Path

import click

from facekeep.cli import output
from facekeep.cli.options import State, common, with_state
from facekeep.cli.probes import extractor_option
from facekeep.cli.problems import PARTLY_DONE
from facekeep.demo.photos import people_of, portraits
from facekeep.demo.story import Step, Story


@click.command("demo", short_help="Show the whole story on two public portraits, or on yours.")
@click.option(
    "--photos", metavar="DIR", help="Your photographs: one folder, or one file, for each of two people."
)
@click.option("--keep", metavar="DIR", help="Where to make it: a new or empty directory.")
@extractor_option
@common
@with_state
def command(state: State, photos: str | None, keep: str | None, extractor: str | None) -> int:
    """Show the whole story on two public portraits, or on yours.

    Enrol two people under consent, match, refuse, withdraw, erase, restore a backup, and search every file.
    The vault, its root key and its token are made in one directory, which is left for you to look at. The
    photographs are not copied.
    """
    began = time.monotonic()
    people = portraits() if photos is None else people_of(Path(photos))
    home = Path(tempfile.mkdtemp(prefix="facekeep-demo-")) if keep is None else Path(keep)
    story = Story(people, home, extractor)
    steps = []
    for step in story.run():
        steps.append(step)
        if not state.json:
            _tell(step)
    seconds = round(time.monotonic() - began, 1)
    ok = all(step.ok for step in steps)
    if state.json:
        told = [step.to_json() for step in steps]
        output.json_line({"ok": ok, "seconds": seconds, "vault": str(story.path), "steps": told})
    else:
        _tell_end(story, seconds, ok=ok)
    return 0 if ok else PARTLY_DONE


def _tell(step: Step) -> None:
    output.line(f"{step.number:2}. {step.what}")
    output.line(f"    {'as told' if step.ok else 'NOT AS TOLD'}: {step.came}")


def _tell_end(story: Story, seconds: float, *, ok: bool) -> None:
    verdict = "everything came as told" if ok else "something did NOT come as told; please report it"
    output.say(f"{verdict}, in {seconds} s; the vault is left at {story.path}")
    output.hint("look at it:")
    output.hint(f"  export FACEKEEP_VAULT={shlex.quote(str(story.path))}")
    output.hint(f"  export FACEKEEP_TOKEN_FILE={shlex.quote(str(story.token_file))}")
    photo = shlex.quote(str(story.stays.photos[0]))
    for words in ("status", "subjects", "check", f"verify {story.stays.subject} {photo}"):
        output.hint(f"  {_program()} {words}")


def _program() -> str:
    """Return what to type for this very command: its name, or its path where a shell would not find it."""
    found, mine = shutil.which("facekeep"), Path(sys.argv[0])
    if mine.name != "facekeep" or (found is not None and mine.exists() and mine.samefile(found)):
        return "facekeep"
    return shlex.quote(str(mine))
