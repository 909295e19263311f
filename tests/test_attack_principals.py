"""Somebody who may write keys.db alters principals' rows; what is revoked and listed is what the log says."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from facekeep.access.session import read_principal
from facekeep.auditlog.ledger import Ledger
from facekeep.auditlog.prints import LoggedPrincipal
from facekeep.errors import Denied, IntegrityError, NotAllowed, UsageError
from facekeep.formats import entries
from facekeep.formats.entryrules import Reason
from facekeep.vault import Role, Vault
from vaultlab import (
    MODEL,
    THRESHOLD,
    VERIFY,
    Lab,
    core,
    face,
    log_entries,
    matches,
    prove,
    reason,
    slots,
    sql,
)


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
    with lab.open(token) as vault:
        assert matches(vault, "alice")
        assert vault.whoami()[1] == ""
    _put(lab, row)
    with lab.open(token) as vault:
        assert matches(vault, "alice")
        assert vault.whoami()[1] == "another"
    lab.clean()


def test_a_row_under_the_id_of_another_principal_is_damage(lab: Lab) -> None:
    """Its record opens, and names another."""
    lab.add_principal(Role.SERVICE)
    with lab.open() as vault:
        opened, view = core(vault), core(vault).view()
        one, two = opened.keys.principal_list(view.principal_slots())
        assert read_principal(opened, view, one)[1] is Reason.OK
        moved = replace(one, principal=two.principal)
        assert read_principal(opened, view, moved) == (None, Reason.INTEGRITY)


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


def test_the_last_operator_of_the_log_stays(lab: Lab) -> None:
    """Another one counts by the log, whether or not it has a row."""
    own = lab.do(lambda vault: vault.whoami()[0])
    service = lab.add_principal(Role.SERVICE)
    _put(lab, (40, b"operator", *_row(lab, service)[2:]))
    with lab.open() as vault, pytest.raises(UsageError):
        vault.revoke_principal(own)
    second = lab.add_principal(Role.OPERATOR)
    _remove(lab, second)
    lab.do(lambda vault: vault.revoke_principal(own))
    with lab.open(second) as vault, pytest.raises(UsageError):
        vault.revoke_principal(_id(second).hex())


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


# -- the rows of those who may erase are taken away, and services go on


@dataclass
class Staff:
    """A vault with copies, its operator and its DPO, a service at a door, and another one."""

    lab: Lab
    operator: str
    dpo: str
    door: str

    def files(self) -> list[Path]:
        return [self.lab.path / "keys.db", self.lab.copy_dir / "keys.db"]


@pytest.fixture
def staff(tmp_path: Path) -> Staff:
    lab = Lab(tmp_path, copies=True).create()
    lab.enrol("alice", "bob", "carol")
    operator = lab.add_principal(Role.OPERATOR)
    return Staff(lab, operator, lab.add_principal(Role.DPO), lab.add_principal(Role.SERVICE))


def _blank(staff: Staff, file: Path) -> None:
    for token in (staff.operator, staff.dpo):
        sql(file, "UPDATE principal SET sealed = x'00' WHERE principal = ?", (_id(token),))


def _delete(staff: Staff, file: Path) -> None:
    for token in (staff.operator, staff.dpo):
        sql(file, "DELETE FROM principal WHERE principal = ?", (_id(token),))


def _exchange(staff: Staff, file: Path) -> None:
    """Each one's id at the other's row."""
    for token, at in ((staff.operator, b"another1"), (staff.dpo, _id(staff.operator))):
        sql(file, "UPDATE principal SET principal = ? WHERE principal = ?", (at, _id(token)))
    sql(file, "UPDATE principal SET principal = ? WHERE principal = x'616e6f7468657231'", (_id(staff.dpo),))


def _move_far(staff: Staff, file: Path) -> None:
    for at, token in enumerate((staff.operator, staff.dpo)):
        sql(file, "UPDATE principal SET slot = ? WHERE principal = ?", (900 + at, _id(token)))


def _junk_under_the_id(staff: Staff, file: Path) -> None:
    """In a slot below, which is looked at first; the true row has another id."""
    for at, token in enumerate((staff.operator, staff.dpo)):
        sql(file, "UPDATE principal SET principal = randomblob(8) WHERE principal = ?", (_id(token),))
        sql(file, "INSERT OR REPLACE INTO principal VALUES (?, ?, x'', x'', x'')", (4 + at, _id(token)))


def _roles_of_the_door(staff: Staff, file: Path) -> None:
    """What is sealed in the row of the service, under the ids of those who may erase."""
    for token in (staff.operator, staff.dpo):
        sql(
            file,
            "UPDATE principal SET (grant_id, commitment, sealed) ="
            " (SELECT grant_id, commitment, sealed FROM principal WHERE principal = ?) WHERE principal = ?",
            (_id(staff.door), _id(token)),
        )


def _all_gone(_staff: Staff, file: Path) -> None:
    sql(file, "DELETE FROM principal")


WAYS = [_blank, _delete, _exchange, _move_far, _junk_under_the_id, _roles_of_the_door, _all_gone]
Way = Callable[[Staff, Path], None]


@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_who_may_erase_erases_whatever_stands_in_keys_db(staff: Staff, way: Way, *, everywhere: bool) -> None:
    lab = staff.lab
    for file in staff.files()[: 2 if everywhere else 1]:
        way(staff, file)
    assert lab.do(lambda vault: vault.shred("alice"), staff.dpo).slots == 2
    assert lab.do(lambda vault: vault.withdraw("bob", [VERIFY]), staff.operator).slots == 1
    with lab.open(staff.operator) as vault:
        assert "operator" in vault.whoami()[2]
        vault.revoke_principal(_id(staff.door).hex())
    _is_out(lab, staff.door)
    Vault.scrub(lab.path, token=staff.operator, clock=lab.clock)
    with lab.open(staff.operator) as vault:
        assert vault.shred("carol").slots == 2
        assert reason(vault, "carol") == "role"
        assert all(
            each.error is IntegrityError and "label" in each.message for each in vault.check().findings
        )
        prove(vault)


@pytest.mark.parametrize("which", [0, 1])
def test_an_id_that_stands_twice_in_raw_bytes(staff: Staff, which: int) -> None:
    """In the table and not in its unique index, or the other way round."""
    lab, mark = staff.lab, b"\xa5mark-5\xa5"
    for file in staff.files():
        with contextlib.closing(sqlite3.connect(file)) as connection:
            connection.execute("INSERT INTO principal VALUES (5, ?, x'', x'', x'')", (mark,))
            connection.commit()
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        raw = file.read_bytes()
        places = [at for at in range(len(raw)) if raw[at : at + 8] == mark]
        at = places[which]
        file.write_bytes(raw[:at] + _id(staff.operator) + raw[at + 8 :])
    with lab.open(staff.operator) as vault:
        assert vault.shred("alice").slots == 2
    Vault.scrub(lab.path, token=staff.operator, clock=lab.clock)
    with lab.open(staff.operator) as vault:
        assert vault.shred("bob").slots == 2


@pytest.mark.parametrize("way", WAYS)
def test_a_row_goes_under_a_running_process(staff: Staff, way: Way) -> None:
    lab = staff.lab
    with lab.open(staff.operator) as vault, lab.open(staff.dpo) as dpo, lab.open(staff.door) as door:
        for file in staff.files():
            way(staff, file)
        vault.enroll_many([lab.enrolment("dora")])  # the state moves: each token is looked at again
        assert dpo.shred("alice").slots == 2
        with pytest.raises(Denied):
            door.verify("alice", face("alice"), model=MODEL, threshold=THRESHOLD)
        vault.revoke_principal(_id(staff.dpo).hex())
        for file in staff.files():
            way(staff, file)
        with pytest.raises(NotAllowed):
            dpo.shred("bob")
        vault.shred("bob")


@pytest.mark.parametrize("way", [_blank, _delete, _roles_of_the_door])
def test_a_scrub_by_the_token_puts_the_rows_back_from_the_copy(staff: Staff, way: Way) -> None:
    lab = staff.lab
    way(staff, lab.path / "keys.db")
    assert list(_states(lab).values()).count("missing_row") == 2
    assert sum("its token works" in each for each in _findings(lab)) == 2
    report = Vault.scrub(lab.path, token=staff.operator, clock=lab.clock)
    assert not report.left
    assert set(_states(lab).values()) == {"active"}
    assert lab.do(lambda vault: vault.whoami(), staff.operator)[1] == "another"
    lab.clean()


@pytest.mark.parametrize("way", WAYS)
def test_a_scrub_leaves_nobodys_row_and_loses_no_token(staff: Staff, way: Way) -> None:
    """Where no copy has a row, only its label is lost; what is not a principal's own row goes."""
    lab = staff.lab
    for file in staff.files():
        way(staff, file)
    Vault.scrub(lab.path, token=staff.operator, clock=lab.clock)
    findings = _findings(lab)
    assert all("its token works" in each for each in findings)
    assert not set(_states(lab).values()) - {"active", "missing_row"}
    again = Vault.scrub(lab.path, token=staff.operator, clock=lab.clock)
    assert not again.repairs


