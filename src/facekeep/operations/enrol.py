"""Enrolment, further scopes, renewal: every way a subject's grants come to be."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from facekeep.access.core import Core, View
from facekeep.access.gate import permit_reseal
from facekeep.access.roles import Action
from facekeep.access.session import Session
from facekeep.consent.consent import Consent, Holding, build_record, subject_tag
from facekeep.crypto import primitives as p
from facekeep.crypto.memory import LockedBuffer
from facekeep.errors import ConsentError, SubjectUnknown, UsageError
from facekeep.formats.canonical import JsonObject
from facekeep.formats.ids import SALT_LEN, check_subject_id
from facekeep.formats.terms import Scope
from facekeep.limits import LIMITS
from facekeep.matching.model import Model, reference_stack
from facekeep.operations.erase import living_slots
from facekeep.operations.granting import Batch, NewGrant, make_grants
from facekeep.operations.indexed import changing, check_indexed, twice_enrolled
from facekeep.operations.rows import LivingGrant, living_of
from facekeep.operations.writing import writing
from facekeep.sealing.sealer import template_bytes, view_templates


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


class GrantReceipt(NamedTuple):
    """One grant as told to the subject. Times in ms."""

    scope: str
    grant: str
    slot: int
    expires_at_ms: int


class Receipt(NamedTuple):
    """What the subject is given: the opening of the tag (``salt``), and the grants."""

    subject: str
    tag: str
    salt: str
    grants: tuple[GrantReceipt, ...]
    skipped: tuple[str, ...] = ()

    def to_json(self) -> JsonObject:
        """Return the receipt as JSON."""
        return {
            "grants": [
                {
                    "expires_at_ms": grant.expires_at_ms,
                    "grant": grant.grant,
                    "scope": grant.scope,
                    "slot": grant.slot,
                }
                for grant in self.grants
            ],
            "salt": self.salt,
            "skipped": list(self.skipped),
            "subject": self.subject,
            "tag": self.tag,
        }


class _Prepared(NamedTuple):
    """A subject's part of a batch."""

    subject: str
    tag: bytes
    salt: bytes
    grants: tuple[NewGrant, ...]
    index_row: tuple[bytes, bytes] | None
    retire: tuple[int, ...]
    skipped: tuple[str, ...] = ()


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
                return _carry_out(core, view, session, "enroll", prepared)


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
) -> _Prepared:
    subject, hashed, tag, ready = known
    grants = [] if tag is None else living_of(core, view, tag)
    lacking = [] if tag is None else without_rows(core, view, tag, grants)
    if grants:
        lacking = [slot for slot in lacking if view.kind_of(slot) in consent.scopes]
    if lacking and existing is not Existing.REPLACE:
        raise _rows_lacking()
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
    return _Prepared(what.subject, tag, salt, tuple(made), index_row, retire, skipped)


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
        opened = _opened(core, view, old, cleanup)
        first = 0 if old.terms.count == 1 else 1
        whole = np.concatenate((opened[first:], what.embeddings))
        stack = reference_stack(model, whole)
        cleanup.callback(whole.fill, 0)
        cleanup.callback(stack.fill, 0)
        return template_bytes(stack)

    return NewGrant(tag, model.id, scope, terms, record, combined, old.row.slot)


def without_rows(core: Core, view: View, tag: bytes, grants: Sequence[LivingGrant]) -> list[int]:
    """Living slots of a subject, by the log, that are not among its grants in vault.db.

    A second grant made beside one of them would outlive the subject's next renewal or erasure.
    """
    known = {grant.row.slot for grant in grants}
    return [
        slot
        for slot in living_slots(core, view, tag)
        if slot not in known and not view.pending.destroying(slot)
    ]


def _rows_lacking() -> UsageError:
    return UsageError(
        "the subject has living grants whose rows are missing from vault.db",
        next="restore a backup that has them; or enrol with --existing replace, or shred the subject",
    )


def _image_rows(grant: LivingGrant) -> int:
    return grant.terms.count if grant.terms.count == 1 else grant.terms.count - 1


def _opened(
    core: Core, view: View, grant: LivingGrant, cleanup: contextlib.ExitStack
) -> npt.NDArray[np.float32]:
    """Open a living grant's templates to seal them again; called after the intent names it."""
    size = 4 * grant.terms.count * grant.terms.dimension
    buffer = cleanup.enter_context(LockedBuffer(size))
    key = core.sealer.row_key(core.slot_key(view, grant.row.slot), grant.row)
    core.sealer.open_templates(permit_reseal(view, grant.row), key, grant.row, buffer.view)
    return view_templates(buffer.view, grant.terms.count, grant.terms.dimension)


