"""Rows of a history that the log does not have: their keys are right, and the gate refuses them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facekeep.access.core import Core
from facekeep.access.gate import Ask, admit, evaluate
from facekeep.access.roles import Action
from facekeep.auditlog.ledger import Ledger
from facekeep.auditlog.reader import Reader
from facekeep.errors import IntegrityError
from facekeep.formats.canonical import JsonObject
from facekeep.formats.entryrules import Reason
from facekeep.formats.terms import Terms
from facekeep.store.vaultdb import GrantRow, without_records
from vaultlab import DAY, IDENTIFY, MODEL, VERIFY, Lab, core, matches, reason, slots


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path).create()
    lab.enrol("bob")
    return lab


def _grant(lab: Lab, slot: int) -> tuple[Any, ...]:
    return lab.sql("vault.db", "SELECT * FROM grants WHERE slot = ?", (slot,))[0]


def _put(lab: Lab, row: tuple[Any, ...]) -> None:
    lab.sql("vault.db", "INSERT OR REPLACE INTO grants VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)


def _hidden(lab: Lab, days: float) -> tuple[int, tuple[Any, ...]]:
    """Grant alice a long time, roll the vault back, grant her ``days``; put the long grant in its place."""
    base = lab.save("base")
    lab.enrol("alice", scopes=(VERIFY,), days=3000)
    slot = lab.do(lambda vault: slots(vault, "alice"))[VERIFY]
    row, index = _grant(lab, slot), lab.sql("keys.db", "SELECT * FROM subject_index")
    lab.put_back(base)
    if days:
        lab.enrol("alice", scopes=(VERIFY,), days=days)
        assert lab.do(lambda vault: slots(vault, "alice"))[VERIFY] == slot
    _put(lab, row)
    for each in index:
        lab.sql("keys.db", "INSERT OR REPLACE INTO subject_index VALUES (?, ?)", each)
    return slot, row


@pytest.mark.parametrize("days", [1, 30])
def test_a_row_of_a_hidden_history_does_not_serve(lab: Lab, days: int) -> None:
    slot, row = _hidden(lab, days)
    lab.clock.ms += 5 * DAY
    with lab.open() as vault:
        assert reason(vault, "alice") == "integrity"
        assert reason(vault, "alice") == "integrity"
        assert matches(vault, "bob")
        mask = core(vault).data.mask
        assert mask is not None
        unmasked = mask.rows([GrantRow(*row)])
        assert core(vault).are_logged(without_records(unmasked)).tolist() == [False]
        assert any(str(slot) in finding.message for finding in vault.check().findings)


def test_a_row_in_a_slot_that_was_never_given_out_does_not_open(lab: Lab) -> None:
    _hidden(lab, 0)
    with pytest.raises(IntegrityError, match="does not know"):
        lab.do(lambda vault: reason(vault, "alice"))


def test_a_row_that_appears_in_an_open_vault_does_not_serve(lab: Lab) -> None:
    slot, row = _hidden(lab, 0)
    lab.sql("vault.db", "DELETE FROM grants WHERE slot = ?", (slot,))
    with lab.open() as vault:
        _put(lab, row)
        assert reason(vault, "alice") == "scope"  # as if no row were there
        assert core(vault).logged(slot) is None


@pytest.mark.parametrize("field", ["tag", "terms", "templates", "model"])
def test_a_second_row_of_a_slot_that_was_proven_in_the_same_state(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    """What was proven is one row, not its slot: another one that opens is held against the log itself."""
    with lab.open() as vault:
        opened, session = core(vault), vault._session
        ask = Ask(Action.VERIFY, VERIFY, MODEL.id, MODEL.dimension, MODEL.metric, "DE")
        view = opened.view()
        assert evaluate(opened, session, ask, b"bob", view).reason is Reason.OK
        tag, (row, *_) = opened.lookup(view, b"bob")
        assert view.proven[row.slot].row is row
        longer = replace(Terms.unpack(row.terms), expires_at_ms=lab.clock.ms + 3000 * DAY).pack()
        other = {"tag": bytes(32), "terms": longer, "templates": row.templates, "model": "raw:b/1"}
        forged = row._replace(**{field: other[field]})  # type: ignore[arg-type] # by name
        monkeypatch.setattr(Core, "lookup", lambda *_: (tag, [forged]))
        verdict = evaluate(opened, session, ask, b"bob", view)
        if field == "templates":  # the same by the log: it is proven anew
            assert verdict.row is forged
            assert view.proven[row.slot].row is forged
        else:
            assert verdict.reason in {Reason.INTEGRITY, Reason.TERMS}
            assert (verdict.permit, verdict.key) == (None, b"")


def test_the_gate_goes_with_the_clock_up_to_its_slack(lab: Lab) -> None:
    with lab.open() as vault:
        opened, view = core(vault), core(vault).view()
        for below, expected in ((0, Reason.OK), (5_000, Reason.OK), (5_001, Reason.CLOCK)):
            now = view.head.high_ms - below
            assert admit(opened, vault._session, view, Action.VERIFY, "DE", now) is expected


def test_a_row_is_held_against_the_ledger_alone(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.enrol("alice")
    asked: list[int] = []
    original = Reader.entry_of_slot

    def counting(reader: Reader, slot: int) -> tuple[int, JsonObject] | None:
        asked.append(slot)
        return original(reader, slot)

    monkeypatch.setattr(Reader, "entry_of_slot", counting)
    with lab.open() as vault:
        alice = slots(vault, "alice")[VERIFY]
        for _ in range(3):
            assert matches(vault, "alice")
        vault.withdraw("bob", [IDENTIFY])
        assert matches(vault, "alice")
    assert alice not in asked


def test_prints_are_the_same_for_few_and_for_many(lab: Lab) -> None:
    lab.enrol("alice", "carol")
    with lab.open() as vault:
        opened = core(vault)
        rows = without_records(opened.data.rows())
        assert opened.are_logged(rows).all()
        assert opened.are_logged(without_records([])).tolist() == []
        numbers = np.append(rows.slots, rows.slots[-1] + 1)
        ledger = Ledger(opened.log)
        few = ledger.prints(numbers)
        ledger._rebuild([])
        assert not ledger._recent_grants
        assert (ledger.prints(numbers) == few).all()
        assert not few[-1].any()
        assert [bytes(each) for each in few[:-1]] == [opened.logged(slot) for slot in rows.slots.tolist()]
        heads = rows.heads.copy()
        heads[1::2, 20] ^= 1
        changed = opened.are_logged(replace(rows, heads=heads))
        assert changed.tolist() == [not at % 2 for at in range(len(rows))]
