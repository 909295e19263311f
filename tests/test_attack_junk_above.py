"""Rows above every slot that the log gave out: a true one shows a rollback, any other one stops nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from facekeep.access.core import Core
from facekeep.auditlog.head import Head
from facekeep.errors import IntegrityError, NotAllowed
from facekeep.formats.ids import BRANCH_SLOTS, SLOT_BITS
from facekeep.keys.tree import KeyTree
from facekeep.limits import LIMITS
from facekeep.operations import opening, unlogged
from facekeep.vault import Role, Scope, Vault
from vaultlab import (
    IDENTIFY,
    MODEL,
    THRESHOLD,
    VERIFY,
    Lab,
    core,
    face,
    identify,
    matches,
    prove,
    reason,
    slots,
    sql,
)

Row = tuple[Any, ...]
MANY = LIMITS.rows_above + 6


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path, copies=True).create()
    lab.enrol("alice", "bob")
    return lab


def _row(lab: Lab, name: str, scope: Scope) -> Row:
    slot = lab.do(lambda vault: slots(vault, name))[scope]
    return lab.sql("vault.db", "SELECT * FROM grants WHERE slot = ?", (slot,))[0]


def _put(path: Path, *rows: Row) -> None:
    for row in rows:
        sql(path, "INSERT OR REPLACE INTO grants VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)


def _copied(row: Row, above: int) -> Row:
    return (row[0] + above, *row[1:])


def _blank(row: Row, above: int) -> Row:
    return (row[0] + above, b"", row[2], "m", b"", b"", b"", b"")


def _commitment(row: Row, above: int) -> Row:
    """As a row of its own slot, but for the sealed parts of another."""
    return (row[0] + above, bytes(16), *row[2:5], bytes(32), *row[6:])


JUNK = [_copied, _blank, _commitment]


def _top(lab: Lab, scope: Scope) -> int:
    """Highest slot with a row of a scope's branch."""
    branch = _row(lab, "alice", scope)[0] >> SLOT_BITS
    found = lab.sql("vault.db", "SELECT max(slot) FROM grants WHERE slot >> 21 = ?", (branch,))
    return int(found[0][0])


def _plant(lab: Lab, junk: Callable[[Row, int], Row], places: range = range(1, 4)) -> int:
    """Put junk above all that was given out in both branches; returns how many rows."""
    for scope in (VERIFY, IDENTIFY):
        row, top = _row(lab, "alice", scope), _top(lab, scope)
        _put(lab.path / "vault.db", *[junk(row, top - row[0] + at) for at in places])
    return 2 * len(places)


def _everything_works(lab: Lab, vault: Vault) -> None:
    assert matches(vault, "alice")
    assert identify(vault, "bob") == ["bob"]
    vault.enroll_many([lab.enrolment("carol")])
    assert matches(vault, "carol")
    vault.renew("alice", lab.consent(VERIFY, IDENTIFY))
    vault.withdraw("bob", [VERIFY])
    vault.grant("bob", lab.consent(VERIFY))
    assert identify(vault, "bob") == ["bob"]
    vault.shred("carol")
    assert reason(vault, "carol") == "subject_unknown"
    assert len(list(vault.subjects())) == 2
    prove(vault)


@pytest.mark.parametrize("junk", JUNK)
def test_junk_above_keeps_nothing_from_opening_or_working(lab: Lab, junk: Callable[[Row, int], Row]) -> None:
    count = _plant(lab, junk)
    with lab.open() as vault:
        assert any(f"{count} rows stand in slots" in each.message for each in vault.check().findings)
        _everything_works(lab, vault)
    report = Vault.scrub(lab.path, token=lab.token, clock=lab.clock)
    assert not report.left
    lab.clean()


@pytest.mark.parametrize("junk", JUNK)
def test_a_scrub_leads_out(lab: Lab, junk: Callable[[Row, int], Row]) -> None:
    count = _plant(lab, junk, range(1, 4_000, 1_000))
    report = Vault.scrub(lab.path, token=lab.token, clock=lab.clock)
    assert [f"{count} rows in slots" in each.message for each in report.repairs] == [True]
    lab.clean()


