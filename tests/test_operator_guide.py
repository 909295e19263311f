"""docs/operator.md followed word for word: its commands are typed as they stand, with other directories."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cli_help import Cli
from guide_help import GUIDE, Typist, commands, frames, need, types


def entries(cli: Cli, kind: str) -> list[dict[str, Any]]:
    """Entries of a type in the log, in order."""
    shown = cli.run("audit", "show", "--type", kind, "--all", "--json").out.splitlines()
    return [json.loads(line)["entry"] for line in shown]


@pytest.fixture
def typist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Typist:
    return Typist(Cli(tmp_path, monkeypatch, made=False), monkeypatch)


@types("Where the root lives", "Mirrors and copies", "Rotation", "Moving the root", "When an erasure waits")
def test_the_first_part_of_the_guide(typist: Typist) -> None:
    cli = typist.cli
    init, show = commands("Where the root lives")
    typist.type(init)
    cli.enroll("ada", "ada")
    cli.enroll("bob", "bob")
    assert "erasing\tcurrent\tfile:" in typist.type(show)

    mirror, copies = commands("Mirrors and copies")
    typist.type(mirror)
    assert typist.type(show).count("current") == 2
    typist.type(copies)
    assert {each["state"] for each in cli.ok("status")["copies"]} == {"current"}

    rotations = commands("Rotation")
    assert len(rotations) == 6
    for line in rotations:
        typist.type(line)
        assert cli.verify("ada", "ada-again").code == 0
    assert [each["reason"] for each in entries(cli, "rotation")].count("drill") == 1

    dry, move, lost = commands("Moving the root")
    typist.type(dry)
    typist.type(move)
    assert not (cli.home / "mnt/keys/staff.root").exists()
    away = cli.home / "mnt/safe/staff.root"
    (resume,) = commands("When an erasure waits")
    away.rename(cli.home / "gone")
    assert cli.run("shred", "bob", "--yes").code == 38
    assert "still waits" in typist.type(resume, code=38)
    (cli.home / "gone").rename(away)
    assert "nothing is pending" in typist.type(resume)
    away.unlink()
    typist.type(lost)
    said = {receipt["action"] for each in entries(cli, "destroyed") for receipt in each["receipts"]}
    assert "lost" in said
    assert cli.verify("ada", "ada-again").code == 0
    assert cli.verify("bob", "bob").code == 20
    assert cli.ok("check")["findings"] == []


@types(
    "A look at the vault",
    "For a node exporter",
    "What runs by itself",
    "The schedule",
    "What waits for a person",
)
def test_a_look_at_the_vault_and_what_runs_by_itself(typist: Typist) -> None:
    cli = typist.cli
    cli.init()
    cli.enroll("ada", "ada", "verify", "identify")
    (look,) = commands("A look at the vault")
    shown = typist.type(look)
    ((kind, sample),) = frames("A look at the vault")
    assert kind == "text"
    assert labels(sample) == labels(shown)
    (textfile,) = commands("For a node exporter")
    metrics = cli.home / "var/lib/facekeep/metrics"
    metrics.mkdir(parents=True)
    typist.type(textfile)
    assert "facekeep_epoch 1\n" in (metrics / "facekeep.prom").read_text()

    (maintain,) = commands("What runs by itself")
    settings, changed, back = commands("The schedule")
    (confirmed,) = commands("What waits for a person")
    (cli.home / "mnt/public").mkdir()
    assert "not due" in typist.type(maintain)
    typist.type(settings)
    typist.type(changed)
    assert "schedule root_days\t30" in typist.type(back)
    cli.travel(396)
    assert "wait: the log was silent for 396.0 days" in typist.type(maintain, code=3)
    assert (cli.home / "mnt/public/latest.checkpoint").exists()
    assert re.search(r"^expired +done +2 grants$", typist.type(confirmed), re.MULTILINE)
    assert cli.subjects() == {}


def labels(shown: str) -> list[str]:
    """What begins the lines of a look at the vault."""
    return re.findall(r"^\w+(?: \w+)?(?= )", shown, re.MULTILINE)


@types("A timer")
def test_a_timer(typist: Typist) -> None:
    need("systemctl")
    units = typist.home / "etc/systemd/system"
    shutil.copytree(Path(__file__).resolve().parent.parent / "docs/systemd", units)
    typist.follow("A timer")
    assert (units / "timers.target.wants/facekeep-maintain.timer").is_symlink()


def test_a_line_for_cron(typist: Typist) -> None:
    """Run as cron runs it: by sh, with next to nothing around it."""
    cli = typist.cli
    made = cli.init("--vault", f"{cli.home}/srv/staff.vault")
    ((kind, line),) = frames("A timer")
    assert kind == "text"
    *when, user, command = line.split(maxsplit=6)
    assert (len(when), user) == (5, "facekeep")
    program = shutil.which("facekeep")
    for written, here in (
        ("/srv/staff.vault", f"{cli.home}/srv/staff.vault"),
        ("/etc/facekeep/ops.token", made["token_file"]),
        ("/opt/facekeep/bin/facekeep", str(program)),
    ):
        assert written in command
        command = command.replace(written, here)
    kept = {name: os.environ[name] for name in ("HOME", "PYTHONPATH") if name in os.environ}
    ran = subprocess.run(
        ["/bin/sh", "-c", command], env=kept, cwd=cli.home, capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_the_contents_lead_to_every_section() -> None:
    sections = re.findall(r"^## (.+)$", GUIDE, re.MULTILINE)
    assert re.findall(r"^- \[(.+)\]\(#", GUIDE, re.MULTILINE) == sections
