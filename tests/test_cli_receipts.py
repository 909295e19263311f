"""facekeep enroll --from --receipts: the one file of names, and only where it was asked for."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from cli_help import CONSENT, MODEL, Cli, Ran, snapshot, vector, write_lines
from facekeep.cli.bulk import Bulk
from facekeep.consent.consent import subject_tag
from facekeep.errors import Busy

NAMES = ("Kaltenbrunner Ottilie", "Ferreira-Ñandú João", "s0042-of-the-door")


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    return Cli(tmp_path, monkeypatch)


def people(*names: str) -> list[dict[str, Any]]:
    return [
        {"subject": name, "embedding": [round(float(x), 4) for x in vector(seed)]}
        for seed, name in enumerate(names)
    ]


def enroll(cli: Cli, *words: str) -> Ran:
    words = ("--model", MODEL, "--scope", "verify", *CONSENT, *words)
    return cli.run("enroll", "--from", "people.jsonl", *words)


def lines(path: str = "receipts.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_everybody_has_a_line_that_opens_their_tag(cli: Cli) -> None:
    write_lines(Path("people.jsonl"), people(*NAMES))
    ran = enroll(cli, "--receipts", "receipts.jsonl", "--json")
    assert (ran.code, ran.json["enrolled"]) == (0, 3)
    assert "warning: receipts.jsonl names 3 people" in ran.err
    assert "belongs to them" in ran.err
    assert stat.S_IMODE(Path("receipts.jsonl").stat().st_mode) == 0o600
    vault = bytes.fromhex(cli.ok("status")["vault"])
    assert [each["subject"] for each in lines()] == list(NAMES)
    for each in lines():
        salt = bytes.fromhex(each["salt"])
        assert subject_tag(vault, salt, each["subject"].encode()).hex() == each["tag"]
        assert [grant["scope"] for grant in each["grants"]] == ["verify"]
    Path("one.json").write_text(json.dumps(lines()[0]))
    erased = cli.ok("shred", NAMES[0], "--yes")["erasure"]
    assert cli.ok("audit", "proof", "one.json", "-o", "proof")["proven"]["erasure"] == erased


def test_without_the_option_no_file_has_names(cli: Cli) -> None:
    write_lines(Path("people.jsonl"), people(*NAMES))
    before = set(cli.home.rglob("*"))
    assert enroll(cli).code == 0
    Path("people.jsonl").unlink()
    assert len(cli.subjects()) == 3
    assert not {path for path in set(cli.home.rglob("*")) - before if not path.name.endswith(".lock")}
    for path in (each for each in cli.home.rglob("*") if each.is_file()):
        raw = path.read_bytes()
        for name in NAMES:
            for code in ("utf-8", "utf-16-le"):
                assert name.encode(code) not in raw, path
            assert json.dumps(name).encode() not in raw, path


def test_who_was_enrolled_before_has_no_line(cli: Cli) -> None:
    write_lines(Path("people.jsonl"), people(*NAMES[:2]))
    assert enroll(cli).code == 0
    assert enroll(cli, "--receipts", "none.jsonl").code == 0
    assert not Path("none.jsonl").exists()
    write_lines(Path("people.jsonl"), people(*NAMES))
    ran = enroll(cli, "--receipts", "receipts.jsonl")
    assert [each["subject"] for each in lines()] == [NAMES[2]]
    assert "names 1 person" in ran.err


def test_a_failure_stops_nobody_else_and_has_no_line(cli: Cli) -> None:
    wrong = {"subject": "wrong", "embedding": [1.0]}
    write_lines(Path("people.jsonl"), [*people(*NAMES[:2]), wrong])
    assert enroll(cli, "--receipts", "receipts.jsonl").code == 3
    assert [each["subject"] for each in lines()] == list(NAMES[:2])


def test_an_existing_file_is_refused_and_nobody_enrolled(cli: Cli) -> None:
    write_lines(Path("people.jsonl"), people(*NAMES))
    Path("receipts.jsonl").write_text("mine")
    Path("linked.jsonl").symlink_to("nothing")
    before = snapshot(cli.home)
    words = ("enroll", "--from", "people.jsonl", "--model", MODEL, "--scope", "verify", *CONSENT)
    cli.fails("usage", 10, *words, "--receipts", "receipts.jsonl")
    cli.fails("usage", 10, *words, "--receipts", "linked.jsonl")
    cli.fails("store", 32, *words, "--receipts", "nowhere/receipts.jsonl")
    cli.fails("usage", 10, "enroll", "ada", "ada.jpg", "--scope", "verify", *CONSENT, "--receipts", "one")
    assert snapshot(cli.home) == before
    assert cli.subjects() == {}


def test_a_full_disk_is_said_and_the_vault_is_whole(cli: Cli) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    write_lines(Path("people.jsonl"), people(*NAMES))
    from facekeep.cli import receipts  # noqa: PLC0415 - patched below

    class Full(receipts.Receipts):
        def __init__(self, path: Path) -> None:
            super().__init__(path)
            self._file.close()
            self._file = open("/dev/full", "wb")  # noqa: PTH123, SIM115

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("facekeep.cli.enroll.Receipts", Full)
        ran = enroll(cli, "--receipts", "receipts.jsonl")
    assert ran.code == 32
    assert "3 people just enrolled may have no receipt" in ran.err
    assert len(cli.subjects()) == 3
    assert cli.ok("check")["ok"] is True


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), Busy("another process is writing")])
def test_who_is_stopped_is_told_how_to_go_on(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, stop: BaseException
) -> None:
    """The same command would find its own file, and refuse."""
    write_lines(Path("people.jsonl"), people(*NAMES))
    enrol = Bulk._enrol

    def then_stop(bulk: Bulk, batch: list[Any]) -> None:
        enrol(bulk, batch)
        raise stop

    with monkeypatch.context() as stopping:
        stopping.setattr(Bulk, "_enrol", then_stop)
        ran = enroll(cli, "--receipts", "receipts.jsonl")
    assert ran.code in {130, 36}
    assert "type the command again with another file after --receipts; receipts.jsonl is kept" in ran.err
    assert len(lines()) == len(NAMES)
    assert enroll(cli, "--receipts", "more.jsonl").code == 0


def test_who_is_stopped_before_anybody_has_a_receipt_types_the_same_again(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lines(Path("people.jsonl"), people(*NAMES))

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as stopping:
        stopping.setattr(Bulk, "_enrol", stop)
        ran = enroll(cli, "--receipts", "receipts.jsonl")
    assert ran.code == 130
    assert "type the command again; what was begun" in ran.err
    assert enroll(cli, "--receipts", "receipts.jsonl").code == 0
