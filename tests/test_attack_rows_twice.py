"""Raw bytes of a file that break what its schema promises: a row that stands twice, or out of its order.

No PRIMARY KEY, no UNIQUE and no index of a file that somebody else may write keeps anything by itself.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest

from facekeep.errors import ErasurePending, FacekeepError, IntegrityError
from facekeep.formats.ids import split_slot
from facekeep.matching.matrix import Matrix
from facekeep.store.sealedrows import SealedRows
from facekeep.vault import Vault
from rawpages import replaced, turned, twice
from vaultlab import (
    DAY,
    IDENTIFY,
    MODEL,
    THRESHOLD,
    VERIFY,
    Lab,
    core,
    face,
    held,
    identify,
    log_entries,
    matches,
    prove,
    row_key,
    slots,
)

INDEX = "idx_grants_tag"


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path).create()
    lab.enrol("alice", "bob")
    return lab


def slots_of(lab: Lab, name: str) -> dict[int, int]:
    return {int(scope): slot for scope, slot in lab.do(lambda vault: slots(vault, name)).items()}


def plant(lab: Lab, name: str = "alice") -> int:
    """Have somebody's row for searches stand twice; returns its slot."""
    slot = slots_of(lab, name)[IDENTIFY]
    twice(lab.path / "vault.db", "grants", lambda key, _: key == slot)
    assert [row for (row,) in lab.sql("vault.db", "SELECT slot FROM grants NOT INDEXED")].count(slot) == 2
    return slot


def test_a_gallery_compares_whoever_stands_twice_once(lab: Lab) -> None:
    plant(lab)
    with lab.open() as vault:
        found = vault.identify(face("alice"), 5, model=MODEL, threshold=THRESHOLD)
        assert [each.subject for each in found.candidates] == ["alice"]
        assert found.compared == 2
        prove(vault)


def test_whoever_stands_twice_is_dropped_when_the_withdrawal_is_announced(lab: Lab) -> None:
    plant(lab)
    with lab.open() as service, lab.open() as operator:
        assert identify(service, "alice") == ["alice"]
        aside = lab.root.rename(lab.base / "aside")
        with pytest.raises(ErasurePending):
            operator.withdraw("alice", [IDENTIFY])
        assert identify(service, "alice") == []
        aside.rename(lab.root)
        operator.shred("alice")
        with service.gallery(model=MODEL) as gallery:
            assert held(gallery) == 1
            assert gallery.search(face("stranger"), THRESHOLD, 5).compared == 1
        prove(service)


def test_whoever_stands_twice_is_dropped_when_the_term_ends(tmp_path: Path) -> None:
    lab = Lab(tmp_path).create()
    lab.enrol("alice", days=1)
    lab.enrol("bob")
    plant(lab)
    with lab.open() as vault, vault.gallery(model=MODEL) as gallery:
        assert held(gallery) == 2
        lab.clock.ms += 2 * DAY
        assert gallery.search(face("bob"), THRESHOLD, 5)
        assert log_entries(vault)[-1]["candidates"] == [slots(vault, "bob")[IDENTIFY]]
        assert held(gallery) == 1


def test_a_row_out_of_its_order_hides_nobody(lab: Lab) -> None:
    lab.enrol("carol")
    slot = slots_of(lab, "alice")[IDENTIFY]
    turned(lab.path / "vault.db", "grants", lambda key, _: key == slot)
    with lab.open() as vault:
        assert vault.identify(face("carol"), 5, model=MODEL, threshold=THRESHOLD).compared == 3
        assert len(list(vault.subjects())) == 3
        assert not vault.check().ok


def test_a_rotation_seals_whoever_stands_twice_once(lab: Lab) -> None:
    plant(lab)
    with lab.open() as vault:
        assert vault.keys.rotate_templates().resealed == 4
        assert vault.identify(face("alice"), 5, model=MODEL, threshold=THRESHOLD).compared == 2
        assert matches(vault, "alice")
        prove(vault)


def test_a_backup_has_whoever_stands_twice_once_and_makes_the_file_whole(lab: Lab) -> None:
    plant(lab)
    target = lab.base / "backup"
    with lab.open() as vault:
        report = vault.check()
        assert [each.file for each in report.findings] == ["vault.db"]
        assert vault.backup(target).rows == 4
        assert vault.check_backup(target).covered == 4
    for end in ("", "-wal", "-shm"):
        (lab.path / f"vault.db{end}").unlink(missing_ok=True)
    with Vault.open(lab.path, token=lab.token, clock=lab.clock, lost_data=True) as vault:
        vault.restore(target)
    lab.clean()
    assert lab.do(lambda vault: identify(vault, "alice")) == ["alice"]


def test_an_erasure_is_done_where_the_dead_rows_cannot_be_deleted(lab: Lab) -> None:
    """SQLite writes no more to a file in that state; what is left there opens nowhere."""
    slot = plant(lab)
    with lab.open() as vault:
        assert vault.shred("alice").slots == 2
        assert not core(vault).log.head().operations
        assert vault.shred("bob").slots == 2
        assert vault.identify(face("alice"), 5, model=MODEL, threshold=THRESHOLD).compared == 0
        assert slot in core(vault).data.slots()
        prove(vault)


