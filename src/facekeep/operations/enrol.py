"""Enrolment: new subjects, and new photographs of those who are enrolled already."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from facekeep.access.core import Core, View
from facekeep.access.roles import Action
from facekeep.access.session import Session
from facekeep.consent.consent import (
    Consent,
    Holding,
    RecordForm,
    build_record,
    subject_tag,
    subject_tags,
)
from facekeep.crypto import primitives as p
from facekeep.crypto.many import random_many
from facekeep.crypto.memory import LockedBuffer
from facekeep.errors import UsageError
from facekeep.formats.ids import SALT_LEN, check_subject_id, check_subject_ids
from facekeep.formats.terms import Scope
from facekeep.limits import LIMITS
from facekeep.matching.model import Model, fill_mean, reference_stack
from facekeep.operations.granting import NewGrant
from facekeep.operations.prepared import Prepared, carry_out
from facekeep.operations.receipts import Receipt
from facekeep.operations.rows import LivingGrant, any_of_model, living_of
from facekeep.operations.sources import opened, rows_lacking, without_rows
from facekeep.operations.whose import Held, for_grants
from facekeep.operations.writing import as_found, uncollected, writing
from facekeep.sealing.sealer import template_bytes, view_templates


class Existing(StrEnum):
    """What to do with a subject who already has a living grant in a scope."""

    REFUSE = "refuse"
    SKIP = "skip"
    REPLACE = "replace"
    ADD = "add"


@dataclass(frozen=True, slots=True, eq=False)
class Enrolment:
    """One subject to enrol: ``embeddings`` float32 of shape (k, d), one row a photograph."""

    subject: str
    embeddings: npt.NDArray[np.float32]
    model: Model
    consent: Consent


class _Asked(NamedTuple):
    """One subject of a batch, with what the whole batch looked up at once."""

    what: Enrolment
    consent: Consent
    held: Held
    hashed: bytes
    subject: bytes
    ready: memoryview


def enroll(
    core: Core, session: Session, enrolments: Sequence[Enrolment], existing: Existing = Existing.REFUSE
) -> list[Receipt]:
    """Enrol subjects in one durable operation. Each subject at most once in ``enrolments``.

    Raises UsageError, ConsentError; nothing is enrolled then.
    """
    return as_found(lambda: _enroll(core, session, enrolments, existing))


def _enroll(
    core: Core, session: Session, enrolments: Sequence[Enrolment], existing: Existing
) -> list[Receipt]:
    with (
        writing(core, session, Action.ENROLL) as view,
        contextlib.ExitStack() as cleanup,
        uncollected(len(enrolments)),
    ):
        now = core.clock.now_ms()
        _check_models(core, view, {id(each.model): each.model for each in enrolments}.values())
        asked = _asked(core, view, enrolments, now)
        newcomers = iter(_newcomers(core, [each for each in asked if not each.held.tags], now))
        prepared = [
            _known(core, view, each, existing, now, cleanup) if each.held.tags else next(newcomers)
            for each in asked
        ]
        return carry_out(core, view, session, "enroll", prepared)


def _check_models(core: Core, view: View, models: Iterable[Model]) -> None:
    """Hold models to what their ids stand for: one dimension and metric in a vault (SPEC.md §5.4)."""
    metrics = core.settings.matching.metrics
    seen: dict[str, Model] = {}
    for model in models:
        if seen.setdefault(model.id, model) != model or metrics.get(model.id, model.metric) != model.metric:
            raise _another_model(model)
    for model in seen.values():
        grant = any_of_model(core, view, model.id)
        if grant and (grant.terms.dimension, grant.terms.metric) != (model.dimension, model.metric):
            raise _another_model(model)


def _another_model(model: Model) -> UsageError:
    return UsageError(
        f"{model.id} has another dimension or metric here than {model.dimension} and {model.metric}",
        next="nobody was enrolled; name what made these embeddings by another version, such as raw:NAME/2",
    )


def _asked(core: Core, view: View, enrolments: Sequence[Enrolment], now: int) -> list[_Asked]:
    if len({each.subject for each in enrolments}) != len(enrolments):
        raise UsageError("a subject stands twice in one enrolment")
    subjects = check_subject_ids([each.subject for each in enrolments])
    consents = {id(each.consent): each.consent for each in enrolments}
    settled = {key: consent.settled(now, core.settings.region) for key, consent in consents.items()}
    held = for_grants(core, view, subjects)
    hashes = core.index.hash_many(each.handle for each in held)
    given = [settled[id(each.consent)] for each in enrolments]
    columns = (enrolments, given, held, hashes, subjects, _ready(enrolments))
    return [_Asked(*each) for each in zip(*columns, strict=True)]


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


def _newcomers(core: Core, asked: Sequence[_Asked], now: int) -> list[Prepared]:
    """Prepare subjects who have no living grant: what many share is encoded once for all of them."""
    salts = random_many(len(asked), SALT_LEN)
    tags = subject_tags(core.vault_id, salts, [each.subject for each in asked])
    index_rows = core.index.rows([each.hashed for each in asked], tags)
    blinds = iter(random_many(sum(len(each.consent.scopes) for each in asked), p.KEY_LEN))
    forms: dict[tuple[int, int, int], list[tuple[str, Scope, RecordForm]]] = {}
    prepared = []
    for (what, consent, held, _, _, ready), salt, tag, row in zip(
        asked, salts, tags, index_rows, strict=True
    ):
        images = len(what.embeddings)
        key = (id(consent), id(what.model), images)
        shared = forms.get(key)
        if shared is None:
            shared = forms[key] = _forms(what.model, consent, images, now)
        grants = []
        for model, scope, form in shared:
            record, terms = form.fill(what.subject, salt, next(blinds))
            grants.append(NewGrant(held.handle, tag, model, scope, terms, record, ready))
        prepared.append(Prepared(what.subject, tag, salt, tuple(grants), row))
    return prepared


def _forms(model: Model, consent: Consent, images: int, now: int) -> list[tuple[str, Scope, RecordForm]]:
    """Model id, scope and form of the records of everybody with that many photographs and that consent."""
    return [
        (model.id, scope, RecordForm(consent, scope, _holding(model, "", b"", images), now))
        for scope in consent.scopes
    ]


def _holding(model: Model, subject: str, salt: bytes, images: int) -> Holding:
    count = images if images == 1 else images + 1
    if count > LIMITS.templates:
        raise UsageError(f"a subject can have {LIMITS.templates - 1} photographs at the most")
    return Holding(subject, salt, images, model.id, model.metric, model.dimension, count)


def _known(
    core: Core,
    view: View,
    asked: _Asked,
    existing: Existing,
    now: int,
    cleanup: contextlib.ExitStack,
) -> Prepared:
    """Prepare a subject who has living grants; their index row is made anew where it is gone."""
    what, consent, held, hashed, subject, ready = asked
    tag = held.tags[0]
    grants = living_of(core, view, tag)
    lacking = without_rows(held, grants)
    if grants:
        lacking = [slot for slot in lacking if view.kind_of(slot) in consent.scopes]
    if lacking and existing is not Existing.REPLACE:
        raise rows_lacking()
    salt = grants[0].salt if grants else p.random_bytes(SALT_LEN)
    if not grants:
        tag = subject_tag(core.vault_id, salt, subject)
    index_row = core.index.row(hashed, tag)
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
        of = (held.handle, salt, tag)
        made.append(_fresh_grant(core, view, what, consent, scope, of, ready, old, now, cleanup))
    skipped = tuple(scope.word for scope in consent.scopes if scope not in fresh)
    return Prepared(what.subject, tag, salt, tuple(made), index_row, retire, skipped)


def _fresh_grant(
    core: Core,
    view: View,
    what: Enrolment,
    consent: Consent,
    scope: Scope,
    of: tuple[bytes, bytes, bytes],
    ready: memoryview,
    old: LivingGrant | None,
    now: int,
    cleanup: contextlib.ExitStack,
) -> NewGrant:
    """Grant of new photographs, with those of ``old`` before them where photographs are added.

    ``of`` is the subject's handle, salt and tag.
    """
    model, (handle, salt, tag) = what.model, of
    if old is not None and old.row.model != model.id:
        raise UsageError("photographs of another model cannot be added", next="use --existing replace")
    images = len(what.embeddings) + (0 if old is None else _image_rows(old))
    record, terms = build_record(consent, scope, _holding(model, what.subject, salt, images), now)
    if old is None:
        return NewGrant(handle, tag, model.id, scope, terms, record, ready)

    def combined() -> memoryview:
        before = opened(core, view, old, cleanup)
        first = 0 if old.terms.count == 1 else 1
        count, own = images + 1, len(what.embeddings)
        buffer = cleanup.enter_context(LockedBuffer(4 * count * model.dimension))
        stack = view_templates(buffer.view, count, model.dimension)
        stack[1 : count - own], stack[count - own :] = before[first:], what.embeddings
        fill_mean(model, stack[1:], stack[0])
        return template_bytes(stack)

    return NewGrant(handle, tag, model.id, scope, terms, record, combined, old.row.slot)


def _image_rows(grant: LivingGrant) -> int:
    return grant.terms.count if grant.terms.count == 1 else grant.terms.count - 1


def has_grants(core: Core, subject: str, scopes: Sequence[Scope]) -> bool:
    """Whether a subject has a living grant for each of the scopes."""
    tag = core.index.lookup(core.handles.of(check_subject_id(subject)))
    if tag is None:
        return False
    return set(scopes) <= {grant.scope for grant in living_of(core, core.view(), tag)}
