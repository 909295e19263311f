"""docs/operator.md for the tests that type it.

A block of commands in the guide is indented; frames hold what is shown or goes into a file. ``types`` says
which headings' blocks a test types, ``mends`` which row of a table of messages it meets and mends; both fail
a test that does less. test_operator_complete.py fails where the guide has more than they say.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, ParamSpec

import pytest

from cli_help import Cli, typed_on_terminal
from wanting import wanting

P = ParamSpec("P")

ROOT: Final = Path(__file__).resolve().parent.parent
GUIDE: Final = (ROOT / "docs" / "operator.md").read_text()
INDENT: Final = 4
PLACEHOLDERS: Final = ("ID", "LIBRARY", "SERIAL")
"""What the reader fills in, as the guide says at its beginning."""
PLACEHOLDER: Final = re.compile(rf"(?<!\w)(?:{'|'.join(PLACEHOLDERS)})(?!\w)")
PLACES: Final = re.compile(r"(?<![\w./])/(?=(?:mnt|srv|etc/facekeep|run/facekeep|var/lib/facekeep)/?)")

claimed: Final[set[str]] = set()
"""Headings whose commands some test types; full once every module of tests is imported."""
mended: Final[set[tuple[str, str]]] = set()
"""(heading, message) of the rows that some test meets and mends; likewise."""
_typed: Final[set[str]] = set()
_met: Final[set[tuple[str, str]]] = set()


@dataclass(frozen=True, slots=True)
class Row:
    """What the guide says of one message."""

    title: str
    message: str
    remedy: str

    def check(self, said: str) -> None:
        """Fail unless this is what was printed: dots stand for anything, a number for a number."""
        form = re.sub(r"(?:\\\.){3}|…", ".*", re.escape(self.message))
        form = re.sub(r"\b[AB]\b", r"\\S+", re.sub(r"\d+", r"\\d+", form))
        assert re.search(form, said), f"the guide has {self.message!r}, printed was: {said}"
        _met.add((self.title, self.message))

    def commands(self) -> list[str]:
        """What the remedy says to type: the code in it that begins with a program."""
        return [each for each in re.findall(r"`([^`]+)`", self.remedy) if re.match(r"[a-z][\w-]+ ", each)]


def sections() -> Iterator[tuple[str, str]]:
    """(heading, text up to the next heading of any rank)."""
    parts = re.split(r"^#+ (.+)$", GUIDE, flags=re.MULTILINE)
    return zip(parts[1::2], parts[2::2], strict=True)


def text_of(title: str) -> str:
    """Text of one heading, without that of the headings below it."""
    (found,) = [text for each, text in sections() if each == title]
    return found


def commands(*titles: str) -> list[str]:
    """Every command of the blocks under these headings, in order; a continued line is one command."""
    return [line for title in titles for line in _commands(text_of(title))]


def _commands(text: str) -> list[str]:
    framed = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line.strip() for line in framed.splitlines() if line.startswith(" " * INDENT) and line.strip()]
    return re.sub(r"\\\n", "", "\n".join(lines)).splitlines()


def frames(title: str) -> list[tuple[str, str]]:
    """(kind, text) of every frame under a heading."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text_of(title), flags=re.MULTILINE | re.DOTALL)


def headings_with_commands() -> set[str]:
    return {title for title, text in sections() if _commands(text)}


