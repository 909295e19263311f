"""facekeep keys: shown, rotated, moved, resumed; what is refused changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli_help import Cli, snapshot


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    found = Cli(tmp_path, monkeypatch)
    found.enroll("ada", "ada")
    return found


def test_show(cli: Cli) -> None:
    (holder,) = cli.ok("keys", "show")["holders"]
    assert (holder["class"], holder["state"], holder["uri"]) == ("erasing", "current", "file:staff.root")
    assert cli.run("keys", "show").out.startswith("erasing\tcurrent\tfile:staff.root\tcopied_file,")


@pytest.mark.parametrize("what", ["root", "tree", "templates", "signing"])
def test_rotate(cli: Cli, what: str) -> None:
    before = snapshot(cli.home)
    dry = cli.ok("keys", "rotate", what, "--dry-run")
    assert (dry["what"], dry["dry_run"]) == (what, True)
    assert dry["seconds"] >= 1
    assert "nothing was done" in cli.run("keys", "rotate", what, "--dry-run").err
    assert snapshot(cli.home) == before
    done = cli.ok("keys", "rotate", what, "--reason", "compromise")
    assert done["what"] == what
    entry = cli.ok("audit", "show", "--type", "rotation")["entry"]
    assert (entry["what"], entry["reason"]) == (what, "compromise")
    assert cli.run("keys", "rotate", what).code == 0
    assert cli.verify("ada", "ada-again").code == 0
    assert cli.ok("check")["findings"] == []


def test_a_selection(cli: Cli) -> None:
    assert cli.ok("keys", "rotate", "templates", "--model", "raw:other")["resealed"] == 0
    assert cli.ok("keys", "rotate", "templates", "--before-epoch", "1")["resealed"] == 0
    assert cli.ok("keys", "rotate", "templates", "--suite", "1")["resealed"] == 1
    for words in (("--suite", "7"), ("--before-epoch", "99")):
        assert cli.run("keys", "rotate", "templates", *words, "--json").error["code"] == "usage"


def test_a_reason_of_ones_own_is_refused(cli: Cli) -> None:
    """Free text could name a person, and the log is not sealed."""
    assert cli.run("keys", "rotate", "root", "--reason", "ada asked").code == 2


def test_move_and_back(cli: Cli) -> None:
    plan = cli.ok("keys", "move", "--root", "file:new.root", "--dry-run")
    assert (plan["holders"], plan["left"], plan["dry_run"]) == (["file:new.root"], ["file:staff.root"], True)
    assert not Path("new.root").exists()
    ran = cli.run("keys", "move", "--root", "file:new.root", "--mirror", "file:mirror.root")
    assert ran.code == 0
    assert ran.out.splitlines() == [
        "holder\tfile:new.root", "holder\tfile:mirror.root", "left\tfile:staff.root",
    ]  # fmt: skip
    assert not cli.root.exists()
    assert [each["state"] for each in cli.ok("keys", "show")["holders"]] == ["current", "current"]
    assert cli.verify("ada", "ada-again").code == 0
    back = cli.ok("keys", "move", "--root", "file:staff.root", "--no-mirror")
    assert (back["holders"], back["left"]) == (["file:staff.root"], ["file:new.root", "file:mirror.root"])
    assert "nothing was to be moved" in cli.run("keys", "move", "--no-mirror").err
    assert cli.ok("check")["findings"] == []


def test_resume(cli: Cli) -> None:
    assert cli.ok("keys", "resume") == {"move": None, "pending": []}
    cli.ok("keys", "move", "--mirror", "file:mirror.root")
    Path("mirror.root").rename("away")
    ran = cli.run("shred", "ada", "--yes", "--json")
    assert ran.error["code"] == "erasure_pending"
    assert [each["state"] for each in cli.ok("keys", "show")["holders"]] == ["current", "away"]
    waiting = cli.run("keys", "resume")
    assert waiting.code == 38
    assert "access to what it destroys is denied" in waiting.err
    assert cli.verify("ada", "ada-again").code == 20
    Path("away").rename("mirror.root")
    assert cli.ok("keys", "resume")["pending"] == []
    assert cli.ok("subjects")["subjects"] == []


@pytest.mark.parametrize(
    "words",
    [
        ("--mirror", "file:m", "--no-mirror"),
        ("--root", "ftp:x"),
        ("--mirror", "file:staff.root"),
        ("--mirror", "file:./staff.root"),
        ("--lost", "file:other"),
        ("--root", "file:notice.txt"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_moved_changes_nothing(cli: Cli, words: tuple[str, ...]) -> None:
    before = snapshot(cli.home)
    ran = cli.run("keys", "move", *words, "--json")
    assert ran.error["code"] in {"usage", "vault_exists", "root"}
    assert snapshot(cli.home) == before
