"""Where tokens come from; a token that others can read is refused with the command that mends it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cli_help import Cli
from facekeep.cli import tokens
from facekeep.errors import StoreError


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    return Cli(tmp_path, monkeypatch)


@pytest.fixture
def token(cli: Cli) -> str:
    """Return the first principal's token, which is no longer where it is looked for."""
    file = next((cli.home / "config").rglob("*.token"))
    found = file.read_text().strip()
    file.unlink()
    return found


def write(name: str, content: bytes, mode: int = 0o600) -> None:
    Path(name).write_bytes(content)
    Path(name).chmod(mode)


def test_nowhere(cli: Cli, token: str) -> None:
    assert token
    error = cli.fails("not_allowed", 21, "status")
    assert "FACEKEEP_TOKEN" in error["next"]


def test_in_the_environment(cli: Cli, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACEKEEP_TOKEN", token)
    cli.ok("status")
    monkeypatch.delenv("FACEKEEP_TOKEN")
    write("my.token", token.encode())
    monkeypatch.setenv("FACEKEEP_TOKEN_FILE", "my.token")
    cli.ok("status")


def test_a_named_file_comes_before_the_environment(
    cli: Cli, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("my.token", token.encode() + b"\r\n")
    monkeypatch.setenv("FACEKEEP_TOKEN", "fkt1.wrong")
    monkeypatch.setenv("FACEKEEP_TOKEN_FILE", "nowhere")
    cli.ok("status", "--token-file", "my.token")
    cli.fails("not_allowed", 21, "status")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o777])
def test_a_file_that_others_can_read_names_the_chmod(cli: Cli, token: str, mode: int) -> None:
    write("my token", token.encode(), mode)
    error = cli.fails("not_allowed", 21, "status", "--token-file", "my token")
    assert error["next"] == "chmod 600 'my token'"
    assert os.system(error["next"]) == 0  # noqa: S605 - the command a person would type
    cli.ok("status", "--token-file", "my token")


def test_the_file_that_init_wrote_is_held_to_the_same(cli: Cli) -> None:
    file = next((cli.home / "config").rglob("*.token"))
    file.chmod(0o644)
    assert cli.fails("not_allowed", 21, "status")["next"] == f"chmod 600 '{file}'"


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\xff" * 50, b"fkt1." + b"0" * 16 + b"." + b"A" * 43, b"\n" * 9000]
)
def test_files_without_a_token_of_this_vault(cli: Cli, token: str, content: bytes) -> None:
    assert token
    write("my.token", content)
    cli.fails("not_allowed", 21, "status", "--token-file", "my.token")


def test_places_that_are_no_file(cli: Cli, token: str) -> None:
    assert token
    os.mkfifo("pipe", 0o600)
    cli.fails("not_allowed", 21, "status", "--token-file", "nowhere")
    cli.fails("not_allowed", 21, "status", "--token-file", "pipe")
    Path("private").mkdir(mode=0o700)
    assert cli.run("status", "--token-file", "private").code in {21, 32}


def test_another_vaults_token(cli: Cli) -> None:
    made = cli.ok("init", "--vault", "other.vault", "--root", "file:other.root", "--no-copy")
    cli.fails("not_allowed", 21, "status", "--token-file", made["token_file"])


def test_room_for_a_token_is_kept_before_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left"), tokens.reserved(tmp_path / "my.token"):
        pytest.fail("the work began without room for its token")
    assert list(tmp_path.iterdir()) == []
