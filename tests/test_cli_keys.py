"""facekeep keys: shown, rotated, moved, resumed; what is refused changes nothing."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest

from cli_help import Cli, snapshot
from facekeep.keys.file_provider import FileProvider
from facekeep.keys.provider import Candidate
from facekeep.operations.estimating import HOLDER_CALLS


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


DRY_RUNS = {
    "root": ("rotate", "root"),
    "tree": ("rotate", "tree"),
    "templates": ("rotate", "templates"),
    "signing": ("rotate", "signing"),
    "move": ("move", "--root", "file:new.root", "--mirror", "file:staff.root"),
}
COUNTS = {  # a vault with one subject of two grants, in which another was shredded; one directory of copies
    "root": {"roots": 1, "copies": 1, "nodes": 1, "subjects": 0, "entries": 0},
    "tree": {"roots": 1, "copies": 1, "nodes": 13, "subjects": 1, "entries": 0},
    "templates": {"roots": 1, "copies": 1, "grants": 2},
    "signing": {"roots": 0, "copies": 1, "nodes": 0, "subjects": 0},
    "move": {"roots": 2, "copies": 1, "nodes": 1, "subjects": 0, "entries": 0},
}


@pytest.mark.parametrize("what", DRY_RUNS)
def test_a_dry_run_counts_and_estimates_and_changes_no_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    cli = Cli(tmp_path, monkeypatch, made=False)
    cli.ok("init", "--root", "file:staff.root", "--copy", "copy")
    cli.enroll("ada", "ada", "verify", "identify")
    cli.enroll("bob", "bob")
    cli.ok("shred", "bob", "--yes")
    before = snapshot(cli.home)
    found = cli.ok("keys", *DRY_RUNS[what], "--dry-run")
    spoken = cli.run("keys", *DRY_RUNS[what], "--dry-run")
    assert snapshot(cli.home) == before
    assert (found["what"], found["dry_run"]) == (what, True)
    assert found["seconds"] >= 1
    assert {key: found[key] for key in COUNTS[what]} == COUNTS[what]
    if what == "templates":
        assert found["bytes"] > 0
    if what == "signing":
        assert found["entries"] == cli.ok("status")["entries"]
    assert "nothing was done" in spoken.err
    told = dict(line.split("\t") for line in spoken.out.splitlines())
    for key in COUNTS[what].keys() | {"seconds"}:
        assert int(told[key]) == found[key]


def test_a_slow_holder_makes_the_estimates_longer(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """What each holder takes is timed: 0.3 seconds for each thing that it is asked, here."""
    answer = FileProvider.candidates

    def slowly(self: FileProvider) -> tuple[Candidate, ...]:
        time.sleep(0.3)
        return answer(self)

    quick = {what: cli.ok("keys", *words, "--dry-run")["seconds"] for what, words in DRY_RUNS.items()}
    monkeypatch.setattr(FileProvider, "candidates", slowly)
    slow = {what: cli.ok("keys", *words, "--dry-run")["seconds"] for what, words in DRY_RUNS.items()}
    once = math.floor(0.3 * HOLDER_CALLS)
    assert slow["root"] >= once
    assert slow["tree"] >= once
    assert slow["templates"] >= 3 * once  # a branch taken, one batch, idle branches given back
    assert slow["move"] >= 2 * once  # the new holder counts as the present one
    assert slow["signing"] == quick["signing"]


def test_a_holder_is_asked_as_often_in_a_swap_as_the_estimate_says(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def counted(name: str) -> None:
        method = getattr(FileProvider, name)

        def count(self: FileProvider, *args: bytes) -> object:
            calls.append(name)
            return method(self, *args)

        monkeypatch.setattr(FileProvider, name, count)

    for name in ("candidates", "stage", "promote", "drop"):
        counted(name)
    cli.ok("keys", "rotate", "root")
    assert len(calls) == 1 + HOLDER_CALLS  # the vault is opened before


def test_a_selection(cli: Cli) -> None:
    assert cli.ok("keys", "rotate", "templates", "--model", "raw:other")["resealed"] == 0
    assert cli.ok("keys", "rotate", "templates", "--before-epoch", "1")["resealed"] == 0
    assert cli.ok("keys", "rotate", "templates")["resealed"] == 1
    assert cli.run("keys", "rotate", "templates", "--before-epoch", "99", "--json").error["code"] == "usage"


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
    assert cli.ok("keys", "resume") == {"finished": [], "move": None, "pending": []}
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
