"""Watching: what was seen is kept, and a log that says otherwise is caught."""

from __future__ import annotations

import fcntl
import shutil
import stat
from pathlib import Path

import pytest

import audit_help
import restart_help
from auditlog_help import NOW, decision
from facekeep.audit.report import Verdict
from facekeep.audit.watch import Seen, watch
from facekeep.audit.witness import make_key, read_key
from facekeep.auditlog.export import export
from facekeep.auditlog.signed import open_checkpoint
from facekeep.errors import Busy, FormatError, StoreError, UsageError
from facekeep.formats.note import KeyType, Note
from proof_help import step_of
from tree_help import OTHER_VAULT, TreeLab, signer

KEYS = signer().keys


@pytest.fixture
def lab(tmp_path: Path) -> TreeLab:
    (tmp_path / "log").mkdir()
    return TreeLab(tmp_path / "log")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "export"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "seen"


def exported(lab: TreeLab, folder: Path, size: int) -> Path:
    lab.fill(size)
    export(folder, lab.checkpoints, time_ms=NOW)
    return folder


def look(folder: Path, state: Path) -> Seen:
    return watch(folder, KEYS, state, time_ms=NOW)


def broken(folder: Path, state: Path) -> str:
    return step_of(watch, folder, KEYS, state, time_ms=NOW)


def test_a_first_look_and_a_second(lab: TreeLab, folder: Path, state: Path) -> None:
    first = look(exported(lab, folder, 300), state)
    assert (first.before, first.checkpoint.size) == (None, 300)
    assert [step.verdict for step in first.report.steps][3:5] == [Verdict.NOT_JUDGED] * 2
    assert state.read_bytes() == (folder / "checkpoint").read_bytes()
    second = look(exported(lab, folder, 700), state)
    assert (second.before, second.checkpoint.size) == (300, 700)
    assert {step.verdict for step in second.report.steps} == {Verdict.HOLDS}
    assert look(folder, state).before == 700
    assert sorted(path.name for path in state.parent.iterdir()) == ["export", "log", "seen", "seen.lock"]


def test_a_log_rolled_back(lab: TreeLab, folder: Path, state: Path, tmp_path: Path) -> None:
    old = shutil.copytree(exported(lab, folder, 40), tmp_path / "old")
    look(exported(lab, folder, 80), state)
    seen = state.read_bytes()
    assert broken(old, state) == "W4"
    assert state.read_bytes() == seen


def test_a_log_rewritten(lab: TreeLab, folder: Path, state: Path, tmp_path: Path) -> None:
    look(exported(lab, folder, 80), state)
    seen = state.read_bytes()
    (tmp_path / "fork").mkdir()
    fork = TreeLab(tmp_path / "fork")
    fork.log.decide(decision(), control_seq=1, valid_until_ms=2**53, allow=True)
    for size in (80, 120):
        assert broken(exported(fork, tmp_path / "forked", size), state) == "W5"
    assert state.read_bytes() == seen


def test_the_checkpoint_of_another_log_is_none(lab: TreeLab, folder: Path, state: Path) -> None:
    look(exported(lab, folder, 5), state)
    assert step_of(watch, folder, signer(vault=OTHER_VAULT).keys, state, time_ms=NOW) == "W1"
    both = (*KEYS, *signer(vault=OTHER_VAULT).keys)
    checkpoint = (folder / "checkpoint").read_bytes()
    (folder / "checkpoint").write_bytes(checkpoint.replace(b"76", b"77", 2))
    assert step_of(watch, folder, both, state, time_ms=NOW) == "W2"


def test_tiles_that_do_not_lead_to_the_root(lab: TreeLab, folder: Path, state: Path) -> None:
    exported(lab, folder, 5)
    tile = folder / "tile/0/000.p/5"
    tile.write_bytes(bytes(len(tile.read_bytes())))
    assert broken(folder, state) == "W3"
    assert not state.exists()


@pytest.mark.parametrize("data", [b"", b"x", b"facekeep/1\n"])
def test_a_damaged_state_is_no_first_look(lab: TreeLab, folder: Path, state: Path, data: bytes) -> None:
    exported(lab, folder, 5)
    state.write_bytes(data)
    assert broken(folder, state) == "W1"
    assert state.read_bytes() == data


def test_a_state_that_is_no_file(lab: TreeLab, folder: Path, state: Path) -> None:
    exported(lab, folder, 5)
    state.symlink_to(state.parent / "nowhere")
    with pytest.raises(StoreError):
        look(folder, state)
    state.unlink()
    state.mkdir()
    with pytest.raises(StoreError):
        look(folder, state)
    with pytest.raises(StoreError):
        look(folder, state.parent / "none" / "seen")


