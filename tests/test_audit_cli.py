"""facekeep-audit: verdicts, exit statuses, and what it needs."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from auditlog_help import NOW
from cli_help import Ran
from facekeep.audit.bundle import DOMAIN
from facekeep.audit.cli import root
from facekeep.auditlog.export import export
from facekeep.formats.bundle import ShreddingProof
from facekeep.operations import auditing
from facekeep.vault import Vault
from proof_help import KEYS, OPENING, forge, story
from tree_help import TreeLab
from unmeasured import environment
from vaultlab import VERIFY, Lab, core

KEY = str(KEYS[0].encode())
HEAVY = ("vault", "operations", "store", "keys", "sealing", "access", "matching")
PROGRAM = Path(sys.executable).with_name("facekeep-audit")


def run(*words: str) -> Ran:
    result = CliRunner().invoke(root, list(words))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    assert "internal" not in result.stderr, result.stderr
    return Ran(result.exit_code, result.stdout, result.stderr)


def fails(code: str, status: int, *words: str) -> dict[str, object]:
    spoken = run(*words)
    assert spoken.code == status, spoken.err
    lines = spoken.err.split("\n")
    assert lines[0].startswith("facekeep-audit: ")
    assert lines[0].endswith(f"({code})")
    assert lines[1].startswith("next: ")
    assert "facekeep check" not in lines[1]  # an auditor has no vault
    ran = run(*words, "--json")
    assert ran.code == status
    assert ran.error["code"] == code
    return dict(ran.error)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a place with a proof, keys, a receipt and an export of another log."""
    monkeypatch.chdir(tmp_path)
    Path("ada.proof").write_bytes(forge(story()))
    Path("log.vkey").write_text("# of the operator\n\n" + "".join(key.encode() + "\n" for key in KEYS))
    Path("ada.json").write_text(json.dumps(OPENING.to_json()))
    return tmp_path


@pytest.fixture
def log(home: Path) -> TreeLab:
    """Return a log exported to ``export``."""
    (home / "log").mkdir()
    lab = TreeLab(home / "log")
    export(home / "export", lab.checkpoints, time_ms=NOW)
    return lab


def test_a_proof_that_holds() -> None:
    ran = run("verify-proof", "ada.proof", "--key", "log.vkey")
    assert ran.code == 0
    lines = ran.out.split("\n")
    assert [line.split()[0] for line in lines[:13]] == [f"P{number}" for number in range(1, 14)]
    assert sum(line.startswith("not proved\t") for line in lines) == 12
    found = run("verify-proof", "ada.proof", "--key", "log.vkey", "--opening", "ada.json", "--json").json
    assert (found["subject"], len(found["steps"]), len(found["not_proved"])) == ("ada", 13, 11)


def test_keys_one_by_one() -> None:
    words = [word for key in KEYS for word in ("--key", key.encode())]
    assert run("verify-proof", "ada.proof", *words).code == 0
    assert run("verify-proof", "ada.proof", "--key", KEY).code == 0


def test_one_byte_changed_names_the_step() -> None:
    data = Path("ada.proof").read_bytes()
    Path("bad.proof").write_bytes(data.replace(b'"epoch":2', b'"epoch":3'))
    error = fails("integrity", 33, "verify-proof", "bad.proof", "--key", "log.vkey")
    assert error["step"] == "P3"
    spoken = run("verify-proof", "bad.proof", "--key", "log.vkey")
    assert spoken.out.split("\n")[2].startswith("P3  broken")
    assert len(spoken.out.split("\n")) == 4


@pytest.mark.parametrize("key", ["", "x", "a+b+c", KEY[:-1], KEY + "\n", "none.vkey", "ada.proof", "\0", "."])
def test_what_is_no_key(key: str) -> None:
    fails("usage", 10, "verify-proof", "ada.proof", "--key", key)


def test_a_fingerprint_that_can_be_read_aloud() -> None:
    lines = run("fingerprint", "log.vkey").out.split("\n")[:-1]
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    assert lines[0] == "Ed25519\t" + " ".join(digest[at : at + 4] for at in range(0, 64, 4))
    assert lines[1].startswith("ML-DSA-44\t")
    assert run("fingerprint", KEY, "--json").json == {"fingerprints": [lines[0].partition("\t")[2]]}
    fails("usage", 10, "fingerprint", "none")


