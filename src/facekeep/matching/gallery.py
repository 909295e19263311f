"""1:N search over opened templates: a Gallery (DESIGN: matching).

Filled only with grants that are valid now, in locked memory, scanned exactly; every call drops what has
expired and follows what was withdrawn; a watcher drops withdrawn rows even while nobody calls.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import NoReturn, Self, cast

import numpy as np
import numpy.typing as npt

from facekeep.access.core import Core, View
from facekeep.access.gate import admit, permit_gallery
from facekeep.access.roles import Action
from facekeep.access.session import Session
from facekeep.auditlog.group import ControlMoved
from facekeep.errors import (
    ClockError,
    Denied,
    FacekeepError,
    IntegrityError,
    SlotDead,
    StoreError,
    UsageError,
)
from facekeep.formats import decisions
from facekeep.formats.canonical import JsonObject
from facekeep.formats.entryrules import Reason
from facekeep.formats.ids import SLOT_BITS, from_ranges, to_ranges
from facekeep.formats.terms import TERMS_DTYPE, Scope, valid_now
from facekeep.keys.tree import TreeStale
from facekeep.limits import LIMITS
from facekeep.matching.matrix import FOREVER, Matrix
from facekeep.matching.model import Model, distances
from facekeep.matching.threshold import Threshold
from facekeep.sealing.bulk import open_references
from facekeep.store.sealedrows import SealedRows
from facekeep.store.vaultdb import without_records

Progress = Callable[[int, int], None]
ATTEMPTS = 64
_CHUNK = 4_096
_WATCH_S = 0.4
_SLACK = 1e-6  # the threshold object judges; this only narrows the list


@dataclass(frozen=True, slots=True)
class Hit:
    """A candidate: its slot, the caller's subject id, its distance."""

    slot: int
    subject: str
    distance: float


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Hits in rank order, how many grants were compared and left out, and the decision's id."""

    hits: tuple[Hit, ...]
    compared: int
    excluded: int
    decision: str


