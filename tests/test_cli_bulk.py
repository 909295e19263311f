"""facekeep enroll --from: folders and JSON lines, failures that stop nobody else, going on after a stop."""

from __future__ import annotations

import json
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cli_help import CONSENT, DIMENSION, MODEL, Cli, Ran, snapshot, vector, write_lines
from facekeep.cli import bulk
from facekeep.errors import ImageError, StoreError
from facekeep.matching.model import Model
from facekeep.vault import Vault

TERMS = ("--scope", "verify", *CONSENT)


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    return Cli(tmp_path, monkeypatch)


class ByName:
    """An extractor for files that hold a number: its embedding is made from it."""

    model = Model("raw:test", "1", DIMENSION, "l2")

    def extract(self, image: Path) -> np.ndarray[Any, np.dtype[np.float32]]:
        text = image.read_text()
        if not text.isdigit():
            raise ImageError(f"{image.name!r}: no face was found", reason="no_face")
        person, photograph = divmod(int(text), 10)
        return vector(person) + np.float32(0.01 * photograph)


@pytest.fixture
def folder(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Path:
    cli.ok("settings", "--threshold", "threshold.json")
    monkeypatch.setattr(Vault, "extractor", ByName())
    people = cli.home / "people"
    for seed, name in enumerate(("ada", "bob", "zoë")):
        (people / unicodedata.normalize("NFD", name)).mkdir(parents=True)
        for image in range(2):
            (people / unicodedata.normalize("NFD", name) / f"{image}.jpg").write_text(str(seed * 10 + image))
    return people


def people(count: int, *, start: int = 0) -> list[dict[str, object]]:
    return [
        {"subject": f"s{number}", "embedding": [round(float(x), 4) for x in vector(number)]}
        for number in range(start, start + count)
    ]


def manifest(cli: Cli, *words: str) -> Ran:
    return cli.run("enroll", "--from", "people.jsonl", "--model", MODEL, *TERMS, "--json", *words)


def test_a_folder_of_folders(cli: Cli, folder: Path) -> None:
    (folder / "ada" / ".DS_Store").write_text("x")
    (folder / "ada" / "Thumbs.db").write_text("x")
    (folder / ".hidden").mkdir()
    (folder / "readme.txt").write_text("x")
    found = cli.ok("enroll", "--from", "people", *TERMS)
    assert found == {"enrolled": 3, "skipped": 0, "failed": 0, "photos_left_out": 0, "failures": []}
    assert set(cli.subjects()) == {"ada", "bob", "zoë"}
    assert cli.ok("subjects")["subjects"][0]["grants"][0]["images"] == 2


def test_one_bad_photograph_stops_nobody(cli: Cli, folder: Path) -> None:
    (folder / "ada" / "2.jpg").write_text("a cat")
    for image in (folder / "bob").iterdir():
        image.write_text("a cat")
    (folder / "empty").mkdir()
    ran = cli.run("enroll", "--from", "people", *TERMS, "--json")
    assert ran.code == 3
    assert ran.json == {
        "enrolled": 2,
        "skipped": 0,
        "failed": 2,
        "photos_left_out": 1,
        "failures": [{"item": 2, "code": "image", "reason": "no_face"}, {"item": 3, "code": "usage"}],
    }


def test_the_list_of_failures_names_nobody_in_a_file(cli: Cli, folder: Path) -> None:
    (folder / "bob" / "bob-at-the-beach.jpg").write_text("a cat")
    (folder / "ghost").mkdir()
    ran = cli.run("enroll", "--from", "people", *TERMS)
    assert ran.code == 3
    assert "folder 2: a photograph was left out: a file: no face was found (image)" in ran.err
    assert "folder 3: the folder has no photograph (usage)" in ran.err
    assert "bob" not in ran.err
    assert "ghost" not in ran.err
    assert [line.split("\t") for line in ran.out.splitlines()] == [
        ["enrolled", "3"],
        ["skipped", "0"],
        ["failed", "1"],
    ]


def test_the_same_command_goes_on_where_it_stopped(cli: Cli, folder: Path) -> None:
    (folder / "bob" / "0.jpg").write_text("a cat")
    (folder / "bob" / "1.jpg").write_text("a cat")
    assert cli.run("enroll", "--from", "people", *TERMS).code == 3
    for image in (folder / "bob").iterdir():
        image.write_text("10")
    assert cli.ok("enroll", "--from", "people", *TERMS)["enrolled"] == 1
    assert cli.ok("enroll", "--from", "people", *TERMS)["skipped"] == 3


def test_no_file_holds_a_name(cli: Cli, folder: Path) -> None:
    (folder / "bob" / "0.jpg").write_text("a cat")
    before = set(snapshot(cli.home))
    cli.run("enroll", "--from", "people", *TERMS)
    assert set(snapshot(cli.home)) == before
    shutil.rmtree(folder)
    for path in cli.home.rglob("*"):
        assert not path.is_file() or b"zo\xc3\xab" not in path.read_bytes(), path


def test_terms_that_would_fail_everybody_fail_at_once(cli: Cli, folder: Path) -> None:
    assert folder.is_dir()
    words = ("enroll", "--from", "people", "--scope", "verify", "--notice", "notice.txt")
    cli.fails("consent", 12, *words, "--expires", "2020-01-01")
    cli.fails("consent", 12, *words)
    assert cli.subjects() == {}


def test_a_manifest(cli: Cli) -> None:
    write_lines(Path("people.jsonl"), people(50))
    assert manifest(cli).json["enrolled"] == 50
    assert manifest(cli).json["skipped"] == 50
    assert len(cli.subjects()) == 50


def test_a_manifest_on_standard_input(cli: Cli) -> None:
    lines = "".join(json.dumps(line) + "\n\n" for line in people(3))
    words = ("enroll", "--from", "-", "--model", MODEL, *TERMS, "--json")
    assert cli.run(*words, stdin=lines).json["enrolled"] == 3


def test_a_line_may_state_its_own_consent(cli: Cli) -> None:
    (cli.home / "list").mkdir()
    (cli.home / "list" / "german.txt").write_text("Hinweis")
    line = {
        "subject": "ada",
        "embedding": "../ada.npy",
        "model": MODEL,
        "scopes": ["verify", "identify"],
        "expires": "2027-05-01",
        "not_before": "2027-01-01",
        "notice": "german.txt",
        "language": "de",
        "purpose": "door",
        "controller": "us",
        "regions": ["DE", "EU"],
        "expressed_by": "guardian",
        "expressed_at": "2026-01-01",
    }
    write_lines(cli.home / "list" / "people.jsonl", [line])
    assert cli.ok("enroll", "--from", "list/people.jsonl")["enrolled"] == 1
    grants = cli.ok("subjects")["subjects"][0]["grants"]
    assert [grant["scope"] for grant in grants] == ["verify", "identify"]
    assert grants[0]["regions"] == ["DE", "EU"]
    assert grants[0]["expires_at_ms"] == 1_809_129_600_000


def test_photographs_of_a_manifest_lie_beside_it(cli: Cli, folder: Path) -> None:
    write_lines(folder / "people.jsonl", [{"subject": "eve", "images": ["bob/0.jpg", "bob/1.jpg"]}])
    assert cli.ok("enroll", "--from", "people/people.jsonl", *TERMS)["enrolled"] == 1


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("not json", "usage"),
        ("[1, 2]", "usage"),
        ('{"subject": "a", "subject": "b", "embedding": [1]}', "usage"),
        ('{"embedding": [1]}', "usage"),
        ('{"subject": 7, "embedding": [1]}', "usage"),
        ('{"subject": "a"}', "usage"),
        ('{"subject": "", "embedding": "ada.npy"}', "usage"),
        ('{"subject": "a", "embedding": "ada.npy", "expirse": "1d"}', "usage"),
        ('{"subject": "a", "embedding": "ada.npy", "images": ["x.jpg"]}', "usage"),
        ('{"subject": "a", "embedding": [1, 2]}', "usage"),
        ('{"subject": "a", "embedding": [[1], [2, 3]]}', "usage"),
        ('{"subject": "a", "embedding": {"x": 1}}', "usage"),
        ('{"subject": "a", "embedding": "nothing.npy"}', "usage"),
        ('{"subject": "a", "embedding": "ada.npy", "model": "raw:x/1:4:l2"}', "usage"),
        ('{"subject": "a", "embedding": "ada.npy", "expires": "2020-01-01"}', "consent"),
        ('{"subject": "a", "embedding": "ada.npy", "expires": 5}', "usage"),
        ('{"subject": "a", "embedding": "ada.npy", "scopes": "verify"}', "usage"),
        ('{"subject": "a", "embedding": "ada.npy", "scopes": ["look"]}', "scope_unknown"),
        ('{"subject": "a", "embedding": "ada.npy", "notice": "nothing.txt"}', "consent"),
        ('{"subject": "s0", "embedding": "ada.npy"}', "usage"),
        ("[" * 100_000, "usage"),
        ("\xff", "usage"),
    ],
)
def test_a_bad_line_stops_nobody(cli: Cli, line: str, code: str) -> None:
    good = [json.dumps(each) for each in people(2)]
    Path("people.jsonl").write_text("\n".join([good[0], line, good[1]]), encoding="latin-1")
    ran = manifest(cli)
    assert ran.code == 3
    assert ran.json["enrolled"] == 2
    assert ran.json["failures"] == [{"item": 2, "code": code}]


