"""Re-sealing templates under new slots: in batches, resumable, while matches go on (DESIGN: rotation).

The record and the terms stay to the letter; an auditor holds every re-sealed grant to that (SPEC §11 R32).
Between two batches the writer lock is free, so that withdrawals and erasures need not wait for the end.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

import numpy as np
import numpy.typing as npt

from facekeep.access.core import Core, View
from facekeep.access.roles import Action
from facekeep.access.session import Session
from facekeep.answers import Ambiguous
from facekeep.arguments import callers, checks_arguments
from facekeep.auditlog.group import ControlMoved
from facekeep.errors import UsageError
from facekeep.formats import entries
from facekeep.formats.canonical import JsonObject
from facekeep.formats.ids import SLOT_BITS, check_model_id, slot_id, split_slot
from facekeep.formats.nodes import Kind
from facekeep.operations.destroy import Destruction, destroy, idle_branches, living_slots
from facekeep.operations.estimating import SAMPLE, each_s, mean, swap_s, whole
from facekeep.operations.resealing import BATCH, Hand, Source, reseal
from facekeep.operations.rotation import Why
from facekeep.operations.steps import reached
from facekeep.operations.writing import uncollected, writing
from facekeep.sealing.again import Sound
from facekeep.store.sealedrows import SealedRows
from facekeep.store.vaultdb import GrantRow

Progress = Callable[[int, int], None]
_WORK_OF_A_RECORD: Final = 3.0  # re-sealing a grant costs about as much as opening so many records
_OTHER_SWAPS: Final = 2  # fresh branches at the beginning, idle ones dropped at the end


@checks_arguments
@dataclass(frozen=True, slots=True)
class Selection:
    """Which grants are re-sealed: all, or those of a model, or made before a root's epoch."""

    model: str | None = None
    before_epoch: int | None = None


@dataclass(frozen=True, slots=True)
class Resealed(Ambiguous):
    """What was done: log index of the rotation, whether it was begun before, grants re-sealed and left.

    One that was begun before sealed some under keys made then: what was copied since opens these.
    Left are living grants of the selection that have lapsed, have no row, or were altered.
    """

    entry: int
    resumed: bool
    resealed: int
    left: int

    def to_json(self) -> JsonObject:
        """Return it as JSON."""
        return {
            "entry": self.entry,
            "left": self.left,
            "resealed": self.resealed,
            "resumed": self.resumed,
            "what": "templates",
        }


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a rotation would do: grants to re-seal, bytes to write, seconds on this machine, about.

    ``roots``: holders that get a new root with each batch; ``copies``: directories whose live copies follow.
    """

    grants: int
    written: int
    seconds: float
    roots: int
    copies: int

    def to_json(self) -> JsonObject:
        """Return it as JSON; the seconds are rounded up."""
        return {
            "bytes": self.written,
            "copies": self.copies,
            "dry_run": True,
            "grants": self.grants,
            "roots": self.roots,
            "seconds": whole(self.seconds),
            "what": "templates",
        }


class _Bounds:
    """The selection as it stands in the log: slots below an index of their branch, of one model."""

    def __init__(self, first: int, entry: JsonObject) -> None:
        self.first = first
        self.below = dict(cast("list[tuple[int, int]]", entry["below"]))
        self.model = cast("str | None", entry["model"])

    def spans(self) -> list[tuple[int, int]]:
        """(first, end) slots of each branch."""
        return [(slot_id(branch, 0), slot_id(branch, 0) + below) for branch, below in self.below.items()]

    def within(self, slots: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Mask of slots (n,) that are selected, whatever their model."""
        inside = np.zeros(len(slots), np.bool_)
        for low, high in self.spans():
            inside |= (slots >= low) & (slots < high)
        return inside

    def mask(self, rows: SealedRows) -> npt.NDArray[np.bool_]:
        """Mask of rows that are selected."""
        inside = self.within(rows.slots)
        if self.model is None:
            return inside
        model = self.model.encode("utf-8")
        return inside & np.array([each == model for each in rows.models], np.bool_)

    def has(self, slot: int, model: str) -> bool:
        """Whether a grant is selected."""
        branch, index = split_slot(slot)
        return index < self.below.get(branch, 0) and self.model in (None, model)


