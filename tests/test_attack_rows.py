"""Attacks on vault.db by somebody who may write every file and kept every old copy."""

from __future__ import annotations

from pathlib import Path

import pytest

from facekeep.errors import ErasurePending, FacekeepError, IntegrityError, SubjectUnknown, UsageError
from facekeep.vault import Scope, Vault
from vaultlab import (
    DAY,
    IDENTIFY,
    MODEL,
    NOW,
    THRESHOLD,
    VERIFY,
    YEAR_2036,
    Lab,
    core,
    face,
    identify,
    identify_reason,
    log_entries,
    matches,
    reason,
    slots,
)

COLUMNS = ("grant_id", "tag", "model", "terms", "commitment", "templates", "record")
REFUSED = {"integrity", "terms", "scope", "subject_unknown", "destroyed", "model"}


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path).create()
    lab.enrol("alice", "bob")
    return lab


def row(lab: Lab, slot: int) -> tuple[object, ...]:
    return lab.sql("vault.db", "SELECT * FROM grants WHERE slot = ?", (slot,))[0]


def put(lab: Lab, values: tuple[object, ...]) -> None:
    marks = ", ".join("?" * len(values))
    lab.sql("vault.db", f"INSERT OR REPLACE INTO grants VALUES ({marks})", values)


def set_column(lab: Lab, slot: int, column: str, value: object) -> None:
    lab.sql("vault.db", f"UPDATE grants SET {column} = ? WHERE slot = ?", (value, slot))


def slots_of(lab: Lab, name: str) -> dict[Scope, int]:
    return lab.do(lambda vault: slots(vault, name))


def edited(terms: bytes, *, scope: int | None = None, expires: int | None = None) -> bytes:
    out = bytearray(terms)
    if scope is not None:
        out[1] = scope
    if expires is not None:
        out[12:20] = expires.to_bytes(8, "big")
    return bytes(out)


def not_clean(vault: Vault) -> bool:
    report = vault.check()
    return bool(report.findings or report.missing)


@pytest.mark.parametrize("column", COLUMNS)
def test_swapping_a_column_of_two_subjects(lab: Lab, column: str) -> None:
    alice, bob = slots_of(lab, "alice"), slots_of(lab, "bob")
    at = 1 + COLUMNS.index(column)
    for scope in (VERIFY, IDENTIFY):
        a, b = row(lab, alice[scope]), row(lab, bob[scope])
        set_column(lab, alice[scope], column, b[at])
        set_column(lab, bob[scope], column, a[at])
    with lab.open() as vault:
        if column == "model":  # both of one model: nothing was swapped
            assert matches(vault, "alice")
            return
        for name, other in (("alice", "bob"), ("bob", "alice")):
            try:
                assert not matches(vault, name, other)
            except FacekeepError:
                assert reason(vault, name) in REFUSED | {"ok"}
            try:
                assert other not in identify(vault, name)
            except FacekeepError:
                assert identify_reason(vault, name) == "integrity"
        assert not_clean(vault)


def test_swapping_whole_rows_of_two_subjects(lab: Lab) -> None:
    alice, bob = slots_of(lab, "alice"), slots_of(lab, "bob")
    for scope in (VERIFY, IDENTIFY):
        a, b = row(lab, alice[scope]), row(lab, bob[scope])
        put(lab, (alice[scope], *b[1:]))
        put(lab, (bob[scope], *a[1:]))
    with lab.open() as vault:
        assert reason(vault, "alice") == "integrity"
        assert reason(vault, "bob") == "integrity"
        found = vault.identify(face("alice"), model=MODEL, threshold=THRESHOLD)
        assert (found.candidates, found.compared, found.excluded) == ((), 0, 2)
        assert not_clean(vault)


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("how", ["flipped", "empty", "short", "long"])
def test_a_column_of_any_content_is_a_denial(lab: Lab, column: str, how: str) -> None:
    """No exception but ours, no answer, nobody else affected, and the check names the row."""
    alice = slots_of(lab, "alice")
    for scope in (VERIFY, IDENTIFY):
        value = row(lab, alice[scope])[1 + COLUMNS.index(column)]
        raw = value.encode() if isinstance(value, str) else bytes(value)  # type: ignore[call-overload]
        raw = {
            "flipped": raw[:-1] + bytes([raw[-1] ^ 1]),
            "empty": b"",
            "short": raw[:-1],
            "long": raw + raw[-1:],
        }[how]
        set_column(lab, alice[scope], column, raw.decode() if isinstance(value, str) else raw)
    with lab.open() as vault:
        if column == "record":  # the templates still authenticate their terms
            assert reason(vault, "alice") == "ok"
            assert identify_reason(vault, "alice") == "integrity"  # whom it found cannot be said
        else:
            assert reason(vault, "alice") in REFUSED
            assert identify(vault, "alice") == []
        assert matches(vault, "bob")
        assert identify(vault, "bob") == ["bob"]
        assert not_clean(vault)
        vault.shred("alice")
        assert vault.check().ok
    lab.clean()


