"""Attacks on what recovery completes: it must not say "done" of what another operation, or nobody, did."""

from __future__ import annotations

from pathlib import Path

import pytest

from facekeep.access.core import INDEX_KEY_SLOT
from facekeep.formats.canonical import JsonObject
from facekeep.vault import Vault, Why
from vaultlab import IDENTIFY, VERIFY, Lab, core, identify, log_entries, matches, reason, sql


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path).create()
    lab.enrol("alice", "bob", "cy")
    return lab


def index_key(vault: Vault) -> bytes:
    return core(vault).view().tree.slot_key(INDEX_KEY_SLOT)


def completed(entries: list[JsonObject], what: str) -> bool:
    """Whether the log says that the rotation of ``what`` was done."""
    ends = {each["of"] for each in entries if each["type"] == "destroyed"}
    begun = [at for at, each in enumerate(entries) if each["type"] == "rotation" and each["what"] == what]
    return bool(begun) and begun[-1] + 1 in ends


@pytest.mark.parametrize("other", ["shred", "root"])
def test_the_swap_of_another_operation_passes_for_a_re_keyed_tree(lab: Lab, other: str) -> None:
    """A row is altered for a moment, so that the tree waits; then another swap is cut off after its write."""
    before = lab.do(index_key)
    lab.crash(lambda vault: vault.keys.rotate_tree(Why.COMPROMISE), "rotate.announced")
    first = "(SELECT min(slot) FROM grants)"
    saved = lab.sql("vault.db", f"SELECT record, slot FROM grants WHERE slot = {first}")
    lab.sql("vault.db", f"UPDATE grants SET record = zeroblob(100) WHERE slot = {first}")
    act = (lambda vault: vault.shred("bob")) if other == "shred" else lambda vault: vault.keys.rotate_root()
    lab.crash(act, "after write")
    lab.sql("vault.db", "UPDATE grants SET record = ? WHERE slot = ?", saved[0])
    for _ in range(3):
        with lab.open() as vault:
            done = completed(log_entries(vault), "tree")
            assert done == (index_key(vault) != before), "the log claims a tree re-keyed that was not"
            vault.keys.resume()
    with lab.open() as vault:
        assert completed(log_entries(vault), "tree")
        assert matches(vault, "alice")
        assert identify(vault, "cy") == ["cy"]
    lab.clean()


@pytest.mark.parametrize("how", ["templates", "record", "both"])
@pytest.mark.parametrize("operation", ["renew", "reseal"])
def test_a_row_that_opens_nowhere_takes_the_place_of_the_living_one(
    lab: Lab, operation: str, how: str
) -> None:
    """A renewal is cut off before its completion, and its new row altered: the old one is all there is."""
    lab.do(lambda vault: vault.backup(lab.base / "backup"))
    if operation == "renew":
        lab.crash(lambda vault: vault.renew("alice", lab.consent(VERIFY, days=60)), "grant.written")
    else:
        lab.crash(lambda vault: vault.keys.rotate_templates(Why.DRILL), "grant.written")
    for name in ("templates", "record") if how == "both" else (how,):
        lab.sql("vault.db", f"UPDATE grants SET {name} = zeroblob(100) WHERE slot NOT IN {saved_slots(lab)}")
    with lab.open() as vault:
        assert reason(vault, "alice") == "ok", "she was lost, and no backup brings her back"
        assert identify(vault, "alice") == ["alice"]
        assert core(vault).log.head().operations == ()
    lab.do(lambda vault: vault.keys.rotate_templates(Why.DRILL))
    lab.clean()


def saved_slots(lab: Lab) -> str:
    """Slots of the rows in the backup, as SQL."""
    return f"({', '.join(str(row[0]) for row in sql(lab.base / 'backup', 'SELECT slot FROM grants'))})"


def test_a_row_of_an_enrolment_that_opens_nowhere_is_voided(lab: Lab) -> None:
    enrolment = lab.enrolment("eve", VERIFY, IDENTIFY)
    lab.crash(lambda vault: vault.enroll_many([enrolment]), "grant.written")
    lab.sql("vault.db", "UPDATE grants SET record = zeroblob(9) WHERE slot = (SELECT max(slot) FROM grants)")
    with lab.open() as vault:
        assert reason(vault, "eve") == "subject_unknown"
    lab.enrol("eve")
    lab.clean()
    assert lab.do(lambda vault: matches(vault, "eve"))
