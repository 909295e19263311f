"""What an operator and a subject's advocate look at: subjects and their grants, one decision."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from facekeep.access.core import Core
from facekeep.access.roles import Action
from facekeep.access.session import Session
from facekeep.answers import Ambiguous
from facekeep.errors import IntegrityError, UsageError
from facekeep.formats.canonical import JsonObject
from facekeep.formats.terms import Scope
from facekeep.operations.rows import LivingGrant, living

Progress = Callable[[int, int], None]
_DECISION = re.compile(r"(0|[1-9][0-9]{0,15})-([0-9a-f]{8})\Z")


@dataclass(frozen=True, slots=True)
class GrantInfo(Ambiguous):
    """One grant as listed. ``state``: live, not_yet or expired; times in ms."""

    scope: str
    state: str
    not_before_ms: int
    expires_at_ms: int
    regions: tuple[str, ...]
    model: str
    images: int
    slot: int


@dataclass(frozen=True, slots=True)
class SubjectInfo:
    """A subject with living slots, and the grants."""

    subject: str
    tag: str
    grants: tuple[GrantInfo, ...]


def subjects(
    core: Core, session: Session, *, due_within_ms: int | None = None, progress: Progress | None = None
) -> Iterator[SubjectInfo]:
    """Yield subjects by tag; with ``due_within_ms`` only those with a grant that ends within that time.

    Opens every consent record, no template. Raises IntegrityError at the end where rows were altered: whose
    they are cannot be said, and the others are listed all the same.
    """
    session.require(Action.SUBJECTS)
    view = core.view()
    now = core.clock.now_ms()
    total = core.data.count()
    by_tag: dict[bytes, tuple[str, list[GrantInfo]]] = {}  # and not the rows: a million take gigabytes
    altered: list[int] = []
    for done, row in enumerate(core.data.rows()):
        if progress is not None and done % 1_000 == 0:
            progress(done, total)
        try:
            grant = living(core, view, row)
        except IntegrityError:
            altered.append(row.slot)
            continue
        if grant is not None:
            by_tag.setdefault(row.tag, (grant.subject, []))[1].append(_info(grant, now))
    for tag in sorted(by_tag):
        subject, grants = by_tag[tag]
        if due_within_ms is None or any(each.expires_at_ms <= now + due_within_ms for each in grants):
            yield SubjectInfo(subject, tag.hex(), tuple(sorted(grants, key=_scope)))
    if altered:
        raise IntegrityError(f"{len(altered)} rows of vault.db were altered, and are not listed")


def _scope(grant: GrantInfo) -> Scope:
    return Scope.from_word(grant.scope)


def _info(grant: LivingGrant, now: int) -> GrantInfo:
    terms = grant.terms
    state = "not_yet" if now < terms.not_before_ms else "expired" if now >= terms.expires_at_ms else "live"
    return GrantInfo(
        terms.scope.word,
        state,
        terms.not_before_ms,
        terms.expires_at_ms,
        terms.regions,
        grant.row.model,
        grant.images,
        grant.row.slot,
    )


def decision(core: Core, session: Session, identity: str) -> JsonObject:
    """Log entry of a decision id such as ``1234-9f8a7c6d``; raises UsageError when there is none."""
    session.require(Action.STATUS)
    match = _DECISION.match(identity)
    if match is None or int(match[1]) >= core.log.head().size:
        raise UsageError("no decision has that id")
    entry = core.log.entry(int(match[1]))
    if entry["type"] != "decision" or not str(entry["nonce"]).startswith(match[2]):
        raise UsageError("no decision has that id")
    return entry
