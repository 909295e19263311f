"""Consent as given: its defaults, its limits, and the record that is sealed."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facekeep.clock import MS_PER_DAY
from facekeep.consent.consent import Consent, Holding, Notice, build_record, subject_tag
from facekeep.errors import ConsentError
from facekeep.formats.canonical import loads
from facekeep.formats.terms import Scope, Terms
from facekeep.limits import LIMITS

NOW = 1_800_000_000_000
NOTICE = Notice(b"n" * 32, "en")
CONSENT = Consent((Scope.VERIFY,), NOTICE, NOW + MS_PER_DAY)
HOLDING = Holding("alice", b"s" * 32, 2, "raw:m/1", "l2", 4, 3)


def test_defaults_are_filled_in() -> None:
    whole = Consent((Scope.SHARE, Scope.VERIFY, Scope.SHARE), NOTICE, NOW + 1).settled(NOW, "DE")
    assert whole.scopes == (Scope.VERIFY, Scope.SHARE)
    assert (whole.regions, whole.not_before_ms, whole.expressed_at_ms) == (("DE",), NOW, NOW)
    assert whole.settled(NOW, "FR") == whole


@pytest.mark.parametrize(
    "wrong",
    [
        replace(CONSENT, scopes=()),
        replace(CONSENT, expires_at_ms=NOW),
        replace(CONSENT, expires_at_ms=0),
        replace(CONSENT, expires_at_ms=-1),
        replace(CONSENT, expires_at_ms=NOW + LIMITS.consent_days * MS_PER_DAY + 1),
        replace(CONSENT, not_before_ms=CONSENT.expires_at_ms),
        replace(CONSENT, not_before_ms=-1),
        replace(CONSENT, expressed_at_ms=NOW + 60_000),
        replace(CONSENT, expressed_at_ms=-1),
        replace(CONSENT, notice=Notice(b"short", "en")),
        replace(CONSENT, notice=Notice(b"n" * 32, "")),
        replace(CONSENT, notice=Notice(b"n" * 32, "English")),
        replace(CONSENT, notice=Notice(b"n" * 32, "en\n")),
        replace(CONSENT, regions=("de",)),
        replace(CONSENT, regions=("DEU",)),
        replace(CONSENT, regions=tuple(f"A{chr(65 + each)}" for each in range(17))),
        replace(CONSENT, purpose=""),
        replace(CONSENT, purpose=" "),
        replace(CONSENT, purpose="a\nb"),
        replace(CONSENT, purpose="x" * 1_025),
        replace(CONSENT, purpose="\ud800"),
        replace(CONSENT, controller="\x00"),
        replace(CONSENT, expressed_by="\u202e"),
    ],
)
def test_terms_that_are_not_acceptable(wrong: Consent) -> None:
    with pytest.raises(ConsentError) as caught:
        wrong.settled(NOW, "DE")
    assert "\n" not in str(caught.value)


def test_the_longest_consent_ends() -> None:
    longest = replace(CONSENT, expires_at_ms=NOW + LIMITS.consent_days * MS_PER_DAY)
    assert longest.settled(NOW, "DE").expires_at_ms == longest.expires_at_ms


def test_a_notice_is_named_by_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "notice.txt"
    path.write_bytes(b"what we do with your face")
    assert Notice.from_file(path, "de").sha256 == hashlib.sha256(path.read_bytes()).digest()
    empty = tmp_path / "empty"
    empty.touch()
    huge = tmp_path / "huge"
    with huge.open("wb") as file:
        file.truncate(LIMITS.notice_bytes + 1)
    for wrong in (empty, huge, tmp_path):
        with pytest.raises(ConsentError, match="is empty, too large, or not a file"):
            Notice.from_file(wrong)
    with pytest.raises(ConsentError, match="cannot be read: No such file"):
        Notice.from_file(tmp_path / "missing")
    for size in (1, LIMITS.notice_bytes):
        os.truncate(huge, size)
        assert Notice.from_file(huge).sha256 == hashlib.sha256(bytes(size)).digest()


def unpacked(record: bytes, packed: bytes) -> tuple[dict[str, object], Terms]:
    return dict(loads(record[32:])), Terms.unpack(packed)


def test_the_record_is_that_of_the_specification_and_its_terms_name_it() -> None:
    whole = replace(CONSENT, purpose='the "door"', controller="Müller & Söhne").settled(NOW, "DE")
    record, packed = build_record(whole, Scope.VERIFY, HOLDING, NOW)
    value, terms = unpacked(record, packed)
    assert value == {
        "consent": {
            "controller": "Müller & Söhne",
            "expires_at_ms": NOW + MS_PER_DAY,
            "expressed_at_ms": NOW,
            "expressed_by": "data-subject",
            "not_before_ms": NOW,
            "notice": {"language": "en", "sha256": (b"n" * 32).hex()},
            "purpose": 'the "door"',
            "regions": ["DE"],
            "scope": "verify",
            "status": "ConsentGiven",
        },
        "created_at_ms": NOW,
        "images": 2,
        "model": {"dimension": 4, "id": "raw:m/1", "metric": "l2"},
        "salt": (b"s" * 32).hex(),
        "subject": "alice",
        "v": 1,
    }
    assert terms.record_digest == hashlib.sha256(record).digest()
    assert (terms.scope, terms.count, terms.dimension, terms.regions) == (Scope.VERIFY, 3, 4, ("DE",))
    assert (terms.not_before_ms, terms.expires_at_ms) == (NOW, NOW + MS_PER_DAY)


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cc", "Cf", "Cs", "Zl", "Zp"]), min_size=1, max_size=30))
def test_any_subject_id_is_kept_in_the_record(subject: str) -> None:
    record, packed = build_record(
        CONSENT.settled(NOW, "DE"), Scope.VERIFY, HOLDING._replace(subject=subject), NOW
    )
    assert unpacked(record, packed)[0]["subject"] == subject


def test_the_same_consent_twice_has_two_digests() -> None:
    whole = CONSENT.settled(NOW, "DE")
    made = {build_record(whole, Scope.VERIFY, HOLDING, NOW)[1] for _ in range(3)}
    assert len(made) == 3


def test_a_subjects_tag_depends_on_vault_salt_and_id() -> None:
    tag = subject_tag(bytes(16), b"s" * 32, b"alice")
    assert tag == hashlib.sha256(b"facekeep/v1/subject-tag\0" + bytes(16) + b"s" * 32 + b"alice").digest()
    others = {
        subject_tag(b"v" * 16, b"s" * 32, b"alice"),
        subject_tag(bytes(16), b"t" * 32, b"alice"),
        subject_tag(bytes(16), b"s" * 32, b"bob"),
    }
    assert len(others | {tag}) == 4