class Gallery:
    """Opened reference templates of one scope and model, for one principal. A context manager."""

    def __init__(
        self,
        core: Core,
        session: Session,
        scope: Scope,
        model: Model,
        region: str,
        progress: Progress | None = None,
    ) -> None:
        """Open every grant that is valid now; raises Denied when the principal may not."""
        self._core, self._session = core, session
        self.scope, self.model, self.region = scope, model, region
        self._guard = threading.RLock()
        self._rows = Matrix(model.dimension)
        self._closed = False
        self._seen = 0
        self._control_seq = -1
        self._excluded: set[int] = set()  # left out because of authentic terms
        self._omitted: set[int] = set()  # the log allows them, but their row is missing or damaged
        self._wake_ms = FOREVER
        self._latest_ms = 0
        self._admit(core.view())
        self._follow(progress)
        self._stop = threading.Event()
        watcher = threading.Thread(
            target=_watch, args=(weakref.ref(self), self._stop), name="facekeep-gallery", daemon=True
        )
        watcher.start()

    def __len__(self) -> int:
        """Count the opened grants."""
        return self._rows.count

    @property
    def closed(self) -> bool:
        """Whether it was closed, by its user or because the vault could not be trusted any more."""
        return self._closed

    @property
    def locked(self) -> bool:
        """Whether the operating system locked the memory (RLIMIT_MEMLOCK)."""
        return self._rows.locked

    def search(self, probe: npt.NDArray[np.float32], threshold: Threshold, top: int) -> SearchResult:
        """Best ``top`` grants within the threshold, in rank order; recorded before it returns.

        ``probe`` is float32 of shape (d,). Raises Denied; after that nothing was answered.
        """
        if not 1 <= top <= LIMITS.candidates:
            raise UsageError(f"top must be between 1 and {LIMITS.candidates}")
        for _ in range(ATTEMPTS):
            with self._guard:
                view = self._follow()
                reason = admit(self._session, view, Action.IDENTIFY, self._core.clock.now_ms())
                now = self._now()
                if reason is Reason.OK and len(to_ranges(list(self._omitted))) > LIMITS.ranges_per_entry:
                    reason = Reason.UNAVAILABLE
                hits: list[Hit] = []
                if reason is Reason.OK:
                    self._rows.drop_expired(now, self._excluded)
                    try:
                        hits = self._scan(view, probe, threshold, top)
                    except (IntegrityError, SlotDead):
                        reason = Reason.INTEGRITY
                if reason is not Reason.OK:
                    with contextlib.suppress(ControlMoved):
                        self._deny(view, reason, now)
                    continue  # the vault changed meanwhile: that may be why
                until = min(self._rows.first_expiry(), self._wake_ms)
                entry = self._entry(now, threshold, hits)
            with contextlib.suppress(ControlMoved, ClockError):
                index = self._core.log.decide(
                    entry, control_seq=view.head.control_seq, valid_until_ms=until, allow=True
                )
                decision = f"{index}-{str(entry['nonce'])[:8]}"
                count, excluded = cast("int", entry["count"]), cast("int", entry["excluded"])
                return SearchResult(tuple(hits), count, excluded, decision)
        raise StoreError("the vault changed too often to decide; nothing was answered", next="try again")

    def refresh(self) -> None:
        """Follow what changed since the last call: withdrawn grants go, new ones come."""
        with self._guard:
            self._follow()
            self._rows.drop_expired(self._now(), self._excluded)

    def close(self) -> None:
        """Zero the templates and stop watching."""
        self._stop.set()
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

    def _scan(self, view: View, probe: npt.NDArray[np.float32], threshold: Threshold, top: int) -> list[Hit]:
        """Hits in rank order. A record that does not open fails the whole search: no match is hidden."""
        if not self._rows.count:
            return []
        found = distances(self.model, probe, self._rows.matrix)
        means = self._rows.means
        near = np.flatnonzero(found <= np.where(means, threshold.limit(2), threshold.limit()) + _SLACK)
        order = near[np.lexsort((self._rows.slots[near], found[near]))]
        best = [
            (int(self._rows.slots[at]), float(found[at]))
            for at in order
            if threshold.matches(float(found[at]), 2 if means[at] else 1)
        ]
        return [Hit(slot, self._subject(view, slot), distance) for slot, distance in best[:top]]

    def _subject(self, view: View, slot: int) -> str:
        """Whom a grant belongs to. Who is not found by their id could not be erased: no answer either."""
        for row in self._core.data.by_slots([slot]):
            record = self._core.sealer.open_record(self._core.slot_key(view, slot), row)
            subject = str(record["subject"])
            if self._core.index.lookup(subject.encode("utf-8")) != row.tag:
                raise IntegrityError("the subject index does not lead to a grant that was found")
            return subject
        raise IntegrityError("the row of an opened grant is gone from vault.db")

    def _entry(self, now: int, threshold: Threshold, hits: Sequence[Hit]) -> JsonObject:
        return decisions.decision_identify(
            by=self._session.by,
            time_ms=now,
            reason=Reason.OK,
            scope=self.scope.word,
            region=self.region,
            model=self.model.id,
            threshold_e6=round(threshold.value * 1e6),
            count=self._rows.count,
            set_digest=self._rows.digest.digest(),
            candidates=[hit.slot for hit in hits],
            excluded=len(self._excluded) + len(self._omitted),
            omitted=sorted(self._omitted),
        )

    def _admit(self, view: View) -> None:
        now = self._core.clock.now_ms()
        reason = admit(self._session, view, Action.IDENTIFY, now)
        if reason is not Reason.OK:
            with contextlib.suppress(ControlMoved):
                self._deny(view, reason, now)
            raise Denied

    def _deny(self, view: View, reason: Reason, now: int) -> NoReturn:
        """Record a denial and raise it; ControlMoved when the vault changed meanwhile."""
        entry = decisions.decision_identify(
            by=self._session.by,
            time_ms=now,
            reason=reason,
            scope=self.scope.word,
            region=self.region,
            model=self.model.id,
        )
        index = self._core.log.decide(
            entry, control_seq=view.head.control_seq, valid_until_ms=FOREVER, allow=False
        )
        raise Denied(decision=f"{index}-{str(entry['nonce'])[:8]}")

    def _follow(self, progress: Progress | None = None) -> View:
        """Bring the rows up to the present view; what another process swaps meanwhile is followed, too."""
        if self._closed:
            raise UsageError("the gallery is closed", next="open another one")
        for _ in range(ATTEMPTS):
            view = self._core.view()
            self._core.check_files()
            try:
                self._catch_up(view, progress)
            except TreeStale:
                self._core.forget_tree()
                self._control_seq = -1  # a part may have been applied: all of it again
            else:
                return view
        raise StoreError("the vault changed too often to follow; nothing was answered", next="try again")

    def _catch_up(self, view: View, progress: Progress | None) -> None:
        if self._control_seq < 0 or self._core.clock.now_ms() >= self._wake_ms:
            self._reload(view, progress)
        elif view.head.control_seq != self._control_seq:
            self._apply_changes(view)

    def _apply_changes(self, view: View) -> None:
        """Follow the log: it says who goes and who comes, whatever stands in vault.db."""
        for _, entry in self._core.log.control_since(self._seen):
            if entry["type"] in {"restore", "clock"}:
                self._reload(view, None)
                return
            if entry["type"] == "destroy":
                gone = from_ranges(cast("list[list[int]]", entry["slots"]))
                self._rows.drop(gone)
                self._excluded.difference_update(gone)
                self._omitted.difference_update(gone)
        self._rows.drop([slot for slot in self._rows.known() if view.pending.destroying(slot)])
        wanted = self._granted(view)
        mine = sorted(wanted - set(self._rows.known()) - self._excluded - self._omitted)
        self._open(view, without_records(self._core.data.by_slots(mine)))
        self._account(wanted)
        self._mark(view)

    def _granted(self, view: View) -> set[int]:
        """Slots of the scope that are granted by the log and live."""
        slots = self._core.ledger.all_slots()
        branches = np.array(view.branches_of(self.scope), np.int64)
        return set(_living(view, slots[np.isin(slots >> SLOT_BITS, branches)]))

    def _account(self, wanted: set[int]) -> None:
        """Omitted is who is granted and neither opened nor excluded by authentic terms."""
        self._excluded &= wanted
        self._omitted = wanted - set(self._rows.known()) - self._excluded

    def _mark(self, view: View) -> None:
        self._seen = view.head.size
        self._control_seq = view.head.control_seq

    def _now(self) -> int:
        """Return the time, never before the one by which rows were last dropped or taken up."""
        self._latest_ms = max(self._latest_ms, self._core.clock.now_ms())
        return self._latest_ms

    def _reload(self, view: View, progress: Progress | None) -> None:
        self._latest_ms = 0
        self._rows.clear()
        self._excluded.clear()
        self._omitted.clear()
        self._wake_ms = FOREVER
        total, done = self._core.data.count(), 0
        granted = self._granted(view)
        self._rows.reserve(len(granted))
        for branch in view.branches_of(self.scope):
            for chunk in self._core.data.branch_rows(branch, _CHUNK):
                self._open(view, chunk)
                done += len(chunk)
                if progress is not None:
                    progress(done, total)
        self._account(granted)
        self._mark(view)

    def _open(self, view: View, rows: SealedRows) -> None:
        """Open those rows that are the log's and that the rules let through; note whom terms exclude."""
        rows = rows.only(np.array([slot not in self._rows for slot in rows.slots.tolist()], np.bool_))
        rows = rows.only(self._core.are_logged(rows))
        if not len(rows):
            return
        slots = rows.slots
        keys, alive = view.tree.slot_keys(slots)
        terms = np.ascontiguousarray(rows.terms).view(TERMS_DTYPE).ravel()
        living = alive & ~view.pending.mask(slots) & _given_out(view, slots)
        now = self._now()
        fit = valid_now(terms, self.scope, self.region, now)
        model = self.model.id.encode("ascii")
        fit &= np.array([each == model for each in rows.models], np.bool_)
        fit &= terms["dimension"] == self.model.dimension
        self._excluded.update(slots[living & ~fit].tolist())  # by terms that are the log's
        later = terms["not_before_ms"][living & (terms["not_before_ms"] > now)]
        if len(later):
            self._wake_ms = min(self._wake_ms, int(later.min()))
        chosen = living & fit
        if not chosen.any():
            return
        wanted = rows.only(chosen)
        permit = permit_gallery(view, self.scope, frozenset(wanted.slots.tolist()))
        self._rows.add(
            wanted,
            terms["expires_at_ms"][chosen].astype(np.int64),
            terms["count"][chosen] > 1,
            lambda out: open_references(
                self._core.sealer, permit, wanted, keys[chosen], out, self.model.dimension
            ),
        )


def _given_out(view: View, slots: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Mask of the slots that the log knows: a row of any other is forged, or too new for the view."""
    branches, at = np.unique(slots >> SLOT_BITS, return_inverse=True)
    tops = np.array([view.head.alloc.get(branch, 0) for branch in branches.tolist()], np.int64)
    return np.asarray(slots - (slots >> SLOT_BITS << SLOT_BITS) < tops[at], np.bool_)


def _living(view: View, array: npt.NDArray[np.int64]) -> list[int]:
    """Those of the slots that were given out and are neither destroyed nor pending."""
    mask = view.tree.alive(array) & ~view.pending.mask(array) & _given_out(view, array)
    return cast("list[int]", array[mask].tolist())


def _watch(gallery: weakref.ref[Gallery], stop: threading.Event) -> None:
    """Drop withdrawn rows within a second; wipe everything when the vault cannot be trusted any more."""
    while not stop.wait(_WATCH_S):
        opened = gallery()
        if opened is None:
            return
        try:
            opened.refresh()
        except FacekeepError:
            opened.close()
        del opened
