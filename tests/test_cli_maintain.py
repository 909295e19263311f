"""facekeep maintain: a line for each step, what failed on standard error, the exit status of the worst."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from cli_help import CONSENT, Cli, embedding

UNITS = sorted((Path(__file__).resolve().parent.parent / "docs" / "systemd").iterdir())
STEPS = ["pending", "move", "expired", "tree", "root", "signing", "rows", "checkpoint", "backup", "templates"]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    return Cli(tmp_path, monkeypatch)


def said(out: str) -> dict[str, str]:
    return {line[:12].strip(): line[12:24].strip() for line in out.splitlines()}


def test_a_fresh_vault_has_nothing_due(cli: Cli) -> None:
    ran = cli.run("maintain")
    assert (ran.code, ran.err) == (0, "")
    assert list(said(ran.out)) == STEPS
    assert set(said(ran.out).values()) == {"not due", "not set up"}
    assert [each["step"] for each in cli.ok("maintain")["steps"]] == STEPS


def test_a_day_later_it_does_what_is_due_and_nothing_twice(cli: Cli) -> None:
    Path("public").mkdir()
    cli.ok("settings", "--schedule", f"checkpoints={cli.home / 'public'}", "--schedule", "backup_days=1")
    cli.travel(2)
    dry = {each["step"]: each["state"] for each in cli.ok("maintain", "--dry-run")["steps"]}
    assert {step for step, state in dry.items() if state == "due"} == {"root", "checkpoint", "backup"}
    found = said(cli.run("maintain").out)
    assert (found["root"], found["checkpoint"], found["backup"]) == ("done", "done", "due")
    assert Path("public/latest.checkpoint").is_file()
    again = said(cli.run("maintain").out)
    assert (again["root"], again["checkpoint"], again["backup"]) == ("not due", "not due", "due")


def test_what_waits_for_a_person_has_exit_status_3(cli: Cli) -> None:
    cli.ok("settings", "--schedule", "grace_days=0")
    cli.ok("enroll", "ada", *embedding("ada"), "--scope", "verify", "--expires", "1d", *CONSENT[2:])
    cli.travel(30)
    ran = cli.run("maintain")
    assert ran.code == 3
    assert said(ran.out)["expired"] == "waiting"
    assert "silent for 30.0 days" in ran.err
    assert ran.err.splitlines()[1].endswith("then: facekeep maintain --yes")
    assert cli.run("maintain", "--yes").code == 0
    assert cli.subjects() == {}


def test_a_failed_step_is_told_with_its_remedy(cli: Cli) -> None:
    cli.ok("settings", "--schedule", f"checkpoints={cli.home / 'nowhere'}")
    cli.travel(2)
    ran = cli.run("maintain")
    assert ran.code == 10
    assert (said(ran.out)["checkpoint"], said(ran.out)["root"]) == ("failed", "done")
    assert ran.err.startswith(
        "facekeep: checkpoint: the directory for checkpoints cannot be reached (usage)\nnext: "
    )
    ran = cli.run("maintain", "--checkpoints", "nowhere", "--json")
    assert ran.code == 10
    step = ran.json["steps"][7]
    assert (step["state"], step["code"]) == ("failed", "usage")


def test_the_schedule_is_shown_and_changed(cli: Cli) -> None:
    found = cli.ok("settings")["schedule"]
    assert (found["root_days"], found["grace_days"], found["checkpoints"]) == (30, 30, "")
    changed = cli.ok("settings", "--schedule", "root_days=7", "--schedule", "checkpoints=/mnt/public")
    assert (changed["schedule"]["root_days"], changed["schedule"]["checkpoints"]) == (7, "/mnt/public")
    assert changed["entry"] is not None
    assert "root_days = 7" in Path("staff.vault/vault.toml").read_text()
    cli.fails("usage", 10, "settings", "--schedule", "root_days=0")
    cli.fails("usage", 10, "settings", "--schedule", "roots=1")
    cli.fails("usage", 10, "settings", "--schedule", "checkpoints=public")
    cli.ok("settings", "--schedule", "root_days=default", "--schedule", "checkpoints=default")
    assert "[schedule]" not in Path("staff.vault/vault.toml").read_text()


def test_the_guide_prints_the_units_as_they_are() -> None:
    guide = (UNITS[0].parent.parent / "operator.md").read_text()
    assert [each.name for each in UNITS] == ["facekeep-maintain.service", "facekeep-maintain.timer"]
    for unit in UNITS:
        assert f"systemd/{unit.name}" in guide


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_reads_the_units(tmp_path: Path) -> None:
    for unit in UNITS:
        text = re.sub(r"^Exec(Start|StopPost)=\S+", r"Exec\1=/bin/true", unit.read_text(), flags=re.MULTILINE)
        (tmp_path / unit.name).write_text(text)
    names = [str(tmp_path / unit.name) for unit in UNITS]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *names], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