def test_a_services_token_gains_nothing(staff: Staff) -> None:
    """Not without its row, nor with that of an operator under its id, nor by the operator's id."""
    lab, secret = staff.lab, staff.door.split(".")[2]
    row = _row(lab, staff.operator)
    for values in [
        None,
        (30, _id(staff.door), *row[2:]),
        (_row(lab, staff.door)[0], _id(staff.door), *row[2:]),
    ]:
        _remove(lab, staff.door)
        if values is not None:
            _put(lab, values)
        with lab.open(staff.door) as vault:
            assert vault.whoami()[2] == ("service",)
            with pytest.raises(NotAllowed):
                vault.shred("alice")
            with pytest.raises(NotAllowed):
                vault.principals()
            with pytest.raises(NotAllowed):
                vault.check()
    for token in (staff.operator, staff.dpo):
        _remove(lab, token)
        _is_out(lab, f"fkt1.{_id(token).hex()}.{secret}")


@pytest.mark.parametrize("rows", ["whole", "gone"])
def test_a_wrong_secret_with_the_right_id_is_refused(staff: Staff, rows: str) -> None:
    lab = staff.lab
    if rows == "gone":
        _all_gone(staff, lab.path / "keys.db")
    for secret in ("A" * 43, "B" * 42 + "A", staff.dpo.split(".")[2], lab.token.split(".")[2]):
        _is_out(lab, f"fkt1.{_id(staff.operator).hex()}.{secret}")
    _is_out(lab, f"fkt1.{bytes(8).hex()}.{staff.operator.split('.')[2]}")
    with lab.open(staff.operator) as vault:
        assert vault.shred("alice").slots == 2


