"""What can be done to sealed rows of log.db by whoever knows no key: named for the attacks."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from facekeep.auditlog.keyed import PADDED, LogKey
from facekeep.crypto.primitives import BLOB_OVERHEAD
from facekeep.errors import ErasurePending, FacekeepError, IntegrityError, Unavailable
from facekeep.vault import Role, Vault
from vaultlab import IDENTIFY, VERIFY, Lab, core, identify, log_entries, matches, reason, slots, sql

_COLUMNS = "control, sealed, leaf, chain"


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path, copies=True).create()
    lab.enrol("alice", "bob")
    with lab.open() as vault:
        for name in ("alice", "bob"):
            assert matches(vault, name)
            assert identify(vault, name) == [name]
    return lab


def at_of(lab: Lab, type_: str) -> int:
    """Index of the last entry of a type."""
    with lab.open() as vault:
        return max(at for at, entry in enumerate(log_entries(vault)) if entry["type"] == type_)


def refused(lab: Lab) -> None:
    """The check names log.db, or the vault does not open."""
    try:
        report = lab.check()
    except IntegrityError:
        return
    assert any(finding.file == "log.db" for finding in report.findings)


def put(lab: Lab, at: int, values: tuple[object, ...], columns: str = _COLUMNS) -> None:
    marks = ", ".join("?" * len(values))
    lab.sql("log.db", f"UPDATE entry SET ({columns}) = ({marks}) WHERE idx = ?", (*values, at))


@pytest.mark.parametrize("columns", ["sealed", "sealed, leaf", "control, sealed, leaf", _COLUMNS])
def test_sealed_entries_are_swapped(lab: Lab, columns: str) -> None:
    one, other = at_of(lab, "decision"), at_of(lab, "grant")
    rows = [lab.sql("log.db", f"SELECT {columns} FROM entry WHERE idx = ?", (at,))[0] for at in (one, other)]
    put(lab, one, rows[1], columns)
    put(lab, other, rows[0], columns)
    refused(lab)


@pytest.mark.parametrize("columns", ["sealed", "sealed, leaf", _COLUMNS])
def test_a_sealed_entry_of_an_older_history_is_put_at_its_place(lab: Lab, columns: str) -> None:
    """This vault sealed it, at this index: in a history that was taken back."""
    base = lab.save("base")
    lab.do(lambda vault: vault.withdraw("alice", [VERIFY]))
    at = at_of(lab, "destroy")
    stale = lab.sql("log.db", f"SELECT {columns} FROM entry WHERE idx = ?", (at,))[0]
    lab.put_back(base)
    lab.do(lambda vault: vault.withdraw("bob", [VERIFY]))
    assert at_of(lab, "destroy") == at
    put(lab, at, stale, columns)
    refused(lab)
    with pytest.raises(FacekeepError):
        lab.do(lambda vault: vault.shred("alice"))


def test_a_sealed_entry_comes_from_a_copy_of_another_vault(lab: Lab, tmp_path: Path) -> None:
    other = Lab(tmp_path / "other", copies=True).create()
    other.enrol("alice", "bob")
    row = sql(other.copy_dir / "log.db", f"SELECT {_COLUMNS} FROM entry WHERE idx = 3")[0]
    put(lab, 3, row)
    refused(lab)


def test_a_head_is_put_where_an_entry_stands_and_an_entry_where_the_head_does(lab: Lab) -> None:
    head = lab.sql("log.db", "SELECT sealed FROM head")[0]
    entry = lab.sql("log.db", "SELECT sealed FROM entry WHERE idx = 3")[0]
    put(lab, 3, head, "sealed")
    refused(lab)
    put(lab, 3, entry, "sealed")
    lab.clean()
    lab.sql("log.db", "UPDATE head SET sealed = ?", entry)
    with pytest.raises(IntegrityError, match="head does not authenticate"):
        lab.check()


@pytest.mark.parametrize("mark", [0, 2, -1, 2**62])
def test_a_grant_is_marked_as_something_else(lab: Lab, mark: int) -> None:
    at = at_of(lab, "grant")
    lab.sql("log.db", "UPDATE entry SET control = ? WHERE idx = ?", (mark, at))
    with lab.open() as vault:
        with pytest.raises(IntegrityError, match="its bytes or its control mark"):
            core(vault).log.entry(at)
        with pytest.raises(ErasurePending, match="denied to everybody"):
            vault.shred("alice")
        with pytest.raises(Unavailable):
            matches(vault, "alice")


@pytest.mark.parametrize("keep", [0, 10, BLOB_OVERHEAD, BLOB_OVERHEAD + PADDED, -1])
def test_a_sealed_entry_is_cut(lab: Lab, keep: int) -> None:
    at = at_of(lab, "grant")
    sealed = lab.sql("log.db", "SELECT sealed FROM entry WHERE idx = ?", (at,))[0][0]
    put(lab, at, (sealed[:keep],), "sealed")
    refused(lab)


@pytest.mark.parametrize("where", ["vault", "copy"])
def test_swapped_entries_are_mended_from_the_other_file(lab: Lab, where: str) -> None:
    """Sealed rows are the same in the log and in its copy, so either puts the other right."""
    path = lab.base / where / "log.db"
    for target, source in ((-1, 3), (3, 5), (5, -1)):
        sql(path, "UPDATE entry SET idx = ? WHERE idx = ?", (target, source))
    assert Vault.scrub(lab.path, token=lab.token, clock=lab.clock).repairs
    rows = [sql(lab.base / part / "log.db", "SELECT * FROM entry") for part in ("vault", "copy")]
    assert rows[0] == rows[1]
    lab.clean()


def test_how_long_a_row_is_does_not_tell_what_was_decided(lab: Lab) -> None:
    with lab.open() as vault:
        before = core(vault).log.head().size
        assert matches(vault, "alice")
        assert not matches(vault, "alice", "bob")
        assert reason(vault, "nobody") == "subject_unknown"
        assert reason(vault, "alice", region="JP") == "region"
        assert identify(vault, "alice") == ["alice"]
        assert identify(vault, "nobody") == []
        vault.withdraw("bob", [IDENTIFY])
        lengths = lab.sql(
            "log.db", "SELECT length(sealed) FROM entry WHERE control = 0 AND idx >= ?", (before,)
        )
    assert len(lengths) == 6
    assert {each for (each,) in lengths} == {BLOB_OVERHEAD + PADDED}


def test_one_entry_sealed_twice_is_never_the_same() -> None:
    key = LogKey(b"k" * 32, b"v" * 16)
    rows = [key.row(7, 1, b"entry", b"l" * 32, b"c" * 32) for _ in range(3)]
    assert len({row.sealed for row in rows}) == 3
    assert {key.body(row) for row in rows} == {b"entry"}
    for row, (key_, vault) in itertools.product(rows, ((b"x" * 32, b"v" * 16), (b"k" * 32, b"w" * 16))):
        with pytest.raises(IntegrityError):
            LogKey(key_, vault).body(row)


def test_a_slot_leads_to_another_entry(lab: Lab) -> None:
    with lab.open() as vault:
        slot = slots(vault, "alice")[VERIFY]
        at = at_of(lab, "principal")
        lab.sql("log.db", "UPDATE grant_entry SET idx = ? WHERE slot = ?", (at, slot))
        with pytest.raises(IntegrityError, match=f"leads from slot {slot}"):
            core(vault).log.entry_of_slot(slot)


@pytest.mark.parametrize("where", ["vault", "copy", "both"])
def test_slots_to_come_are_planted_and_nothing_stops(lab: Lab, where: str) -> None:
    """The list of slots says nothing that counts: a row in the place of the next one gives way."""
    for (slot,) in lab.sql("log.db", "SELECT max(slot) FROM grant_entry GROUP BY slot >> 21"):
        for part in ("vault", "copy") if where == "both" else (where,):
            for more in range(1, 6):
                sql(lab.base / part / "log.db", "INSERT INTO grant_entry VALUES (?, 0)", (slot + more,))
    lab.enrol("carol")
    lab.add_principal(Role.SERVICE)
    with lab.open() as vault:
        held = list(slots(vault, "alice").values())
        assert vault.shred("alice").slots == 2
        assert not core(vault).view().tree.alive(held).any()
        assert matches(vault, "carol")
        assert [state.state for state in core(vault).log.copies_state()] == ["current"]
    Vault.scrub(lab.path, token=lab.token, clock=lab.clock)
    lab.clean()


def test_the_list_of_slots_is_bent_while_the_copy_is_away(lab: Lab) -> None:
    """What the copy is then given of it is in nobody's way, and a scrub makes both lists anew."""
    away = lab.copy_dir.rename(lab.base / "away")
    lab.enrol("carol")
    lab.sql("log.db", "UPDATE grant_entry SET idx = (SELECT max(idx) FROM entry) WHERE slot > 99")
    away.rename(lab.copy_dir)
    with lab.open() as vault:
        assert vault.shred("alice").slots == 2
    Vault.scrub(lab.path, token=lab.token, clock=lab.clock)
    lab.clean()
