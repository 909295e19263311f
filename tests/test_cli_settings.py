"""facekeep settings: shown, changed, refused with nothing changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli_help import Cli, snapshot
from vaultlab import MODEL, THRESHOLD


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    found = Cli(tmp_path, monkeypatch)
    found.enroll("ada", "ada")
    return found


def test_without_an_option_it_shows_them(cli: Cli) -> None:
    before = snapshot(cli.home)
    found = cli.ok("settings")
    assert found.pop("schedule")["root_days"] == 30
    matching = found.pop("matching")
    assert (matching["scores"], matching["top"], matching["thresholds"]) == (False, 5, [])
    assert found == {"region": "ZZ", "regions": [], "root": "file:staff.root", "copies": []}
    ran = cli.run("settings")
    assert ran.out.splitlines()[:2] == ["region\tZZ", "root key\tfile:staff.root"]
    shown = {
        "schedule root_days\t30",
        "matching scores\tfalse",
        "threshold dlib-resnet/1\t0.5469\t0.495\tcalibrated",
    }
    assert shown <= set(ran.out.splitlines())
    assert "next: facekeep settings --copy DIR, on another disk" in ran.err
    assert snapshot(cli.home) == before


def test_limits_on_matching_are_set_and_taken_back(cli: Cli) -> None:
    measured = THRESHOLD.to_json()
    Path("measured.json").write_text(json.dumps(measured))
    changed = cli.ok(
        "settings", "--threshold", "measured.json", "--matching", "top=3", "--matching", "scores=yes"
    )
    found = changed["matching"]
    assert (found["top"], found["scores"], found["thresholds"]) == (3, True, [measured])
    logged = cli.ok("audit", "show", "--type", "settings")["entry"]["matching"]
    assert (logged["top"], logged["scores"]) == (3, True)
    assert [MODEL.id, 500_000, 500_000] in logged["thresholds"]
    assert f"threshold {MODEL.id}\t0.5\t0.5\tregistered" in cli.run("settings").out.splitlines()
    searching = cli.ok("settings", "--search-threshold", "measured.json")["matching"]
    assert searching["search_thresholds"] == [measured]
    back = ("--no-threshold", MODEL.id, "--matching", "top=default", "--matching", "scores=no")
    assert cli.ok("settings", *back)["matching"]["search_thresholds"] == []
    assert "[matching]" not in (cli.home / "staff.vault" / "vault.toml").read_text()
    ran = cli.run("settings", "--matching", "top=0")
    assert ran.code == 10
    assert "nothing was changed" in ran.err


def test_a_change_and_its_log_entry(cli: Cli) -> None:
    Path("second").mkdir()
    second = str(cli.home / "second")
    changed = cli.ok("settings", "--region", "DE", "--copy", "second")
    assert (changed["region"], changed["copies"], changed["added"], changed["removed"]) == (
        "DE", [second], [second], [],
    )  # fmt: skip
    entry = cli.ok("audit", "show", "--type", "settings")
    assert (entry["index"], entry["entry"]["type"]) == (changed["entry"], "settings")
    copies = cli.ok("status")["copies"]
    assert {copy["state"] for copy in copies} == {"current"}
    assert cli.ok("check")["notes"] == []
    assert cli.ok("settings", "--region", "DE")["entry"] is None
    assert "nothing was changed" in cli.run("settings", "--copy", "second").err
    ran = cli.run("settings", "--no-copy")
    assert ran.code == 0
    assert f"{second} is kept up to date no longer" in ran.err
    assert {path.name for path in Path("second").glob("*.db")} == {"keys.db", "log.db"}
    assert cli.verify("ada", "ada-again").code == 20  # her consent was for no country


@pytest.mark.parametrize(
    "words",
    [
        ("--region", "Germany"),
        ("--copy", "nowhere"),
        ("--copy", "notice.txt"),
        ("--copy", "."),
        ("--copy", "staff.vault"),
        ("--copy", "second", "--copy", "second"),
        ("--copy", "second", "--no-copy"),
    ],
    ids=" ".join,
)
def test_what_is_refused_changes_nothing(cli: Cli, words: tuple[str, ...]) -> None:
    Path("second").mkdir()
    before = snapshot(cli.home)
    cli.fails("usage", 10, "settings", *words)
    assert snapshot(cli.home) == before


def test_only_an_operator_changes_them(cli: Cli) -> None:
    cli.ok("principal", "add", "audit", "--role", "auditor", "--new-token-file", "audit.token")
    assert cli.ok("settings", "--token-file", "audit.token")["region"] == "ZZ"
    cli.fails("not_allowed", 21, "settings", "--region", "DE", "--token-file", "audit.token")
