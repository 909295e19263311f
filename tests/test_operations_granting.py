"""Many grants sealed again in one operation: their templates are opened chunk by chunk, after the intent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from facekeep.access.core import Core, View
from facekeep.access.gate import permit_reseal
from facekeep.crypto import primitives as p
from facekeep.crypto.memory import LockedBuffer
from facekeep.formats.terms import Terms
from facekeep.operations import granting
from facekeep.operations.granting import Batch, NewGrant, make_grants
from facekeep.operations.rows import living
from facekeep.store.vaultdb import GrantRow
from facekeep.vault import Scope
from vaultlab import DIMENSION, IDENTIFY, Lab, core, identify, log_entries

PEOPLE = 100
WIDTH = 4 * DIMENSION


class Sources:
    """Living rows to be sealed again, and one locked buffer in which each chunk of them is opened."""

    def __init__(self, core: Core, view: View, buffer: LockedBuffer) -> None:
        self.rows = {row.slot: row for row in core.data.rows() if living(core, view, row)}
        self.opened: list[int] = []
        self._core = core
        self._view = view
        self._buffer = buffer

    def grants(self) -> list[NewGrant]:
        """New grants with the terms and records of the old ones, as they are."""
        return [
            NewGrant(row.tag, row.model, Scope.IDENTIFY, row.terms, self.record(row), _never, row.slot)
            for row in self.rows.values()
        ]

    def record(self, row: GrantRow) -> bytes:
        """The record's plaintext, its random bytes too: ``open_record`` gives what is in it."""
        aad = self._core.sealer._aad(b"\2", row) + p.sha256(row.templates)
        return p.open_sealed(self.key(row), row.record, aad)

    def key(self, row: GrantRow) -> bytes:
        return self._core.sealer.row_key(self._core.slot_key(self._view, row.slot), row)

    def opening(self, some: Sequence[NewGrant]) -> list[memoryview]:
        """Open some grants' templates over those opened before."""
        assert [(each.type, each.op) for each in self._core.log.head().open] == [("grant", "reseal")]
        views = []
        for at, grant in enumerate(some):
            row = self.rows[grant.source or 0]
            out = self._buffer.view[at * WIDTH : (at + 1) * WIDTH]
            self._core.sealer.open_templates(permit_reseal(self._view, row), self.key(row), row, out)
            self.opened.append(row.slot)
            views.append(out)
        return views


def _never() -> memoryview:
    raise AssertionError("each chunk is opened together")


@pytest.mark.parametrize("chunk", [7, 256])
def test_every_grant_moves_to_a_new_slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(granting, "_CHUNK", chunk)
    lab = Lab(tmp_path, copies=True).create()
    lab.enrol(*(f"person{number}" for number in range(PEOPLE)), scopes=[IDENTIFY])
    with lab.open() as vault, LockedBuffer(chunk * WIDTH) as buffer:
        here = core(vault)
        with here.lock.held():
            view = here.view()
            sources = Sources(here, view, buffer)
            old = list(sources.rows)
            batch = Batch("reseal", sources.grants(), (), old, "reseal", sources.opening)
            told: list[int] = []
            make_grants(
                here, view, vault._session.by, batch, lambda places: told.extend(each.slot for each in places)
            )
        assert sources.opened == old
        assert here.data.slots() == told == [slot + PEOPLE for slot in old]
        assert not here.view().tree.alive(np.array(old)).any()
        kept = {row.tag: Terms.unpack(row.terms) for row in sources.rows.values()}
        assert {row.tag: Terms.unpack(row.terms) for row in here.data.rows()} == kept
        assert identify(vault, "person42") == ["person42"]
        assert [entry["op"] for entry in log_entries(vault) if entry["type"] == "destroy"][-1] == "reseal"
    lab.clean()
