"""1:1 verification: ask the gate, open, compare, record, and only then answer."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from facekeep.access.core import Core
from facekeep.access.gate import (
    Ask,
    Verdict,
    decision_id,
    denying,
    evaluate,
    is_doubtful,
    reason_of,
    refusal,
)
from facekeep.access.session import Session
from facekeep.auditlog.brake import Asked
from facekeep.auditlog.group import ControlMoved
from facekeep.crypto.memory import Scratch
from facekeep.errors import ClockError, IntegrityError, StoreError
from facekeep.formats import decisions
from facekeep.formats.canonical import JsonObject
from facekeep.formats.entryrules import Reason
from facekeep.matching.answers import Verification
from facekeep.matching.model import Model, distance, score
from facekeep.matching.threshold import Threshold, allows
from facekeep.sealing.sealer import first_template
from facekeep.wiping import wipe

ATTEMPTS = 64


class Question(NamedTuple):
    """A probe of shape (d,), its model, the threshold to judge by, what is asked of the gate, and how."""

    probe: npt.NDArray[np.float32]
    model: Model
    threshold: Threshold
    ask: Ask
    with_score: bool = False


_scratch = Scratch()


def verify(core: Core, session: Session, subject: bytes, question: Question) -> Verification:
    """Compare a probe with one subject; raises Denied, Unavailable."""
    with denying(core, partial(_denial, session, question.ask)):
        return _verify(core, session, subject, question)


def _denial(session: Session, ask: Ask, reason: Reason, now_ms: int) -> JsonObject:
    """Entry for what failed before there was a subject or a row to name."""
    return decisions.decision_verify(
        by=session.by,
        time_ms=now_ms,
        reason=reason,
        scope=ask.scope.word,
        region=ask.region,
        model=ask.model,
    )


def _verify(core: Core, session: Session, subject: bytes, question: Question) -> Verification:
    for attempt in range(ATTEMPTS):
        view = core.view() if attempt else core.recent_view()
        verdict = evaluate(core, session, question.ask, subject, view, again=attempt > 0)
        reason, found = _limited(core, session, verdict, question), 0.0
        if reason is Reason.OK:
            try:
                found = _compare(core, verdict, question)
            except Exception as error:  # noqa: BLE001 - promise 5, as in ``evaluate``
                reason = reason_of(error)
        if is_doubtful(core, view, reason):
            continue
        try:
            decision = _record(core, session, verdict, reason, question, found)
        except (ControlMoved, ClockError):
            continue  # the state last seen is not the present one: evaluate again
        if reason is not Reason.OK:
            raise refusal(reason, decision)
        matched = question.threshold.matches(found, _photographs(verdict))
        told = score(found) if question.with_score else None
        return Verification(matched, decision, question.threshold, told)
    raise StoreError("the vault changed too often to decide; nothing was answered", next="try again")


def _limited(core: Core, session: Session, verdict: Verdict, question: Question) -> Reason:
    """Return the gate's reason, or why the limits on matching refuse what it lets through."""
    if verdict.reason is not Reason.OK or verdict.tag is None or not session.is_bound:
        return verdict.reason
    limits, wanted = core.settings.matching, question.threshold
    if not allows(limits, question.model, wanted, score=question.with_score):
        return Reason.POLICY
    if core.log.refuses(session.by, verdict.tag.hex(), verdict.now_ms):
        return Reason.RATE
    return Reason.OK


def _compare(core: Core, verdict: Verdict, question: Question) -> float:
    row, terms, permit = verdict.row, verdict.terms, verdict.permit
    if row is None or terms is None or permit is None:
        raise IntegrityError("a permit without a row")
    size = 4 * terms.count * terms.dimension
    out = _scratch.take(size)
    try:
        core.sealer.open_templates(permit, verdict.key, row, out)
        return distance(question.model, question.probe, first_template(out, terms.dimension))
    finally:
        out[:] = bytes(size)
        wipe(verdict.key)


def _record(
    core: Core, session: Session, verdict: Verdict, reason: Reason, question: Question, found: float
) -> str:
    allow = reason is Reason.OK
    matched = question.threshold.matches(found, _photographs(verdict)) if allow else None
    entry = decisions.decision_verify(
        by=session.by,
        time_ms=verdict.now_ms,
        reason=reason,
        scope=question.ask.scope.word,
        region=question.ask.region,
        model=question.ask.model,
        threshold_e6=round(question.threshold.limit(_photographs(verdict)) * 1e6) if allow else None,
        tag=verdict.tag,
        slot=None if verdict.row is None else verdict.row.slot,
        match=matched,
        score=allow and question.with_score,
    )
    asked = None
    if matched is not None and verdict.tag is not None and session.is_bound:
        asked = Asked(session.by, verdict.tag.hex(), matched)
    until = verdict.terms.expires_at_ms if allow and verdict.terms is not None else 2**53
    index = core.log.decide(
        entry,
        control_seq=verdict.view.head.control_seq,
        valid_until_ms=until,
        allow=allow,
        asked=asked,
    )
    return decision_id(index, entry)


def _photographs(verdict: Verdict) -> int:
    return 1 if verdict.terms is None else verdict.terms.photographs
