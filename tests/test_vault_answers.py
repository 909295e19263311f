"""No answer is misread: what each result is in an ``if``, compared, counted and walked through."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from facekeep.answers import Ambiguous, Answer, Listing
from facekeep.errors import WrongType
from facekeep.vault import Identification, Vault, Verification
from surface_help import returned
from vaultlab import MODEL, THRESHOLD, Lab, face

#: What ``bool()`` of every class is that a public method returns. A new one is decided here.
ANSWERS = {"CheckReport", "Identification", "Verification"}  # their own: ok, somebody, a match
AMBIGUOUS = {  # raises WrongType: they say several things
    "BackupCheck", "GrantInfo", "HolderState", "Listed", "Maintained", "Moved", "Planned", "Probed", "Report",
    "MaintenanceStep", "Resealed", "RestoreReport", "ScrubReport", "SettingsChange", "Step",
}  # fmt: skip
THINGS = {  # true: they are what was made, asked for or found, and an error was raised where there is none
    "BackupReport", "Candidate", "Checkpoint", "Consent", "Enrolment", "Erasure", "Estimate", "Exported",
    "Extent", "Extractor", "FacekeepError", "Finding", "Gallery", "GrantReceipt", "Keys", "Manifest",
    "Matching", "Model", "Notice", "Opening", "Proof", "Proven", "ProvenGrant", "Receipt", "Refusal",
    "Repair", "Restarted", "Returning",
    "Root", "Rotated", "Schedule", "Settings", "Statement", "Staying", "SubjectInfo",
    "Tally", "Threshold", "VerifierKey",
}  # fmt: skip
WORDS = {"KeyType", "Scope", "Verdict"}  # members of closed lists


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path).create()
    lab.enrol("alice")
    return lab


def test_every_result_is_decided() -> None:
    kinds = {each.__name__: each for each in returned()}
    assert {name for name, kind in kinds.items() if issubclass(kind, Answer)} == ANSWERS
    assert {name for name, kind in kinds.items() if issubclass(kind, Ambiguous)} == AMBIGUOUS
    assert set(kinds) - ANSWERS - AMBIGUOUS - WORDS == THINGS | {"Listing"}
    for name in THINGS:
        assert "__bool__" not in vars(kinds[name]), name
        assert "__len__" not in vars(kinds[name]), name


def test_an_answer_is_no_tuple() -> None:
    for kind in returned():
        if issubclass(kind, Answer | Ambiguous):
            assert not {"__len__", "__iter__", "__contains__"} & set(dir(kind)), kind


def test_a_verification_is_true_for_a_match_only(lab: Lab) -> None:
    with lab.open() as vault:
        yes = vault.verify("alice", face("alice"), model=MODEL, threshold=THRESHOLD)
        no = vault.verify("alice", face("mallory"), model=MODEL, threshold=THRESHOLD)
    assert (bool(yes), bool(no)) == (yes.match, no.match) == (True, False)
    assert yes == yes  # noqa: PLR0124 - an answer is itself
    assert yes != no
    assert len({yes, no}) == 2


def test_a_search_is_true_where_somebody_was_found(lab: Lab) -> None:
    with lab.open() as vault, vault.gallery(model=MODEL) as gallery:
        found = vault.identify(face("alice"), model=MODEL, threshold=THRESHOLD)
        nobody = vault.identify(face("mallory"), model=MODEL, threshold=THRESHOLD)
        assert (bool(found), bool(nobody)) == (True, False)
        assert bool(gallery.search(face("alice"), THRESHOLD, 1))
        assert not gallery.search(face("mallory"), THRESHOLD, 1)


def test_both_ways_to_search_answer_in_one_shape(lab: Lab) -> None:
    with lab.open() as vault, vault.gallery(model=MODEL) as gallery:
        for with_score in (False, True):
            one = vault.identify(face("alice"), 3, model=MODEL, threshold=THRESHOLD, with_score=with_score)
            other = gallery.search(face("alice"), THRESHOLD, 3, with_score=with_score)
            assert type(one) is type(other) is Identification
            assert one.candidates == other.candidates
            assert [each.score is None for each in other.candidates] == [not with_score]
            assert (one.compared, one.excluded, one.threshold) == (other.compared, 0, THRESHOLD)
            logged = [vault.decision(each.decision) for each in (one, other)]
            assert [each.get("score", False) for each in logged] == [with_score] * 2


def test_a_gallerys_top_is_that_of_the_settings(lab: Lab) -> None:
    twins = [replace(lab.enrolment("alice"), subject=f"alice-{number}") for number in range(3)]
    with lab.open() as vault:
        vault.enroll_many(twins)
        vault.change_settings(matching=["top=2"])
        with vault.gallery(model=MODEL) as gallery:
            assert len(gallery.search(face("alice"), THRESHOLD).candidates) == 2


@pytest.mark.parametrize("other", [True, False, 1, 0, np.True_], ids=repr)
def test_an_answer_is_not_compared_with_a_truth_value(other: object) -> None:
    for answer in (
        Verification(match=False, decision="1-00000000", threshold=THRESHOLD),
        Identification((), 0, 0, "1-00000000", THRESHOLD),
    ):
        with pytest.raises(WrongType):
            _ = answer == other
        with pytest.raises(WrongType):
            _ = answer != other
        assert answer is not None


def test_what_says_several_things_is_neither_true_nor_false(lab: Lab) -> None:
    backup = lab.base / "one.backup"

    def listed(vault: Vault) -> list[object]:
        vault.backup(backup)
        return [
            vault.check_backup(backup),
            vault.restore(backup, dry_run=True),
            vault.maintain(dry_run=True),
            vault.keys.resume(),
            vault.keys.holders()[0],
            vault.principals()[0],
            next(vault.subjects()).grants[0],
        ]

    with lab.open() as vault:
        for each in listed(vault):
            with pytest.raises(TypeError) as caught:
                bool(each)
            assert isinstance(caught.value, WrongType)
            assert caught.value.next.startswith("look at what it says: ")
        for listing in (vault.subjects(), vault.audit_log()):
            with pytest.raises(WrongType):
                bool(listing)
            assert isinstance(listing, Listing)
            assert list(listing)


def test_a_check_is_true_where_nothing_is_damaged(lab: Lab) -> None:
    with lab.open() as vault:
        report = vault.check()
        assert report
        assert report.ok
        lab.sql("vault.db", "DELETE FROM grants")
        lab.sql("keys.db", "DELETE FROM subject_index")
        damaged = vault.check()
        assert not damaged
        assert damaged.findings
