"""A vault whose root file has a passphrase before it, from its making to a shred and in other processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cli_help import Cli, asked_on_terminal, snapshot
from layers_help import MEMORY_MIB, PASSPHRASE

URI = f"passphrase:?memory={MEMORY_MIB}&file=staff.holder|file:staff.root"
FACEKEEP = str(Path(sys.executable).with_name("facekeep"))


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    return Cli(tmp_path, monkeypatch, made=False)


@pytest.fixture
def passphrase(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file with the passphrase, which the environment names."""
    file = cli.home / "passphrase"
    file.write_bytes(PASSPHRASE + b"\n")
    file.chmod(0o600)
    monkeypatch.setenv("FACEKEEP_PASSPHRASE_FILE", str(file))
    return file


def elsewhere(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, with no terminal."""
    return subprocess.run(
        [FACEKEEP, *words, "--json"], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )


def test_a_layered_vault_from_first_to_last(
    cli: Cli, passphrase: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli.ok("init", "--root", URI, "--no-copy")
    cli.enroll("ada", "ada")
    cli.enroll("bob", "bob")
    assert cli.verify("ada", "ada").code == 0
    kept = {name: (cli.home / name).read_bytes() for name in ("staff.holder", "staff.vault/keys.db")}
    cli.ok("shred", "ada", "--yes")

    status = elsewhere("status")
    assert status.returncode == 0, status.stderr
    holder = json.loads(status.stdout)["holders"][0]
    assert (holder["scheme"], holder["class"], holder["layers"]) == (
        "passphrase-file", "erasing", ["passphrase"],
    )  # fmt: skip
    assert "passphrase-file (wrapping over erasing)" in cli.run("status").out
    assert cli.verify("bob", "bob").code == 0
    assert cli.verify("ada", "ada").code == 20

    for name, content in kept.items():  # every copy of before, and the passphrase
        (cli.home / name).write_bytes(content)
    assert elsewhere("status").returncode == 31
    assert passphrase.exists()
    monkeypatch.delenv("FACEKEEP_PASSPHRASE_FILE")


def test_a_process_without_the_passphrase_says_what_it_needs(
    cli: Cli, passphrase: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli.ok("init", "--root", URI, "--no-copy")
    before = (cli.home / "staff.holder").read_bytes()
    monkeypatch.delenv("FACEKEEP_PASSPHRASE_FILE")
    without = elsewhere("status")
    assert without.returncode == 31
    error = json.loads(without.stderr)["error"]
    assert error["code"] == "root"
    assert "there is no passphrase for the root of vault" in error["message"]
    assert "FACEKEEP_PASSPHRASE_FILE" in error["next"]
    passphrase.write_bytes(b"another passphrase\n")
    monkeypatch.setenv("FACEKEEP_PASSPHRASE_FILE", str(passphrase))
    wrong = cli.fails("root", 31, "status")
    assert "the passphrase is wrong" in wrong["message"]
    assert (cli.home / "staff.holder").read_bytes() == before


def test_a_vault_that_cannot_be_made_leaves_nothing(cli: Cli, passphrase: Path) -> None:
    passphrase.write_bytes(b"too short\n")
    before = snapshot(cli.home)
    error = cli.fails("usage", 10, "init", "--root", URI, "--no-copy")
    assert "fewer than 15 characters" in error["message"]
    assert snapshot(cli.home) == before
    assert cli.fails("usage", 10, "init", "--root", "passphrase:|passphrase:|file:a", "--no-copy")


def test_a_move_asks_twice_for_a_passphrase_that_is_new_and_once_for_one_that_is_not(cli: Cli) -> None:
    """Under a mistyped one the root would be sealed, and nobody could type it again."""
    word, second = PASSPHRASE.decode(), "another passphrase, for the mirror"
    cli.ok("init", "--root", "file:plain.root", "--no-copy")
    code, said = asked_on_terminal(
        "keys", "move", "--root", URI, answers=[word, f"{word} mistyped", word, word]
    )
    assert code == 0, said
    assert said.count("passphrase for the root of vault") == 2
    assert said.count("the same passphrase again") == 2
    mirror = "passphrase:?secret=second-word&memory=64&file=mirror.layer|file:mirror.share"
    code, said = asked_on_terminal("keys", "move", "--mirror", mirror, answers=[word, second, second])
    assert code == 0, said
    assert said.count("passphrase for the root of vault") == 1  # the present holder's
    assert "the same passphrase again" not in said
    assert said.count("second-word for the root of vault") == said.count("the same second-word again") == 1
    assert second not in said
    code, said = asked_on_terminal("status", answers=[word, second])
    assert code == 0, said
    assert "again" not in said


def test_the_passphrase_is_asked_for_twice_at_first_and_never_shown(cli: Cli) -> None:
    word = PASSPHRASE.decode()
    code, said = asked_on_terminal(
        "init", "--root", URI, "--no-copy", answers=[word, f"{word} mistyped", word, word]
    )
    assert code == 0, said
    assert said.count("passphrase for the root of vault") == 2
    assert word not in said
    assert not {each for each in cli.home.rglob("*") if each.is_file() and PASSPHRASE in each.read_bytes()}
    code, said = asked_on_terminal("status", answers=[word])
    assert code == 0, said
    assert said.count("passphrase for") == 1
    assert word not in said
    code, said = asked_on_terminal("status", answers=["something else, and long"])
    assert code == 31
    assert "the passphrase is wrong" in said
