"""facekeep principal: tokens shown once, roles that hold, a last operator that stays."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Never

import pytest

from cli_help import CONSENT, Cli, embedding, probe, snapshot
from facekeep.cli import principal
from facekeep.cli.tokens import NewTokenFile
from facekeep.errors import StoreError


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    return Cli(tmp_path, monkeypatch)


def test_the_token_is_the_only_line_of_data(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = cli.run("principal", "add", "door", "--role", "service")
    token = ran.out.strip()
    assert ran.code == 0
    assert token.startswith("fkt1.")
    assert token not in cli.run("principal", "list").out
    monkeypatch.setenv("FACEKEEP_TOKEN", token)
    assert cli.run("subjects").code == 21


def test_the_token_can_go_to_a_file(cli: Cli) -> None:
    made = cli.ok("principal", "add", "door", "--role", "registrar", "--new-token-file", "door.token")
    assert made["token_file"] == "door.token"
    assert stat.S_IMODE(Path("door.token").stat().st_mode) == 0o600
    words = ("enroll", "ada", *embedding("ada"), "--scope", "verify", *CONSENT)
    cli.ok(*words, "--token-file", "door.token")


def test_a_file_that_exists_is_not_overwritten_and_nobody_is_added(cli: Cli) -> None:
    Path("door.token").write_text("mine")
    before = snapshot(cli.home)
    cli.fails("vault_exists", 14, "principal", "add", "a", "--role", "dpo", "--new-token-file", "door.token")
    assert snapshot(cli.home) == before


def test_a_revoked_token_opens_nothing(cli: Cli) -> None:
    cli.ok("principal", "add", "door", "--role", "service", "--new-token-file", "door.token")
    cli.enroll("ada", "ada")
    cli.ok("settings", "--threshold", "threshold.json")
    words = ("verify", "ada", *probe("ada-again"), "--token-file", "door.token")
    assert cli.run(*words).code == 0
    door = next(p for p in cli.ok("principal", "list")["principals"] if p["label"] == "door")
    assert cli.ok("principal", "revoke", door["id"])["principal"] == door["id"]
    cli.fails("not_allowed", 21, *words)


def test_the_last_operator_stays(cli: Cli) -> None:
    first = cli.ok("principal", "list")["principals"][0]["id"]
    before = snapshot(cli.home)
    cli.fails("usage", 10, "principal", "revoke", first)
    cli.fails("usage", 10, "principal", "revoke", "00" * 8)
    cli.fails("usage", 10, "principal", "revoke", "door")
    assert snapshot(cli.home) == before


@pytest.mark.parametrize(
    ("words", "code", "status"),
    [
        (("door",), "command_line", 2),
        (("door", "--role", "king"), "command_line", 2),
        (("", "--role", "service"), "usage", 10),
        (("a\x1bb", "--role", "service"), "usage", 10),
        (("x" * 2000, "--role", "service"), "usage", 10),
    ],
)
def test_principals_that_are_not_added(cli: Cli, words: tuple[str, ...], code: str, status: int) -> None:
    before = snapshot(cli.home)
    cli.fails(code, status, "principal", "add", *words)
    assert snapshot(cli.home) == before


def test_in_words(cli: Cli) -> None:
    cli.ok("principal", "add", "door", "--role", "service", "--role", "dpo", "--new-token-file", "t")
    line = next(each for each in cli.run("principal", "list").out.splitlines() if "door" in each)
    identity, *others = line.split("\t")
    assert others == ["active", "dpo,service", "door"]
    assert cli.run("principal", "revoke", identity).out.startswith(f"revoked {identity}; log entry ")


def interrupted(*_: object, **__: object) -> Never:
    raise KeyboardInterrupt


@pytest.mark.parametrize("to_file", [(), ("--new-token-file", "door.token")], ids=("shown", "file"))
def test_an_interrupt_says_what_to_do_about_a_lost_token(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, to_file: tuple[str, ...]
) -> None:
    """To type the command again would make a second one, and leave the first without a token."""
    with monkeypatch.context() as stopped:
        stopped.setattr(principal, "_tell_token", interrupted)
        stopped.setattr(NewTokenFile, "keep", interrupted)
        ran = cli.run("principal", "add", "door", "--role", "service", *to_file)
    assert ran.code == 130
    assert "principal list" in ran.err
    assert "type the command again" not in ran.err
    assert [each["label"] for each in cli.ok("principal", "list")["principals"]].count("door") == 1
    assert not Path("door.token").exists()


def test_a_token_that_could_not_be_written_is_told_as_lost(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> Never:
        raise StoreError("door.token: No space left on device")

    monkeypatch.setattr(NewTokenFile, "keep", full)
    error = cli.fails(
        "store", 32, "principal", "add", "door", "--role", "service", "--new-token-file", "door.token"
    )
    assert "lost its token" in error["next"]