@pytest.mark.parametrize("expires", [NOW + 3_000 * DAY, 2**63 - 1, 2**64 - 1, 0, NOW - DAY, NOW + 1])
def test_an_edited_expiry_neither_widens_access_nor_destroys_anyone(lab: Lab, expires: int) -> None:
    alice = slots_of(lab, "alice")
    true = {scope: row(lab, alice[scope])[4] for scope in alice}
    for scope in alice:
        terms = true[scope]
        assert isinstance(terms, bytes)
        set_column(lab, alice[scope], "terms", edited(terms, expires=expires))
    with lab.open() as vault:
        assert reason(vault, "alice") in {"terms", "integrity"}
        assert identify(vault, "alice") == []
        lab.clock.ms += 60 * DAY  # past the true end
        assert reason(vault, "alice") in {"terms", "integrity"}
        assert identify(vault, "alice") == []
        assert all(core(vault).view().tree.alive(list(alice.values())))
        lab.clock.ms = NOW + 61 * DAY
        with pytest.raises(FacekeepError):
            vault.renew("alice", lab.consent(VERIFY))
        with pytest.raises(FacekeepError):
            vault.grant("alice", lab.consent(Scope.SHARE))
        assert all(core(vault).view().tree.alive(list(alice.values())))
    for scope in alice:
        set_column(lab, alice[scope], "terms", true[scope])
    with lab.open() as vault:
        vault.renew("alice", lab.consent(VERIFY))
        assert matches(vault, "alice")
    lab.clean()


def test_a_verify_grant_put_into_identify_by_its_terms(lab: Lab) -> None:
    lab.enrol("carol", scopes=[VERIFY])
    slot = slots_of(lab, "carol")[VERIFY]
    terms = row(lab, slot)[4]
    assert isinstance(terms, bytes)
    set_column(lab, slot, "terms", edited(terms, scope=IDENTIFY))
    with lab.open() as vault:
        assert identify(vault, "carol") == []
        assert reason(vault, "carol") in REFUSED
        assert not_clean(vault)


def test_a_verify_grant_put_into_identify_by_its_slot(lab: Lab) -> None:
    lab.enrol("carol", scopes=[VERIFY])
    verify = slots_of(lab, "carol")[VERIFY]
    identify_slot = slots_of(lab, "bob")[IDENTIFY]
    values = row(lab, verify)
    terms = values[4]
    assert isinstance(terms, bytes)
    for scope in (VERIFY, IDENTIFY):
        put(lab, (identify_slot, *values[1:4], edited(terms, scope=scope), *values[5:]))
        with lab.open() as vault:
            assert identify(vault, "carol") == []
            assert matches(vault, "carol")
            assert not_clean(vault)


def test_a_row_in_a_slot_that_was_never_given_out_is_nobodys(lab: Lab) -> None:
    values = row(lab, slots_of(lab, "alice")[IDENTIFY])
    put(lab, (slots_of(lab, "bob")[IDENTIFY] + 1, *values[1:]))
    with lab.open() as vault:
        assert identify(vault, "alice") == ["alice"]
        assert not_clean(vault)


@pytest.mark.parametrize("slot", [-1, 2**53, 2**62, 2**21 - 1, 17, 0, 99 << 21])
def test_a_row_in_no_slot_of_a_subject_is_never_answered(lab: Lab, slot: int) -> None:
    alice = slots_of(lab, "alice")
    verify, search = row(lab, alice[VERIFY]), row(lab, alice[IDENTIFY])
    lab.sql("vault.db", "DELETE FROM grants WHERE tag = ?", (verify[2],))
    for values in (verify, search):
        put(lab, (slot, *values[1:]))
        try:
            with lab.open() as vault:
                assert reason(vault, "alice") in REFUSED
                assert identify(vault, "alice") == []
                assert matches(vault, "bob")
                assert not_clean(vault)
        except IntegrityError:
            continue