def rotate_templates(
    core: Core, session: Session, why: Why, selection: Selection, progress: Progress | None = None
) -> Resealed:
    """Re-seal every selected grant under a new slot and destroy the old one.

    A rotation that was begun and not ended is gone on with, as it was selected then. Raises UsageError for a
    selection that the log or the vault does not know; nothing is done then.
    """
    bounds, resumed = _begin(core, session, why, selection)
    with contextlib.closing(Source(core, bounds.spans(), bounds.mask)) as source:
        return _Rotation(core, session, bounds, source, progress).run(resumed=resumed)


class _Rotation:
    """Batch after batch; between two of them the vault is anybody's."""

    def __init__(
        self, core: Core, session: Session, bounds: _Bounds, source: Source, progress: Progress | None
    ) -> None:
        self._core = core
        self._session = session
        self._bounds = bounds
        self._source = source
        self._progress = progress
        self._total = _selected(core, bounds)
        self._done = 0
        self._next: Sound | None = None
        self._dead = np.empty(0, np.int64)  # slots destroyed, whose rows are still to be deleted

    def run(self, *, resumed: bool) -> Resealed:
        while True:
            with writing(self._core, self._session, Action.KEYS) as view, uncollected(BATCH):
                if all(each.first != self._bounds.first for each in view.head.rotations):  # another ended it
                    left = _left(self._core, view, self._bounds)
                    return Resealed(self._bounds.first, resumed, self._done, left)
                if not self._batch(view):
                    return _end(self._core, self._session, view, self._bounds, self._done, resumed=resumed)
            if self._progress is not None:
                self._progress(min(self._done, self._total), self._total)

    def _batch(self, view: View) -> bool:
        """Re-seal the next batch, and prepare the one after it; False at the end.

        What was prepared under an earlier state is looked at again: it may have been withdrawn since.
        """
        found = self._next or self._source.next(view)
        if found is None:
            return False
        found, self._next = self._source.living(view, found), None
        if len(found):
            try:
                reseal(Hand(self._core, self._session.by), view, found, self._dead, self._prepare)
            except ControlMoved:  # an erasure was announced: these are looked at again
                self._next = found
                return True
            self._dead = found.rows.slots
            self._done += len(found)
        return True

    def _prepare(self, view: View) -> None:
        self._next = self._source.next(view)


