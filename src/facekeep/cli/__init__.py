"""The facekeep command: one module a command, ``registry`` the table of them, ``output`` the rules."""

from __future__ import annotations


def main() -> None:
    """Run the ``facekeep`` command; never returns a traceback to the person."""
    from facekeep.cli.app import main as run  # noqa: PLC0415 - importing the package loads nothing else

    run()
