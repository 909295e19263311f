"""facekeep shred: asked about or said --yes, all of a list or none of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli_help import Cli, on_terminal, snapshot


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    found = Cli(tmp_path, monkeypatch)
    found.enroll("ada", "ada", "verify", "identify")
    found.enroll("bob", "bob")
    return found


def test_whoever_is_shredded_is_gone(cli: Cli) -> None:
    erasure = cli.ok("shred", "ada", "--yes")
    assert (erasure["subjects"], erasure["slots"]) == (1, 2)
    assert cli.verify("ada", "ada-again").code == 20
    assert cli.identified("ada-again") == []
    assert cli.subjects() == {"bob": ["verify"]}


def test_many_in_one_batch(cli: Cli) -> None:
    epoch = cli.ok("status")["epoch"]
    erasure = cli.ok("shred", "ada", "bob", "ada", "--yes")
    assert (erasure["subjects"], erasure["slots"], erasure["epoch"]) == (2, 3, epoch + 1)
    assert cli.subjects() == {}


def test_a_list_in_a_file_or_on_standard_input(cli: Cli) -> None:
    cli.enroll("eve", "eve")
    Path("gone.txt").write_bytes(b"ada\r\n\neve")
    assert cli.ok("shred", "--from", "gone.txt", "--yes")["subjects"] == 2
    assert cli.run("shred", "--from", "-", "--yes", "--json", stdin="bob\n").json["subjects"] == 1
    assert cli.subjects() == {}


def test_one_unknown_id_and_nobody_is_shredded(cli: Cli) -> None:
    before = snapshot(cli.home)
    cli.fails("subject_unknown", 13, "shred", "ada", "carl", "--yes")
    assert snapshot(cli.home) == before


@pytest.mark.parametrize("words", [("ada",), ("--from", "gone.txt"), ("ada", "--from", "-")])
def test_where_nobody_can_be_asked_it_refuses(cli: Cli, words: tuple[str, ...]) -> None:
    Path("gone.txt").write_text("ada\n")
    before = snapshot(cli.home)
    error = cli.fails("usage", 10, "shred", *words)
    assert error["next"] == "add --yes"
    assert snapshot(cli.home) == before


@pytest.mark.parametrize(
    ("content", "code", "status"),
    [(None, "store", 32), (b"", "usage", 10), (b"\xff\n", "usage", 10), (b" ada\n", "usage", 10)],
)
def test_lists_that_are_none(cli: Cli, content: bytes | None, code: str, status: int) -> None:
    if content is not None:
        Path("gone.txt").write_bytes(content)
    before = snapshot(cli.home)
    cli.fails(code, status, "shred", "--from", "gone.txt", "--yes")
    assert snapshot(cli.home) == before


@pytest.mark.parametrize(("answer", "status", "left"), [("n\n", 10, 2), ("\n", 10, 2), ("y\n", 0, 1)])
def test_on_a_terminal_it_asks(cli: Cli, answer: str, status: int, left: int) -> None:
    code, said = on_terminal("shred", "ada", answer=answer)
    assert "erase 1 person for good? nobody can undo it" in said
    assert code == status, said
    assert len(cli.subjects()) == left


def test_a_terminal_that_says_nothing_erases_nobody(cli: Cli) -> None:
    code, said = on_terminal("shred", "ada", answer="\x04")
    assert (code, "interrupted (interrupted)" in said) == (130, True)
    assert len(cli.subjects()) == 2


def test_the_same_command_finishes_a_pending_erasure_and_says_so(cli: Cli) -> None:
    Path("second").mkdir()
    cli.ok("settings", "--copy", "second")
    Path("second").rename("away")
    cli.fails("erasure_pending", 38, "shred", "ada", "--yes")
    assert "1 operation is pending" not in cli.run("status").err  # it was asked for twice
    assert "2 operations are pending" in cli.run("status").err
    Path("away").rename("second")
    cli.fails("subject_unknown", 13, "shred", "carl", "--yes")
    assert cli.subjects() == {"bob": ["verify"]}
    Path("second").rename("away")
    assert cli.run("shred", "bob", "--yes").code == 38
    assert "1 operation is pending" in cli.run("status").err
    Path("away").rename("second")
    ran = cli.run("shred", "bob", "--yes")
    assert (ran.code, ran.out.split(";")[0]) == (0, "shredded: 1 person, 1 grant")
    assert "an erasure of theirs was pending, and was finished now" in ran.err
    cli.fails("subject_unknown", 13, "shred", "bob", "--yes")
