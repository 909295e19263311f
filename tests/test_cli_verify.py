"""facekeep verify: 0 a match, 1 none, 20 denied, and nothing between."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cli_help import CONSENT, DIMENSION, MODEL, THRESHOLD, Cli, probe, snapshot, vector
from facekeep.matching.model import Model
from facekeep.vault import Vault


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    found = Cli(tmp_path, monkeypatch)
    found.enroll("ada", "ada")
    return found


def test_a_match_and_none(cli: Cli) -> None:
    match, other = cli.verify("ada", "ada-again"), cli.verify("ada", "bob")
    assert (match.code, other.code) == (0, 1)
    assert match.json["match"] is True
    assert other.json["match"] is False
    assert match.json["threshold"] == THRESHOLD
    assert set(match.json) == {"match", "decision", "threshold"}
    assert match.json["decision"] != other.json["decision"]


def test_in_words(cli: Cli) -> None:
    ran = cli.run("verify", "ada", *probe("ada-again"))
    assert ran.out == "match\n"
    assert ran.err.startswith("facekeep: decision ")
    assert cli.run("verify", "ada", *probe("bob")).out == "no match\n"


def test_the_distance_only_when_asked_for(cli: Cli) -> None:
    assert cli.run("verify", "ada", *probe("ada-again"), "--with-score", "--json").json["score"] < 0.1
    assert "distance 0.0" in cli.run("verify", "ada", *probe("ada-again"), "--with-score").out


def test_one_answer_for_every_refusal(cli: Cli) -> None:
    cli.enroll("bob", "bob", "identify")
    unknown, no_scope = cli.verify("eve", "ada").error, cli.verify("bob", "bob").error
    elsewhere = cli.run("verify", "ada", *probe("ada-again"), "--region", "FR", "--json").error
    for error in (unknown, no_scope, elsewhere):
        decision = error.pop("decision")
        error["next"] = error["next"].replace(decision, "ID")
    assert unknown == no_scope == elsewhere
    assert unknown["code"] == "denied"


def test_the_reason_is_in_the_log(cli: Cli) -> None:
    error = cli.fails("denied", 20, "verify", "eve", *probe("ada"))
    assert error["next"].endswith(f"facekeep status --decision {error['decision']}")
    assert cli.ok("status", "--decision", error["decision"])["reason"] == "subject_unknown"


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("photo.jpg", *probe("ada")),
        ("--embedding", "ada.npy"),
        ("--embedding", "ada.npy", "--model", MODEL),
        ("--embedding", "two.npy", "--model", MODEL, "--threshold", "threshold.json"),
        ("--embedding", "ada.npy", "--model", "raw:other/1:16:l2", "--threshold", "threshold.json"),
        ("--embedding", "ada.npy", "--model", MODEL, "--threshold", "nothing.json"),
        ("--embedding", "ada.npy", "--model", MODEL, "--threshold", "notice.txt"),
        ("--embedding", "ada.npy", "--model", MODEL, "--threshold", "bare.json"),
        ("--embedding", "ada.npy", "--model", MODEL, "--threshold", "lacking.json"),
    ],
)
def test_no_probe_or_no_threshold(cli: Cli, words: tuple[str, ...]) -> None:
    np.save("two.npy", np.ones((2, DIMENSION), np.float32))
    Path("bare.json").write_text("0.6")
    Path("lacking.json").write_text(json.dumps({"value": 0.6}))
    before = snapshot(cli.home)
    cli.fails("usage", 10, "verify", "ada", *words)
    assert snapshot(cli.home) == before


class OfBytes:
    """An extractor for photographs from standard input that hold a number."""

    model = Model("raw:test", "1", DIMENSION, "l2")

    def extract(self, image: bytes) -> np.ndarray[Any, np.dtype[np.float32]]:
        assert isinstance(image, bytes)
        return vector(int(image))


def test_a_photograph_comes_from_standard_input(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a pipe makes it: no file of it is left behind."""
    cli.ok("settings", "--threshold", "threshold.json")
    monkeypatch.setattr(Vault, "extractor", OfBytes())
    scopes = ("--scope", "verify", "--scope", "identify")
    assert cli.run("enroll", "zoe", "-", *scopes, *CONSENT, stdin="7").code == 0
    assert cli.run("verify", "zoe", "-", stdin="7").out == "match\n"
    assert cli.run("verify", "zoe", "-", stdin="8").out == "no match\n"
    assert "zoe" in cli.run("identify", "-", stdin="7").out
    twice = cli.run("enroll", "yan", "-", "-", *scopes, *CONSENT, stdin="7")
    assert twice.code == 10
    assert "one photograph" in twice.err


def test_an_embedding_and_a_threshold_come_from_standard_input(cli: Cli) -> None:
    rows = io.BytesIO()
    np.save(rows, vector(7))
    given = ("--embedding", "-", "--model", MODEL)
    scopes = ("--scope", "verify", "--scope", "identify")
    assert cli.run("enroll", "zoe", *given, *scopes, *CONSENT, stdin=rows.getvalue()).code == 0
    numbers = json.dumps(vector(7).tolist())
    limit = ("--threshold", "threshold.json")
    assert cli.run("verify", "zoe", *given, *limit, stdin=numbers).out == "match\n"
    assert "zoe" in cli.run("identify", *given, *limit, stdin=rows.getvalue()).out
    Path("seven.json").write_text(numbers)
    file = ("--embedding", "seven.json", "--model", MODEL)
    piped = Path("threshold.json").read_bytes()
    assert cli.run("verify", "zoe", *file, "--threshold", "-", stdin=piped).out == "match\n"
    assert cli.run("settings", "--threshold", "-", stdin=piped).code == 0
    for words in (
        ("verify", "zoe", *given, "--threshold", "-"),
        ("enroll", "yan", "-", *given, *scopes, *CONSENT),
        ("settings", "--threshold", "-", "--search-threshold", "-"),
    ):
        assert "write - once" in cli.run(*words, stdin=piped).err
    for wrong in ("", "{", b"\x93NUMPY\1"):
        ran = cli.run("verify", "zoe", *given, *limit, stdin=wrong)
        assert (ran.code, "standard input holds no embedding" in ran.err) == (10, True)
