"""facekeep identify: 0 with candidates, 1 unknown."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli_help import Cli, probe


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    found = Cli(tmp_path, monkeypatch)
    found.enroll("ada", "ada", "identify")
    found.enroll("twin", "ada-again", "identify")
    found.enroll("bob", "bob", "verify")
    return found


def test_candidates_in_rank_order(cli: Cli) -> None:
    ran = cli.run("identify", *probe("ada"), "--json")
    assert ran.code == 0
    assert ran.json["candidates"] == [{"subject": "ada", "rank": 1}, {"subject": "twin", "rank": 2}]
    assert (ran.json["compared"], ran.json["excluded"]) == (2, 0)
    assert {"decision", "threshold"} <= set(ran.json)


def test_top_and_score(cli: Cli) -> None:
    ran = cli.run("identify", *probe("ada"), "--top", "1", "--with-score", "--json")
    assert [each["subject"] for each in ran.json["candidates"]] == ["ada"]
    assert ran.json["candidates"][0]["score"] < 0.01


def test_who_did_not_agree_is_unknown(cli: Cli) -> None:
    ran = cli.run("identify", *probe("bob"), "--json")
    assert (ran.code, ran.json["candidates"]) == (1, [])


def test_in_words(cli: Cli) -> None:
    assert cli.run("identify", *probe("ada")).out == "1\tada\n2\ttwin\n"
    ran = cli.run("identify", *probe("eve"))
    assert (ran.code, ran.out) == (1, "unknown\n")
    assert "compared 2 grants, left out 0" in ran.err


def test_expired_grants_are_left_out(cli: Cli) -> None:
    cli.travel(days=400)
    ran = cli.run("identify", *probe("ada"), "--json")
    assert (ran.json["compared"], ran.json["excluded"]) == (0, 2)


@pytest.mark.parametrize("top", ["0", "-1", "1001"])
def test_an_impossible_top(cli: Cli, top: str) -> None:
    cli.fails("usage", 10, "identify", *probe("ada"), "--top", top)
