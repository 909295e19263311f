"""A lawful restart behind which an operator hides what came after it, before an auditor who watches."""

from __future__ import annotations

from pathlib import Path

import pytest

import audit_help
import restart_help
from audit_help import NOW, v
from facekeep.audit.report import RuleBroken
from facekeep.audit.watch import watch
from facekeep.errors import UsageError

KEYS = audit_help.SIGNER.keys


def restarted(pin: int = 41) -> restart_help.Restarted:
    book = restart_help.adopted()
    book.entries[0] = dict(restart_help.begun(pin=(pin, b"p" * 32)))
    book.end()
    return book


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """What an auditor keeps who saw the lost log."""
    audit_help.write_export(tmp_path / "lost", audit_help.founded().bodies()[:4])
    watch(tmp_path / "lost", KEYS, tmp_path / "seen", time_ms=NOW)
    return tmp_path / "seen"


def export_of(book: restart_help.Restarted, folder: Path) -> Path:
    audit_help.write_export(folder, book.bodies())
    return folder


def test_a_match_is_taken_out_of_a_log_whose_restart_was_accepted(tmp_path: Path, state: Path) -> None:
    """One restart was accepted, and no rewriting of what came after it."""
    book = restarted()
    watch(export_of(book, tmp_path / "new"), KEYS, state, time_ms=NOW, restarted=True)
    book.verify(v(3), audit_help.ALICE)
    matched = export_of(book, tmp_path / "matched")
    with pytest.raises(UsageError, match="continues what was seen"):
        watch(matched, KEYS, state, time_ms=NOW, restarted=True)
    assert watch(matched, KEYS, state, time_ms=NOW).before is not None
    hidden = restarted()
    hidden.entries[0] = book.entries[0]
    hidden.verify(None, None, reason="subject_unknown")
    hidden.verify(None, None, reason="subject_unknown")
    forged = export_of(hidden, tmp_path / "hidden")
    assert_refused(forged, state)


def assert_refused(forged: Path, state: Path) -> None:
    """With leave to accept a restart or without; and nobody is told to give it."""
    for leave in (False, True):
        with pytest.raises(RuleBroken) as caught:
            watch(forged, KEYS, state, time_ms=NOW, restarted=leave)
        assert caught.value.rule == "W5"
        assert "--restarted" not in caught.value.next


def test_a_match_is_taken_out_of_a_restarted_log_that_was_seen_first(tmp_path: Path) -> None:
    """The auditor who came after the restart saw no other log before."""
    book = restarted()
    seen = audit_help.write_export(tmp_path / "first", book.bodies())
    watch(tmp_path / "first", KEYS, tmp_path / "seen", time_ms=NOW)
    hidden = restarted()
    hidden.entries[0] = book.entries[0]
    assert audit_help.write_export(tmp_path / "forged", hidden.bodies()).size == seen.size
    assert_refused(tmp_path / "forged", tmp_path / "seen")


def test_what_was_seen_before_a_restart_is_not_written_over_by_another(tmp_path: Path, state: Path) -> None:
    """Two restarts after as many entries: each keeps its evidence."""
    first = state.read_bytes()
    one = restarted()
    watch(export_of(one, tmp_path / "one"), KEYS, state, time_ms=NOW, restarted=True)
    second = state.read_bytes()
    other = restarted(pin=42)
    watch(export_of(other, tmp_path / "other"), KEYS, state, time_ms=NOW, restarted=True)
    kept = {path.read_bytes() for path in state.parent.glob("seen.*") if path.suffix != ".lock"}
    assert {first, second} <= kept
