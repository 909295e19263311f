"""Destroying grants that lapsed some time ago: by the log's own terms, and not without looking at the clock.

The end of a grant is taken from the entry that announced it, which the head commits to; what stands in
vault.db is not even read for it. Nothing is destroyed by itself that is more than a share of its scope, nor
after a jump of the clock: a person says so then (DESIGN: the gate).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

from facekeep.access.core import Core
from facekeep.access.roles import Action
from facekeep.access.session import Session
from facekeep.auditlog.history import Gap
from facekeep.clock import MS_PER_DAY
from facekeep.formats import entries
from facekeep.formats.terms import Scope
from facekeep.limits import LIMITS
from facekeep.operations.census import Census, census
from facekeep.operations.destroy import Destruction, destroy
from facekeep.operations.health import check_ready
from facekeep.operations.steps import reached
from facekeep.operations.whose import left_with_nothing
from facekeep.operations.writing import writing

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Expiring:
    """What is past its grace: slots to destroy now, and by scope how many wait for a person, and why."""

    slots: tuple[int, ...]
    waiting: Mapping[str, int]
    why: str = ""

    @property
    def waits(self) -> int:
        """Grants that wait for a person."""
        return sum(self.waiting.values())


@dataclass(frozen=True, slots=True)
class Expired:
    """What was done: index of the log's intent (None: nothing), grants destroyed, subjects left with none."""

    entry: int | None
    grants: int
    subjects: int
    waiting: Expiring


def plan(core: Core, found: Census, *, confirmed: bool = False) -> Expiring:
    """Say what would be destroyed now; with ``confirmed`` a person has looked at what waits."""
    schedule = core.settings.schedule
    due = found.lapsed(schedule.ms("grace_days"))
    history = core.ledger.history()
    gap = None if confirmed else history.gap(schedule.ms("jump_hours"), found.now_ms)
    today = _today(core, found)
    slots: list[int] = []
    waiting: dict[str, int] = {}
    why = ""
    for scope in Scope:
        mine = found.of(scope)
        wanted = found.slots[due & mine]
        if not len(wanted):
            continue
        most = _most(core, int(mine.sum()))
        many = len(wanted) + sum(each for each in today.get(scope, ()) if each <= most) > most
        if not confirmed and (gap is not None or many):
            waiting[scope.word] = len(wanted)
            why = _of_gap(gap) if gap is not None else _of_share(scope, len(wanted), int(mine.sum()))
        else:
            slots += wanted.tolist()
    return Expiring(tuple(slots), waiting, why)


def _most(core: Core, living: int) -> int:
    """Grants of a scope that are destroyed in a day without a person."""
    return max(core.settings.schedule.shred_count, living * LIMITS.expire_percent // 100)


def _today(core: Core, found: Census) -> Mapping[int, list[int]]:
    """Grants that each expiry of the last 24 hours destroyed, by scope.

    One above the limit was a person's, and does not count against what happens by itself.
    """
    counts: dict[tuple[int, int], int] = {}
    operation = 0
    for time_ms, body in core.ledger.history().expiries:
        if time_ms <= found.now_ms - MS_PER_DAY:
            continue
        part = entries.parse(body)
        operation += part["part"] == 1
        for first, count in cast("list[tuple[int, int]]", part["slots"]):
            key = found.view.kind_of(first), operation
            counts[key] = counts.get(key, 0) + count
    by_scope: dict[int, list[int]] = {}
    for (kind, _), count in counts.items():
        by_scope.setdefault(kind, []).append(count)
    return by_scope


def _of_gap(gap: Gap) -> str:
    if gap.to_ms < gap.from_ms:
        return "the log's time was set back"
    days = (gap.to_ms - gap.from_ms) / MS_PER_DAY
    return f"the log was silent for {days:.1f} days: the clock may have jumped"


def _of_share(scope: Scope, wanted: int, living: int) -> str:
    return f"{wanted} of {living} grants for {scope.word} are more than {LIMITS.expire_percent} % in a day"


def expire(
    core: Core, session: Session, *, confirmed: bool = False, progress: Progress | None = None
) -> Expired:
    """Destroy what is past its grace, in one batch; subjects left with nothing leave the index with it.

    Raises ErasurePending, with nothing announced, while a holder or a copy is away.
    """
    with writing(core, session, Action.SHRED) as view:
        core.ledger.expiries(progress)
        wanted = plan(core, census(core, view), confirmed=confirmed)
        if not wanted.slots:
            return Expired(None, 0, 0, wanted)
        check_ready(core, view)
        left = left_with_nothing(core, view, wanted.slots)
        reached("expire.found")
        hashes = core.index.hash_many(left)
        index = destroy(core, session.by, Destruction("expire", wanted.slots, hashes=hashes))
        return Expired(index, len(wanted.slots), len(left), wanted)
