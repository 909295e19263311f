"""facekeep keys in bad circumstances: one clear error, nothing lost, nothing half done, and then it works."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cli_help import Cli, snapshot

ROTATIONS = ("root", "tree", "templates", "signing")


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    found = Cli(tmp_path, monkeypatch)
    found.enroll("ada", "ada", "verify", "identify")
    found.enroll("bob", "bob")
    return found


def start(*words: str, size: int | None = None) -> subprocess.Popen[str]:
    """Start the command in a process of its own; with ``size`` no file may grow beyond so many bytes."""

    def limit() -> None:
        if size is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    if size is not None:  # the limit would hold for the measurement's own file too
        env.pop("COVERAGE_PROCESS_CONFIG", None)
    return subprocess.Popen(
        [sys.executable, "-c", "from facekeep.cli import main; main()", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=limit,  # noqa: PLW1509 - one thread here
        env=env,
    )


def sound(cli: Cli) -> None:
    assert cli.verify("ada", "ada-again").code == 0
    assert cli.identified("ada") == ["ada"]
    assert cli.verify("bob", "bob").code == 0
    assert cli.ok("check")["findings"] == []


@pytest.mark.parametrize("size", [0, 4_000, 20_000, 60_000])
@pytest.mark.parametrize("what", ROTATIONS)
def test_a_disk_that_is_full_half_way(cli: Cli, what: str, size: int) -> None:
    process = start("keys", "rotate", what, size=size)
    _, said = process.communicate()
    assert process.returncode in {0, 32, 38}, said
    assert "Traceback" not in said
    if process.returncode:
        assert "next: " in said
    assert cli.run("keys", "resume").code == 0
    sound(cli)
    assert cli.run("keys", "rotate", what).code == 0
    sound(cli)


def test_a_disk_that_is_full_while_the_root_is_moved(cli: Cli) -> None:
    for size in (0, 500, 4_000, 20_000):
        process = start("keys", "move", "--root", f"file:new{size}.root", size=size)
        _, said = process.communicate()
        assert process.returncode in {0, 32, 38}, said
        assert "Traceback" not in said
        assert cli.run("keys", "resume").code == 0
        sound(cli)


def test_two_operators_rotate_at_once(cli: Cli) -> None:
    both = [start("keys", "rotate", what) for what in ("templates", "templates", "tree", "root", "signing")]
    for process in both:
        _, said = process.communicate()
        assert process.returncode in {0, 36}, said
        if process.returncode:
            assert "(busy)" in said
    assert cli.run("keys", "rotate", "templates").code == 0
    sound(cli)


def test_two_operators_move_at_once(cli: Cli) -> None:
    both = [start("keys", "move", "--root", f"file:{name}.root") for name in ("one", "two")]
    said = [process.communicate()[1] for process in both]
    codes = [process.returncode for process in both]
    assert "Traceback" not in "".join(said)
    assert 0 in codes
    assert set(codes) <= {0, 10, 36, 40}, said
    cli.run("keys", "resume")
    sound(cli)
    assert [each["state"] for each in cli.ok("keys", "show")["holders"]] == ["current"]


@pytest.mark.parametrize(
    "words",
    [
        ("--root", "file:a.root", "--mirror", "file:a.root"),
        ("--root", "file:a.root", "--mirror", "file:./a.root"),
        ("--root", "file:a.root", "--mirror", "file:b.root", "--mirror", "file:b.root"),
    ],
)
def test_a_holder_named_twice_at_init(cli: Cli, words: tuple[str, ...]) -> None:
    before = snapshot(cli.home)
    ran = cli.run("init", "--vault", "new.vault", *words, "--no-copy", "--json")
    assert ran.error["code"] == "usage"
    assert snapshot(cli.home) == before


@pytest.mark.parametrize(
    "root", ["fle:a.root", "file", "pkcs12:token=x", "tpm:", "passphrase|file:a.root", "|file:a"]
)
def test_a_holder_with_a_typing_error(cli: Cli, root: str) -> None:
    before = snapshot(cli.home)
    ran = cli.run("init", "--vault", "new.vault", "--root", root, "--no-copy", "--json")
    assert ran.error["code"] == "usage"
    assert ran.error["next"]
    assert snapshot(cli.home) == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("[root]", "[rot]"),
        ("uri =", "url ="),
        ('uri = "file:staff.root"', "uri = file:staff.root"),
        ('uri = "file:staff.root"', 'uri = "file:staff.root"\nmirors = ["file:m"]'),
        ('uri = "file:staff.root"', 'uri = "file:staff.root"\nmirrors = "file:m"'),
        ('uri = "file:staff.root"', 'uri = "file:staff.root"\nmirrors = []'),
        ("format = 1", "format = 2"),
    ],
)
def test_a_typing_error_in_vault_toml(cli: Cli, old: str, new: str) -> None:
    file = cli.vault / "vault.toml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    ran = cli.run("keys", "show", "--json")
    assert ran.error["code"] in {"format", "integrity", "root"}
    assert ran.error["next"]
    file.write_text(text)
    sound(cli)


def test_a_mirror_of_another_time_is_brought_up_to_date(cli: Cli) -> None:
    """Somebody put yesterday's root file back: erasures wait until it is put right."""
    cli.ok("keys", "move", "--mirror", "file:mirror.root")
    stale = Path("mirror.root").read_bytes()
    cli.ok("keys", "rotate", "root")
    Path("mirror.root").write_bytes(stale)
    assert [each["state"] for each in cli.ok("keys", "show")["holders"]] == ["current", "stale"]
    assert cli.verify("ada", "ada-again").code == 0
    refused = cli.run("keys", "rotate", "root", "--json").error
    assert (refused["code"], "check --scrub" in refused["next"]) == ("erasure_pending", True)
    cli.ok("check", "--scrub")
    assert cli.ok("keys", "resume")["pending"] == []
    assert [each["state"] for each in cli.ok("keys", "show")["holders"]] == ["current", "current"]
    assert stale != Path("mirror.root").read_bytes()
    sound(cli)


def test_a_bare_json_error_names_the_next_command(cli: Cli) -> None:
    cli.ok("keys", "move", "--mirror", "file:mirror.root")
    Path("mirror.root").rename("away")
    ran = cli.run("keys", "rotate", "root", "--json")
    assert ran.error["code"] == "erasure_pending"
    assert "mirror.root" in ran.error["message"]
    Path("away").rename("mirror.root")
    assert cli.ok("keys", "resume")["pending"] == []
    sound(cli)