def test_a_file_of_no_keys() -> None:
    Path("empty.vkey").write_text("# nothing\n\n")
    fails("usage", 10, "verify-proof", "ada.proof", "--key", "empty.vkey")
    Path("long.vkey").write_text("#" * 70_000)
    fails("store", 32, "verify-proof", "ada.proof", "--key", "long.vkey")


def test_what_is_no_file(home: Path) -> None:
    os.mkfifo(home / "pipe")
    for name in ("none", ".", "pipe"):
        fails("store", 32, "verify-proof", name, "--key", "log.vkey")
    fails("store", 32, "verify-proof", "ada.proof", "--key", "log.vkey", "--opening", "none")
    fails("usage", 10, "verify-proof", "ada.proof", "--key", "log.vkey", "--opening", "ada.proof")
    fails("store", 32, "verify-proof", "ada.proof", "--key", "log.vkey", "--log", "none")


def test_a_certificate_is_written_once_and_only_for_what_holds() -> None:
    words = ("verify-proof", "ada.proof", "--key", "log.vkey", "--certificate", "ada.html")
    assert run(*words).code == 0
    assert "Certificate of erasure" in Path("ada.html").read_text()
    fails("usage", 10, *words)
    Path("bad.proof").write_bytes(Path("ada.proof").read_bytes()[:-1])
    fails("integrity", 33, "verify-proof", "bad.proof", "--key", "log.vkey", "--certificate", "bad.html")
    assert not Path("bad.html").exists()


def test_the_command_line() -> None:
    assert run().code == 2
    fails("command_line", 2, "verify-proof", "ada.proof")
    fails("command_line", 2, "verify-everything")
    assert run("--version").code == 0
    for name in ("verify-proof", "verify-log", "verify-consistency", "watch", "witness-key", "probe"):
        ran = run(name, "--help")
        assert ran.code == 0
        assert name in ran.out


def test_a_log(log: TreeLab) -> None:
    ran = run("verify-log", "export", "--key", "log.vkey")
    assert ran.code == 0
    assert ran.out.startswith("L1  holds")
    found = run("verify-log", "export", "--key", "log.vkey", "--json").json
    assert found["size"] == 1
    entries = Path("export/tile/entries/000.p/1")
    entries.write_bytes(entries.read_bytes().replace(b'"epoch":1', b'"epoch":2'))
    error = fails("integrity", 33, "verify-log", "export", "--key", "log.vkey")
    assert error["step"] == "L3"
    assert "L3  broken" in run("verify-log", "export", "--key", "log.vkey").out
    assert log.log.head().size == 1


def test_consistency(log: TreeLab) -> None:
    old = Path("export/checkpoint").read_bytes()
    Path("old.note").write_bytes(old)
    log.fill(300)
    export(Path("export"), log.checkpoints, time_ms=NOW)
    assert run("verify-consistency", "old.note", "export", "--key", "log.vkey").code == 0
    snapshot = log.checkpoints.snapshot()
    note = log.checkpoints.make(snapshot, NOW)
    proof = log.checkpoints.consistency(snapshot, 1, note).encode()
    Path("since").write_bytes(proof)
    found = run("verify-consistency", "old.note", "since", "--key", "log.vkey", "--json").json
    assert [step["verdict"] for step in found["steps"]] == [*["holds"] * 4, "not judged"]
    Path("since").write_bytes(proof.replace(b"old 1", b"old 2"))
    error = fails("integrity", 33, "verify-consistency", "old.note", "since", "--key", "log.vkey")
    assert error["step"] == "C3"
    newer = Path("export/checkpoint").read_bytes()
    Path("new.note").write_bytes(newer)
    Path("export/checkpoint").write_bytes(old)
    error = fails("integrity", 33, "verify-consistency", "new.note", "export", "--key", "log.vkey")
    assert error["step"] == "C3"