def rows(title: str) -> list[Row]:
    """Rows of the table of messages under a heading: the first cell is the message, the last the remedy."""
    lines = [line for line in text_of(title).splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [Row(title, each[0].strip("`"), each[-1]) for each in cells[1:]]


def row(title: str, start: str) -> Row:
    """The row with this message, or the one whose message begins so."""
    begun = [each for each in rows(title) if each.message.startswith(start)]
    (found,) = [each for each in begun if each.message == start] or begun
    return found


def types(*titles: str) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Claim every command under these headings for a test; it fails where it did not type one."""
    claimed.update(titles)

    def wrap(test: Callable[P, None]) -> Callable[P, None]:
        @functools.wraps(test)
        def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
            test(*args, **kwargs)
            assert [line for line in commands(*titles) if line not in _typed] == []

        return wrapped

    return wrap


def mends(title: str, *starts: str) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Claim the rows whose messages begin so; the test fails where it did not meet one of them."""
    keys = {(title, row(title, start).message) for start in starts}
    mended.update(keys)

    def wrap(test: Callable[P, None]) -> Callable[P, None]:
        @functools.wraps(test)
        def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
            _met.clear()
            test(*args, **kwargs)
            assert keys - _met == set()

        return wrapped

    return wrap


class Typist:
    """Types the guide into a shell at a user's home; what lies in /mnt, /srv and the like lies there.

    ``processes``: facekeep runs as a process of its own, as the reader's does; without it in this one, which
    is quicker. What changes the machine (apt-get, pip, usermod) only checks that it would find what it names.
    """

    def __init__(self, cli: Cli, patch: pytest.MonkeyPatch, *, processes: bool = False) -> None:
        _typed.clear()
        self.cli = cli
        self.patch = patch
        self.processes = processes
        self.instead: dict[str, str] = {}
        for name in ("mnt/keys", "mnt/second", "mnt/third", "mnt/safe", "mnt/other", "mnt/new", "srv"):
            (cli.home / name).mkdir(parents=True)
        patch.delenv("CREDENTIALS_DIRECTORY", raising=False)
        patch.setenv("PATH", f"{_stand_ins(cli.home)}:{Path(sys.executable).parent}:{os.environ['PATH']}")

    @property
    def home(self) -> Path:
        return self.cli.home

    def follow(
        self, *titles: str, codes: dict[int, int] | None = None, fill: dict[str, str] | None = None
    ) -> list[str]:
        """Type all commands under these headings; ``codes``: exit status by place. Returns what was said."""
        wanted = codes or {}
        return [
            self.type(line, code=wanted.get(at, 0), fill=fill) for at, line in enumerate(commands(*titles))
        ]

    def type(
        self, line: str, *, code: int = 0, fill: dict[str, str] | None = None, answers: Sequence[str] = ()
    ) -> str:
        """Type one line, which must end with ``code``; ``fill``: words for its capitals."""
        _typed.add(line)
        typed = self._here(line, fill or {})
        if typed.startswith("facekeep ") and not self.processes and not answers:
            ran = self.cli.run(*shlex.split(typed)[1:])
            ended, said = ran.code, ran.out + ran.err
        elif answers:
            ended, said = typed_on_terminal(["/bin/bash", "-c", typed], answers=answers)
        else:
            ended, said = self._shell(typed)
        assert ended == code, f"{line}\n{ended}: {said}"
        return said

    def fails(self, line: str, *, code: int = 31, fill: dict[str, str] | None = None) -> str:
        """Type a line that must be refused in facekeep's words: message, code and next step."""
        said = self.type(line, code=code, fill=fill)
        assert re.search(r"^facekeep: .+ \(\w+\)\nnext: .+$", said, re.MULTILINE), said
        return said

    def edit(self, line: str, content: str) -> None:
        """Type a line that opens an editor, and write this into the file."""
        assert line.startswith("${EDITOR:-vi} "), line
        script = self.home / "editor"
        script.write_text(f"#!/bin/sh\nprintf '%s\\n' {shlex.quote(content)} >\"$1\"\n")
        script.chmod(0o755)
        self.patch.setenv("EDITOR", str(script))
        self.type(line)

    def _here(self, line: str, fill: dict[str, str]) -> str:
        """The line with the capitals filled in, and the guide's examples turned into what is here."""
        found = PLACEHOLDER.sub(lambda match: fill[match[0]], line)
        found = PLACES.sub(f"{self.home}/", found).replace("-o facekeep ", f"-o {os.geteuid()} ")
        for written, here in self.instead.items():
            found = found.replace(written, here)
        return found

    def _shell(self, line: str) -> tuple[int, str]:
        exported = re.match(r"export (\w+)=", line)
        after = f'\nprintenv {exported[1]} >"$HOME/exported"' if exported else ""
        done = subprocess.run(
            ["/bin/bash", "-euo", "pipefail", "-c", line + after],
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if exported:
            self.patch.setenv(exported[1], (self.home / "exported").read_text().strip())
        return done.returncode, done.stdout


_APT: Final = """#!/bin/sh
[ "$1" = install ] && [ $# -gt 1 ] || exit 2
shift
command -v dpkg-query >/dev/null || exit 0
exec dpkg-query --show "$@"
"""
_USERMOD: Final = """#!/bin/sh
[ "$1" = -aG ] && [ $# = 3 ] || exit 2
exec getent group "$2"
"""
_PIP: Final = f"""#!{sys.executable}
import re, sys, tomllib
from importlib.metadata import version
extra = re.fullmatch(r"facekeep\\[(\\w+)\\]", sys.argv[2])
with open({str(ROOT / "pyproject.toml")!r}, "rb") as file:
    wanted = tomllib.load(file)["project"]["optional-dependencies"][extra[1]]
assert sys.argv[1] == "install" and wanted
for each in wanted:
    print(each, version(re.match(r"[\\w-]+", each)[0]))
"""
_SYSTEMCTL: Final = """#!/bin/sh
# Nothing is begun: there may be no systemd that runs.
if [ "$1" = enable ]; then
  [ "$2" = --now ] && shift 2
  exec {0} --root="$HOME" enable "$@"
fi
SYSTEMD_OFFLINE=1 exec {0} "$@"
"""


def _stand_ins(home: Path) -> Path:
    """Directory with what is run instead of the programs that change the machine."""
    folder = home / "stand-ins"
    folder.mkdir()
    scripts = {"apt-get": _APT, "usermod": _USERMOD, "pip": _PIP}
    if (real := shutil.which("systemctl")) is not None:
        scripts["systemctl"] = _SYSTEMCTL.format(shlex.quote(real))
    for name, text in scripts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


def need(*programs: str) -> None:
    """Skip a test where the machine has not these programs; fail there in CI."""
    if missing := [each for each in programs if shutil.which(each) is None]:
        wanting(f"not installed: {', '.join(missing)}")
