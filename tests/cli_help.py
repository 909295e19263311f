"""The facekeep command on a vault in a directory of its own, with small made-up embeddings."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import pty
import shutil
import sys
import termios
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Final

import numpy as np
import pytest
from click.testing import CliRunner

from facekeep.cli.app import root
from facekeep.clock import SystemClock
from facekeep.matching.threshold import Threshold

DIMENSION: Final = 16
MODEL: Final = f"raw:test/1:{DIMENSION}:l2"
THRESHOLD: Final = Threshold(
    model_id="raw:test/1",
    metric="l2",
    value=1.0,
    target_fmr=0.001,
    fmr=0.001,
    fmr_low=0.0005,
    fmr_high=0.002,
    fnmr=0.1,
    dataset="made up",
    identities=10,
    impostor_pairs=1000,
    genuine_pairs=100,
).to_json()
_LOCAL: Final = 3  # local modes in what tcgetattr returns
CONSENT: Final = ("--expires", "365d", "--notice", "notice.txt")


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command did: exit status, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Return the one JSON object of standard output."""
        assert self.out.count("\n") == 1, self.out
        found: dict[str, Any] = json.loads(self.out)
        return found

    @property
    def error(self) -> dict[str, Any]:
        """Return the error of standard error, which has that and nothing else."""
        assert self.out == ""
        assert self.err.count("\n") == 1, self.err
        found: dict[str, Any] = json.loads(self.err)
        assert set(found) == {"error"}
        assert {"code", "message", "next"} <= set(found["error"])
        return dict(found["error"])


class Cli:
    """A user's home in ``home``: the vault staff.vault, its root file beside it, probes and a notice."""

    def __init__(self, home: Path, patch: pytest.MonkeyPatch, *, made: bool = True) -> None:
        self.home = home
        self.vault = home / "staff.vault"
        self.root = home / "staff.root"
        self._patch = patch
        if made:
            shutil.copytree(_template(), home, dirs_exist_ok=True)
        else:
            _furnish(home)
        settle_in(home, patch)

    def run(self, *words: str, stdin: str | bytes | None = None) -> Ran:
        """Run the command as a user would; fails the test when it shows a traceback."""
        result = CliRunner().invoke(root, list(words), input=stdin)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert "Traceback" not in result.output
        assert "internal" not in result.stderr, result.stderr
        return Ran(result.exit_code, result.stdout, result.stderr)

    def ok(self, *words: str) -> dict[str, Any]:
        """JSON of a command that must succeed."""
        ran = self.run(*words, "--json")
        assert ran.code == 0, ran.err
        return ran.json

    def fails(self, code: str, status: int, *words: str) -> dict[str, Any]:
        """Error of a command that must fail so, in JSON and in words."""
        spoken = self.run(*words)
        assert spoken.out == ""
        assert spoken.err.startswith("facekeep: ")
        assert f"({code})\nnext: " in spoken.err
        assert spoken.err.count("\n") == 2
        assert spoken.code == status
        ran = self.run("--json", *words)
        assert ran.code == status
        assert ran.error["code"] == code
        return ran.error

    def init(self, *words: str) -> dict[str, Any]:
        return self.ok("init", "--root", "file:staff.root", "--no-copy", *words)

    def enroll(self, subject: str, who: str, *scopes: str) -> dict[str, Any]:
        """Enrol a subject with one made-up embedding; ``who`` is ada, bob or eve."""
        wanted = [word for scope in scopes or ("verify",) for word in ("--scope", scope)]
        return self.ok("enroll", subject, *embedding(who), *wanted, *CONSENT)

    def verify(self, subject: str, who: str) -> Ran:
        return self.run("verify", subject, *probe(who), "--json")

    def identified(self, who: str) -> list[str]:
        ran = self.run("identify", *probe(who), "--json")
        assert ran.code in {0, 1}, ran.err
        return [each["subject"] for each in ran.json["candidates"]]

    def subjects(self) -> dict[str, list[str]]:
        """Scopes by subject."""
        found = self.ok("subjects")["subjects"]
        return {each["subject"]: [grant["scope"] for grant in each["grants"]] for each in found}

    def travel(self, days: float) -> None:
        """Have the machine's clock stand some days from now, for every command that follows."""
        self._patch.setattr(SystemClock, "now_ms", lambda _: now_ms() + round(days * 86_400_000))