def test_a_revoked_token_is_refused_whatever_is_put_back(staff: Staff) -> None:
    lab = staff.lab
    old = [sql(file, "SELECT * FROM principal") for file in staff.files()]
    fallen = lab.add_principal(Role.OPERATOR)
    fresh = _row(lab, fallen)
    _remove(lab, fallen)
    _revoke(lab, fallen)
    _revoke(lab, staff.operator)
    for file, rows in zip(staff.files(), old, strict=True):
        for row in (*rows, fresh):
            sql(file, "INSERT OR REPLACE INTO principal VALUES (?, ?, ?, ?, ?)", row)
    _is_out(lab, staff.operator)
    _is_out(lab, fallen)
    living = _row(lab, staff.dpo)
    for token in (staff.operator, fallen):  # their ids in a slot that lives
        lab.sql("keys.db", "DELETE FROM principal WHERE slot = ? OR principal = ?", (living[0], _id(token)))
        _put(lab, (living[0], _id(token), *living[2:]))
        _is_out(lab, token)


def test_a_revocation_that_is_pending_counts_without_a_row(staff: Staff) -> None:
    lab = staff.lab
    lab.crash(lambda vault: vault.revoke_principal(_id(staff.dpo).hex()), "destroy.announced")
    _all_gone(staff, lab.path / "keys.db")
    _is_out(lab, staff.dpo)


def test_an_addition_that_was_cut_off_lets_nobody_in(staff: Staff) -> None:
    """Announced, and never granted: recovery voids it, and its slot dies."""
    lab = staff.lab
    lab.crash(lambda vault: vault.add_principal("cut off", [Role.OPERATOR]), "principal.announced")
    lab.do(lambda vault: vault.enroll_many([lab.enrolment("dora")]))
    assert len(_states(lab)) == 4
    lab.clean()


def test_the_log_has_the_hash_of_the_token(staff: Staff) -> None:
    """One grant id for one token, slot and vault; not the hash that stands in the record."""
    lab = staff.lab
    with lab.open() as vault:
        log: list[dict[str, Any]] = [dict(each) for each in log_entries(vault)]
        marks = {each["principal"]: each for each in log if each["type"] == "principal"}
        for token in (lab.token, staff.operator, staff.dpo, staff.door):
            entry = marks[_id(token).hex()]
            secret = base64.urlsafe_b64decode(token.split(".")[2] + "=")
            whole = b"facekeep/v1/principal-token\0" + bytes.fromhex(vault.vault_id)
            whole += entry["slot"].to_bytes(8, "big") + hashlib.sha256(secret).digest()
            assert entry["grant"] == hashlib.sha256(whole).hexdigest()[:32]
        assert len({each["grant"] for each in marks.values()}) == 4


def test_the_ledger_is_read_for_a_token_without_a_row_alone(
    staff: Staff, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    original = Ledger.principals

    def counting(ledger: Ledger) -> list[LoggedPrincipal]:
        asked.append(1)
        return original(ledger)

    monkeypatch.setattr(Ledger, "principals", counting)
    staff.lab.do(lambda vault: vault.whoami(), staff.door)
    assert not asked
    _remove(staff.lab, staff.door)
    staff.lab.do(lambda vault: vault.whoami(), staff.door)
    assert asked
