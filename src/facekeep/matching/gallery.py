"""1:N search over opened templates: a Gallery (DESIGN: matching).

Filled only with grants that are valid now, in locked memory, scanned exactly; every call drops what has
expired and follows what was withdrawn; a watcher drops withdrawn rows even while nobody calls.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, NamedTuple, Self, cast

import numpy as np
import numpy.typing as npt

from facekeep.access.core import Core, View
from facekeep.access.gate import admit, decision_id, denying, is_doubtful, is_logged, reason_of, refusal
from facekeep.access.life import Life, living
from facekeep.access.roles import Action
from facekeep.access.session import Session
from facekeep.arguments import checks_arguments
from facekeep.auditlog.brake import SEARCH, Asked
from facekeep.auditlog.group import ControlMoved
from facekeep.errors import ClockError, IntegrityError, StoreError, UsageError
from facekeep.formats import decisions
from facekeep.formats.canonical import JsonObject
from facekeep.formats.entryrules import Reason
from facekeep.formats.ids import to_ranges
from facekeep.formats.terms import Scope
from facekeep.limits import LIMITS
from facekeep.matching.answers import Candidate, Identification
from facekeep.matching.matrix import FOREVER
from facekeep.matching.members import ATTEMPTS, Members, Progress
from facekeep.matching.model import Model, distances, score
from facekeep.matching.threshold import Threshold, allows, check_pair, default_threshold

_SLACK = 1e-6  # the threshold object judges; this only narrows the list
_RESTLESS: Final = "the vault changed too often to decide; nothing was answered"


class _Hit(NamedTuple):
    """A grant within the threshold: its slot, whose it is, the distance in steps of 0.01."""

    slot: int
    subject: str
    distance: float


@living
@checks_arguments
class Gallery:
    """Opened reference templates of one scope and model, for one principal. A context manager."""

    def __init__(
        self,
        opened: Callable[[], tuple[Core, Session]],
        life: Life,
        scope: Scope,
        model: Model,
        region: str,
        progress: Progress | None = None,
    ) -> None:
        """Open every grant that is valid now; raises Denied when the principal may not, Unavailable."""
        self._opened, self._life = opened, life
        core, session = opened()
        self._core, self._session = core, session
        self.scope, self.model, self.region = scope, model, region
        self._guard = threading.RLock()
        self._closed = False
        with denying(core, self._denial):
            self._members = Members(core, scope, model, region)
            self._rows = self._members.rows
            self._admit()
            self._follow(progress)
        self._be_watched()

    @property
    def closed(self) -> bool:
        """Whether it was closed, or the vault was."""
        return self._closed

    @property
    def locked(self) -> bool:
        """Whether the operating system locked the memory (RLIMIT_MEMLOCK)."""
        return self._rows.locked

    def search(
        self,
        probe: npt.NDArray[np.float32],
        threshold: Threshold | None = None,
        top: int | None = None,
        *,
        with_score: bool = False,
    ) -> Identification:
        """Best ``top`` grants within the threshold, in rank order; recorded before it returns.

        ``probe`` is one embedding, of shape (d,). Threshold and top are by default as for ``Vault.identify``.
        Raises Denied, Unavailable, and UsageError for a probe or threshold of another model: no answer then.
        """
        self._judged_by(threshold, top)
        probe = self.model.check(probe)
        with denying(self._opened()[0], self._denial):  # what it was opened from may be closed by now
            return self._search(probe, threshold, top, with_score=with_score)

    def _judged_by(self, threshold: Threshold | None, top: int | None) -> tuple[Threshold, int]:
        """Return what a search goes by: what was given, else what the settings say; raises UsageError."""
        matching = self._core.settings.matching
        top = matching.top if top is None else top
        if threshold is None:
            threshold = default_threshold(self.model, matching.registered(self.model.id, search=True))
        if not 1 <= top <= LIMITS.candidates:
            raise UsageError(f"top must be between 1 and {LIMITS.candidates}")
        check_pair(self.model, threshold)
        return threshold, top

    def _search(
        self,
        probe: npt.NDArray[np.float32],
        wanted: Threshold | None,
        wanted_top: int | None,
        *,
        with_score: bool,
    ) -> Identification:
        for _ in range(ATTEMPTS):
            with self._guard:
                view = self._follow()
                threshold, top = self._judged_by(wanted, wanted_top)  # by the settings that it follows now
                reason = self._may(view, self._core.clock.now_ms())
                if reason is Reason.OK and self._members.misfits:
                    reason = Reason.MODEL
                now = self._members.now()
                omitted = to_ranges(list(self._members.omitted))
                if reason is Reason.OK and len(omitted) > LIMITS.ranges_per_entry:
                    reason = Reason.UNAVAILABLE
                if reason is Reason.OK:
                    reason = self._limited(threshold, top, now, with_score=with_score)
                hits: list[_Hit] = []
                matched = 0
                if reason is Reason.OK:
                    self._members.drop_expired(now)
                    try:
                        hits, matched = self._scan(view, probe, threshold, top)
                    except UsageError:
                        raise
                    except Exception as error:  # noqa: BLE001 - promise 5: whatever goes wrong is a refusal
                        reason = reason_of(error)
                if reason is not Reason.OK:
                    self._deny(view, reason, now)
                    continue  # the vault changed meanwhile: that may be why
                until = self._members.until_ms
                most = top if matched > top else None
                entry = self._entry(now, threshold, hits, most, score=with_score)
            with contextlib.suppress(ControlMoved, ClockError):
                index = self._core.log.decide(
                    entry,
                    control_seq=view.head.control_seq,
                    valid_until_ms=until,
                    allow=True,
                    asked=Asked(self._session.by, SEARCH, matched > 0) if self._session.is_bound else None,
                )
                decision = decision_id(index, entry)
                count, excluded = cast("int", entry["count"]), cast("int", entry["excluded"])
                found = tuple(
                    Candidate(hit.subject, rank, hit.distance if with_score else None)
                    for rank, hit in enumerate(hits, 1)
                )
                return Identification(found, count, excluded, decision, threshold)
        raise StoreError(_RESTLESS, next="try again")

    def refresh(self) -> None:
        """Follow what changed since the last call: withdrawn grants go, new ones come.

        Where that cannot be done everybody goes, until it can.
        """
        with self._guard:
            try:
                self._follow()
                self._members.drop_expired(self._members.now())
            except BaseException:
                if not self._closed:
                    self._members.empty()
                raise

    def close(self) -> None:
        """Zero the templates and stop watching."""
        for core in (self._core, self._opened()[0]):
            core.watcher.remove(self)
        with self._guard:
            self._closed = True
            self._rows.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _limited(self, threshold: Threshold, top: int, now: int, *, with_score: bool) -> Reason:
        """Why the limits on matching refuse a search, or OK."""
        if not self._session.is_bound:
            return Reason.OK
        if not allows(self._core.settings.matching, self.model, threshold, score=with_score, top=top):
            return Reason.POLICY
        return Reason.RATE if self._core.log.refuses(self._session.by, SEARCH, now) else Reason.OK

    def _scan(
        self, view: View, probe: npt.NDArray[np.float32], threshold: Threshold, top: int
    ) -> tuple[list[_Hit], int]:
        """Best hits in rank order, and how many grants matched.

        A record that does not open fails the whole search: no match is hidden.
        """
        if not self._rows.count:
            return [], 0
        found = distances(self.model, probe, self._rows.matrix)
        means = self._rows.means
        near = np.flatnonzero(found <= np.where(means, threshold.limit(2), threshold.limit()) + _SLACK)
        order = near[np.lexsort((self._rows.slots[near], found[near]))]
        best = [
            (int(self._rows.slots[at]), float(found[at]))
            for at in order
            if threshold.matches(float(found[at]), 2 if means[at] else 1)
        ]
        named = [_Hit(slot, self._subject(view, slot), score(found)) for slot, found in best[:top]]
        return named, len(best)

    def _subject(self, view: View, slot: int) -> str:
        """Whom a grant belongs to, by the row that the log gave its slot to."""
        for row in self._core.data.by_slots([slot]):
            if not is_logged(self._core, row):
                raise IntegrityError("the row of an opened grant is not the one that the log announced")
            record = self._core.sealer.open_record(self._core.slot_key(view, slot), row)
            return str(record["subject"])
        raise IntegrityError("the row of an opened grant is gone from vault.db")

    def _entry(
        self, now: int, threshold: Threshold, hits: Sequence[_Hit], most: int | None, *, score: bool
    ) -> JsonObject:
        return decisions.decision_identify(
            by=self._session.by,
            time_ms=now,
            reason=Reason.OK,
            scope=self.scope.word,
            region=self.region,
            model=self.model.id,
            threshold_e6=threshold.limits.value_e6,
            mean_e6=threshold.limits.mean_e6,
            most=most,
            score=score,
            count=self._rows.count,
            set_digest=self._rows.digest.digest(),
            candidates=[hit.slot for hit in hits],
            excluded=len(self._members.excluded) + len(self._members.omitted),
            omitted=sorted(self._members.omitted),
        )

    def _admit(self) -> None:
        for _ in range(ATTEMPTS):
            view, now = self._core.view(), self._core.clock.now_ms()
            reason = self._may(view, now)
            if reason is Reason.OK:
                return
            self._deny(view, reason, now)
        raise StoreError(_RESTLESS, next="try again")

    def _deny(self, view: View, reason: Reason, now: int) -> None:
        """Record a refusal and raise it; return where the vault changed meanwhile."""
        if is_doubtful(self._core, view, reason):
            return
        entry = self._denial(reason, now)
        with contextlib.suppress(ControlMoved):
            index = self._core.log.decide(
                entry, control_seq=view.head.control_seq, valid_until_ms=FOREVER, allow=False
            )
            raise refusal(reason, decision_id(index, entry))

    def _denial(self, reason: Reason, now_ms: int) -> JsonObject:
        return decisions.decision_identify(
            by=self._session.by,
            time_ms=now_ms,
            reason=reason,
            scope=self.scope.word,
            region=self.region,
            model=self.model.id,
        )

    def _follow(self, progress: Progress | None = None) -> View:
        if self._closed:
            raise UsageError("the gallery is closed", next="open another one")
        core, session = self._opened()
        if core is not self._core:  # opened again, under other settings
            members, old = Members(core, self.scope, self.model, self.region), self._rows
            self._core, self._session = core, session
            self._members, self._rows = members, members.rows
            old.close()
        view = core.view()
        if self._is_trusted(view):
            view = self._members.follow(progress)
        if not self._is_trusted(view):  # before it was followed, or meanwhile
            self._members.empty()
        return view

    def _be_watched(self) -> None:
        """Have the vault that is open now look after it: that may be another one since this one filled."""
        while True:
            core = self._opened()[0]
            core.watcher.add(self)
            if self._opened()[0] is core:
                return  # who opens it again from now on takes it along
            core.watcher.remove(self)

    def _is_trusted(self, view: View) -> bool:
        """Whether the principal may have opened templates at all: not once it, or the region, is revoked."""
        allowed = self.region in self._core.settings.all_regions
        return allowed and self._session.check(view, Action.IDENTIFY) is Reason.OK

    def _may(self, view: View, now: int) -> Reason:
        return admit(self._core, self._session, view, Action.IDENTIFY, self.region, now)