def test_whoever_stands_twice_in_the_index_has_each_grant_once(lab: Lab) -> None:
    slot = slots_of(lab, "alice")[VERIFY]
    end = slot.to_bytes(4, "big").lstrip(b"\0")
    twice(lab.path / "vault.db", INDEX, lambda _, cell: cell.endswith(end))
    with lab.open() as vault:
        tag = core(vault).ledger.tags_of(np.array([slot], np.int64))[0].tobytes()
        assert core(vault).data.slots_of(tag, [(0, 2**40)], 9) == sorted(slots(vault, "alice").values())
        assert len(core(vault).data.slots()) == 4
        assert matches(vault, "alice")
        assert vault.withdraw("alice", [VERIFY]).slots == 1


def test_an_index_that_leads_to_the_row_of_another(lab: Lab) -> None:
    """Bob's face would be Alice's."""
    alice, bob = slots_of(lab, "alice")[VERIFY], slots_of(lab, "bob")[VERIFY]
    with lab.open() as vault:
        tag = core(vault).ledger.tags_of(np.array([alice], np.int64))[0].tobytes()
    ends = [tag + each.to_bytes(4, "big").lstrip(b"\0") for each in (alice, bob)]
    replaced(lab.path / "vault.db", INDEX, *ends)
    with lab.open() as vault:
        with pytest.raises(FacekeepError):
            matches(vault, "alice", "bob")
        assert log_entries(vault)[-1]["allow"] is False
        assert matches(vault, "bob")
        vault.shred("alice")
        assert matches(vault, "bob")
        prove(vault)


def test_a_slot_is_in_a_matrix_once() -> None:
    heads = np.zeros(168, np.uint8).tobytes()
    rows = SealedRows.of([(7, heads, b"m", b""), (7, heads, b"m", b"")])
    times, means = np.zeros(2, np.int64), np.zeros(2, np.bool_)
    matrix = Matrix(4)
    with pytest.raises(IntegrityError, match="twice"):
        matrix.add(rows, times, means, lambda _: [])
    one = rows.only(np.array([True, False]))
    matrix.add(one, times[:1], means[:1], lambda _: [])
    with pytest.raises(IntegrityError, match="twice"):
        matrix.add(one, times[:1], means[:1], lambda _: [])
    assert (matrix.count, matrix.known()) == (1, [7])
    matrix.close()


@pytest.mark.parametrize("table", ["top", "node", "principal", "subject_index"])
def test_a_row_of_keys_db_that_stands_twice_saves_nobody(lab: Lab, table: str) -> None:
    """Each is authenticated by itself where it is read; where SQLite cannot write any more, all is denied."""
    lab.enrol("carol")
    lab.do(lambda vault: vault.shred("carol"))  # nodes are stored from the first erasure on
    with lab.open() as vault:
        hashed = row_key(vault, "alice")
    twice(lab.path / "keys.db", table, lambda _, cell: table != "subject_index" or hashed in cell)
    with lab.open() as vault:
        assert matches(vault, "alice")
        with contextlib.suppress(IntegrityError, ErasurePending):
            vault.shred("alice")
        with pytest.raises(FacekeepError):
            matches(vault, "alice")
        with contextlib.suppress(FacekeepError):
            assert identify(vault, "alice") == []


@pytest.mark.parametrize("last", [True, False])
def test_an_entry_of_the_log_that_stands_twice(lab: Lab, last: bool) -> None:
    lab.do(lambda vault: matches(vault, "alice"))
    size = lab.do(lambda vault: core(vault).log.head().size)
    twice(lab.path / "log.db", "entry", lambda key, _: key == (size - 1 if last else 2))
    with pytest.raises(IntegrityError):
        lab.do(lambda vault: core(vault).log.verify())
    with pytest.raises(IntegrityError):
        lab.do(log_entries)


def test_a_control_entry_that_stands_twice_in_its_index(lab: Lab) -> None:
    twice(lab.path / "log.db", "entry_control", lambda _key, _cell: True)
    with pytest.raises(IntegrityError, match="stands twice"):
        lab.do(lambda vault: list(core(vault).log.control_since(0)))


@pytest.mark.parametrize("table", ["grant_entry", "head"])
def test_a_head_or_a_projection_that_stands_twice_changes_no_answer(lab: Lab, table: str) -> None:
    """Both are looked up by their key, and what is found is held against the entries."""
    twice(lab.path / "log.db", table, lambda _key, _cell: True)
    with lab.open() as vault:
        assert matches(vault, "alice")
        with contextlib.suppress(IntegrityError, ErasurePending):
            vault.shred("alice")
        with pytest.raises(FacekeepError):
            matches(vault, "alice")


def test_the_branch_of_a_slot_reads_no_slot_of_another(lab: Lab) -> None:
    """A window ends at its own slots, whatever order the file has."""
    slot = plant(lab)
    with lab.open() as vault:
        branch = split_slot(slot)[0]
        low = branch << 20
        for rows in core(vault).data.branch_rows(branch, 1):
            assert len(rows) == 1
        found = [row.slot for row in core(vault).data.rows(low, low + 5)]
        assert found == sorted(set(found))