_now = SystemClock.now_ms


def now_ms() -> int:
    return _now(SystemClock())


def settle_in(home: Path, patch: pytest.MonkeyPatch) -> None:
    """Make ``home`` the place and the home of a user."""
    for name in ("FACEKEEP_TOKEN", "FACEKEEP_TOKEN_FILE", "FACEKEEP_MODELS"):
        patch.delenv(name, raising=False)
    patch.setenv("HOME", str(home))
    patch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    patch.setenv("XDG_DATA_HOME", str(home / "data"))
    patch.setenv("FACEKEEP_VAULT", "staff.vault")
    patch.chdir(home)


def embedding(who: str) -> tuple[str, ...]:
    return ("--embedding", f"{who}.npy", "--model", MODEL)


def probe(who: str) -> tuple[str, ...]:
    return (*embedding(who), "--threshold", "threshold.json")


def vector(seed: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.random.default_rng(seed).normal(size=DIMENSION).astype(np.float32)


def write_lines(path: Path, lines: Iterable[object]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _furnish(home: Path) -> None:
    (home / "notice.txt").write_text("we compare faces at the door\n")
    (home / "threshold.json").write_text(json.dumps(THRESHOLD))
    for seed, who in enumerate(("ada", "bob", "eve")):
        np.save(home / f"{who}.npy", vector(seed))
        np.save(home / f"{who}-again.npy", vector(seed) + np.float32(0.01))


@cache
def _template() -> Path:
    """Return a home with a fresh vault. Its root URI is relative, so that it can be copied."""
    home = Path(mkdtemp(prefix="facekeep-test-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    _furnish(home)
    with pytest.MonkeyPatch.context() as patch:
        settle_in(home, patch)
        ran = CliRunner().invoke(root, ["init", "--root", "file:staff.root", "--no-copy"])
        assert ran.exit_code == 0, ran.stderr
    return home


def snapshot(home: Path) -> dict[str, bytes]:
    """Every byte that lasts: SQLite's -wal and -shm come and go with each opening."""
    return {
        str(path.relative_to(home)): path.read_bytes()
        for path in sorted(home.rglob("*"))
        if path.is_file() and not path.name.endswith(("-wal", "-shm", ".lock"))
    }


def on_terminal(*words: str, answer: str = "") -> tuple[int, str]:
    """Run the command on a terminal of its own and type an answer: exit status, and all that was shown."""
    child, terminal = pty.fork()
    if child == 0:  # pragma: no cover - the command's own process
        facekeep = str(Path(sys.executable).with_name("facekeep"))
        os.execv(facekeep, [facekeep, *words])  # noqa: S606 - on a terminal of its own
    os.write(terminal, answer.encode())
    return _ended(child, terminal, b"")


def asked_on_terminal(*words: str, answers: Sequence[str]) -> tuple[int, str]:
    """As ``on_terminal``, each answer typed when a question stands there, as hidden ones must be."""
    facekeep = str(Path(sys.executable).with_name("facekeep"))
    return typed_on_terminal([facekeep, *words], answers=answers)


def typed_on_terminal(command: Sequence[str], *, answers: Sequence[str]) -> tuple[int, str]:
    """Any program on a terminal of its own: exit status, and all that was shown."""
    child, terminal = pty.fork()
    if child == 0:  # pragma: no cover - the command's own process
        os.execv(command[0], list(command))  # noqa: S606 - on a terminal of its own
    said = b""
    for answer in answers:
        seen = len(said)
        while not said[seen:].endswith(b": "):
            said += os.read(terminal, 4096)
        while termios.tcgetattr(terminal)[_LOCAL] & termios.ECHO:
            time.sleep(0.005)  # some ask first and hide afterwards, which forgets what was typed
        os.write(terminal, f"{answer}\n".encode())
    return _ended(child, terminal, said)


def _ended(child: int, terminal: int, said: bytes) -> tuple[int, str]:
    with contextlib.suppress(OSError):  # Linux says so when the other end is closed
        while more := os.read(terminal, 4096):
            said += more
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said.decode()
