"""Somebody who may write keys.db alters principals' rows; what is revoked and listed is what the log says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from facekeep.errors import IntegrityError, NotAllowed, UsageError
from facekeep.formats import entries
from facekeep.vault import Role
from vaultlab import VERIFY, Lab, core, log_entries, matches, slots


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path).create()
    lab.enrol("alice", "bob")
    return lab


def _row(lab: Lab, token: str) -> tuple[Any, ...]:
    """The row of a token's principal."""
    return lab.sql("keys.db", "SELECT * FROM principal WHERE principal = ?", (_id(token),))[0]


def _id(token: str) -> bytes:
    return bytes.fromhex(token.split(".")[1])


def _put(lab: Lab, row: tuple[Any, ...]) -> None:
    lab.sql("keys.db", "INSERT OR REPLACE INTO principal VALUES (?, ?, ?, ?, ?)", row)


def _move(lab: Lab, token: str, slot: int) -> None:
    lab.sql("keys.db", "UPDATE principal SET slot = ? WHERE principal = ?", (slot, _id(token)))


def _remove(lab: Lab, token: str) -> None:
    lab.sql("keys.db", "DELETE FROM principal WHERE principal = ?", (_id(token),))


def _revoke(lab: Lab, token: str) -> list[list[int]]:
    """Revoke; return the ranges of the log's intent."""
    index = lab.do(lambda vault: vault.revoke_principal(_id(token).hex()))
    with lab.open() as vault:
        entry = core(vault).log.entry(index)
        assert entry["op"] == "revoke"
        return entry["slots"]  # type: ignore[return-value]


def _findings(lab: Lab) -> list[str]:
    return [finding.message for finding in lab.check().findings]


def _states(lab: Lab) -> dict[str, str]:
    return {each.id: each.state for each in lab.do(lambda vault: vault.principals())}


def _is_out(lab: Lab, token: str) -> None:
    with pytest.raises(NotAllowed):
        lab.do(lambda vault: vault.whoami(), token)


@pytest.mark.parametrize("target", ["bob", "log key", "index key", "dead"])
def test_a_revocation_destroys_the_slot_of_the_log_and_no_other(lab: Lab, target: str) -> None:
    token, other = lab.add_principal(Role.SERVICE, Role.OPERATOR), lab.add_principal(Role.SERVICE)
    row, dead = _row(lab, token), _row(lab, other)[0]
    _revoke(lab, other)
    bob = lab.do(lambda vault: slots(vault, "bob"))[VERIFY]
    _move(lab, token, {"bob": bob, "log key": 0, "index key": 1, "dead": dead}[target])
    assert any("is not the one that the log announced" in each for each in _findings(lab))
    assert _revoke(lab, token) == [[row[0], 1]]
    with lab.open() as vault:
        assert matches(vault, "bob")
    lab.clean()
    _put(lab, row)
    _is_out(lab, token)


def test_a_principal_without_a_row_is_listed_named_and_revoked(lab: Lab) -> None:
    token = lab.add_principal(Role.SERVICE)
    row = _row(lab, token)
    _remove(lab, token)
    listed = {each.id: each for each in lab.do(lambda vault: vault.principals())}
    assert listed[_id(token).hex()].state == "missing_row"
    assert listed[_id(token).hex()].roles == ("service",)
    assert any("is missing" in each and _id(token).hex() in each for each in _findings(lab))
    assert _revoke(lab, token) == [[row[0], 1]]
    lab.clean()
    assert _id(token).hex() not in _states(lab)
    _put(lab, row)
    _is_out(lab, token)
    assert any("no living principal" in each for each in _findings(lab))


def test_a_removed_row_put_back_is_no_damage(lab: Lab) -> None:
    token = lab.add_principal(Role.SERVICE)
    row = _row(lab, token)
    _remove(lab, token)
    _is_out(lab, token)
    _put(lab, row)
    with lab.open(token) as vault:
        assert matches(vault, "alice")
    lab.clean()


def test_a_principal_that_the_log_does_not_have_is_unknown(lab: Lab) -> None:
    """The vault is rolled back to before it was added, within the epoch, and its row put back."""
    base = lab.save("base")
    token = lab.add_principal(Role.OPERATOR, Role.SERVICE)
    row = _row(lab, token)
    lab.put_back(base)
    _put(lab, row)
    _is_out(lab, token)
    assert _states(lab)[_id(token).hex()] == "principal_unknown"
    assert any("no living principal" in each for each in _findings(lab))
    with pytest.raises(UsageError):
        lab.do(lambda vault: vault.revoke_principal(_id(token).hex()))


def test_a_hidden_principal_does_not_take_the_slot_of_the_logs(lab: Lab) -> None:
    base = lab.save("base")
    hidden = lab.add_principal(Role.OPERATOR, Role.SERVICE)
    row = _row(lab, hidden)
    lab.put_back(base)
    known = lab.add_principal(Role.SERVICE)
    assert _row(lab, known)[0] == row[0]
    _put(lab, row)
    _is_out(lab, hidden)
    assert _states(lab)[_id(known).hex()] == "missing_row"
    assert _revoke(lab, known) == [[row[0], 1]]


def test_the_last_operator_with_a_row_stays(lab: Lab) -> None:
    """Another one whose row is gone cannot let anybody in."""
    own = lab.do(lambda vault: vault.whoami()[0])
    second = lab.add_principal(Role.OPERATOR)
    _remove(lab, second)
    with lab.open() as vault, pytest.raises(UsageError):
        vault.revoke_principal(own)


@pytest.mark.parametrize("op", entries.DESTROY_OPS)
@pytest.mark.parametrize("slot", [0, 1, 15, 16, 17, "bob"])
def test_the_log_takes_no_destruction_of_another_kind_of_slot(lab: Lab, op: str, slot: int | str) -> None:
    lab.add_principal(Role.SERVICE)
    with lab.open() as vault:
        wanted = slots(vault, "bob")[VERIFY] if isinstance(slot, str) else slot
        before = len(log_entries(vault))
        intents = entries.destroy_entries(op, [wanted], by=None, time_ms=lab.clock.ms)
        system = wanted < 1 << 21
        if op == "void" or (wanted > 15 and op not in ("extend", "rotate") and system == (op == "revoke")):
            return
        with pytest.raises(IntegrityError):
            core(vault).log.append(intents)
        assert len(log_entries(vault)) == before
