"""Enrolment: new subjects, and new photographs of those who are enrolled already."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from facekeep.access.core import Core, View
from facekeep.access.roles import Action
from facekeep.access.session import Session
from facekeep.consent.consent import Consent, Holding, build_record, subject_tag
from facekeep.crypto import primitives as p
from facekeep.errors import UsageError
from facekeep.formats.ids import SALT_LEN, check_subject_id
from facekeep.formats.terms import Scope
from facekeep.limits import LIMITS
from facekeep.matching.model import Model, reference_stack
from facekeep.operations.granting import NewGrant
from facekeep.operations.indexed import changing, check_indexed, twice_enrolled
from facekeep.operations.prepared import Prepared, carry_out
from facekeep.operations.receipts import Receipt
from facekeep.operations.rows import LivingGrant, living_of
from facekeep.operations.sources import opened, rows_lacking, without_rows
from facekeep.operations.writing import writing
from facekeep.sealing.sealer import template_bytes


class Existing(StrEnum):
    """What to do with a subject who already has a living grant in a scope."""

    REFUSE = "refuse"
    SKIP = "skip"
    REPLACE = "replace"
    ADD = "add"


@dataclass(frozen=True, slots=True)
class Enrolment:
    """One subject to enrol: ``embeddings`` float32 of shape (k, d), one row a photograph."""

    subject: str
    embeddings: npt.NDArray[np.float32]
    model: Model
    consent: Consent


class _Known(NamedTuple):
    """What a whole batch looks up at once, for one subject."""

    subject: bytes
    hashed: bytes
    tag: bytes | None
    ready: memoryview


def enroll(
    core: Core, session: Session, enrolments: Sequence[Enrolment], existing: Existing = Existing.REFUSE
) -> list[Receipt]:
    """Enrol subjects in one durable operation. Each subject at most once in ``enrolments``.

    Raises UsageError, ConsentError; nothing is enrolled then.
    """
    with writing(core, session, Action.ENROLL) as view:
        now = core.clock.now_ms()
        if len({each.subject for each in enrolments}) != len(enrolments):
            raise UsageError("a subject stands twice in one enrolment")
        subjects = [check_subject_id(each.subject) for each in enrolments]
        consents = {id(each.consent): each.consent for each in enrolments}
        settled = {key: consent.settled(now, core.settings.region) for key, consent in consents.items()}
        hashes = [core.index.hash(subject) for subject in subjects]
        twins = check_indexed(core, view, exactly=False)
        if any(hashed in twins for hashed in hashes):
            raise twice_enrolled()
        tags = core.index.lookup_many(hashes)
        ready = _ready(enrolments)
        with contextlib.ExitStack() as cleanup:
            prepared = [
                _prepare(core, view, each, settled[id(each.consent)], known, existing, now, cleanup)
                for each, known in zip(enrolments, map(_Known, subjects, hashes, tags, ready), strict=True)
            ]
            with changing(core, tags.count(None)):
                return carry_out(core, view, session, "enroll", prepared)


def _ready(enrolments: Sequence[Enrolment]) -> list[memoryview]:
    """Bytes of each subject's reference stack; subjects with one photograph are checked all at once."""
    if any(not len(each.embeddings) for each in enrolments):
        raise UsageError("a subject is enrolled from at least one photograph")
    models = {id(each.model): each.model for each in enrolments}
    if len(models) > 1 or any(len(each.embeddings) > 1 for each in enrolments):
        return [template_bytes(reference_stack(each.model, each.embeddings)) for each in enrolments]
    if not enrolments:
        return []
    model = enrolments[0].model
    try:
        together = np.concatenate([each.embeddings for each in enrolments])
    except ValueError:
        raise UsageError(f"an embedding of {model.id} is {model.dimension} numbers") from None
    whole = template_bytes(model.check_many(together))
    width = 4 * model.dimension
    return [whole[at * width : (at + 1) * width] for at in range(len(enrolments))]


def _prepare(
    core: Core,
    view: View,
    what: Enrolment,
    consent: Consent,
    known: _Known,
    existing: Existing,
    now: int,
    cleanup: contextlib.ExitStack,
) -> Prepared:
    subject, hashed, tag, ready = known
    grants = [] if tag is None else living_of(core, view, tag)
    lacking = [] if tag is None else without_rows(core, view, tag, grants)
    if grants:
        lacking = [slot for slot in lacking if view.kind_of(slot) in consent.scopes]
    if lacking and existing is not Existing.REPLACE:
        raise rows_lacking()
    index_row = None
    if tag is None or not grants:
        salt = p.random_bytes(SALT_LEN)
        tag = subject_tag(core.vault_id, salt, subject)
        index_row = core.index.row(hashed, tag)
    else:
        salt = grants[0].salt
    taken = {grant.scope: grant for grant in grants if grant.scope in consent.scopes}
    if taken and existing is Existing.REFUSE:
        words = ", ".join(scope.word for scope in sorted(taken))
        raise UsageError(
            f"the subject is already enrolled for {words}",
            next="use --existing replace or add, or 'facekeep renew' for new terms",
        )
    fresh = [scope for scope in consent.scopes if scope not in taken or existing is not Existing.SKIP]
    replaced = [grant.row.slot for grant in taken.values()] if existing is not Existing.SKIP else []
    retire = (*replaced, *lacking)
    made = []
    for scope in fresh:
        old = taken.get(scope) if existing is Existing.ADD else None
        made.append(_fresh_grant(core, view, what, consent, scope, salt, tag, ready, old, now, cleanup))
    skipped = tuple(scope.word for scope in consent.scopes if scope not in fresh)
    return Prepared(what.subject, tag, salt, tuple(made), index_row, retire, skipped)


def _fresh_grant(
    core: Core,
    view: View,
    what: Enrolment,
    consent: Consent,
    scope: Scope,
    salt: bytes,
    tag: bytes,
    ready: memoryview,
    old: LivingGrant | None,
    now: int,
    cleanup: contextlib.ExitStack,
) -> NewGrant:
    """Grant of new photographs, with those of ``old`` before them where photographs are added."""
    model = what.model
    if old is not None and (old.row.model != model.id or old.terms.dimension != model.dimension):
        raise UsageError("photographs of another model cannot be added", next="use --existing replace")
    images = len(what.embeddings) + (0 if old is None else _image_rows(old))
    count = images if images == 1 else images + 1
    if count > LIMITS.templates:
        raise UsageError(f"a subject can have {LIMITS.templates - 1} photographs at the most")
    holding = Holding(what.subject, salt, images, model.id, model.metric, model.dimension, count)
    record, terms = build_record(consent, scope, holding, now)
    if old is None:
        return NewGrant(tag, model.id, scope, terms, record, lambda: ready)

    def combined() -> memoryview:
        before = opened(core, view, old, cleanup)
        first = 0 if old.terms.count == 1 else 1
        whole = np.concatenate((before[first:], what.embeddings))
        stack = reference_stack(model, whole)
        cleanup.callback(whole.fill, 0)
        cleanup.callback(stack.fill, 0)
        return template_bytes(stack)

    return NewGrant(tag, model.id, scope, terms, record, combined, old.row.slot)


def _image_rows(grant: LivingGrant) -> int:
    return grant.terms.count if grant.terms.count == 1 else grant.terms.count - 1


def has_grants(core: Core, subject: str, scopes: Sequence[Scope]) -> bool:
    """Whether a subject has a living grant for each of the scopes."""
    tag = core.index.lookup(check_subject_id(subject))
    if tag is None:
        return False
    return set(scopes) <= {grant.scope for grant in living_of(core, core.view(), tag)}
