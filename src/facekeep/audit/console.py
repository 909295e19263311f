"""What facekeep-audit prints, and how it ends: the rules of facekeep's own output, under its own name.

Verdicts are data and go to standard output, one line each as it falls, or one JSON object in the end.
Everything else goes to standard error. The exit status is that of the error's class.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

import click

from facekeep.audit.report import Report, RuleBroken, Step
from facekeep.cli import output
from facekeep.cli.progress import Progress
from facekeep.errors import FacekeepError, StoreError

NAME: Final = "facekeep-audit"
COMMAND_LINE: Final = 2
INTERNAL: Final = 70  # EX_SOFTWARE of sysexits.h
INTERRUPTED: Final = 130  # 128 + SIGINT, as shells have it
BROKEN_PIPE: Final = 141  # 128 + SIGPIPE; nothing is printed


def tell(step: Step) -> None:
    """Print a verdict."""
    output.line(str(step))


def telling(progress: Progress) -> Callable[[Step], None]:
    """``tell`` beside a progress line."""

    def tell_below(step: Step) -> None:
        progress.clear()
        tell(step)

    return tell_below


def tell_all(report: Report) -> None:
    """Print what judged a whole log or a pair of checkpoints."""
    for step in report.steps:
        tell(step)
    for word, number in report.counts.items():
        output.data(word, number)
    for note in report.notes:
        say(f"note: {note}")


def say(text: str) -> None:
    """Tell the person something that is not data."""
    output.hint(f"{NAME}: {text}")


class Console(click.Group):
    """The command group; ``main`` turns whatever goes wrong into one message and one exit status."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,  # noqa: ANN401 - click's signature
    ) -> Any:  # noqa: ANN401 - likewise
        """Run the command line and exit."""
        arguments = list(sys.argv[1:] if args is None else args)
        try:
            code = super().main(arguments, prog_name or NAME, complete_var, standalone_mode=False, **extra)
            sys.stdout.flush()
        except click.exceptions.NoArgsIsHelpError as error:
            error.show(sys.stderr)
            code = COMMAND_LINE
        except SystemExit as error:
            code = error.code
        except BaseException as error:  # noqa: BLE001 - the one place where everything ends
            code = _ended(error, as_json="--json" in arguments)
        if not standalone_mode:
            return code
        sys.exit(code if isinstance(code, int) else 0)


def _ended(error: BaseException, *, as_json: bool) -> int:
    if isinstance(error, BrokenPipeError):
        with contextlib.suppress(OSError, ValueError):  # the interpreter's last flush goes nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    code, message, step, status = _described(error)
    if as_json:
        found: dict[str, object] = {"code": code, "message": message, "next": step}
        if isinstance(error, RuleBroken):
            found |= {"step": error.rule, "entry": error.index}
            found["report"] = None if error.report is None else error.report.to_json()
        output.json_error(found)
        return status
    say(f"{message} ({code})")
    output.hint(f"next: {step}")
    return status


def _described(error: BaseException) -> tuple[str, str, str, int]:
    """(code, message, next step, exit status); no text of an exception that is not meant for people."""
    if isinstance(error, FacekeepError):
        return error.code, str(error), error.next.command, error.exit_code
    if isinstance(error, click.ClickException):
        message = " ".join(error.format_message().split()).removesuffix(".")
        return "command_line", message[:1].lower() + message[1:], f"see '{NAME} --help'", COMMAND_LINE
    if isinstance(error, click.Abort | KeyboardInterrupt):
        return (
            "interrupted",
            "interrupted",
            "type the command again; no file is half written",
            INTERRUPTED,
        )
    if isinstance(error, OSError):
        reason = error.strerror or type(error).__name__
        return StoreError.code, reason, "check the files' names and permissions", StoreError.exit_code
    message = f"internal error: {type(error).__name__}"
    return "internal", message, "report this line, the version and the command, as SECURITY.md says", INTERNAL


def judged(verify: Callable[[], Report], *, as_json: bool) -> Report:
    """Verify, and print every verdict, also where one of them is that a step is broken."""
    try:
        report = verify()
    except RuleBroken as error:
        if not as_json and error.report is not None:
            tell_all(error.report)
        raise
    if not as_json:
        tell_all(report)
    return report