def test_whoever_is_refused_by_the_vault_is_found_in_a_batch(cli: Cli) -> None:
    cli.enroll("s1", "ada")
    write_lines(Path("people.jsonl"), people(3))
    ran = manifest(cli, "--existing", "refuse")
    assert ran.code == 3
    assert ran.json["enrolled"] == 2
    assert ran.json["failures"] == [{"item": 2, "code": "already_enrolled"}]


def test_batches_are_durable_when_the_disk_fails(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "BATCH_PEOPLE", 10)
    write_lines(Path("people.jsonl"), people(25))
    enroll_many, calls = Vault.enroll_many, [0]

    def failing(self: Vault, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - passed on as it is
        calls[0] += 1
        if calls[0] == 3:
            raise StoreError("vault.db: disk I/O error")
        return enroll_many(self, *args, **kwargs)

    monkeypatch.setattr(Vault, "enroll_many", failing)
    ran = manifest(cli)
    assert ran.code == 32
    assert ran.out == ""
    assert len(cli.subjects()) == 20
    ran = manifest(cli)
    assert (ran.json["enrolled"], ran.json["skipped"]) == (5, 20)


def test_an_interrupt_says_how_far_it_came(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "BATCH_PEOPLE", 10)
    write_lines(Path("people.jsonl"), people(25))
    is_enrolled = Vault.is_enrolled

    def interrupted(self: Vault, subject: str, scopes: Any) -> bool:  # noqa: ANN401 - passed on as it is
        if subject == "s15":
            raise KeyboardInterrupt
        return is_enrolled(self, subject, scopes)

    monkeypatch.setattr(Vault, "is_enrolled", interrupted)
    ran = cli.run("enroll", "--from", "people.jsonl", "--model", MODEL, *TERMS)
    assert ran.code == 130
    assert "10 people enrolled so far" in ran.err
    assert "interrupted (interrupted)" in ran.err
    monkeypatch.undo()


def test_sources_that_are_none(cli: Cli) -> None:
    cli.fails("store", 32, "enroll", "--from", "nowhere", *TERMS)
    Path("empty").mkdir()
    cli.fails("usage", 10, "enroll", "--from", "empty", *TERMS)
    cli.fails("usage", 10, "enroll", "ada", "--from", "empty", *TERMS)
    Path("people.jsonl").write_text("")
    cli.fails("usage", 10, "enroll", "--from", "people.jsonl", *TERMS)


def test_spare_photographs_that_are_left_out_are_no_failure(cli: Cli, folder: Path) -> None:
    """Everybody is enrolled: the summary says what was left out, and nothing failed."""
    (folder / "ada" / "2.jpg").write_text("a cat")
    (folder / "bob" / "2.jpg").write_text("a cat")
    ran = cli.run("enroll", "--from", "people", *TERMS)
    assert ran.code == 0
    assert "2 photographs left out" in ran.err
    assert cli.run("enroll", "--from", "people", *TERMS, "--json").code == 0
