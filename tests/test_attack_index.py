"""Attacks on the subject index: whom an id leads to, and whom a shred reaches."""

from __future__ import annotations

from pathlib import Path

import pytest

from facekeep.errors import SubjectUnknown, UsageError
from vaultlab import VERIFY, Lab, core, identify, matches, reason, row_key

Row = tuple[bytes, bytes]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path).create()
    lab.enrol("alice", "bob")
    return lab


def index_row(lab: Lab, name: str) -> Row:
    hashed = lab.do(lambda vault: row_key(vault, name))
    row = lab.sql("keys.db", "SELECT hash, sealed FROM subject_index WHERE hash = ?", (hashed,))[0]
    return row[0], row[1]


def put(lab: Lab, row: Row) -> None:
    lab.sql("keys.db", "INSERT OR REPLACE INTO subject_index VALUES (?, ?)", row)


def test_one_subjects_index_row_points_at_anothers_grant(lab: Lab) -> None:
    alice, bob = index_row(lab, "alice"), index_row(lab, "bob")
    put(lab, (alice[0], bob[1]))
    with lab.open() as vault:
        assert reason(vault, "alice") == "integrity"
        assert matches(vault, "bob")
        assert not vault.check().ok
        vault.withdraw("alice", [VERIFY])
        vault.grant("alice", lab.consent(VERIFY))
        vault.repair_index()
        assert matches(vault, "alice")
        put(lab, (alice[0], bob[1]))
        vault.shred("alice")
        assert matches(vault, "bob")
        assert identify(vault, "alice") == []
    lab.clean()


def test_an_index_row_is_damaged(lab: Lab) -> None:
    hashed, sealed = index_row(lab, "alice")
    for damaged in (b"", sealed[:-1], sealed[:-1] + bytes([sealed[-1] ^ 1]), bytes(len(sealed))):
        put(lab, (hashed, damaged))
        with lab.open() as vault:
            assert reason(vault, "alice") == "integrity"
            assert matches(vault, "bob")
            assert not vault.check().ok


def test_an_index_row_is_deleted_before_the_shred(lab: Lab) -> None:
    row = index_row(lab, "alice")
    lab.sql("keys.db", "DELETE FROM subject_index WHERE hash = ?", (row[0],))
    with lab.open() as vault:
        assert not vault.check().ok
        vault.shred("alice")
    put(lab, row)
    with lab.open() as vault:
        assert reason(vault, "alice") != "ok"
        assert identify(vault, "alice") == []
        vault.repair_index()
    lab.clean()


def test_an_index_row_is_put_back_after_the_erasure_and_a_second_one_asked_for(lab: Lab) -> None:
    """The row leads to dead slots only: nothing is destroyed by it, and nothing is called erased."""
    row = index_row(lab, "alice")
    with lab.open() as vault:
        assert vault.shred("alice").slots == 2
    put(lab, row)
    with lab.open() as vault:
        size = core(vault).log.head().size
        for ids, message in (
            (["alice"], "1 of the 1 subject ids is unknown; nothing was shredded"),
            (["alice", "bob"], "1 of the 2 subject ids is unknown; nothing was shredded"),
            (["alice", "nobody", "bob"], "2 of the 3 subject ids are unknown; nothing was shredded"),
        ):
            with pytest.raises(SubjectUnknown, match=message):
                vault.shred(*ids)
        with pytest.raises(SubjectUnknown):
            vault.withdraw("alice", [VERIFY])
        assert core(vault).log.head().size == size
        assert matches(vault, "bob")
        assert vault.shred("bob").slots == 2


def test_an_index_row_of_an_earlier_enrolment_is_replayed_before_the_shred(lab: Lab) -> None:
    """The row leads to dead slots: the log leads to those that live."""
    earlier = index_row(lab, "alice")
    with lab.open() as vault:
        vault.shred("alice")
        vault.enroll_many([lab.enrolment("alice")])
    present = index_row(lab, "alice")
    put(lab, earlier)
    with lab.open() as vault:
        assert reason(vault, "alice") != "ok"
        assert not vault.check().ok
        vault.shred("bob", "alice")
    put(lab, present)
    with lab.open() as vault:
        assert reason(vault, "alice") != "ok"
        assert identify(vault, "alice") == []
        vault.repair_index()
    lab.clean()


def test_an_index_row_is_deleted_and_the_subject_enrolled_a_second_time(lab: Lab) -> None:
    earlier = index_row(lab, "alice")
    lab.sql("keys.db", "DELETE FROM subject_index WHERE hash = ?", (earlier[0],))
    with lab.open() as vault:
        assert identify(vault, "alice") == ["alice"]
        with pytest.raises(UsageError, match="already enrolled"):
            vault.enroll_many([lab.enrolment("alice")])
        assert not vault.check().ok
        vault.enroll_many([lab.enrolment("alice")], existing="replace")
        assert matches(vault, "alice")
        vault.shred("alice")
        assert identify(vault, "alice") == []
    put(lab, earlier)
    with lab.open() as vault:
        assert reason(vault, "alice") != "ok"
        vault.repair_index()
    lab.clean()
