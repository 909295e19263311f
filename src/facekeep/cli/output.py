"""What facekeep prints, and where.

Every command keeps to these rules:

- data goes to standard output, everything else to standard error;
- with --json, standard output carries exactly one JSON object, and standard error one for an error;
- what is said to people begins with "facekeep: ", in lower case, takes one line and has no final full stop;
- an error ends with its code in brackets, and the line "next: ..." under it says what to do;
- a question, or a progress bar, appears on a terminal only; nothing is coloured;
- a person's id is printed only where the command is about ids, and never into a file of our own making;
- what came from outside is printed with its control characters escaped.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import TextIO

import click

PREFIX = "facekeep: "


def printable(text: str) -> str:
    """Return the text with everything a terminal could obey, or that breaks a line, escaped."""
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")


def _write(text: str, stream: TextIO) -> None:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    click.echo(text.encode(encoding, "backslashreplace").decode(encoding), file=stream)


def data(*fields: object) -> None:
    """Print one line of data: fields with tabs between them."""
    _write("\t".join(printable(str(field)) for field in fields), sys.stdout)


def line(text: str) -> None:
    """Print one line of data as it is laid out."""
    _write(printable(text), sys.stdout)


def json_line(value: Mapping[str, object]) -> None:
    """Print the one JSON object of a command."""
    _write(json.dumps(value), sys.stdout)


def json_error(value: Mapping[str, object]) -> None:
    """Print the one JSON object of an error."""
    _write(json.dumps({"error": value}), sys.stderr)


def say(text: str) -> None:
    """Tell the person something that is not data."""
    _write(PREFIX + printable(text), sys.stderr)


def hint(text: str) -> None:
    """Print a line under what was said: a next step, or a command to type."""
    _write(printable(text), sys.stderr)


def warn(text: str, remedy: str = "") -> None:
    """Warn, and name the remedy."""
    say(f"warning: {text}")
    if remedy:
        hint(f"next: {remedy}")


def counted(number: int, one: str, many: str = "") -> str:
    """``1 subject``, ``2 subjects``."""
    return f"{number} {one}" if number == 1 else f"{number} {many or one + 's'}"