def test_there_is_no_export(state: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="checkpoint"):
        look(tmp_path, state)
    assert not state.exists()


def test_one_watcher_a_state(lab: TreeLab, folder: Path, state: Path) -> None:
    exported(lab, folder, 5)
    with state.with_name("seen.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Busy):
            look(folder, state)
    look(folder, state)


@pytest.mark.parametrize("kind", [KeyType.COSIGNATURE_ED25519, KeyType.COSIGNATURE_ML_DSA_44])
def test_a_cosignature_is_one(lab: TreeLab, folder: Path, state: Path, tmp_path: Path, kind: KeyType) -> None:
    public = make_key("w.example/1", tmp_path / "w.key", kind)
    assert stat.S_IMODE((tmp_path / "w.key").stat().st_mode) == 0o600
    witness = read_key(tmp_path / "w.key")
    assert witness.key == public
    seen = watch(exported(lab, folder, 9), KEYS, state, time_ms=NOW, witness=witness)
    assert seen.cosignature is not None
    note = Note.parse((folder / "checkpoint").read_bytes())
    cosigned = Note(note.text, (*note.signatures, seen.cosignature)).encode()
    opened = open_checkpoint(cosigned, (*KEYS, public))
    assert [each.timestamp for each in opened.signatures if each.key == public] == [NOW // 1000]
    assert look(folder, state).cosignature is None


def test_nothing_is_cosigned_that_breaks_a_step(
    lab: TreeLab, folder: Path, state: Path, tmp_path: Path
) -> None:
    class Never:
        def sign(self, *_: object) -> None:
            pytest.fail("it cosigned")

    look(exported(lab, folder, 80), state)
    (tmp_path / "fork").mkdir()
    fork = exported(TreeLab(tmp_path / "fork"), tmp_path / "forked", 7)
    assert step_of(watch, fork, KEYS, state, time_ms=NOW, witness=Never()) == "W4"


def test_a_witness_key_is_written_once_and_read_strictly(tmp_path: Path) -> None:
    path = tmp_path / "w.key"
    make_key("w.example/1", path)
    with pytest.raises(StoreError):
        make_key("w.example/1", path)
    with pytest.raises(UsageError):
        make_key("w example", tmp_path / "other")
    text = path.read_text()
    path.chmod(0o640)
    with pytest.raises(UsageError, match="others can read"):
        read_key(path)
    path.chmod(0o600)
    for spoilt in (
        text.replace("w.example/1", "w.example/2"),
        text.replace("PRIVATE+KEY+", ""),
        text + "\n",
        text.rstrip("\n"),
        text.replace("+B", "+A", 1),
        "",
        "PRIVATE+KEY+w+00000000+BA==\n",
    ):
        path.write_text(spoilt)
        with pytest.raises(FormatError):
            read_key(path)


def test_a_log_that_was_not_begun_anew_is_not_taken_for_one(
    lab: TreeLab, folder: Path, state: Path, tmp_path: Path
) -> None:
    look(exported(lab, folder, 80), state)
    kept = state.read_bytes()
    with pytest.raises(UsageError, match="continues what was seen") as caught:
        watch(folder, KEYS, state, time_ms=NOW, restarted=True)
    assert "--restarted" in caught.value.next
    shutil.rmtree(folder)
    other = TreeLab(tmp_path)
    assert step_of(watch, exported(other, folder, 90), KEYS, state, time_ms=NOW, restarted=True) == "W5"
    assert state.read_bytes() == kept
    assert sorted(path.name for path in state.parent.glob("seen*")) == ["seen", "seen.lock"]


@pytest.mark.parametrize("pin", [3, 4, 5])
def test_a_restart_is_held_to_what_was_seen(tmp_path: Path, state: Path, pin: int) -> None:
    """It names another log of as many entries as were seen: somebody hides a fork behind it."""
    bodies = audit_help.founded().bodies()[:4]
    audit_help.write_export(tmp_path / "old", bodies)
    keys = audit_help.SIGNER.keys
    watch(tmp_path / "old", keys, state, time_ms=NOW)
    book = restart_help.adopted()
    book.entries[0] = dict(restart_help.begun(pin=(pin, b"p" * 32)))
    book.end()
    audit_help.write_export(tmp_path / "new", book.bodies())
    for restarted in (False, True):
        step = step_of(watch, tmp_path / "new", keys, state, time_ms=NOW, restarted=restarted)
        assert step == ("W5" if not restarted or pin == 4 else "none")