def _carry_out(
    core: Core,
    view: View,
    session: Session,
    op: str,
    prepared: Sequence[_Prepared],
    retire_op: str = "reseal",
) -> list[Receipt]:
    grants = [grant for each in prepared for grant in each.grants]
    index_rows = [each.index_row for each in prepared if each.index_row is not None]
    retire = [slot for each in prepared for slot in each.retire]
    batch = Batch(op, grants, index_rows, retire, retire_op)
    made = make_grants(core, view, session.by, batch) if grants else []
    at = 0
    receipts = []
    for each in prepared:
        mine = made[at : at + len(each.grants)]
        at += len(each.grants)
        receipts.append(
            Receipt(
                each.subject,
                each.tag.hex(),
                each.salt.hex(),
                tuple(
                    GrantReceipt(grant.scope.word, row.grant_id.hex(), row.slot, _expiry(grant.terms))
                    for grant, row in zip(each.grants, mine, strict=True)
                ),
                each.skipped,
            )
        )
    return receipts


def grant(core: Core, session: Session, subject: str, consent: Consent) -> Receipt:
    """Add scopes: a living, unexpired grant is opened under the subject's new consent and sealed again."""

    def sources(grants: list[LivingGrant], whole: Consent, now: int) -> dict[Scope, LivingGrant]:
        have = {each.scope for each in grants} & set(whole.scopes)
        if have:
            raise UsageError(
                f"the subject already has a grant for {', '.join(scope.word for scope in sorted(have))}",
                next="use 'facekeep renew' for new terms",
            )
        usable = [each for each in grants if each.terms.not_before_ms <= now < each.terms.expires_at_ms]
        if not usable:
            raise ConsentError(
                "every grant of the subject has expired; its templates are not opened for another scope",
                next="renew a grant first, or enrol again from photographs",
            )
        return dict.fromkeys(whole.scopes, usable[0])

    return _reseal(core, session, subject, consent, Action.GRANT, sources)


def renew(core: Core, session: Session, subject: str, consent: Consent) -> Receipt:
    """Give scopes new terms: a new slot each, the old ones shredded."""

    def sources(grants: list[LivingGrant], whole: Consent, _now: int) -> dict[Scope, LivingGrant]:
        by_scope = {each.scope: each for each in grants}
        lacking = [scope.word for scope in whole.scopes if scope not in by_scope]
        if lacking:
            raise UsageError(
                f"the subject has no grant for {', '.join(lacking)}", next="use 'facekeep grant' to add it"
            )
        return {scope: by_scope[scope] for scope in whole.scopes}

    return _reseal(core, session, subject, consent, Action.RENEW, sources)


Sources = Callable[[list[LivingGrant], Consent, int], dict[Scope, LivingGrant]]


def _reseal(
    core: Core, session: Session, subject: str, consent: Consent, action: Action, sources: Sources
) -> Receipt:
    raw = check_subject_id(subject)
    with writing(core, session, action) as view, contextlib.ExitStack() as cleanup:
        now = core.clock.now_ms()
        whole = consent.settled(now, core.settings.region)
        tag = core.index.lookup(raw)
        grants = [] if tag is None else living_of(core, view, tag)
        if tag is None or not grants:
            raise SubjectUnknown("no living grant stands under that subject id")
        if any(view.kind_of(slot) in whole.scopes for slot in without_rows(core, view, tag, grants)):
            raise _rows_lacking()
        chosen = sources(grants, whole, now)
        made = tuple(
            _resealed(core, view, subject, source, whole, scope, now, cleanup)
            for scope, source in chosen.items()
        )
        retire = tuple(each.row.slot for each in chosen.values()) if action is Action.RENEW else ()
        prepared = _Prepared(subject, tag, grants[0].salt, made, None, retire)
        return _carry_out(core, view, session, action.value, [prepared], "renew")[0]


def _resealed(
    core: Core,
    view: View,
    subject: str,
    source: LivingGrant,
    consent: Consent,
    scope: Scope,
    now: int,
    cleanup: contextlib.ExitStack,
) -> NewGrant:
    model = source.record["model"]
    metric = str(model["metric"]) if isinstance(model, dict) else ""
    terms = source.terms
    holding = Holding(
        subject, source.salt, source.images, source.row.model, metric, terms.dimension, terms.count
    )
    record, fresh = build_record(consent, scope, holding, now)
    return NewGrant(
        source.row.tag,
        source.row.model,
        scope,
        fresh,
        record,
        lambda: template_bytes(_opened(core, view, source, cleanup)),
        source.row.slot,
    )


def has_grants(core: Core, subject: str, scopes: Sequence[Scope]) -> bool:
    """Whether a subject has a living grant for each of the scopes."""
    tag = core.index.lookup(check_subject_id(subject))
    if tag is None:
        return False
    return set(scopes) <= {grant.scope for grant in living_of(core, core.view(), tag)}


def _expiry(terms: bytes) -> int:
    return int.from_bytes(terms[12:20], "big")
