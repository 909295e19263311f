"""facekeep status: one screen, with a remedy for every warning."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cli_help import Cli


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    return Cli(tmp_path, monkeypatch, made=False)


def lines(text: str) -> dict[str, str]:
    """First column -> the rest."""
    return {line[:14].strip(): line[14:].strip() for line in text.splitlines() if line[:14].strip()}


def test_a_screen_and_an_object_say_the_same(cli: Cli) -> None:
    cli.ok("init", "--copy", "second", "--region", "DE")
    cli.enroll("ada", "ada", "verify", "identify")
    found, ran = cli.ok("status"), cli.run("status")
    said = lines(ran.out)
    assert said["vault"] == f"{found['vault']}  region DE"
    assert said["epoch"].startswith("1, ")
    assert said["root"] == "file (erasing), current"
    assert (said["backup"], said["checkpoint"], said["due"], said["recovery key"]) == (
        "none", "none", "nothing", "none",
    )  # fmt: skip
    assert said["copies"] == f"{cli.home}/second: current"
    assert said["verify"].split() == ["1", "0", "0", "1", "1,727,999"]
    assert said["pending"] == "0 operations"
    assert "share" not in said
    assert found["warnings"] == []
    assert ran.err == ""


def test_it_is_one_screen(cli: Cli) -> None:
    cli.ok("init", "--no-copy", "--region", "DE")
    for scope in ("verify", "identify", "evaluate", "train", "share"):
        cli.enroll(scope, "ada", scope)
    out = cli.run("status").out.splitlines()
    assert len(out) <= 24
    assert max(map(len, out)) <= 79


def test_the_guide_names_every_key_of_the_object(cli: Cli) -> None:
    cli.ok("init", "--copy", "second")
    guide = (Path(__file__).resolve().parent.parent / "docs" / "operator.md").read_text()
    found = cli.ok("status")
    for key in (*found, *found["due"][0], *found["holders"][0], *found["scopes"]["verify"]):
        assert f"`{key}`" in guide, key


# Prometheus


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        assert family.type == "gauge"
        for sample in family.samples:
            assert sample.name == family.name
            found[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return found


def test_prometheus_text_says_what_the_object_says(cli: Cli) -> None:
    cli.ok("init", "--copy", "second", "--region", "DE")
    cli.enroll("ada", "ada", "verify", "identify")
    cli.ok("backup", "b")
    found, ran = cli.ok("status"), cli.run("status", "--prometheus", "-")
    text = samples(ran.out)
    assert text["facekeep_vault_info", (("region", "DE"), ("vault", found["vault"]))] == 1
    assert text["facekeep_grants", (("scope", "verify"), ("state", "live"))] == 1
    assert text["facekeep_slots_free", (("scope", "verify"),)] == 1_727_999
    assert text["facekeep_copy_current", (("copy", "0"), ("file", "log.db"))] == 1
    holder = (("class", "erasing"), ("holder", "0"), ("role", "first"), ("scheme", "file"))
    assert text["facekeep_holder_ok", holder] == 1
    assert text["facekeep_backup_timestamp_seconds", ()] == found["backup"]["time_ms"] / 1000
    assert text["facekeep_due", (("what", "swap"),)] == 0
    for name, key in (("epoch", "epoch"), ("log_entries", "entries"), ("rows", "rows")):
        assert text[f"facekeep_{name}", ()] == found[key]
    assert text["facekeep_warnings", ()] == 0
    assert not {value for _, labels in text for _, value in labels if "/" in value or "ada" in value}
    guide = (Path(__file__).resolve().parent.parent / "docs" / "operator.md").read_text()
    for name in {name for name, _ in text} | {"facekeep_checkpoint_timestamp_seconds"}:
        assert f"`{name}`" in guide


def test_the_textfile_is_replaced_whole_and_readable_by_others(cli: Cli) -> None:
    cli.init()
    target = cli.home / "facekeep.prom"
    target.write_text("old")
    before = target.stat().st_ino
    assert cli.run("status", "--prometheus", "facekeep.prom").out == ""
    assert samples(target.read_text())["facekeep_epoch", ()] == 1
    assert target.stat().st_ino != before
    assert target.stat().st_mode & 0o044 == 0o044
    assert not list(cli.home.glob(".facekeep.prom*"))


def test_a_textfile_that_cannot_be_written_is_an_error(cli: Cli) -> None:
    cli.init()
    ran = cli.run("status", "--prometheus", "no/where.prom")
    assert (ran.code, ran.out) == (32, "")
    assert "where.prom" in ran.err
    assert "(store)\nnext: " in ran.err
    assert "of its own" in cli.run("status", "--prometheus", "-", "--json").error["message"]


def test_warnings_have_remedies(cli: Cli) -> None:
    cli.ok("init", "--copy", "second")
    shutil.rmtree("second")
    found = cli.run("status")
    assert found.code == 0
    lines = found.err.splitlines()
    assert lines[0].startswith("facekeep: warning: the copy of keys.db")
    assert lines[1].startswith("next: ")


def test_a_decision_in_words(cli: Cli) -> None:
    cli.init()
    cli.enroll("ada", "ada")
    decision = cli.verify("ada", "ada-again").json["decision"]
    said = dict(line.split("\t") for line in cli.run("status", "--decision", decision).out.splitlines())
    assert (said["op"], said["allow"], said["result"]) == ("verify", "true", "match")
    assert "candidates" not in said


@pytest.mark.parametrize("identity", ["", "0", "0-00000000", "99999-00000000", "x", "1-1"])
def test_no_decision_has_that_id(cli: Cli, identity: str) -> None:
    cli.init()
    cli.fails("usage", 10, "status", "--decision", identity)
