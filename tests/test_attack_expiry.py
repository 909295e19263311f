"""Attacks on expiry: nobody is destroyed by an edited row, a wrong clock, an older file, or all at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from facekeep.auditlog import ledger
from facekeep.errors import FacekeepError
from facekeep.formats.terms import Terms
from facekeep.vault import Scope, Vault
from maintain_help import audited, days, expiries, maintain, states
from vaultlab import DAY, VERIFY, YEAR_2036, Lab, core, matches, reason, row_key, slots

PAST = 12  # days after which a grant of two days is past a grace of nine


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path).create()
    lab.do(lambda vault: vault.change_settings(schedule=["grace_days=9"]))
    return lab


def test_a_lapsed_grant_is_destroyed_after_its_grace_and_not_before(lab: Lab) -> None:
    lab.enrol("ada", days=2)
    lab.enrol("bob", days=200)
    days(lab, 2 + 9 - 1)
    assert "expired" not in states(maintain(lab))
    days(lab, 1)
    assert states(maintain(lab))["expired"] == "done"
    with lab.open() as vault:
        assert reason(vault, "ada") == "subject_unknown"  # her last grants: the index forgot her
        assert matches(vault, "bob")
        assert core(vault).data.count() == 2
        (entry,) = expiries(vault)
        assert (entry["by"], entry["tags"]) == (vault.whoami()[0], [])
    audited(lab)


def test_who_has_another_grant_stays_in_the_index(lab: Lab) -> None:
    lab.enrol("ada", days=2, scopes=[VERIFY])
    lab.do(lambda vault: vault.enroll_many([lab.enrolment("bob", consent=lab.consent(VERIFY, days=2))]))
    with lab.open() as vault:
        vault.grant("bob", lab.consent(Scope.EVALUATE, days=300))
    days(lab, PAST)
    maintain(lab)
    with lab.open() as vault:
        assert slots(vault, "bob").keys() == {Scope.EVALUATE}
        assert core(vault).index.lookup(core(vault).handles.of(b"bob")) is not None
        assert core(vault).index.lookup(core(vault).handles.of(b"ada")) is None
    audited(lab)


def edit_expiry(lab: Lab, ms: int) -> None:
    """Set the expiry that stands in every row of vault.db, as somebody can who knows the terms and no key."""
    with lab.open() as vault:
        known = {row.slot: row.terms for row in core(vault).data.rows()}
    for slot, masked in lab.sql("vault.db", "SELECT slot, terms FROM grants"):
        clear = known[slot]
        edited = clear[:12] + ms.to_bytes(8, "big") + clear[20:]
        put = bytes(one ^ two ^ three for one, two, three in zip(masked, clear, edited, strict=True))
        lab.sql("vault.db", "UPDATE grants SET terms = ? WHERE slot = ?", (put, slot))
    with lab.open() as vault:
        assert {Terms.unpack(row.terms).expires_at_ms for row in core(vault).data.rows()} == {ms}


def test_an_expiry_edited_in_the_row_destroys_nobody(lab: Lab) -> None:
    lab.enrol("ada", days=200)
    days(lab, PAST)
    before = lab.save("before")
    edit_expiry(lab, lab.clock.ms - 11 * DAY)
    assert "expired" not in states(maintain(lab, confirmed=True))
    lab.put_back(before, "vault.db")
    lab.do(lambda vault: matches(vault, "ada"))
    with lab.open() as vault:
        assert expiries(vault) == []


def test_an_expiry_edited_in_the_row_saves_nobody_from_theirs(lab: Lab) -> None:
    lab.enrol("ada", days=2)
    days(lab, PAST)
    edit_expiry(lab, lab.clock.ms + 100 * DAY)
    assert states(maintain(lab))["expired"] == "done"
    audited(lab)


def test_an_older_row_is_replayed_and_the_renewed_grant_lives(lab: Lab) -> None:
    lab.enrol("ada", days=2, scopes=[VERIFY])
    lab.enrol("bob", days=300)
    old = lab.save("old")
    lab.do(lambda vault: vault.renew("ada", lab.consent(VERIFY, days=300)))
    days(lab, PAST)
    lab.put_back(old, "vault.db")
    assert "expired" not in states(maintain(lab, confirmed=True))
    with lab.open() as vault:
        assert expiries(vault) == []
        alive = core(vault).view().tree.alive(core(vault).ledger.all_slots())
        assert alive.sum() == 3  # Ada's renewed one, which has no row now, and Bob's two


@pytest.mark.parametrize("paged", [False, True], ids=["log", "pages"])
def test_a_clock_set_to_2036_destroys_nobody(lab: Lab, monkeypatch: pytest.MonkeyPatch, paged: bool) -> None:
    if paged:
        monkeypatch.setattr(ledger, "_LEAST", 1)
        monkeypatch.setattr(ledger, "_PAGE", 1)
    lab.enrol("ada", "bob", days=200)
    days(lab, 2)
    true = lab.clock.ms
    lab.clock.ms = YEAR_2036
    for _ in range(3):
        done = maintain(lab)
        assert states(done)["expired"] == "waiting"
        assert done.exit_code == 3
        lab.clock.ms += DAY  # the clock goes on from there
    lab.clock.ms = true
    assert {each.error.code for each in maintain(lab).steps if each.error} == {"clock"}
    lab.do(lambda vault: vault.accept_clock())
    lab.enrol("cy", days=2)
    days(lab, PAST)
    assert states(maintain(lab))["expired"] == "waiting"  # the time was set back: a person looks once
    with lab.open() as vault:
        assert matches(vault, "ada")
        assert expiries(vault) == []
        assert states(vault.maintain(confirmed=True))["expired"] == "done"
        assert len(expiries(vault)) == 1
    lab.enrol("dee", days=2)
    days(lab, PAST)
    assert states(maintain(lab))["expired"] == "done"  # and then it goes on by itself
    audited(lab)


def test_a_vault_that_nobody_ran_waits_for_a_person(lab: Lab) -> None:
    lab.enrol("ada", days=2)
    lab.clock.ms += 40 * DAY
    done = maintain(lab)
    (step,) = [each for each in done.steps if each.state == "waiting"]
    assert "silent for 40.0 days" in step.message
    assert step.next.endswith("facekeep maintain --yes")
    assert states(maintain(lab, confirmed=True))["expired"] == "done"


def test_denials_do_not_make_a_jump_look_like_days_going_by(lab: Lab) -> None:
    lab.enrol("ada", days=200)
    days(lab, 1)
    with lab.open() as vault:
        for _ in range(300):
            lab.clock.ms += DAY
            reason(vault, "ada")
    assert states(maintain(lab))["expired"] == "waiting"


def many(lab: Lab, count: int, lapsing: int) -> None:
    names = [f"p{each}" for each in range(count)]
    lab.enrol(*names[:lapsing], days=2, scopes=[VERIFY])
    if names[lapsing:]:
        lab.enrol(*names[lapsing:], days=300, scopes=[VERIFY])


def test_more_than_one_in_a_hundred_waits_for_a_person(lab: Lab) -> None:
    many(lab, 30, 11)
    lab.enrol("ada", days=2, scopes=[Scope.IDENTIFY])
    days(lab, PAST)
    done = maintain(lab)
    step = done.steps[2]
    assert (step.name, step.state, done.exit_code) == ("expired", "waiting", 3)
    assert "11 of 30 grants for verify" in step.message
    assert step.message.startswith("1 grant destroyed")  # another scope's does not wait for this one
    assert lab.do(lambda vault: vault.status())["expire_waiting"] == 11
    assert states(maintain(lab, confirmed=True))["expired"] == "done"
    assert "expired" not in states(maintain(lab))
    audited(lab)


def test_ten_a_time_does_not_get_around_the_limit(lab: Lab) -> None:
    many(lab, 20, 6)
    lab.clock.ms += DAY // 2
    lab.enrol("x1", "x2", "x3", "x4", "x5", "x6", days=2, scopes=[VERIFY])
    days(lab, 10)
    lab.clock.ms += DAY // 2
    assert states(maintain(lab))["expired"] == "done"
    lab.clock.ms += DAY // 2
    assert states(maintain(lab))["expired"] == "waiting"  # six were destroyed half a day ago
    lab.clock.ms += DAY // 2
    assert states(maintain(lab))["expired"] == "done"
    audited(lab)


def test_one_in_a_hundred_of_many_goes_by_itself(lab: Lab) -> None:
    lab.do(lambda vault: vault.change_settings(schedule=["shred_count=0"]))
    many(lab, 199, 1)
    lab.enrol("ada", days=2.5, scopes=[VERIFY])
    days(lab, 11)
    assert states(maintain(lab))["expired"] == "done"  # one of two hundred
    lab.clock.ms += 2 * DAY
    assert states(maintain(lab))["expired"] == "done"
    with lab.open() as vault:
        assert len(expiries(vault)) == 2


def test_a_grant_about_to_be_destroyed_is_not_destroyed_twice(lab: Lab) -> None:
    lab.enrol("ada", "bob", days=2)
    days(lab, PAST)
    lab.crash(lambda vault: vault.withdraw("ada", [VERIFY]), "destroy.announced")
    lab.root.rename(lab.base / "away")
    with pytest.raises(FacekeepError):
        maintain(lab)
    (lab.base / "away").rename(lab.root)
    assert states(maintain(lab))["expired"] == "done"
    audited(lab)


def test_an_index_row_of_another_subject_is_not_taken_along(lab: Lab) -> None:
    lab.enrol("ada", days=2)
    lab.enrol("bob", days=200)
    days(lab, PAST)
    with lab.open() as vault:
        hashed = row_key(vault, "bob")
    lab.sql("keys.db", "UPDATE subject_index SET sealed = x'00' WHERE hash = ?", (hashed,))
    assert states(maintain(lab))["expired"] == "done"  # the altered row holds nothing up, and stays
    assert lab.sql("keys.db", "SELECT count(*) FROM subject_index") == [(1,)]

    def repaired(vault: Vault) -> bool:
        vault.repair_index()
        return matches(vault, "bob")

    assert lab.do(repaired)
    audited(lab)
