"""docs/operator.md followed word for word: its commands are typed as they stand, with other directories."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from cli_help import Cli

GUIDE = (Path(__file__).resolve().parent.parent / "docs" / "operator.md").read_text()


def commands(title: str) -> list[str]:
    """The indented facekeep commands of one section."""
    found = re.search(rf"^## {re.escape(title)}$(.*?)(?=^## |\Z)", GUIDE, re.MULTILINE | re.DOTALL)
    assert found, title
    return [line.strip() for line in found[1].splitlines() if line.startswith("    facekeep ")]


class Typist:
    """Types commands of the guide; what lies under /mnt lies under the user's home."""

    def __init__(self, cli: Cli) -> None:
        self.cli = cli
        for name in ("keys", "second", "third", "safe", "other"):
            (cli.home / "mnt" / name).mkdir(parents=True)

    def type(self, line: str, *, code: int = 0) -> str:
        words = shlex.split(line.replace("/mnt/", f"{self.cli.home}/mnt/"))
        assert words.pop(0) == "facekeep"
        ran = self.cli.run(*words)
        assert ran.code == code, f"{line}\n{ran.out}{ran.err}"
        return ran.out + ran.err


def entries(cli: Cli, kind: str) -> list[dict[str, Any]]:
    """Entries of a type in the log, in order."""
    shown = cli.run("audit", "show", "--type", kind, "--all", "--json").out.splitlines()
    return [json.loads(line)["entry"] for line in shown]


@pytest.fixture
def typist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Typist:
    return Typist(Cli(tmp_path, monkeypatch, made=False))


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


def test_a_look_at_the_vault_and_what_runs_by_itself(typist: Typist) -> None:
    cli = typist.cli
    cli.init()
    cli.enroll("ada", "ada")
    look, textfile = commands("A look at the vault")
    assert "grants  " in typist.type(look)
    typist.type(textfile.replace("/var/lib/facekeep/metrics", "/mnt/other"))
    assert "facekeep_epoch 1\n" in (cli.home / "mnt/other/facekeep.prom").read_text()

    maintain, settings, changed, back, confirmed = commands("What runs by itself")
    (cli.home / "mnt/public").mkdir()
    assert "not due" in typist.type(maintain)
    typist.type(settings)
    typist.type(changed)
    assert "schedule root_days\t30" in typist.type(back)
    cli.travel(396)
    assert "wait: the log was silent for 396.0 days" in typist.type(maintain, code=3)
    assert (cli.home / "mnt/public/latest.checkpoint").exists()
    assert re.search(r"^expired +done +1 grant$", typist.type(confirmed), re.MULTILINE)
    assert cli.subjects() == {}


def test_the_contents_lead_to_every_section() -> None:
    sections = re.findall(r"^## (.+)$", GUIDE, re.MULTILINE)
    assert re.findall(r"^- \[(.+)\]\(#", GUIDE, re.MULTILINE) == sections
