"""Attacks on what a shred finds: nobody is called erased while a key of theirs lives."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest

from facekeep.access.core import Core, View
from facekeep.errors import ErasurePending, IntegrityError, SubjectUnknown, UsageError
from facekeep.formats.entries import slots_of
from facekeep.operations import enrol
from facekeep.operations.whose import Held
from facekeep.vault import Vault
from vaultlab import IDENTIFY, VERIFY, Lab, core, identify, log_entries, matches, reason, row_key, slots


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path).create()
    lab.enrol("alice", "bob")
    return lab


def take_index_row(lab: Lab, vault: Vault, name: str) -> tuple[bytes, bytes]:
    hashed = row_key(vault, name)
    row = lab.sql("keys.db", "SELECT hash, sealed FROM subject_index WHERE hash = ?", (hashed,))[0]
    lab.sql("keys.db", "DELETE FROM subject_index WHERE hash = ?", (hashed,))
    return row[0], row[1]


def put_index_row(lab: Lab, row: tuple[bytes, bytes]) -> None:
    lab.sql("keys.db", "INSERT OR REPLACE INTO subject_index VALUES (?, ?)", row)


@pytest.mark.parametrize("seen_before", [False, True])
def test_an_index_row_is_taken_away_before_a_second_enrolment(lab: Lab, seen_before: bool) -> None:
    """The log says whose the grants are: she is known, and her erasure and everybody's goes on."""
    with lab.open() as vault:
        if seen_before:
            vault.enroll_many([lab.enrolment("carol")])
            vault.shred("carol")
        held = list(slots(vault, "alice").values())
        row = take_index_row(lab, vault, "alice")
        with pytest.raises(UsageError, match="already enrolled"):
            vault.enroll_many([lab.enrolment("alice")])
        vault.withdraw("bob", [VERIFY])
        vault.shred("alice")
        put_index_row(lab, row)
        assert not core(vault).view().tree.alive(held).any()
        assert reason(vault, "alice") != "ok"
        assert identify(vault, "alice") == []
        with pytest.raises(SubjectUnknown):
            vault.shred("alice")
        vault.repair_index()
    lab.clean()


def test_a_stale_row_stands_in_for_the_one_taken_away(lab: Lab) -> None:
    with lab.open() as vault:
        stale = take_index_row(lab, vault, "bob")
        put_index_row(lab, stale)
        vault.shred("bob")
        held = list(slots(vault, "alice").values())
        take_index_row(lab, vault, "alice")
        put_index_row(lab, stale)
        vault.shred("alice")
        assert not core(vault).view().tree.alive(held).any()
        vault.repair_index()
    lab.clean()


def test_who_is_enrolled_twice_is_destroyed_twice(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a facekeep that did not look would have left it."""

    def nobody(vault_core: Core, _view: View, subjects: Sequence[bytes]) -> list[Held]:
        return [Held(handle) for handle in vault_core.handles.of_many(subjects)]

    with lab.open() as vault:
        first = list(slots(vault, "alice").values())
        with monkeypatch.context() as patched:
            patched.setattr(enrol, "for_grants", nobody)
            vault.enroll_many([lab.enrolment("alice")])
        tag = core(vault).index.lookup(core(vault).handles.of(b"alice"))
        assert tag is not None
        second = core(vault).ledger.slots_of(tag)
        assert not set(first) & set(second)
        with pytest.raises(IntegrityError, match="enrolled twice"):
            vault.repair_index()
        with pytest.raises(IntegrityError, match="enrolled twice"):
            vault.enroll_many([lab.enrolment("alice")], existing="replace")
        assert vault.withdraw("alice", [VERIFY]).slots == 2
        vault.enroll_many([lab.enrolment("carol")])
        vault.shred("carol")
        assert vault.shred("alice").subjects == 1
        assert not core(vault).view().tree.alive([*first, *second]).any()
        assert vault.check().ok
        assert matches(vault, "bob")
    lab.clean()


def entry_of(vault: Vault, slot: int) -> int:
    return next(at for at, entry in enumerate(log_entries(vault)) if slot in slots_of(entry))


def test_a_segment_of_a_hidden_fork_replaces_a_grant(tmp_path: Path) -> None:
    """Count, order and every row's own chain value fit; the control chain does not."""
    lab = Lab(tmp_path).create()
    lab.enrol("bob", scopes=(VERIFY,))
    lab.enrol("alice", scopes=(VERIFY,))
    lab.do(lambda vault: matches(vault, "bob"))
    base = lab.save("base")
    size = lab.sql("log.db", "SELECT max(idx) FROM entry")[0][0] + 1
    lab.do(lambda vault: vault.grant("bob", lab.consent(IDENTIFY)))
    fork = lab.sql("log.db", "SELECT * FROM entry WHERE idx >= ?", (size,))
    lab.put_back(base)
    lab.do(lambda vault: vault.grant("alice", lab.consent(IDENTIFY)))
    lab.do(lambda vault: matches(vault, "alice"))
    true = lab.sql("log.db", "SELECT * FROM entry WHERE idx >= ? AND idx < ?", (size, size + len(fork)))
    with lab.open() as vault:
        held = list(slots(vault, "alice").values())
        assert len(held) == 2
    for row in fork:
        lab.sql("log.db", "INSERT OR REPLACE INTO entry VALUES (?, ?, ?, ?, ?)", row)
    with lab.open() as vault:
        with pytest.raises(ErasurePending, match="head commits to"):
            vault.shred("alice")
        assert reason(vault, "alice") != "ok"
    for row in true:
        lab.sql("log.db", "INSERT OR REPLACE INTO entry VALUES (?, ?, ?, ?, ?)", row)
    with lab.open() as vault:
        with contextlib.suppress(SubjectUnknown):
            vault.shred("alice")
        assert not core(vault).view().tree.alive(held).any()


def test_a_control_row_stands_twice(lab: Lab) -> None:
    lab.do(lambda vault: matches(vault, "bob"))
    lab.do(lambda vault: vault.withdraw("alice", [IDENTIFY]))
    lab.do(lambda vault: vault.grant("alice", lab.consent(IDENTIFY)))
    with lab.open() as vault:
        hidden = entry_of(vault, slots(vault, "alice")[IDENTIFY])
        twice = next(at for at, entry in enumerate(log_entries(vault)) if entry["type"] == "decision") - 1
    connection = sqlite3.connect(lab.path / "log.db")
    connection.executescript(f"""
        CREATE TABLE e2 (idx INTEGER, control INTEGER, sealed BLOB, leaf BLOB, chain BLOB);
        INSERT INTO e2 SELECT * FROM entry; DROP TABLE entry; ALTER TABLE e2 RENAME TO entry;
        UPDATE entry SET control = 0 WHERE idx = {hidden};
        INSERT INTO entry SELECT * FROM entry WHERE idx = {twice};
        CREATE INDEX entry_control ON entry (idx) WHERE control = 1;
    """)
    connection.close()
    with pytest.raises(IntegrityError), lab.open() as vault:
        vault.shred("alice")
