"""Attacks on what a gallery opens: nobody is hidden from a search without a trace."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from facekeep.store.sealedrows import SealedRows
from facekeep.store.vaultdb import VaultStore
from vaultlab import IDENTIFY, MODEL, THRESHOLD, Lab, face, held, log_entries, slots


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path).create()
    lab.enrol("alice", "bob")
    return lab


def test_a_row_is_taken_away_while_a_gallery_loads(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    with lab.open() as vault:
        slot = slots(vault, "alice")[IDENTIFY]
        row = lab.sql("vault.db", "SELECT * FROM grants WHERE slot = ?", (slot,))[0]
        real = VaultStore.branch_rows

        def without(self: VaultStore, branch: int, *width: int) -> Iterator[SealedRows]:
            lab.sql("vault.db", "DELETE FROM grants WHERE slot = ?", (slot,))
            yield from real(self, branch, *width)
            lab.sql("vault.db", "INSERT INTO grants VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)

        with monkeypatch.context() as patched:
            patched.setattr(VaultStore, "branch_rows", without)
            gallery = vault.gallery(model=MODEL)
        with gallery:
            assert vault.check().missing == []
            found = gallery.search(face("alice"), THRESHOLD, 5)
            assert (found.candidates, found.excluded) == ((), 1)
            assert log_entries(vault)[-1]["omitted"] == [[slot, 1]]
            assert gallery.search(face("bob"), THRESHOLD, 5)


def test_a_row_is_taken_away_before_an_open_gallery_follows(lab: Lab) -> None:
    with lab.open() as vault, vault.gallery(model=MODEL) as gallery, gallery._guard:
        vault.enroll_many([lab.enrolment("carol", IDENTIFY)])
        slot = slots(vault, "carol")[IDENTIFY]
        lab.sql("vault.db", "DELETE FROM grants WHERE slot = ?", (slot,))
        found = gallery.search(face("carol"), THRESHOLD, 5)
        assert (found.candidates, found.compared, found.excluded) == ((), 2, 1)
        assert log_entries(vault)[-1]["omitted"] == [[slot, 1]]


def test_terms_that_are_not_the_logs_are_omitted_and_not_excluded(lab: Lab) -> None:
    with lab.open() as vault:
        slot = slots(vault, "alice")[IDENTIFY]
        lab.sql("vault.db", "UPDATE grants SET model = 'raw:other/1' WHERE slot = ?", (slot,))
        with vault.gallery(model=MODEL) as gallery:
            assert held(gallery) == 1
            gallery.search(face("alice"), THRESHOLD, 5)
        assert log_entries(vault)[-1]["omitted"] == [[slot, 1]]
