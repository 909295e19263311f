"""Re-sealing templates under new slots: in batches, resumable, while matches go on (DESIGN: rotation).

The record and the terms stay to the letter; an auditor holds every re-sealed grant to that (SPEC.md §11 R32).
Between two batches the writer lock is free, so that withdrawals and erasures need not wait for the end.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, cast

import numpy as np

from facekeep.access.core import Core, View
from facekeep.access.gate import permit_reseal
from facekeep.access.roles import Action
from facekeep.access.session import Session
from facekeep.crypto.memory import LockedBuffer
from facekeep.crypto.primitives import SUITE
from facekeep.errors import FacekeepError, UsageError
from facekeep.formats import entries
from facekeep.formats.canonical import JsonObject
from facekeep.formats.ids import SLOT_BITS, check_model_id, slot_id, split_slot
from facekeep.formats.nodes import Kind
from facekeep.formats.terms import Terms
from facekeep.operations.destroy import Destruction, destroy, idle_branches
from facekeep.operations.granting import Batch, NewGrant, make_grants
from facekeep.operations.rotation import Why
from facekeep.operations.steps import reached
from facekeep.operations.writing import uncollected, writing
from facekeep.store.vaultdb import GrantRow, without_records

Progress = Callable[[int, int], None]
_BATCH: Final = 4_000  # grants an operation: one root swap each
_SAMPLE: Final = 200  # records opened for an estimate
_WORK_OF_A_RECORD: Final = 6.0  # re-sealing a grant costs about as much as opening so many records


@dataclass(frozen=True, slots=True)
class Selection:
    """Which grants are re-sealed: all, or those of a model, of a suite, or made before a root's epoch."""

    model: str | None = None
    suite: int | None = None
    before_epoch: int | None = None