def test_last_months_row_is_replayed_after_a_renewal(lab: Lab) -> None:
    old = {scope: row(lab, slot) for scope, slot in slots_of(lab, "alice").items()}
    lab.do(lambda vault: vault.renew("alice", lab.consent(VERIFY, IDENTIFY, days=1)))
    for values in old.values():
        put(lab, values)
    with lab.open() as vault:
        assert matches(vault, "alice")
        assert identify(vault, "alice") == ["alice"]
        lab.clock.ms += 2 * DAY  # the renewed consent is over, the older one would not be
        assert reason(vault, "alice") in {"expired", "destroyed"}
        assert identify(vault, "alice") == []
        assert vault.check().ok
        assert any("destroyed" in note for note in vault.check().notes)
    lab.sql("vault.db", "DELETE FROM grants WHERE slot NOT IN (?, ?)", [values[0] for values in old.values()])
    with lab.open() as vault:
        assert reason(vault, "alice") == "destroyed"
        assert identify(vault, "alice") == []


def test_a_removed_template_is_replayed(lab: Lab) -> None:
    with lab.open() as vault:
        vault.enroll("carol", embeddings=face("carol"), model=MODEL, consent=lab.consent(VERIFY, IDENTIFY))
    old = {scope: row(lab, slot) for scope, slot in slots_of(lab, "carol").items()}
    with lab.open() as vault:
        new = lab.consent(VERIFY, IDENTIFY)
        vault.enroll("carol", embeddings=face("another"), model=MODEL, consent=new, existing="replace")
    now = slots_of(lab, "carol")
    for scope, values in old.items():
        put(lab, values)
        put(lab, (now[scope], *values[1:]))
    with lab.open() as vault:
        assert reason(vault, "carol") in {"integrity", "destroyed"}
        assert identify(vault, "carol") == []


def test_a_withdrawn_row_is_replayed(lab: Lab) -> None:
    values = row(lab, slots_of(lab, "alice")[IDENTIFY])
    lab.do(lambda vault: vault.withdraw("alice", [IDENTIFY]))
    put(lab, values)
    with lab.open() as vault:
        assert identify(vault, "alice") == []
        assert matches(vault, "alice")
        with pytest.raises(SubjectUnknown):
            vault.withdraw("alice", [IDENTIFY])
        vault.grant("alice", lab.consent(IDENTIFY))
        assert identify(vault, "alice") == ["alice"]


def test_a_shredded_slot_is_revived(lab: Lab) -> None:
    """Rows, index and old copies are put back; the slot stays dead, and its number is not given again."""
    saved = lab.save("before")
    old = slots_of(lab, "alice")
    rows = [row(lab, slot) for slot in old.values()]
    index = lab.sql("keys.db", "SELECT * FROM subject_index")
    lab.do(lambda vault: vault.shred("alice"))
    for values in rows:
        put(lab, values)
    for hashed, sealed in index:
        lab.sql("keys.db", "INSERT OR REPLACE INTO subject_index VALUES (?, ?)", (hashed, sealed))
    with lab.open() as vault:
        assert reason(vault, "alice") == "destroyed"
        assert identify(vault, "alice") == []
        with pytest.raises(SubjectUnknown):
            vault.grant("alice", lab.consent(Scope.SHARE))
        with pytest.raises(SubjectUnknown):
            vault.shred("alice")
        vault.enroll_many([lab.enrolment("alice")])
        assert not set(slots(vault, "alice").values()) & set(old.values())
        assert matches(vault, "alice")
        vault.shred("alice")
    lab.put_back(saved, "vault.db")
    with lab.open() as vault:
        assert reason(vault, "alice") in {"subject_unknown", "destroyed"}
        assert identify(vault, "alice") == []
        assert matches(vault, "bob")


def test_a_subject_is_hidden_before_the_shred_and_brought_back(lab: Lab) -> None:
    """Slots come from the log: rows and projections taken away beforehand do not save anybody."""
    old = slots_of(lab, "alice")
    rows = [row(lab, slot) for slot in old.values()]
    projected = lab.sql("log.db", "SELECT slot, idx FROM grant_entry WHERE slot IN (?, ?)", [*old.values()])
    assert len(projected) == 2
    lab.sql("vault.db", "DELETE FROM grants WHERE slot IN (?, ?)", [*old.values()])
    lab.sql("log.db", "DELETE FROM grant_entry WHERE slot IN (?, ?)", [*old.values()])
    erasure = lab.do(lambda vault: vault.shred("alice"))
    assert erasure.slots == 2
    for values in rows:
        put(lab, values)
    for values in projected:
        lab.sql("log.db", "INSERT INTO grant_entry VALUES (?, ?)", values)
    with lab.open() as vault:
        assert identify(vault, "alice") == []
        assert reason(vault, "alice") == "subject_unknown"
        assert not any(core(vault).view().tree.alive(list(old.values())))
        assert matches(vault, "bob")


