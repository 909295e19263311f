"""Enrolment: new subjects, and new photographs of those who are enrolled already."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
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
    subject_tags,
)
from facekeep.crypto import primitives as p
from facekeep.crypto.many import random_many
from facekeep.crypto.memory import LockedBuffer
from facekeep.errors import AlreadyEnrolled, NotOnePerson, UsageError, WrongType
from facekeep.formats.canonical import JsonObject
from facekeep.formats.ids import SALT_LEN, check_subject_id, check_subject_ids
from facekeep.formats.terms import Scope
from facekeep.limits import LIMITS
from facekeep.matching.model import Model, distances, fill_mean, reference_stack
from facekeep.matching.oneperson import RowLimits, check_one_person
from facekeep.matching.threshold import row_limits
from facekeep.operations.destroy import Destruction, destroy
from facekeep.operations.granting import NewGrant
from facekeep.operations.prepared import Prepared, carry_out
from facekeep.operations.receipts import Receipt
from facekeep.operations.recover import recover
from facekeep.operations.rows import LivingGrant, any_of_model, living_of
from facekeep.operations.sources import opened, rows_lacking, without_rows
from facekeep.operations.whose import Held, by_tag, for_grants
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
    """One subject to enrol: ``embeddings`` float32 of shape (k, d), one row a photograph.

    ``names`` are what messages call the rows, if there is one for each.
    """

    subject: str
    embeddings: npt.NDArray[np.float32]
    model: Model
    consent: Consent
    names: tuple[str, ...] = ()


class _Reference(NamedTuple):
    """What is sealed for a subject (SPEC §5.4), and how far apart the rows of several photographs lie."""

    templates: memoryview
    spread: JsonObject | None


class _Asked(NamedTuple):
    """One subject of a batch, with what the whole batch looked up at once."""

    what: Enrolment
    consent: Consent
    held: Held
    hashed: bytes
    subject: bytes
    ready: _Reference


def enroll(
    core: Core, session: Session, enrolments: Sequence[Enrolment], existing: Existing = Existing.REFUSE
) -> list[Receipt]:
    """Enrol subjects in one durable operation. Each subject at most once in ``enrolments``.

    Raises UsageError, NotOnePerson, ConsentError; nothing is enrolled then.
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
        enrolments = [_checked(each) for each in enrolments]
        _check_models(core, view, {id(each.model): each.model for each in enrolments}.values())
        seen, asked = view, _asked(core, view, enrolments, now)
        if existing is Existing.REPLACE and _give_up(core, session, view, asked):
            seen = core.view()
            asked = _asked(core, seen, enrolments, now)
        newcomers = iter(_newcomers(core, [each for each in asked if not each.held.tags], now))
        prepared = [
            _known(core, seen, each, existing, now, cleanup) if each.held.tags else next(newcomers)
            for each in asked
        ]
        try:
            return carry_out(core, seen, session, "enroll", prepared)
        except NotOnePerson:  # seen only when the templates that were to be added to were open
            recover(core)
            raise


def _checked(what: Enrolment) -> Enrolment:
    """Hold what a caller made to its types; raises UsageError."""
    made: object = what
    if not isinstance(made, Enrolment) or not isinstance(made.model, Model):
        raise WrongType("a person is enrolled by an Enrolment, which has a Model")
    if not isinstance(made.subject, str):
        raise WrongType("subject takes text")
    names: object = made.names
    if not isinstance(names, tuple) or not all(isinstance(each, str) for each in names):
        raise WrongType("names takes a tuple of texts")
    rows: object = what.embeddings
    if type(rows) is np.ndarray and rows.dtype == np.float32 and rows.ndim == 2:  # noqa: PLR2004 - axes
        return what
    return replace(what, embeddings=what.model.check_rows(what.embeddings))


def _check_models(core: Core, view: View, models: Iterable[Model]) -> None:
    """Hold models to what their ids stand for: one dimension and metric in a vault (SPEC §5.4)."""
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
    if not all(isinstance(each.consent, Consent) for each in enrolments):
        raise WrongType("consent takes a Consent")
    subjects = check_subject_ids([each.subject for each in enrolments])
    consents = {id(each.consent): each.consent for each in enrolments}
    settled = {key: consent.settled(now, core.settings.region) for key, consent in consents.items()}
    held = for_grants(core, view, subjects)
    hashes = core.index.hash_many(each.handle for each in held)
    given = [settled[id(each.consent)] for each in enrolments]
    columns = (enrolments, given, held, hashes, subjects, _ready(core, enrolments))
    return [_Asked(*each) for each in zip(*columns, strict=True)]


def _ready(core: Core, enrolments: Sequence[Enrolment]) -> list[_Reference]:
    """Return each subject's reference; subjects with one photograph are checked all at once."""
    models = {id(each.model): each.model for each in enrolments}
    if len(models) > 1 or any(len(each.embeddings) != 1 for each in enrolments):
        return [reference(core, each) for each in enrolments]
    if not enrolments:
        return []
    model = enrolments[0].model
    try:
        together = np.concatenate([each.embeddings for each in enrolments])
    except ValueError:
        raise UsageError(f"an embedding of {model.id} is {model.dimension} numbers") from None
    whole = template_bytes(model.check_many(together))
    width = 4 * model.dimension
    return [_Reference(whole[at * width : (at + 1) * width], None) for at in range(len(enrolments))]


def reference(core: Core, what: Enrolment) -> _Reference:
    """Return what is sealed for a subject; raises UsageError, NotOnePerson."""
    model, rows = what.model, what.model.check_many(what.embeddings)
    _count(len(rows))
    if len(rows) == 1:
        return _Reference(template_bytes(rows), None)
    limits = _limits(core, model)
    apart = check_one_person(model, rows, limits, what.names)
    stack = reference_stack(model, rows)
    return _Reference(template_bytes(stack), _spread(limits, apart, distances(model, stack[0], rows).max()))