@dataclass(frozen=True, slots=True)
class Resealed:
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
    """What a rotation would do: grants to re-seal, bytes to write, seconds on this machine, about."""

    grants: int
    written: int
    seconds: float

    def to_json(self) -> JsonObject:
        """Return it as JSON; the seconds are rounded up."""
        return {
            "bytes": self.written,
            "dry_run": True,
            "grants": self.grants,
            "seconds": int(self.seconds) + 1,
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
    total = _selected(core, bounds)
    done = 0
    position = 0
    while True:
        with writing(core, session, Action.KEYS) as view, uncollected(_BATCH):
            if all(each.first != bounds.first for each in view.head.rotations):
                return Resealed(bounds.first, resumed, done, _left(core, view, bounds))  # another ended it
            rows = _next_rows(core, view, bounds, position)
            if not rows:
                return _end(core, session, view, bounds, done, resumed=resumed)
            position = rows[-1].slot + 1
            done += _reseal(core, session, view, rows)
        if progress is not None:
            progress(min(done, total), total)


def estimate(core: Core, session: Session, selection: Selection) -> Estimate:
    """Count what ``rotate_templates`` would re-seal, and time a sample of records. Changes nothing."""
    session.require(Action.KEYS)
    view = core.view()
    bounds = _Bounds(-1, _announcement(core, session, Why.OTHER, selection))
    grants = _selected(core, bounds)
    rows = _next_rows(core, view, bounds, 0, _SAMPLE)
    began = time.perf_counter()
    for row in rows:
        with contextlib.suppress(FacekeepError):
            core.sealer.open_record(core.slot_key(view, row.slot), row)
    each = (time.perf_counter() - began) / max(1, len(rows)) * _WORK_OF_A_RECORD
    size = sum(len(row.templates) + len(row.record) + len(row.terms) for row in rows)
    return Estimate(grants, size * grants // max(1, len(rows)), grants * each)


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
    scopes = {core.view().kind_of(slot) for slot in _living(core, core.view(), bounds)}
    if scopes:
        destroy(core, session.by, Destruction("extend", (), take=sorted(scopes)))
        reached("rotate.extended")


def _announcement(core: Core, session: Session, why: Why, selection: Selection) -> JsonObject:
    if selection.suite not in (None, SUITE):
        raise UsageError(f"no template is sealed under suite {selection.suite}; all are under suite {SUITE}")
    if selection.model is not None:
        check_model_id(selection.model)
    return entries.rotation(
        "templates",
        why.value,
        below=_below(core, selection.before_epoch),
        model=selection.model,
        suite=selection.suite,
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
    return sum(
        1
        for low, high in bounds.spans()
        for model in core.data.models(low, high)
        if bounds.model in (None, model)
    )


def _next_rows(core: Core, view: View, bounds: _Bounds, position: int, count: int = _BATCH) -> list[GrantRow]:
    """Return rows from a slot on that are selected, living and not lapsed, in the order of their slots."""
    now = core.clock.now_ms()
    found: list[GrantRow] = []
    for low, high in bounds.spans():
        for rows in _chunks(core.data.rows(max(low, position), high)):
            alive = view.tree.alive(np.array([row.slot for row in rows], np.int64))
            for row, lives in zip(rows, alive.tolist(), strict=True):
                if lives and bounds.has(row.slot, row.model) and _usable(view, row, now):
                    found.append(row)
                    if len(found) == count:
                        return found
    return found


def _chunks(rows: Iterator[GrantRow]) -> Iterator[list[GrantRow]]:
    chunk: list[GrantRow] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == _BATCH:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _usable(view: View, row: GrantRow, now: int) -> bool:
    """Whether a grant may be opened to be sealed again: not pending, its terms in order and not lapsed."""
    if view.pending.destroying(row.slot) or view.pending.granting(row.slot):
        return False
    with contextlib.suppress(FacekeepError):
        return Terms.unpack(row.terms).expires_at_ms > now
    return False


def _reseal(core: Core, session: Session, view: View, rows: Sequence[GrantRow]) -> int:
    """Re-seal what authenticates; an altered row stays as it is, and is counted as left in the end."""
    columns = without_records(rows)
    logged = set(columns.only(core.are_logged(columns)).slots.tolist())
    grants: list[NewGrant] = []
    sizes = [len(row.templates) for row in rows]
    with contextlib.ExitStack() as cleanup:
        room = cleanup.enter_context(LockedBuffer(sum(sizes) or 1))
        at = 0
        for row, size in zip(rows, sizes, strict=True):
            with contextlib.suppress(FacekeepError):
                if row.slot in logged:
                    grants.append(_again(core, view, row, room.view[at : at + size]))
            at += size
        if grants:
            retire = [cast("int", each.source) for each in grants]
            make_grants(core, view, session.by, Batch("reseal", grants, (), retire, "reseal"))
    return len(grants)


def _again(core: Core, view: View, row: GrantRow, room: memoryview) -> NewGrant:
    """Make the grant that replaces a row's: same record and terms; templates are opened when sealed."""
    key = core.sealer.row_key(core.slot_key(view, row.slot), row)
    record = core.sealer.record_bytes(key, row)
    terms = Terms.unpack(row.terms)
    size = 4 * terms.count * terms.dimension

    def templates() -> memoryview:
        core.sealer.open_templates(permit_reseal(view, row), key, row, room[:size])
        return room[:size]

    return NewGrant(row.tag, row.model, terms.scope, row.terms, record, templates, row.slot)


def _end(core: Core, session: Session, view: View, bounds: _Bounds, done: int, *, resumed: bool) -> Resealed:
    """Say in the log that the rotation is over, and how many living grants it selected are left."""
    if idle_branches(core, view):
        destroy(core, session.by, Destruction("rotate", (), recycle=True))
        view = core.view()
    left = _left(core, view, bounds)
    core.log.append([entries.rotated(bounds.first, left=left, by=session.by, time_ms=core.clock.now_ms())])
    reached("rotate.ended")
    return Resealed(bounds.first, resumed, done, left)


def _left(core: Core, view: View, bounds: _Bounds) -> int:
    remaining = _living(core, view, bounds)
    return len(remaining) if bounds.model is None else _of_model(core, remaining, bounds.model)


def _living(core: Core, view: View, bounds: _Bounds) -> set[int]:
    """Slots of living grants below the bounds, of any model."""
    slots = core.ledger.all_slots()
    slots = slots[view.tree.alive(slots) & ~view.pending.mask(slots)]
    below = np.array([bounds.below.get(branch, 0) for branch in (slots >> SLOT_BITS).tolist()], np.int64)
    return set(slots[(slots & (1 << SLOT_BITS) - 1) < below].tolist())


def _of_model(core: Core, slots: set[int], model: str) -> int:
    """Count those slots that the log gave to grants of a model."""
    return sum(
        element["slot"] in slots and element["model"] == model
        for _, entry in core.log.control_since(0)
        if entry["type"] == "grant"
        for element in cast("list[JsonObject]", entry["grants"])
    )
