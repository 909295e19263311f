"""facekeep init: what it makes, what it says, what it never overwrites."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Never

import pytest

from cli_help import Cli, on_terminal, snapshot
from facekeep.cli.tokens import NewTokenFile
from facekeep.vault import Vault


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    return Cli(tmp_path, monkeypatch, made=False)


def test_it_makes_a_vault_that_the_next_command_opens(cli: Cli) -> None:
    made = cli.ok("init", "--copy", "second", "--region", "DE", "--label", "head of the door")
    assert made["region"] == "DE"
    assert made["copies"] == ["second"]
    assert {each.name for each in Path("second").iterdir()} >= {"keys.db", "log.db"}
    assert cli.ok("status")["vault"] == made["vault"]
    principal = cli.ok("principal", "list")["principals"][0]
    assert (principal["id"], principal["label"]) == (made["principal"], "head of the door")


def test_without_a_root_the_key_goes_to_the_data_directory(cli: Cli) -> None:
    made = cli.ok("init", "--no-copy")
    file = Path(made["root"].removeprefix("file:"))
    assert file.parent == cli.home / "data" / "facekeep"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_the_token_goes_to_a_file_of_its_owner_alone(cli: Cli) -> None:
    file = Path(cli.init()["token_file"])
    assert file.parent == cli.home / "config" / "facekeep" / "tokens"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert file.read_text().startswith("fkt1.")
    assert [each.name for each in file.parent.iterdir()] == [file.name]


def test_the_token_file_can_be_named(cli: Cli) -> None:
    made = cli.init("--token-file", "door.token")
    assert made["token_file"] == "door.token"
    assert cli.run("status").code == 21
    assert cli.run("status", "--token-file", "door.token").code == 0


def test_the_token_is_printed_nowhere(cli: Cli) -> None:
    ran = cli.run("init", "--root", "file:staff.root")
    token = next((cli.home / "config").rglob("*.token")).read_text().strip()
    assert token.split(".")[2] not in ran.out + ran.err


def test_it_warns_without_a_copy(cli: Cli) -> None:
    ran = cli.run("init", "--root", "file:staff.root")
    assert "warning: keys.db and log.db have no live second copy" in ran.err
    assert "--copy DIR" in ran.err


def test_it_says_how_to_split_the_first_principal_and_the_words_are_true(cli: Cli) -> None:
    ran = cli.run("init", "--root", "file:staff.root", "--no-copy")
    words = [line.split()[1:] for line in ran.err.splitlines() if line.startswith("  facekeep ")]
    assert len(words) == 6
    for command in words:
        assert cli.run(*command).code == 0, command
    first = next((cli.home / "config").rglob("*.token"))
    assert cli.run("status", "--token-file", str(first)).code == 21
    listed = cli.ok("principal", "list", "--token-file", "ops.token")["principals"]
    assert sorted(role for each in listed for role in each["roles"]) == [
        "auditor",
        "dpo",
        "operator",
        "registrar",
        "service",
    ]


def test_an_existing_vault_is_not_touched(cli: Cli) -> None:
    cli.init()
    before = snapshot(cli.home)
    cli.fails("vault_exists", 14, "init", "--no-copy")
    assert snapshot(cli.home) == before


def test_an_existing_token_file_is_not_touched_and_nothing_is_made(cli: Cli) -> None:
    Path("door.token").write_text("mine")
    before = snapshot(cli.home)
    cli.fails("vault_exists", 14, "init", "--no-copy", "--token-file", "door.token")
    assert snapshot(cli.home) == before


def test_a_copy_of_another_vault_is_not_overwritten(cli: Cli) -> None:
    cli.ok("init", "--copy", "second")
    before = snapshot(cli.home)
    cli.fails("vault_exists", 14, "init", "--vault", "other.vault", "--copy", "second")
    assert snapshot(cli.home) == before


@pytest.mark.parametrize(
    ("words", "code", "status"),
    [
        (("--root", "floppy:a"), "usage", 10),
        (("--root", "staff.root"), "usage", 10),
        (("--region", "Germany"), "usage", 10),
        (("--label", "a\nb"), "usage", 10),
        (("--label", ""), "usage", 10),
        (("--copy", "x", "--no-copy"), "usage", 10),
        (("--copy", "staff.vault"), "usage", 10),
        (("--token-file", "nowhere/door.token"), "usage", 10),
    ],
)
def test_a_wrong_word_makes_nothing(cli: Cli, words: tuple[str, ...], code: str, status: int) -> None:
    before = snapshot(cli.home)
    cli.fails(code, status, "init", *words)
    assert snapshot(cli.home) == before
    assert not Path("staff.vault").exists()


def test_no_vault_was_named(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FACEKEEP_VAULT")
    cli.fails("usage", 10, "init")


@pytest.mark.parametrize(("answer", "copies"), [("second\n", 1), ("\n", 0)])
def test_on_a_terminal_it_asks_for_a_copy(cli: Cli, answer: str, copies: int) -> None:
    code, said = on_terminal("init", "--root", "file:staff.root", answer=answer)
    assert code == 0, said
    assert "directory on another disk for live copies of keys.db and log.db" in said
    assert ("no live second copy" in said) == (not copies)
    assert len(cli.ok("status")["copies"]) == 2 * copies


def test_words_that_were_said_are_not_asked_again(cli: Cli) -> None:
    assert cli.home.exists()
    code, said = on_terminal("init", "--root", "file:staff.root", "--copy", "second")
    assert (code, "directory on another disk" in said) == (0, False)


def test_a_token_of_the_environment_would_come_first(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACEKEEP_TOKEN", "fkt1.another")
    ran = cli.run("init", "--root", "file:staff.root", "--no-copy")
    assert "next: unset FACEKEEP_TOKEN\n" in ran.err


def test_the_token_goes_where_the_environment_says(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is where every later command looks for it."""
    monkeypatch.setenv("FACEKEEP_TOKEN_FILE", str(cli.home / "mine.token"))
    ran = cli.run("init", "--no-copy", "--json")
    assert ran.json["token_file"] == str(cli.home / "mine.token")
    assert "FACEKEEP_TOKEN_FILE is set" not in ran.err
    assert stat.S_IMODE((cli.home / "mine.token").stat().st_mode) == 0o600
    assert cli.ok("status")["vault"] == ran.json["vault"]


def test_a_token_file_that_the_environment_names_is_not_overwritten(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cli.home / "mine.token").write_text("another vault's")
    monkeypatch.setenv("FACEKEEP_TOKEN_FILE", str(cli.home / "mine.token"))
    cli.fails("vault_exists", 14, "init", "--no-copy")
    assert (cli.home / "mine.token").read_text() == "another vault's"
    assert not cli.vault.exists()
    cli.ok("init", "--no-copy", "--token-file", "other.token")


def test_an_interrupt_says_that_a_vault_without_a_token_may_be_left(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To type the command again finds the vault there, for which nobody has a token."""

    def interrupted(*_: object, **__: object) -> Never:
        raise KeyboardInterrupt

    with monkeypatch.context() as stopped:
        stopped.setattr(NewTokenFile, "keep", interrupted)
        ran = cli.run("init", "--no-copy")
    assert ran.code == 130
    assert "its token is lost" in ran.err
    cli.fails("vault_exists", 14, "init", "--no-copy")
    with monkeypatch.context() as stopped:  # nobody is told to remove a vault that was there before
        stopped.setattr(Vault, "create", interrupted)
        ran = cli.run("init", "--no-copy")
    assert ran.code == 130
    assert "nothing there was touched" in ran.err