def test_junk_comes_while_the_vault_is_open(lab: Lab) -> None:
    with lab.open() as vault, vault.gallery(model=MODEL) as gallery:
        _plant(lab, _copied)
        _everything_works(lab, vault)
        assert [hit.subject for hit in gallery.search(face("alice"), THRESHOLD, 1).candidates] == ["alice"]
    Vault.scrub(lab.path, token=lab.token, clock=lab.clock)
    lab.clean()


def test_junk_in_every_slot_that_is_given_out_next(lab: Lab) -> None:
    """More of them than are looked at, one after another; a batch is written by one statement."""
    _plant(lab, _copied, range(1, MANY))
    names = [f"person {at}" for at in range(MANY)]
    lab.enrol(*names)
    lab.clean()
    with lab.open() as vault:
        assert all(matches(vault, name) for name in names)


def test_junk_in_the_last_slot_of_a_branch_burns_none(lab: Lab) -> None:
    for scope in (VERIFY, IDENTIFY):
        row = _row(lab, "alice", scope)
        base = row[0] >> SLOT_BITS << SLOT_BITS
        _put(lab.path / "vault.db", (base + BRANCH_SLOTS - 1, *row[1:]), (base + 2**21 - 1, *row[1:]))
    lab.enrol("carol")
    carol, bob = (lab.do(lambda vault, name=name: slots(vault, name)) for name in ("carol", "bob"))  # type: ignore[misc]
    assert carol == {scope: slot + 1 for scope, slot in bob.items()}


def test_keys_are_rotated_over_junk(lab: Lab) -> None:
    _plant(lab, _copied)
    with lab.open() as vault:
        vault.keys.rotate_root()
        vault.keys.rotate_tree()
        vault.keys.rotate_templates()
        assert identify(vault, "alice") == ["alice"]
        prove(vault)
    Vault.scrub(lab.path, token=lab.token, clock=lab.clock)
    lab.clean()


def test_a_backup_is_taken_and_restored_over_junk(lab: Lab, tmp_path: Path) -> None:
    _plant(lab, _copied)
    with lab.open() as vault:
        vault.backup(tmp_path / "data.backup")
    lab.sql("vault.db", "DELETE FROM grants")
    with lab.open() as vault:
        report = vault.restore(tmp_path / "data.backup")
        assert (report.rows, report.merged) == (10, 4)
        assert identify(vault, "alice") == ["alice"]
    lab.clean()


# -- true rows: the log was rolled back


def _rolled_back(lab: Lab) -> Path:
    """Put log.db and its copy back to before carol; returns the files with her."""
    before = lab.save("before")
    lab.enrol("carol")
    after = lab.save("after")
    _put_log(lab, before)
    return after


def _put_log(lab: Lab, saved: Path) -> None:
    lab.put_back(saved, "log.db")
    for name in ("log.db", "log.db-wal", "log.db-shm"):
        (lab.copy_dir / name).unlink(missing_ok=True)
        if (saved / "copy" / name).exists():
            (lab.copy_dir / name).write_bytes((saved / "copy" / name).read_bytes())


def test_a_true_row_above_shows_the_rollback(lab: Lab) -> None:
    after = _rolled_back(lab)
    rows = lab.sql("vault.db", "SELECT * FROM grants ORDER BY slot")
    with pytest.raises(IntegrityError, match="rolled back"):
        lab.do(lambda vault: vault.vault_id)
    report = Vault.scrub(lab.path, token=lab.token, clock=lab.clock)
    assert any("rolled back" in each.message for each in report.left)
    assert lab.sql("vault.db", "SELECT * FROM grants ORDER BY slot") == rows
    _put_log(lab, after)
    lab.clean()
    with lab.open() as vault:
        assert identify(vault, "carol") == ["carol"]


def test_junk_above_does_not_hide_a_few_true_rows(lab: Lab) -> None:
    _rolled_back(lab)
    for scope in (VERIFY, IDENTIFY):
        row, top = _row_of(lab, scope), _top_of(lab, scope)
        _put(lab.path / "vault.db", *[(top + at, *row[1:]) for at in range(1, 40)])
    with pytest.raises(IntegrityError, match="rolled back"):
        lab.do(lambda vault: vault.vault_id)
    Vault.scrub(lab.path, token=lab.token, clock=lab.clock)
    assert len(lab.sql("vault.db", "SELECT slot FROM grants")) == 6