def _limits(core: Core, model: Model) -> RowLimits:
    limits = row_limits(model, core.settings.matching)
    if limits is None:
        raise UsageError(
            f"no threshold is registered for {model.id}: nothing says whether several rows are one person's",
            next="nobody was enrolled; register one (facekeep settings --threshold FILE), or enrol one row",
        )
    return limits


def _spread(limits: RowLimits, rows: float | None, mean: float | None) -> JsonObject:
    """Distances times 10^6, as they stand in the record; None: not measured before it was sealed."""
    found = {"mean_e6": mean, "rows_e6": rows, "group_limit_e6": limits.groups, "row_limit_e6": limits.rows}
    return {key: None if each is None else max(0, round(each * 1e6)) for key, each in found.items()}


def _give_up(core: Core, session: Session, view: View, asked: Sequence[_Asked]) -> bool:
    """End grants whose rows are lost and whose salt went with them: the subject gets another tag.

    Nothing but a withdrawal ends them: a replacement ends grants of its own tag (SPEC §11 R15).
    """
    lost = [part for each in asked if each.held.tags for part in _under_a_lost_tag(core, view, each)]
    for slots in lost:
        destroy(core, session.by, Destruction("withdraw", slots))
    return bool(lost)


def _under_a_lost_tag(core: Core, view: View, asked: _Asked) -> list[list[int]]:
    """Slots of the scopes asked for that are under another tag than living rows are; all, where none are."""
    held, scopes = asked.held, asked.consent.scopes
    grants = living_of(core, view, held.tags[0])
    lacking = without_rows(held, grants)
    if not grants:
        return by_tag(core, held, lacking)
    own = set(core.ledger.slots_of(held.tags[0]))
    other = [slot for slot in lacking if slot not in own and view.kind_of(slot) in scopes]
    return by_tag(core, held, other)


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
            record, terms = form.fill(what.subject, salt, next(blinds), ready.spread)
            grants.append(NewGrant(held.handle, tag, model, scope, terms, record, ready.templates))
        prepared.append(Prepared(what.subject, tag, salt, tuple(grants), row))
    return prepared


def _forms(model: Model, consent: Consent, images: int, now: int) -> list[tuple[str, Scope, RecordForm]]:
    """Model id, scope and form of the records of everybody with that many photographs and that consent."""
    return [
        (model.id, scope, RecordForm(consent, scope, _holding(model, "", b"", images), now))
        for scope in consent.scopes
    ]


def _holding(
    model: Model, subject: str, salt: bytes, images: int, spread: JsonObject | None = None
) -> Holding:
    count = _count(images)
    return Holding(subject, salt, images, model.id, model.metric, model.dimension, count, spread)


def _count(images: int) -> int:
    """Count the rows of what is sealed: the mean of several photographs is one more."""
    if not images:
        raise UsageError("a subject is enrolled from at least one photograph")
    if images >= LIMITS.templates:
        raise UsageError(f"a subject can have {LIMITS.templates - 1} photographs at the most")
    return images if images == 1 else images + 1


def _known(
    core: Core,
    view: View,
    asked: _Asked,
    existing: Existing,
    now: int,
    cleanup: contextlib.ExitStack,
) -> Prepared:
    """Prepare a subject who has living grants; their index row is made anew where it is gone."""
    what, consent, held, hashed, _, ready = asked
    tag = held.tags[0]
    grants = living_of(core, view, tag)
    lacking = without_rows(held, grants)
    if grants:
        lacking = [slot for slot in lacking if view.kind_of(slot) in consent.scopes]
    if lacking and existing is not Existing.REPLACE:
        raise rows_lacking()
    salt = grants[0].salt
    index_row = core.index.row(hashed, tag)
    taken = {grant.scope: grant for grant in grants if grant.scope in consent.scopes}
    if taken and existing is Existing.REFUSE:
        words = ", ".join(scope.word for scope in sorted(taken))
        raise AlreadyEnrolled(
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
    ready: _Reference,
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
    limits = None if old is None else _limits(core, model)
    spread = ready.spread if limits is None else _spread(limits, None, None)
    record, terms = build_record(consent, scope, _holding(model, what.subject, salt, images, spread), now)
    if old is None or limits is None:
        return NewGrant(handle, tag, model.id, scope, terms, record, ready.templates)

    def combined() -> memoryview:
        before = opened(core, view, old, cleanup)
        first = 0 if old.terms.count == 1 else 1
        count, own = images + 1, len(what.embeddings)
        buffer = cleanup.enter_context(LockedBuffer(4 * count * model.dimension))
        stack = view_templates(buffer.view, count, model.dimension)
        stack[1 : count - own], stack[count - own :] = before[first:], what.embeddings
        given = what.names or [f"row {at}" for at in range(1, own + 1)]
        earlier = ["a photograph enrolled earlier"] * (images - own)
        check_one_person(model, stack[1:], limits, [*earlier, *given])
        fill_mean(model, stack[1:], stack[0])
        return template_bytes(stack)

    return NewGrant(handle, tag, model.id, scope, terms, record, combined, old.row.slot)


def _image_rows(grant: LivingGrant) -> int:
    return grant.terms.count if grant.terms.count == 1 else grant.terms.count - 1


def has_grants(core: Core, subject: str, scopes: Sequence[Scope]) -> bool:
    """Whether a subject has a living grant for each of the scopes; raises UsageError for none of them."""
    if not scopes:
        raise UsageError("no scope was named")
    tag = core.index.lookup(core.handles.of(check_subject_id(subject)))
    if tag is None:
        return False
    return set(scopes) <= {grant.scope for grant in living_of(core, core.view(), tag)}