@pytest.mark.parametrize(
    "hide", ["UPDATE entry SET control = 0 WHERE idx = ?", "DELETE FROM entry WHERE idx = ?"]
)
def test_a_grant_is_hidden_in_the_log_itself_before_the_shred(lab: Lab, hide: str) -> None:
    """Where the log does not add up, she is denied, and nothing is called erased: a grant may outlive it."""
    lab.enrol("carol", scopes=[VERIFY])
    lab.do(lambda vault: vault.grant("carol", lab.consent(IDENTIFY)))
    with lab.open() as vault:
        at = max(at for at, entry in enumerate(log_entries(vault)) if entry["type"] == "grant")
    lab.sql("log.db", hide, (at,))
    with lab.open() as vault:
        with pytest.raises(ErasurePending, match="denied to everybody"):
            vault.shred("carol")
        assert reason(vault, "carol") != "ok"
        with pytest.raises(ErasurePending):
            vault.withdraw("carol", [VERIFY])


def test_a_subject_is_hidden_enrolled_anew_and_shredded(lab: Lab) -> None:
    """An operator who does not see the old grants must not make the subject a second time beside them."""
    old = slots_of(lab, "alice")
    rows = [row(lab, slot) for slot in old.values()]
    lab.sql("vault.db", "DELETE FROM grants WHERE slot IN (?, ?)", [*old.values()])
    with lab.open() as vault:
        for how in ("refuse", "skip", "add"):
            with pytest.raises(UsageError):
                vault.enroll_many([lab.enrolment("alice")], existing=how)
        vault.enroll_many([lab.enrolment("alice")], existing="replace")
        assert matches(vault, "alice")
        assert not any(core(vault).view().tree.alive(list(old.values())))
        vault.shred("alice")
    for values in rows:
        put(lab, values)
    with lab.open() as vault:
        assert identify(vault, "alice") == []
        assert reason(vault, "alice") == "subject_unknown"


def test_one_scope_is_hidden_and_given_again(lab: Lab) -> None:
    """A grant whose row is hidden still counts: no second one beside it, and no older terms afterwards."""
    old = slots_of(lab, "alice")[IDENTIFY]
    values = row(lab, old)
    lab.sql("vault.db", "DELETE FROM grants WHERE slot = ?", (old,))
    narrow = lab.consent(IDENTIFY, days=1)
    with lab.open() as vault:
        with pytest.raises(UsageError):
            vault.grant("alice", narrow)
        with pytest.raises(UsageError):
            vault.enroll_many([lab.enrolment("alice", IDENTIFY)])
        with pytest.raises(UsageError):
            vault.renew("alice", narrow)
        vault.enroll_many([lab.enrolment("alice", consent=narrow)], existing="replace")
        assert identify(vault, "alice") == ["alice"]
    put(lab, values)
    with lab.open() as vault:
        lab.clock.ms += 2 * DAY
        assert identify(vault, "alice") == []
        assert matches(vault, "alice")


@pytest.mark.parametrize("column", ["record", "templates"])
def test_a_match_is_hidden_by_damage_during_the_search(lab: Lab, column: str) -> None:
    slot = slots_of(lab, "alice")[IDENTIFY]
    with lab.open() as vault, vault.gallery(model=MODEL) as gallery:
        assert [hit.subject for hit in gallery.search(face("alice"), THRESHOLD, 1).candidates] == ["alice"]
        size = lab.sql("vault.db", f"SELECT length({column}) FROM grants WHERE slot = ?", (slot,))[0][0]
        set_column(lab, slot, column, bytes(size))
        with pytest.raises(FacekeepError) as caught:
            gallery.search(face("alice"), THRESHOLD, 1)
        entry = vault.decision(str(getattr(caught.value, "decision", "")))
        assert (entry["allow"], entry["reason"]) == (False, "integrity")
        assert [hit.subject for hit in gallery.search(face("bob"), THRESHOLD, 1).candidates] == ["bob"]


def test_a_match_is_hidden_by_taking_its_row_away(lab: Lab) -> None:
    slot = slots_of(lab, "alice")[IDENTIFY]
    with lab.open() as vault, vault.gallery(model=MODEL) as gallery:
        lab.sql("vault.db", "DELETE FROM grants WHERE slot = ?", (slot,))
        with pytest.raises(FacekeepError):
            gallery.search(face("alice"), THRESHOLD, 1)
        assert vault.check().missing == [slot]


def test_expiry_cannot_be_escaped_by_the_clock(lab: Lab) -> None:
    lab.enrol("carol", days=1)
    lab.clock.ms += 2 * DAY
    with lab.open() as vault:
        assert reason(vault, "carol") == "expired"
        lab.clock.ms = NOW
        assert reason(vault, "carol") == "clock"
    with lab.open() as vault:
        assert reason(vault, "carol") == "clock"
        assert identify_reason(vault, "carol") == "clock"
        lab.clock.ms = YEAR_2036
        assert reason(vault, "carol") == "expired"
