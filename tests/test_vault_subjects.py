"""Enrol, grant, renew, withdraw, shred: what a subject's grants go through."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from facekeep.errors import ConsentError, Denied, FacekeepError, SubjectUnknown, UsageError, VaultNotFound
from facekeep.matching.model import Model
from facekeep.vault import Existing, Scope, Vault
from vaultlab import (
    DAY,
    DIMENSION,
    IDENTIFY,
    MODEL,
    NOW,
    THRESHOLD,
    VERIFY,
    Lab,
    core,
    face,
    held,
    identify,
    log_entries,
    matches,
    reason,
    slots,
    threshold,
)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path).create()


def test_enrolled_people_match_and_strangers_do_not(lab: Lab) -> None:
    with lab.open() as vault:
        receipt = vault.enroll(
            "alice", embeddings=face("alice"), model=MODEL, consent=lab.consent(VERIFY, IDENTIFY)
        )
        assert [grant.scope for grant in receipt.grants] == ["verify", "identify"]
        assert receipt.to_json()["subject"] == "alice"
        assert matches(vault, "alice")
        assert not matches(vault, "alice", "bob")
        assert identify(vault, "alice") == ["alice"]
        assert identify(vault, "bob") == []
    lab.clean()


def test_scores_are_given_only_when_asked_for(lab: Lab) -> None:
    lab.enrol("alice")
    with lab.open() as vault:
        probe = face("alice")
        assert vault.verify("alice", probe, model=MODEL, threshold=THRESHOLD).score is None
        scored = vault.verify("alice", probe, model=MODEL, threshold=THRESHOLD, with_score=True)
        assert scored.score == pytest.approx(0, abs=1e-6)
        assert vault.identify(probe, model=MODEL, threshold=THRESHOLD).candidates[0].score is None
        found = vault.identify(probe, model=MODEL, threshold=THRESHOLD, with_score=True)
        assert found.candidates[0].score == pytest.approx(0, abs=1e-6)


def test_many_images_store_their_mean_and_each(lab: Lab) -> None:
    with lab.open() as vault:
        images = np.stack([face("alice"), face("alice") + 0.01])
        vault.enroll("alice", embeddings=images, model=MODEL, consent=lab.consent(VERIFY))
        assert matches(vault, "alice")
        (info,) = vault.subjects()
        assert info.grants[0].images == 2
        row = core(vault).data.by_slots([info.grants[0].slot])[0]
        assert len(row.templates) == 30 + 3 * 4 * DIMENSION


def test_a_batch_is_whole_or_not_at_all(lab: Lab) -> None:
    with lab.open() as vault:
        good, bad = lab.enrolment("alice"), lab.enrolment("bob", consent=lab.consent(VERIFY, days=-1))
        with pytest.raises(ConsentError):
            vault.enroll_many([good, bad])
        with pytest.raises(UsageError):
            vault.enroll_many([good, good])
        assert list(vault.subjects()) == []
        assert vault.enroll_many([]) == []
    lab.clean()


@pytest.mark.parametrize(
    "subject", ["", " alice", "a\nb", "a\x00b", "x" * 600, "a\u200bb", "e\u0301", "\ud800"]
)
def test_bad_subject_ids_are_refused_and_not_repeated(lab: Lab, subject: str) -> None:
    with lab.open() as vault:
        for act in (
            lambda: vault.enroll(subject, embeddings=face("x"), model=MODEL, consent=lab.consent(VERIFY)),
            lambda: vault.verify(subject, face("x"), model=MODEL, threshold=THRESHOLD),
            lambda: vault.shred(subject),
            lambda: vault.withdraw(subject, [VERIFY]),
            lambda: vault.grant(subject, lab.consent(IDENTIFY)),
        ):
            with pytest.raises(UsageError) as caught:
                act()
            assert not subject.strip() or subject not in str(caught.value)
            assert "\n" not in str(caught.value)
    lab.clean()


@pytest.mark.parametrize(
    ("embeddings", "model"),
    [
        (np.zeros(DIMENSION), MODEL),
        (np.full(DIMENSION, np.nan), MODEL),
        (np.ones(DIMENSION + 1), MODEL),
        (np.ones((0, DIMENSION)), MODEL),
        (np.ones((65, DIMENSION)), MODEL),
    ],
)
def test_bad_embeddings_are_refused(lab: Lab, embeddings: np.ndarray, model: Model) -> None:
    with lab.open() as vault:
        with pytest.raises(FacekeepError):
            vault.enroll("alice", embeddings=embeddings, model=model, consent=lab.consent(VERIFY))
        assert list(vault.subjects()) == []
    lab.clean()


def test_photographs_or_embeddings_but_not_both(lab: Lab) -> None:
    with lab.open() as vault:
        with pytest.raises(UsageError):
            vault.enroll("alice", consent=lab.consent(VERIFY))
        with pytest.raises(UsageError):
            vault.enroll("alice", ["x.jpg"], embeddings=face("alice"), consent=lab.consent(VERIFY))


def test_existing_grants_are_refused_skipped_replaced_or_added_to(lab: Lab) -> None:
    lab.enrol("alice", scopes=[VERIFY])
    with lab.open() as vault:
        again = lab.enrolment("alice", VERIFY, IDENTIFY)
        with pytest.raises(UsageError):
            vault.enroll_many([again])
        before = slots(vault, "alice")
        (receipt,) = vault.enroll_many([again], existing="skip")
        assert receipt.skipped == ("verify",)
        assert slots(vault, "alice")[VERIFY] == before[VERIFY]
        vault.enroll_many([lab.enrolment("alice", VERIFY)], existing=Existing.ADD)
        (info,) = vault.subjects()
        assert {grant.scope: grant.images for grant in info.grants} == {"verify": 2, "identify": 1}
        vault.enroll_many([lab.enrolment("alice", VERIFY)], existing=Existing.REPLACE)
        (info,) = vault.subjects()
        assert {grant.scope: grant.images for grant in info.grants} == {"verify": 1, "identify": 1}
        assert matches(vault, "alice")
        assert vault.is_enrolled("alice", [VERIFY, IDENTIFY])
        assert not vault.is_enrolled("alice", [Scope.SHARE])
        with pytest.raises(UsageError, match="no scope"):  # for none of them everybody would be
            vault.is_enrolled("alice", [])
        assert not vault.is_enrolled("bob", [VERIFY])
    lab.clean()


def test_photographs_of_another_model_cannot_be_added(lab: Lab) -> None:
    lab.enrol("alice", scopes=[VERIFY])
    other = Model("raw:other", "1", DIMENSION, "l2")
    with lab.open() as vault:
        with pytest.raises(UsageError):
            vault.enroll(
                "alice", embeddings=face("alice"), model=other, consent=lab.consent(VERIFY), existing="add"
            )
        with pytest.raises(Denied) as caught:
            vault.verify("alice", face("alice"), model=other, threshold=threshold(other))
        assert vault.decision(str(caught.value.decision))["reason"] == "model"
        with pytest.raises(UsageError):
            vault.verify("alice", face("alice"), model=MODEL, threshold=threshold(other))
        assert matches(vault, "alice")


def test_a_scope_is_granted_later_from_a_living_grant_and_the_log_says_so(lab: Lab) -> None:
    lab.enrol("alice", scopes=[VERIFY])
    with lab.open() as vault:
        assert identify(vault, "alice") == []
        source = slots(vault, "alice")[VERIFY]
        receipt = vault.grant("alice", lab.consent(IDENTIFY))
        assert identify(vault, "alice") == ["alice"]
        assert matches(vault, "alice")
        entry = [entry for entry in log_entries(vault) if entry["type"] == "grant"][-1]
        assert entry["op"] == "grant"
        assert [item["from"] for item in entry["grants"]] == [source]  # type: ignore[union-attr, index, call-overload]
        with pytest.raises(UsageError):
            vault.grant("alice", lab.consent(IDENTIFY))
        with pytest.raises(SubjectUnknown):
            vault.grant("bob", lab.consent(IDENTIFY))
        assert receipt.tag == next(iter(vault.subjects())).tag
    lab.clean()


def test_an_expired_grant_is_not_opened_for_another_scope(lab: Lab) -> None:
    lab.enrol("alice", scopes=[VERIFY], days=1)
    lab.clock.ms += 2 * DAY
    with lab.open() as vault, pytest.raises(ConsentError):
        vault.grant("alice", lab.consent(IDENTIFY))
    lab.clean()


def test_renewal_is_a_new_slot_and_the_old_one_is_gone(lab: Lab) -> None:
    lab.enrol("alice", days=1)
    with lab.open() as vault:
        before = slots(vault, "alice")
        vault.renew("alice", lab.consent(VERIFY, days=90))
        after = slots(vault, "alice")
        assert after[VERIFY] != before[VERIFY]
        assert after[IDENTIFY] == before[IDENTIFY]
        assert not core(vault).view().tree.alive([before[VERIFY]])[0]
        lab.clock.ms += 2 * DAY
        assert matches(vault, "alice")
        assert identify(vault, "alice") == []
        with pytest.raises(UsageError):
            vault.renew("alice", lab.consent(Scope.TRAIN))
        with pytest.raises(SubjectUnknown):
            vault.renew("bob", lab.consent(VERIFY))
    lab.clean()


def test_withdrawal_ends_one_scope_only(lab: Lab) -> None:
    lab.enrol("alice", "bob")
    with lab.open() as vault:
        assert identify(vault, "alice") == ["alice"]
        erasure = vault.withdraw("alice", [IDENTIFY])
        assert (erasure.slots, erasure.subjects) == (1, 1)
        assert identify(vault, "alice") == []
        assert identify(vault, "bob") == ["bob"]
        assert matches(vault, "alice")
        with pytest.raises(SubjectUnknown):
            vault.withdraw("alice", [IDENTIFY])
        with pytest.raises(UsageError):
            vault.withdraw("alice", [])
        vault.withdraw("alice", [VERIFY])
        assert reason(vault, "alice") == "subject_unknown"
        assert core(vault).keys.index_count() == 1
    lab.clean()


def test_after_the_last_withdrawal_a_subject_can_be_enrolled_anew(lab: Lab) -> None:
    lab.enrol("alice")
    with lab.open() as vault:
        tag = next(iter(vault.subjects())).tag
        vault.withdraw("alice", [VERIFY, IDENTIFY])
        vault.enroll_many([lab.enrolment("alice")])
        assert matches(vault, "alice")
        assert next(iter(vault.subjects())).tag != tag
    lab.clean()


def test_shred_takes_many_at_once_and_nobody_else(lab: Lab) -> None:
    lab.enrol("alice", "bob", "carol")
    with lab.open() as vault:
        erasure = vault.shred("alice", "bob", "alice")
        assert (erasure.subjects, erasure.slots, erasure.epoch) == (2, 4, 2)
        assert erasure.to_json()["erasure"] == erasure.erasure
        assert reason(vault, "alice") == reason(vault, "bob") == "subject_unknown"
        assert identify(vault, "alice") == identify(vault, "bob") == []
        assert matches(vault, "carol")
        assert core(vault).data.count() == 2
    lab.clean()


def test_shred_of_an_unknown_subject_does_nothing(lab: Lab) -> None:
    lab.enrol("alice")
    with lab.open() as vault:
        size = core(vault).log.head().size
        with pytest.raises(SubjectUnknown):
            vault.shred("alice", "nobody")
        with pytest.raises(UsageError):
            vault.shred()
        assert core(vault).log.head().size == size
        assert matches(vault, "alice")


def test_subjects_are_listed_with_what_is_due(lab: Lab) -> None:
    lab.enrol("alice", days=5)
    lab.enrol("bob", days=50, not_before_ms=NOW + DAY)
    with lab.open() as vault:
        listed = {info.subject: info for info in vault.subjects()}
        assert [grant.state for grant in listed["alice"].grants] == ["live", "live"]
        assert [grant.state for grant in listed["bob"].grants] == ["not_yet", "not_yet"]
        assert [info.subject for info in vault.subjects(due_within_ms=10 * DAY)] == ["alice"]
        lab.clock.ms += 6 * DAY
        listed = {info.subject: info for info in vault.subjects()}
        assert [grant.state for grant in listed["alice"].grants] == ["expired", "expired"]
        assert [grant.state for grant in listed["bob"].grants] == ["live", "live"]


def test_a_consent_in_the_future_becomes_valid(lab: Lab) -> None:
    lab.enrol("alice", not_before_ms=NOW + DAY)
    with lab.open() as vault:
        assert reason(vault, "alice") == "not_before"
        assert identify(vault, "alice") == []
        lab.clock.ms += DAY
        assert reason(vault, "alice") == "ok"
        assert identify(vault, "alice") == ["alice"]


def test_an_expired_consent_is_denied_to_the_millisecond(lab: Lab) -> None:
    lab.enrol("alice", days=1)
    with lab.open() as vault:
        assert identify(vault, "alice") == ["alice"]
        lab.clock.ms += DAY - 1
        assert reason(vault, "alice") == "ok"
        assert identify(vault, "alice") == ["alice"]
        lab.clock.ms += 1
        assert reason(vault, "alice") == "expired"
        assert identify(vault, "alice") == []
    lab.clean()


def test_a_region_that_was_not_consented_to_is_refused(lab: Lab) -> None:
    lab.enrol("alice", regions=("DE", "CH"))
    lab.enrol("bob", regions=("EU",))
    with lab.open() as vault:
        vault.change_settings(regions=("CH", "FR", "US"))
        assert reason(vault, "alice") == reason(vault, "bob") == "ok"
        assert reason(vault, "alice", region="CH") == "ok"
        assert reason(vault, "alice", region="US") == "region"
        assert reason(vault, "bob", region="FR") == "ok"
        assert reason(vault, "bob", region="CH") == "region"
        with vault.gallery(model=MODEL, region="CH") as gallery:
            assert held(gallery) == 1
            assert gallery.search(face("bob"), THRESHOLD, 5).candidates == ()
            assert gallery.search(face("bob"), THRESHOLD, 5).excluded == 1


@pytest.mark.parametrize("region", ["", "de", "DEU", "ZZZ", "é1"])
def test_a_region_that_is_none_is_a_usage_error(lab: Lab, region: str) -> None:
    lab.enrol("alice")
    with lab.open() as vault:
        size = core(vault).log.head().size
        for act in (
            lambda: vault.verify("alice", face("alice"), model=MODEL, threshold=THRESHOLD, region=region),
            lambda: vault.identify(face("alice"), model=MODEL, threshold=THRESHOLD, region=region),
        ):
            if region:
                with pytest.raises(FacekeepError) as caught:
                    act()
                assert "\n" not in str(caught.value)
        assert core(vault).log.head().size == size or not region
        assert matches(vault, "alice")


def test_the_decision_behind_an_answer_can_be_read(lab: Lab) -> None:
    lab.enrol("alice")
    with lab.open() as vault:
        answer = vault.verify("alice", face("alice"), model=MODEL, threshold=THRESHOLD)
        entry = vault.decision(answer.decision)
        assert (entry["allow"], entry["result"], entry["scope"]) == (True, "match", "verify")
        index, nonce = answer.decision.split("-")
        for wrong in ("", "0", f"{index}-00000000", f"99999-{nonce}", f"0-{nonce}", "x" * 50):
            with pytest.raises(UsageError):
                vault.decision(wrong)


def test_a_vault_is_a_context_manager_and_closes(lab: Lab) -> None:
    lab.enrol("alice")
    with Vault.open(lab.path, token=lab.token, clock=lab.clock) as vault:
        assert matches(vault, "alice")
        gallery = vault.gallery(model=MODEL)
    with pytest.raises(FacekeepError):
        matches(vault, "alice")
    with pytest.raises(FacekeepError):
        gallery.search(face("alice"), THRESHOLD, 1)
    gallery.close()
    with pytest.raises(VaultNotFound):
        Vault.open(lab.base / "nowhere", token=lab.token)
