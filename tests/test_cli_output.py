"""The rules of output, the common options, and whatever goes wrong outside of commands."""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import subprocess
import sys
import termios
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from cli_help import CONSENT, Cli, embedding
from facekeep import errors
from facekeep.cli import output, problems
from facekeep.cli.app import root
from facekeep.cli.registry import COMMANDS
from facekeep.vault import Vault

FACEKEEP = str(Path(sys.executable).with_name("facekeep"))


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    return Cli(tmp_path, monkeypatch)


def failing(error: BaseException) -> property:
    def fail(_vault: Vault) -> object:
        raise error

    return property(lambda vault: lambda: fail(vault))


def test_help_loads_nothing() -> None:
    code = (
        "import sys; from facekeep.cli.app import root\n"
        "try: root.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'sqlite_utils', 'cryptography', 'PIL', 'dlib', 'cv2', 'facekeep.vault'}\n"
        "sys.exit(','.join(heavy & set(sys.modules)) or 0)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert all(name in ran.stdout for name in COMMANDS)


def test_a_vault_works_without_any_extractor(cli: Cli) -> None:
    code = (
        "import sys\n"
        "for name in ('PIL', 'dlib', '_dlib_pybind11', 'cv2', 'face_recognition'): sys.modules[name] = None\n"
        "from facekeep.cli import main; main()"
    )
    words = ["enroll", "ada", *embedding("ada"), "--scope", "verify", *CONSENT]
    ran = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr.split(";")[0]) == (0, "facekeep: enrolled")
    photo = [sys.executable, "-c", code, "verify", "ada", "notice.txt", "--json"]
    ran = subprocess.run(photo, capture_output=True, text=True, check=False)
    assert ran.returncode == 39
    assert json.loads(ran.stderr)["error"]["code"] == "missing_dependency"
    assert cli.subjects() == {"ada": ["verify"]}


def test_the_table_and_the_commands_say_the_same() -> None:
    context = click.Context(root)
    for name, (_, words) in COMMANDS.items():
        command = root.get_command(context, name)
        assert command is not None
        assert (command.name, command.short_help) == (name, words)
        assert (command.help or "").startswith(words)


@pytest.mark.parametrize("words", [("--json", "status"), ("status", "--json")])
def test_common_options_before_or_after_the_command(cli: Cli, words: tuple[str, ...]) -> None:
    assert cli.run(*words).json["rows"] == 0


def test_the_later_vault_wins(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.run("--vault", "nowhere", "status").code == 30
    assert cli.run("status", "--vault", "nowhere").code == 30
    assert cli.run("--vault", "nowhere", "status", "--vault", "staff.vault").code == 0
    monkeypatch.setenv("FACEKEEP_VAULT", "nowhere")
    assert cli.run("status", "--vault", "staff.vault").code == 0
    assert cli.run("principal", "--vault", "staff.vault", "list").code == 0


def test_the_version(cli: Cli) -> None:
    assert cli.run("--version").out.startswith("facekeep ")


@pytest.mark.parametrize(
    "words", [("fly",), ("status", "--fly"), ("verify",), ("identify", "--top", "many"), ("clock", "wind")]
)
def test_a_wrong_command_line(cli: Cli, words: tuple[str, ...]) -> None:
    error = cli.fails("command_line", 2, *words)
    assert error["message"][0].islower() or not error["message"][0].isalpha()
    assert not error["message"].endswith(".")
    assert error["next"].startswith("see 'facekeep")


def test_no_command_shows_the_help(cli: Cli) -> None:
    ran = cli.run()
    assert ran.code == 2
    assert "Commands:" in ran.err


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (OSError(28, "No space left on device", "staff.vault/vault.db"), "store", 32),
        (OSError(28, "No space left on device"), "store", 32),
        (PermissionError(13, "Permission denied", "/x/y"), "store", 32),
        (sqlite3.OperationalError("disk I/O error"), "store", 32),
        (sqlite3.DatabaseError("database disk image is malformed"), "integrity", 33),
        (KeyboardInterrupt(), "interrupted", 130),
        (EOFError(), "interrupted", 130),
        (click.Abort(), "interrupted", 130),
        (errors.TreeFull("full"), "tree_full", 37),
        (errors.Busy("Another process is at work."), "busy", 36),
        (errors.Denied(), "denied", 20),
        (errors.Unavailable(), "unavailable", 23),
    ],
)
def test_whatever_goes_wrong(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: str, status: int
) -> None:
    monkeypatch.setattr(Vault, "status", failing(error))
    found = CliRunner().invoke(root, ["status", "--json"])
    assert found.exit_code == status
    told = json.loads(found.stderr.strip().splitlines()[-1])["error"]
    assert told["code"] == code
    assert told["next"]
    found = CliRunner().invoke(root, ["status"])
    assert found.exit_code == status
    assert f"({code})\nnext: " in found.stderr
    assert "Traceback" not in found.output
    assert cli.home.exists()


@pytest.mark.parametrize(
    "error", [ValueError("ada lovelace"), RecursionError(), MemoryError(), AssertionError()]
)
def test_a_fault_of_ours_is_one_line_and_tells_nobody_anything_personal(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(Vault, "status", failing(error))
    found = CliRunner().invoke(root, ["status"])
    first, second = found.stderr.splitlines()
    assert found.exit_code == 70
    assert first.startswith(f"facekeep: internal error: {type(error).__name__} at ")
    assert first.endswith("(internal)")
    assert second.startswith("next: report this line")
    assert "lovelace" not in found.output
    assert cli.home.exists()


def test_what_comes_from_outside_cannot_move_the_cursor(cli: Cli) -> None:
    ran = cli.run("restore", "a\x1b[2J\nb")
    assert "\x1b" not in ran.err
    assert "\\x1b[2J\\nb" in ran.err
    assert output.printable("zoë \u202e\ud800\t") == "zoë \\u202e\\ud800\\t"


def test_a_terminal_that_knows_only_ascii(cli: Cli) -> None:
    cli.enroll("zoë", "ada")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    ran = subprocess.run([FACEKEEP, "subjects"], capture_output=True, env=environment, check=False)
    assert ran.returncode == 0
    assert ran.stdout.startswith(b"zo\\xeb\t")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_an_output_that_is_full(cli: Cli) -> None:
    assert cli.home.exists()
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            [FACEKEEP, "status"], stdout=full, stderr=subprocess.PIPE, check=False, text=True
        )
    assert ran.returncode == 32
    assert ran.stderr.splitlines()[0] == (
        "facekeep: the output cannot be written: No space left on device (store)"
    )
    assert "Exception" not in ran.stderr


def test_a_reader_that_goes_away(cli: Cli) -> None:
    assert cli.home.exists()
    with subprocess.Popen(
        [FACEKEEP, "status"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait() == problems.BROKEN_PIPE
        assert process.stderr.read() == ""


def test_an_interrupt_from_the_keyboard(cli: Cli) -> None:
    assert cli.home.exists()
    with subprocess.Popen(
        [FACEKEEP, "shred", "--from", "-", "--yes"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write("somebody\n")
        process.stdin.flush()
        left = bytearray(b"\1\0\0\0")
        while any(left):  # until it reads
            fcntl.ioctl(process.stdin, termios.FIONREAD, left)
        process.send_signal(2)
        assert process.wait() == 130
        assert "facekeep: interrupted (interrupted)\nnext: " in process.stderr.read()