def test_watching(log: TreeLab) -> None:
    made = run("witness-key", "w.example/1", "-o", "w.key").out.strip()
    assert made.startswith("w.example/1+")
    fails("store", 32, "witness-key", "w.example/1", "-o", "w.key")
    fails("usage", 10, "witness-key", "w example", "-o", "w2.key")
    first = run("watch", "export", "--key", "log.vkey", "--state", "seen")
    assert first.out.split("\n")[0].startswith("W1  not judged")
    log.fill(9)
    export(Path("export"), log.checkpoints, time_ms=NOW)
    second = run("watch", "export", "--key", "log.vkey", "--state", "seen", "--witness-key", "w.key")
    assert second.out.startswith("— w.example/1 ")
    assert second.out.count("\n") == 1
    assert "9 entries, 1 before" in second.err
    found = run("watch", "export", "--key", "log.vkey", "--state", "seen", "--json").json
    assert (found["before"], found["cosignature"], found["size"]) == (9, None, 9)
    Path("seen").write_bytes(b"")
    assert fails("integrity", 33, "watch", "export", "--key", "log.vkey", "--state", "seen")["step"] == "W1"


def test_a_grant_left_out_is_found_in_the_log(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "lab")
    lab.base.mkdir()
    lab.create().enrol("alice")
    with lab.open() as vault:
        vault.renew("alice", lab.consent(VERIFY, days=60))
        opening = vault.shred("alice", openings=True).openings[0]
        proof = vault.audit_proof(opening)
        vault.audit_export("whole")
        Path("lab.vkey").write_text("".join(key.encode() + "\n" for key in vault.audit_keys()))
        Path("lab.proof").write_bytes(proof.data)
        Path("short.proof").write_bytes(_without_the_renewal(vault, proof.data))
    words = ("--key", "lab.vkey", "--log", "whole")
    found = run("verify-proof", "lab.proof", *words, "--json").json
    assert found["complete"]
    assert "all_grants" not in found["not_proved"]
    assert run("verify-proof", "short.proof", "--key", "lab.vkey").code == 0
    assert fails("integrity", 33, "verify-proof", "short.proof", *words)["step"] == "P13"


def test_an_export_older_than_the_proof_or_of_another_log(log: TreeLab, tmp_path: Path) -> None:
    fails("usage", 10, "verify-proof", "ada.proof", "--key", "log.vkey", "--log", "export")
    log.fill(9)
    export(Path("export"), log.checkpoints, time_ms=NOW)
    error = fails("integrity", 33, "verify-proof", "ada.proof", "--key", "log.vkey", "--log", "export")
    assert error["step"] == "P13"  # another history under the same keys
    assert tmp_path.is_dir()


def _without_the_renewal(vault: Vault, data: bytes) -> bytes:
    """Return a bundle of the same vault, signed by its keys, that keeps silent about the second grant."""
    bundle = ShreddingProof.parse(data)
    grants = [held.index for held in bundle.entries if held.entry["type"] == "grant"]
    kept = tuple(held for held in bundle.entries if held.index != grants[1])
    with auditing.signing(core(vault)) as checkpoints:
        keys = auditing.signer(core(vault), checkpoints, checkpoints.snapshot())
        short = replace(bundle, entries=kept)
        return short.signed(keys.sign_raw(DOMAIN + short.unsigned())).encode()


def test_nothing_of_the_vault_is_loaded() -> None:
    heavy = (
        "sqlite3",
        "sqlite_utils",
        "dlib",
        "cv2",
        "PIL",
        "facekeep.vault",
        "facekeep.store",
        "facekeep.keys",
    )
    program = (
        "import sys\nfrom facekeep.audit.cli import root\n"
        "code = root.main(['verify-proof', 'ada.proof', '--key', 'log.vkey'], standalone_mode=False)\n"
        f"print([name for name in {heavy} if name in sys.modules], code, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment()
    )
    assert done.stderr.split("\n")[-2] == "[] None"


def test_the_program_itself() -> None:
    words = [str(PROGRAM), "verify-proof", "ada.proof", "--key", "log.vkey"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("P1  holds")
    reader = ["sh", "-c", '"$@" | true', "sh", *words]  # a reader that goes away
    piped = subprocess.run(reader, capture_output=True, text=True, check=True)
    assert "Traceback" not in piped.stderr
    assert "Exception ignored" not in piped.stderr