def estimate(core: Core, session: Session, selection: Selection) -> Estimate:
    """Count what ``rotate_templates`` would re-seal, and time a sample of records. Changes nothing."""
    session.require(Action.KEYS)
    view = core.view()
    bounds = _Bounds(-1, _announcement(core, session, Why.OTHER, selection))
    grants = _selected(core, bounds)
    rows = _some_rows(core, bounds, SAMPLE)
    opened = each_s(lambda row: core.sealer.open_record(core.slot_key(view, row.slot), row), rows)
    batches = -(-grants // BATCH)
    swaps = batches + _OTHER_SWAPS if grants else 0
    seconds = grants * mean(opened) * _WORK_OF_A_RECORD + swaps * swap_s(core)
    size = sum(len(row.templates) + len(row.record) + len(row.terms) for row in rows)
    written = size * grants // max(1, len(rows))
    return Estimate(grants, written, seconds, len(core.providers), len(core.settings.copies))


def _begin(core: Core, session: Session, why: Why, selection: Selection) -> tuple[_Bounds, bool]:
    """Have a branch for each scope with something to re-seal, then say what is re-sealed.

    In this order, and under one lock: nothing is granted after the selection in a branch to which an earlier
    root led. Recovery takes no branch for an extension that it finishes; then there is no selection yet.
    A rotation that goes on takes further branches: a root may have become known since it was begun.
    """
    with writing(core, session, Action.KEYS) as view:
        begun = next((each.first for each in view.head.rotations if each.op == "templates"), None)
        if begun is not None:
            bounds = _Bounds(begun, core.log.entry(begun))
            _take_branches(core, session, bounds)
            return bounds, True
        _take_branches(core, session, _Bounds(-1, _announcement(core, session, why, selection)))
        entry = _announcement(core, session, why, selection)
        first = core.log.append([entry])[0]
        reached("rotate.begun")
        return _Bounds(first, entry), False


def _take_branches(core: Core, session: Session, bounds: _Bounds) -> None:
    """Take a branch for each scope in which somebody lives by the log: rows may be hidden and put back."""
    view = core.view()
    scopes = {view.kinds[branch] for branch in np.unique(_living(core, view, bounds) >> SLOT_BITS).tolist()}
    if scopes:
        destroy(core, session.by, Destruction("extend", (), take=sorted(scopes)))
        reached("rotate.extended")


def _announcement(core: Core, session: Session, why: Why, selection: Selection) -> JsonObject:
    if selection.model is not None:
        with callers():
            check_model_id(selection.model)
    return entries.rotation(
        "templates",
        why.value,
        below=_below(core, selection.before_epoch),
        model=selection.model,
        by=session.by,
        time_ms=core.clock.now_ms(),
    )


def _below(core: Core, before_epoch: int | None) -> dict[int, int]:
    """Return how far each branch is selected: what was allocated when the epoch began, or now."""
    view = core.view()
    branches = {branch for branch, kind in view.kinds.items() if kind != Kind.SYSTEM}
    alloc = view.head.alloc if before_epoch is None else _alloc_before(core, before_epoch)
    return {branch: index for branch, index in alloc.items() if branch in branches}


def _alloc_before(core: Core, epoch: int) -> dict[int, int]:
    found: dict[int, int] = {}
    if epoch <= 1:
        return found
    for _, entry in core.log.control_since(0):
        for slot in entries.slots_of(entry) if entry["type"] == "grant" else ():
            branch, index = split_slot(slot)
            found[branch] = index + 1
        if entry["type"] == "destroyed" and cast("int", entry["epoch"]) >= epoch:
            return found
    raise UsageError(
        f"the vault has not come to epoch {epoch} yet, it is at {core.log.head().epoch}",
        next="name an epoch up to the present one; 'facekeep status' shows it",
    )


def _selected(core: Core, bounds: _Bounds) -> int:
    if bounds.model is None:
        return int(bounds.within(core.data.slot_array()).sum())
    return sum(model == bounds.model for low, high in bounds.spans() for model in core.data.models(low, high))


def _some_rows(core: Core, bounds: _Bounds, count: int) -> list[GrantRow]:
    """Return the first rows of the selection."""
    rows = (row for low, high in bounds.spans() for row in core.data.rows(low, high))
    return list(itertools.islice((row for row in rows if bounds.has(row.slot, row.model)), count))


def _end(core: Core, session: Session, view: View, bounds: _Bounds, done: int, *, resumed: bool) -> Resealed:
    """Say in the log that the rotation is over, and how many living grants it selected are left.

    The rows of those it destroyed go, and those that an interrupted one left.
    """
    slots = core.data.slot_array()
    slots = slots[bounds.within(slots)]
    core.data.delete(slots[~view.tree.alive(slots)].tolist())
    if idle_branches(core, view):
        destroy(core, session.by, Destruction("rotate", (), recycle=True))
        view = core.view()
    left = _left(core, view, bounds)
    core.log.append([entries.rotated(bounds.first, left=left, by=session.by, time_ms=core.clock.now_ms())])
    reached("rotate.ended")
    return Resealed(bounds.first, resumed, done, left)


def _left(core: Core, view: View, bounds: _Bounds) -> int:
    """Count the living grants of the selection, those without a row too."""
    slots = _living(core, view, bounds)
    return len(slots) if bounds.model is None else _of_model(core, set(slots.tolist()), bounds.model)


def _living(core: Core, view: View, bounds: _Bounds) -> npt.NDArray[np.int64]:
    """Slots of living grants below the bounds, of any model."""
    found = [living_slots(core, view, branch, below) for branch, below in bounds.below.items()]
    slots = np.concatenate([np.empty(0, np.int64), *found])
    return slots[~view.pending.mask(slots)]


def _of_model(core: Core, slots: set[int], model: str) -> int:
    """Count those slots that the log gave to grants of a model."""
    return sum(
        element["slot"] in slots and element["model"] == model
        for _, entry in core.log.control_since(0)
        if entry["type"] == "grant"
        for element in cast("list[JsonObject]", entry["grants"])
    )
