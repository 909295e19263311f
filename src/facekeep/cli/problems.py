"""From any exception to one message, one code, one next step and one exit status."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath

import click

from facekeep.cli import output
from facekeep.errors import (
    Denied,
    FacekeepError,
    ImageError,
    IntegrityError,
    NextStep,
    StoreError,
    Unavailable,
)

PARTLY_DONE = 3
COMMAND_LINE = 2
INTERNAL = 70  # EX_SOFTWARE of sysexits.h
INTERRUPTED = 130  # 128 + SIGINT, as shells have it
BROKEN_PIPE = 141  # 128 + SIGPIPE; nothing is printed


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as told to the outside; ``decision`` is the id of a denial, ``reason`` a photograph's."""

    code: str
    message: str
    next: str
    exit_code: int
    decision: str | None = None
    reason: str | None = None

    def to_json(self) -> dict[str, object]:
        """Return the object that stands under "error"."""
        found: dict[str, object] = {"code": self.code, "message": self.message, "next": self.next}
        if self.decision is not None:
            found["decision"] = self.decision
        if self.reason is not None:
            found["reason"] = self.reason
        return found


class BrokenPipe(Exception):
    """Whoever read standard output has gone."""


@contextlib.contextmanager
def then(step: str, *, errors: bool = False) -> Iterator[None]:
    """Have an interruption of what is done here say what is to be done then; with ``errors`` these, too."""
    try:
        yield
    except BaseException as error:
        if errors or not isinstance(error, FacekeepError):
            error.next = NextStep(step)  # type: ignore[attr-defined] # of whatever stops it
        raise


def describe(error: BaseException) -> Problem:
    """Say what happened. Nothing of the exception's own text leaves when it is not meant for people."""
    if isinstance(error, FacekeepError):
        return _ours(error)
    if isinstance(error, click.UsageError):
        return Problem("command_line", _click_message(error), _help_of(error), COMMAND_LINE)
    if isinstance(error, click.ClickException):
        return Problem("command_line", _click_message(error), "correct the command", COMMAND_LINE)
    if isinstance(error, click.Abort | KeyboardInterrupt):
        begun = NextStep("type the command again; what was begun is finished or undone first")
        begun = getattr(error.__cause__ or error, "next", begun)  # click's Abort has it as its cause
        return Problem("interrupted", "interrupted", begun.command, INTERRUPTED)
    if isinstance(error, sqlite3.OperationalError):
        return _ours(StoreError(f"a file of the vault: {error}"))
    if isinstance(error, sqlite3.DatabaseError):
        return _ours(IntegrityError(f"a file of the vault is damaged: {error}"))
    if isinstance(error, OSError):
        return _ours(StoreError(_os_message(error)))
    where = _innermost(error)
    if isinstance(error, ImportError) and error.name:
        where = f"{where}, which needs {error.name}"
    report = "report this line, the version and the command without its names, as SECURITY.md says"
    return Problem("internal", f"internal error: {type(error).__name__} at {where}", report, INTERNAL)


def _ours(error: FacekeepError) -> Problem:
    step, decision = error.next.command, None
    if isinstance(error, Denied | Unavailable):
        decision = error.decision
        step = step.replace("--decision ID", f"--decision {decision}") if decision else step
    reason = error.reason if isinstance(error, ImageError) else None
    return Problem(error.code, _lowered(str(error)), step, error.exit_code, decision, reason)


def _help_of(error: click.UsageError) -> str:
    path = error.ctx.command_path if error.ctx is not None else "facekeep"
    return f"see '{path} --help'"


def _click_message(error: click.ClickException) -> str:
    return _lowered(" ".join(error.format_message().split()))


def _lowered(message: str) -> str:
    """Put into the house style: lower case at the start, no full stop at the end."""
    text = message.strip().removesuffix(".")
    keep = len(text) > 1 and text[1].isupper()
    return text if keep else text[:1].lower() + text[1:]


def _os_message(error: OSError) -> str:
    reason = error.strerror or type(error).__name__
    if isinstance(error.filename, str | bytes | os.PathLike):
        return f"{PurePath(os.fsdecode(error.filename)).name}: {reason}"
    return f"the output cannot be written: {reason}" if error.errno == errno.ENOSPC else reason


def _innermost(error: BaseException) -> str:
    """Return module and line of the innermost frame that is ours; no values, they may be personal."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "facekeep" in PurePath(frame.filename).parts] or frames
    if not ours:
        return "an unknown place"
    path = PurePath(ours[-1].filename)
    return f"{path.parent.name}/{path.name}:{ours[-1].lineno}"


def show(problem: Problem, *, as_json: bool) -> None:
    """Print a problem on standard error."""
    if as_json:
        output.json_error(problem.to_json())
        return
    output.say(f"{problem.message} ({problem.code})")
    output.hint(f"next: {problem.next}")
