"""facekeep enroll, one person: what it takes and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cli_help import CONSENT, DIMENSION, MODEL, Cli, embedding, snapshot


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    return Cli(tmp_path, monkeypatch)


def test_a_grant_for_each_scope_and_a_receipt(cli: Cli) -> None:
    receipt = cli.enroll("ada", "ada", "verify", "identify")
    assert receipt["subject"] == "ada"
    assert [grant["scope"] for grant in receipt["grants"]] == ["verify", "identify"]
    assert len(receipt["salt"]) == len(receipt["tag"]) == 64
    assert cli.subjects() == {"ada": ["verify", "identify"]}


def test_the_receipt_in_words(cli: Cli) -> None:
    ran = cli.run("enroll", "ada", *embedding("ada"), "--scope", "verify", *CONSENT)
    assert ran.code == 0
    first = ran.out.splitlines()[0].split("\t")
    assert first[0] == "verify"
    assert [line.split("\t")[0] for line in ran.out.splitlines()[1:]] == ["tag", "salt"]
    assert ran.err.startswith("facekeep: enrolled")


def test_every_word_of_consent_is_kept(cli: Cli) -> None:
    words = (
        *("--scope", "verify", "--expires", "2027-05-01", "--not-before", "2027-04-01T12:00Z"),
        *(
            "--region",
            "DE",
            "--region",
            "FR",
            "--language",
            "pt-BR",
            "--purpose",
            "door",
            "--controller",
            "us",
        ),
        *("--expressed-by", "guardian", "--expressed-at", "2026-01-01", "--notice", "notice.txt"),
    )
    cli.ok("enroll", "ada", *embedding("ada"), *words)
    grant = cli.ok("subjects")["subjects"][0]["grants"][0]
    assert grant["expires_at_ms"] == 1_809_129_600_000
    assert grant["not_before_ms"] == 1_806_580_800_000
    assert grant["regions"] == ["DE", "FR"]
    assert grant["state"] == "not_yet"


def test_several_rows_are_several_images(cli: Cli) -> None:
    cli.ok("settings", "--threshold", "threshold.json")
    np.save("rows.npy", 1 + np.random.default_rng(7).normal(scale=0.1, size=(3, DIMENSION)))
    cli.ok("enroll", "ada", "--embedding", "rows.npy", "--model", MODEL, "--scope", "verify", *CONSENT)
    assert cli.ok("subjects")["subjects"][0]["grants"][0]["images"] == 3


@pytest.mark.parametrize(
    ("existing", "images"), [("skip", 1), ("replace", 1), ("add", 2)], ids=["skip", "replace", "add"]
)
def test_somebody_who_is_enrolled_already(cli: Cli, existing: str, images: int) -> None:
    cli.ok("settings", "--threshold", "threshold.json")
    cli.enroll("ada", "ada")
    words = ("enroll", "ada", *embedding("ada-again"), "--scope", "verify", *CONSENT)
    cli.fails("already_enrolled", 16, *words)
    receipt = cli.ok(*words, "--existing", existing)
    assert receipt["skipped"] == (["verify"] if existing == "skip" else [])
    assert cli.ok("subjects")["subjects"][0]["grants"][0]["images"] == images
    assert cli.verify("ada", "ada").code == 0


@pytest.mark.parametrize(
    ("words", "code", "status"),
    [
        ((), "consent", 12),
        (("--scope", "verify", "--notice", "notice.txt"), "consent", 12),
        (("--scope", "verify", "--expires", "365d"), "consent", 12),
        (("--expires", "365d", "--notice", "notice.txt"), "consent", 12),
        (("--scope", "verify", "--expires", "365d", "--notice", "nothing.txt"), "consent", 12),
        (("--scope", "verify", "--expires", "365d", "--notice", "."), "consent", 12),
        (("--scope", "verify", *CONSENT, "--purpose", ""), "consent", 12),
        (("--scope", "verify", *CONSENT, "--purpose", "a\x1b[2Jb"), "consent", 12),
        (("--scope", "verify", *CONSENT, "--language", "English"), "consent", 12),
        (("--scope", "verify", *CONSENT, "--region", "de"), "consent", 12),
        (("--scope", "verify", *CONSENT, "--not-before", "400d"), "consent", 12),
        (("--scope", "verify", *CONSENT, "--expressed-at", "2d"), "consent", 12),
        (("--scope", "look", *CONSENT), "command_line", 2),
        (("--scope", "verify", *CONSENT, "--existing", "maybe"), "command_line", 2),
        (("--scope", "verify", *CONSENT, "--extractor", "magic"), "command_line", 2),
    ],
)
def test_terms_that_are_not_acceptable(cli: Cli, words: tuple[str, ...], code: str, status: int) -> None:
    before = snapshot(cli.home)
    cli.fails(code, status, "enroll", "ada", *embedding("ada"), *words)
    assert snapshot(cli.home) == before


@pytest.mark.parametrize(
    "words",
    [
        ("enroll",),
        ("enroll", "ada"),
        ("enroll", "ada", "photo.jpg", *embedding("ada")),
        ("enroll", "ada", "--embedding", "ada.npy"),
        ("enroll", "ada", "--embedding", "ada.npy", "--model", "dlib"),
        ("enroll", "ada", "--embedding", "ada.npy", "--model", "raw:test/1:17:l2"),
        ("enroll", "ada", "--embedding", "ada.npy", "--model", "raw:test/1:16:taxicab"),
        ("enroll", "ada", "--embedding", "notice.txt", "--model", MODEL),
        ("enroll", "ada", "--embedding", "nothing.npy", "--model", MODEL),
        ("enroll", "ada", "--embedding", "pickle.npy", "--model", MODEL),
        ("enroll", "ada", "--embedding", "nan.npy", "--model", MODEL),
        ("enroll", "ada", "--from", "people"),
    ],
    ids=lambda words: " ".join(words[1:4]) or "nothing",
)
def test_no_templates_that_could_be_sealed(cli: Cli, words: tuple[str, ...]) -> None:
    np.save("pickle.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save("nan.npy", np.full(DIMENSION, np.nan, np.float32))
    before = snapshot(cli.home)
    cli.fails("usage", 10, *words, "--scope", "verify", *CONSENT)
    assert snapshot(cli.home) == before
