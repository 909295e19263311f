"""The facekeep command: parse, call one command, turn whatever goes wrong into one message."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import click

from facekeep.cli import output, problems
from facekeep.cli.options import State, common
from facekeep.cli.registry import Lazy


class Root(Lazy):
    """The top group; ``main`` never shows a traceback, and a command's number is the exit status."""

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
        state = State()
        extra.setdefault("obj", state)
        try:
            code = super().main(
                arguments, prog_name or "facekeep", complete_var, standalone_mode=False, **extra
            )
            sys.stdout.flush()
        except click.exceptions.NoArgsIsHelpError as error:
            error.show(sys.stderr)
            code = problems.COMMAND_LINE
        except BaseException as error:  # noqa: BLE001 - the one place where everything ends
            code = _ended(error, as_json=state.json or "--json" in arguments)
        if not standalone_mode:
            return code
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's signature
        """Run the command; a reader that went away is no error of ours."""
        try:
            return super().invoke(ctx)
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise problems.BrokenPipe from None
            raise


def _ended(error: BaseException, *, as_json: bool) -> int:
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 0
    broken = isinstance(error, problems.BrokenPipe) or getattr(error, "errno", None) == errno.EPIPE
    if broken:
        _silence_stdout()
        return problems.BROKEN_PIPE
    problem = problems.describe(error)
    problems.show(problem, as_json=as_json)
    if getattr(error, "errno", None) == errno.ENOSPC:
        _silence_stdout()
    return problem.exit_code


def _silence_stdout() -> None:
    """Have the interpreter's last flush go nowhere."""
    try:
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, sys.stdout.fileno())
        os.close(descriptor)
    except (OSError, ValueError):
        return


@click.command(
    "facekeep",
    cls=Root,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    no_args_is_help=True,
    epilog="Exit status: 0 done or match, 1 no match, 2 command line, 3 done in part, 9 and up an error.",
)
@click.version_option(package_name="facekeep", message="%(prog)s %(version)s")
@common
def root() -> None:
    """Keep face templates encrypted: no consent, no key; erased stays erased."""


def main() -> None:
    """Run the ``facekeep`` command."""
    _quiet_libraries()
    root.main()


def _quiet_libraries() -> None:
    """Keep standard error to ourselves: decoders and drivers write to its descriptor as well."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    try:
        own, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    except OSError:
        return
    sys.stderr = open(own, "w", buffering=1, encoding=sys.stderr.encoding, errors=sys.stderr.errors)  # noqa: SIM115, PTH123 - until the end
    os.dup2(nowhere, 2)
    os.close(nowhere)


__all__ = ["main", "output", "root"]