def _row_of(lab: Lab, scope: Scope) -> Row:
    branch = {VERIFY: 1, IDENTIFY: 2}[scope]
    return lab.sql("vault.db", "SELECT * FROM grants WHERE slot >> 21 = ? ORDER BY slot", (branch,))[0]


def _top_of(lab: Lab, scope: Scope) -> int:
    branch = {VERIFY: 1, IDENTIFY: 2}[scope]
    return int(lab.sql("vault.db", "SELECT max(slot) FROM grants WHERE slot >> 21 = ?", (branch,))[0][0])


def test_a_rollback_under_a_running_vault_is_told_by_the_next_enrolment(lab: Lab) -> None:
    before = lab.save("before")
    lab.enrol("carol")
    rows = lab.sql("vault.db", "SELECT * FROM grants")
    lab.put_back(before)
    with lab.open() as vault:
        _put(lab.path / "vault.db", *rows)
        assert any("rolled back" in each.message for each in vault.check().findings)
        with pytest.raises(IntegrityError, match="rolled back"):
            vault.enroll_many([lab.enrolment("dora")])
        vault.shred("alice")
        assert matches(vault, "bob")


def test_a_log_that_grows_meanwhile_is_not_called_rolled_back(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else enrols between the reading of the head and that of the rows."""
    original = unlogged.check_log_is_newest

    def late(core: Core, tree: KeyTree, head: Head) -> None:
        monkeypatch.setattr(opening, "check_log_is_newest", original)
        lab.enrol("carol")
        original(core, tree, head)

    monkeypatch.setattr(opening, "check_log_is_newest", late)
    with lab.open() as vault:
        assert matches(vault, "carol")


def test_a_principals_row_above_keeps_nobody_out(lab: Lab) -> None:
    row = lab.sql("keys.db", "SELECT * FROM principal")[0]
    for at in range(1, 4):
        values = (row[0] + at, bytes(7) + bytes([at]), *row[2:])
        lab.sql("keys.db", "INSERT INTO principal VALUES (?, ?, ?, ?, ?)", values)
    token = lab.add_principal(Role.SERVICE)
    with lab.open(token) as vault:
        assert matches(vault, "alice")
    Vault.scrub(lab.path, token=lab.token, clock=lab.clock)
    lab.clean()
    assert lab.do(lambda vault: core(vault).keys.principal_count()) == 2


def test_a_true_principal_above_is_not_scrubbed_away(lab: Lab) -> None:
    """The log was rolled back to before it was added: it is let in again with the log, and not before."""
    before = lab.save("before")
    token = lab.add_principal(Role.SERVICE)
    after = lab.save("after")
    _put_log(lab, before)
    report = Vault.scrub(lab.path, token=lab.token, clock=lab.clock)
    assert any("rolled back" in each.message for each in report.left)
    with pytest.raises(NotAllowed):
        lab.do(lambda vault: vault.whoami(), token)
    _put_log(lab, after)
    lab.clean()
    with lab.open(token) as vault:
        assert vault.whoami()[1] == "another"


@pytest.mark.parametrize("number", [9e15, "x", -1, 2**63 - 1, b"\1", None])
def test_a_generation_that_is_no_number_of_ours_stops_nothing(lab: Lab, number: object) -> None:
    statement = "UPDATE meta SET value = ? WHERE key = 'generation'"
    if number is None:
        statement = "DELETE FROM meta WHERE key = 'generation' AND ? IS NULL"
    lab.sql("keys.db", statement, (number,))
    with lab.open() as vault:
        assert vault.shred("alice").slots == 2
        vault.add_principal("another", [Role.SERVICE])
    Vault.scrub(lab.path, token=lab.token, clock=lab.clock)
    lab.clean()
    assert lab.sql("keys.db", "SELECT value > 0 FROM meta WHERE key = 'generation'") == [(1,)]
