"""Consent as a person gave it, and its record (SPEC §5.5).

Field names follow ISO/IEC TS 27560 and the W3C Data Privacy Vocabulary where they have one.
There is no endless consent and no consent by default.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from facekeep.arguments import checks_arguments, time_ms
from facekeep.clock import MS_PER_DAY
from facekeep.crypto import primitives as p
from facekeep.errors import ConsentError, FormatError, UsageError
from facekeep.formats.canonical import JsonObject, JsonValue, dumps, encode_text
from facekeep.formats.terms import DIGEST_LEN, Scope, check_regions, pack_terms
from facekeep.limits import LIMITS

STATUS_GIVEN = "ConsentGiven"
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*\Z")


@checks_arguments
@dataclass(frozen=True, slots=True)
class Notice:
    """The privacy notice the person was shown: SHA-256 of its file (32 bytes), BCP 47 language."""

    sha256: bytes
    language: str

    @staticmethod
    def from_file(path: str | Path, language: str = "en") -> Notice:
        """Hash a notice file; raises ConsentError when it cannot be read, is empty or too large."""
        path = Path(path)
        try:
            size = path.stat().st_size
            if not path.is_file() or not 0 < size <= LIMITS.notice_bytes:
                raise ConsentError(f"the notice {path.name!r} is empty, too large, or not a file")
            return Notice(hashlib.sha256(path.read_bytes()).digest(), language)
        except OSError as error:
            raise ConsentError(f"the notice {path.name!r} cannot be read: {error.strerror}") from error


@checks_arguments
@dataclass(frozen=True, slots=True)
class Consent:
    """One act of consent, for one or more scopes, with a mandatory end.

    It ends at ``expires``, and was expressed at ``expressed_at`` and begins at ``not_before``, if not now:
    each a datetime with a time zone or a timedelta from now on, or else in ms. ``regions`` where templates
    may be processed; ``expressed_by`` who consented (``data-subject``, or a guardian's role). All of it
    stands only in the sealed record.
    """

    scopes: tuple[Scope, ...]
    notice: Notice
    expires_at_ms: int | None = None
    purpose: str = "face matching"
    controller: str = "not stated"
    regions: tuple[str, ...] | None = None
    not_before_ms: int | None = None
    expressed_by: str = "data-subject"
    expressed_at_ms: int | None = None
    expires: datetime | timedelta | None = None
    not_before: datetime | timedelta | None = None
    expressed_at: datetime | timedelta | None = None

    def settled(self, now_ms: int, region: str) -> Consent:
        """Return it with defaults filled in and every field checked; raises ConsentError."""
        end, begin, said = self._times(now_ms)
        whole = replace(
            self,
            scopes=tuple(sorted(set(self.scopes))),
            regions=tuple(sorted(set(self.regions or (region,)))),
            expires_at_ms=end,
            not_before_ms=now_ms if begin is None else begin,
            expressed_at_ms=now_ms if said is None else said,
            expires=None,
            not_before=None,
            expressed_at=None,
        )
        _check(whole, now_ms)
        return whole

    def _times(self, now_ms: int) -> tuple[int | None, int | None, int | None]:
        """(end, beginning, when it was expressed) in ms, as far as they were said."""
        try:
            return (
                time_ms("expires", self.expires, self.expires_at_ms, now_ms),
                time_ms("not_before", self.not_before, self.not_before_ms, now_ms),
                time_ms("expressed_at", self.expressed_at, self.expressed_at_ms, now_ms),
            )
        except UsageError as error:
            raise ConsentError(f"consent: {error}", next=error.next) from None


def _check(consent: Consent, now_ms: int) -> None:
    if not consent.scopes:
        raise ConsentError("consent names no scope")
    if consent.expires_at_ms is None:
        raise ConsentError("consent needs an end", next="say when it expires: expires=timedelta(days=365)")
    if consent.expires_at_ms <= now_ms:
        raise ConsentError("consent would expire in the past")
    if (
        consent.not_before_ms is None
        or consent.not_before_ms >= consent.expires_at_ms
        or consent.not_before_ms < 0
    ):
        raise ConsentError("consent would expire before it begins")
    if consent.expires_at_ms - now_ms > LIMITS.consent_days * MS_PER_DAY:
        raise ConsentError(f"consent may last {LIMITS.consent_days} days at the most")
    if consent.expressed_at_ms is None or not 0 <= consent.expressed_at_ms <= now_ms + LIMITS.clock_slack_ms:
        raise ConsentError("consent was expressed in the future")
    if len(consent.notice.sha256) != p.KEY_LEN or not _LANGUAGE.match(consent.notice.language):
        raise ConsentError("the notice needs a SHA-256 and a BCP 47 language such as en or pt-BR")
    for text in (consent.purpose, consent.controller, consent.expressed_by):
        _check_text(text)
    try:
        check_regions(consent.regions or ())
    except FormatError as error:
        raise ConsentError(str(error)) from None


def _check_text(text: str) -> None:
    try:
        raw = text.encode("utf-8")
    except UnicodeEncodeError:
        raise ConsentError("a consent text is not valid Unicode") from None
    if not text.strip() or len(raw) > LIMITS.text_bytes or not text.isprintable():
        raise ConsentError(f"a consent text is empty, unprintable or longer than {LIMITS.text_bytes} bytes")


class Holding(NamedTuple):
    """What the record says besides the consent: whose templates, how many images, which model.

    ``spread`` says how far apart the rows of several images lie (SPEC §5.5).
    """

    subject: str
    salt: bytes
    images: int
    model: str
    metric: str
    dimension: int
    rows: int
    spread: JsonObject | None = None


class RecordForm:
    """Records and packed terms of subjects who share a settled consent, a scope, and all but their ids."""

    __slots__ = ("_before", "_terms")

    def __init__(self, consent: Consent, scope: Scope, holding: Holding, now_ms: int) -> None:
        """Encode what they share; the subject and salt of ``holding`` are nobody's here."""
        self._before = b'{"consent":%b,"created_at_ms":%d,"images":%d,"model":%b,"salt":"' % (
            _consent_part(consent, scope),
            now_ms,
            holding.images,
            _model_part(holding.model, holding.metric, holding.dimension),
        )
        packed = pack_terms(
            scope,
            consent.not_before_ms or 0,
            consent.expires_at_ms or 0,
            consent.regions or (),
            holding.rows,
            holding.dimension,
            bytes(DIGEST_LEN),
            holding.metric,
        )
        self._terms = packed[:-DIGEST_LEN]

    def fill(
        self, subject: str, salt: bytes, blind: bytes, spread: JsonObject | None = None
    ) -> tuple[bytes, bytes]:
        """Return (record plaintext, packed terms); ``blind`` are 32 fresh random bytes."""
        name, digits = encode_text(subject), salt.hex().encode("ascii")
        apart = b"" if spread is None else b',"spread":' + dumps(spread)
        plain = b'%b%b%b"%b,"subject":%b,"v":1}' % (blind, self._before, digits, apart, name)
        return plain, self._terms + hashlib.sha256(plain).digest()


def build_record(consent: Consent, scope: Scope, holding: Holding, now_ms: int) -> tuple[bytes, bytes]:
    """Return a record's plaintext and the packed terms that name it, for one scope of a settled consent."""
    form = RecordForm(consent, scope, holding, now_ms)
    return form.fill(holding.subject, holding.salt, p.random_bytes(p.KEY_LEN), holding.spread)


@lru_cache(maxsize=64)
def _consent_part(consent: Consent, scope: Scope) -> bytes:
    return dumps(_consent_json(consent, scope))


@lru_cache(maxsize=64)
def _model_part(model: str, metric: str, dimension: int) -> bytes:
    return dumps({"dimension": dimension, "id": model, "metric": metric})


def _consent_json(consent: Consent, scope: Scope) -> JsonObject:
    regions: list[JsonValue] = list(consent.regions or ())
    return {
        "controller": consent.controller,
        "expires_at_ms": consent.expires_at_ms,
        "expressed_at_ms": consent.expressed_at_ms,
        "expressed_by": consent.expressed_by,
        "not_before_ms": consent.not_before_ms,
        "notice": {"language": consent.notice.language, "sha256": consent.notice.sha256.hex()},
        "purpose": consent.purpose,
        "regions": regions,
        "scope": scope.word,
        "status": STATUS_GIVEN,
    }


def subject_tag(vault_id: bytes, salt: bytes, subject: bytes) -> bytes:
    """Pseudonym of a subject, 32 bytes (SPEC §2); ``subject`` is the id's UTF-8."""
    return p.sha256(p.domain("subject-tag"), vault_id, salt, subject)


def subject_tags(vault_id: bytes, salts: Sequence[bytes], subjects: Sequence[bytes]) -> list[bytes]:
    """``subject_tag`` of many."""
    prefix, sha256 = p.domain("subject-tag") + vault_id, hashlib.sha256
    return [sha256(prefix + salt + subject).digest() for salt, subject in zip(salts, subjects, strict=True)]
