"""Further scopes and renewals: a subject's living templates are opened and sealed again under new terms."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from facekeep.access.core import Core, View
from facekeep.access.roles import Action
from facekeep.access.session import Session
from facekeep.consent.consent import Consent, Holding, build_record
from facekeep.errors import AlreadyEnrolled, ConsentError, SubjectUnknown
from facekeep.formats.ids import check_subject_id
from facekeep.formats.terms import Scope
from facekeep.operations.granting import NewGrant
from facekeep.operations.prepared import Prepared, carry_out
from facekeep.operations.receipts import Receipt
from facekeep.operations.rows import LivingGrant, living_of
from facekeep.operations.sources import opened, rows_lacking, without_rows
from facekeep.operations.whose import for_grants
from facekeep.operations.writing import as_found, writing
from facekeep.sealing.sealer import template_bytes

Sources = Callable[[list[LivingGrant], Consent, int], dict[Scope, LivingGrant]]


def grant(core: Core, session: Session, subject: str, consent: Consent) -> Receipt:
    """Add scopes: a living, unexpired grant is opened under the subject's new consent and sealed again."""

    def sources(grants: list[LivingGrant], whole: Consent, now: int) -> dict[Scope, LivingGrant]:
        have = {each.scope for each in grants} & set(whole.scopes)
        if have:
            raise AlreadyEnrolled(
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

    return as_found(lambda: _reseal(core, session, subject, consent, Action.GRANT, sources))


def renew(core: Core, session: Session, subject: str, consent: Consent) -> Receipt:
    """Give scopes new terms: a new slot each, the old ones shredded."""

    def sources(grants: list[LivingGrant], whole: Consent, _now: int) -> dict[Scope, LivingGrant]:
        by_scope = {each.scope: each for each in grants}
        lacking = [scope.word for scope in whole.scopes if scope not in by_scope]
        if lacking:
            raise SubjectUnknown(
                f"no living grant for {', '.join(lacking)} stands under that subject id; nothing was renewed",
                next="use 'facekeep grant' to add it",
            )
        return {scope: by_scope[scope] for scope in whole.scopes}

    return as_found(lambda: _reseal(core, session, subject, consent, Action.RENEW, sources))


def _reseal(
    core: Core, session: Session, subject: str, consent: Consent, action: Action, sources: Sources
) -> Receipt:
    raw = check_subject_id(subject)
    with writing(core, session, action) as view, contextlib.ExitStack() as cleanup:
        now = core.clock.now_ms()
        whole = consent.settled(now, core.settings.region)
        held = for_grants(core, view, [raw])[0]
        grants = [grant for tag in held.tags for grant in living_of(core, view, tag)]
        if not grants:
            raise SubjectUnknown("no living grant stands under that subject id")
        if any(view.kind_of(slot) in whole.scopes for slot in without_rows(held, grants)):
            raise rows_lacking()
        chosen = sources(grants, whole, now)
        made = tuple(
            _resealed(core, view, (subject, held.handle), source, whole, scope, now, cleanup)
            for scope, source in chosen.items()
        )
        retire = tuple(each.row.slot for each in chosen.values()) if action is Action.RENEW else ()
        prepared = Prepared(subject, held.tags[0], grants[0].salt, made, None, retire)
        return carry_out(core, view, session, action.value, [prepared], "renew")[0]


def _resealed(
    core: Core,
    view: View,
    named: tuple[str, bytes],
    source: LivingGrant,
    consent: Consent,
    scope: Scope,
    now: int,
    cleanup: contextlib.ExitStack,
) -> NewGrant:
    """Return the grant that follows ``source``; ``named`` is the subject's id and handle."""
    terms = source.terms
    holding = Holding(
        named[0],
        source.salt,
        source.images,
        source.row.model,
        terms.metric,
        terms.dimension,
        terms.count,
        source.spread,
    )
    record, fresh = build_record(consent, scope, holding, now)
    return NewGrant(
        named[1],
        source.row.tag,
        source.row.model,
        scope,
        fresh,
        record,
        lambda: template_bytes(opened(core, view, source, cleanup)),
        source.row.slot,
    )
