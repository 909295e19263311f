"""Who is in a gallery: the grants that the log allows, opened, and who is left out (DESIGN: matching)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, cast

import numpy as np
import numpy.typing as npt

from facekeep.access.core import Core, View
from facekeep.access.gate import permit_gallery
from facekeep.errors import StoreError
from facekeep.formats.ids import SLOT_BITS, from_ranges
from facekeep.formats.terms import TERMS_DTYPE, Scope, is_shaped, valid_now
from facekeep.keys.tree import TreeStale
from facekeep.matching.matrix import FOREVER, Matrix
from facekeep.matching.model import Model
from facekeep.sealing.bulk import open_references
from facekeep.store.sealedrows import SealedRows
from facekeep.store.vaultdb import without_records

Progress = Callable[[int, int], None]
ATTEMPTS: Final = 64
_CHUNK: Final = 4_096


class Members:
    """Opened references of one scope, model and region, which follow the log. Not thread-safe.

    ``excluded`` are slots left out because of authentic terms, ``omitted`` those that the log allows, but
    whose row is missing or damaged. ``misfits`` are excluded ones under the model's id that are of another
    dimension or metric: then it is not the model that the caller says.
    """

    def __init__(self, core: Core, scope: Scope, model: Model, region: str) -> None:
        """Begin empty; ``follow`` opens them."""
        self._core = core
        self._scope, self._model, self._region = scope, model, region
        self.rows = Matrix(model.dimension)
        self.excluded: set[int] = set()
        self.omitted: set[int] = set()
        self.misfits: set[int] = set()
        self._seen = 0
        self._control_seq = -1
        self._wake_ms = FOREVER
        self._latest_ms = 0

    def follow(self, progress: Progress | None = None) -> View:
        """Bring the rows up to the present view; what another process swaps meanwhile is followed, too."""
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

    def empty(self) -> None:
        """Zero and forget everybody; ``follow`` opens them again."""
        self.rows.clear()
        self.excluded.clear()
        self.omitted.clear()
        self.misfits.clear()
        self._control_seq = -1

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
                self.rows.drop(gone)
                self.excluded.difference_update(gone)
                self.omitted.difference_update(gone)
        self.rows.drop([slot for slot in self.rows.known() if view.pending.destroying(slot)])
        wanted = self._granted(view)
        mine = sorted(wanted - set(self.rows.known()) - self.excluded - self.omitted)
        self._open(view, without_records(self._core.data.by_slots(mine)))
        self._account(wanted)
        self._mark(view)

    def _granted(self, view: View) -> set[int]:
        """Slots of the scope that are granted by the log and live."""
        slots = self._core.ledger.all_slots()
        branches = np.array(view.branches_of(self._scope), np.int64)
        return set(_living(view, slots[np.isin(slots >> SLOT_BITS, branches)]))

    def _account(self, wanted: set[int]) -> None:
        """Omitted is who is granted and neither opened nor excluded by authentic terms."""
        self.excluded &= wanted
        self.misfits &= wanted
        self.omitted = wanted - set(self.rows.known()) - self.excluded

    def _mark(self, view: View) -> None:
        self._seen = view.head.size
        self._control_seq = view.head.control_seq

    @property
    def until_ms(self) -> int:
        """When somebody's term begins or ends next: what is found holds until then."""
        return min(self.rows.first_expiry(), self._wake_ms)

    def drop_expired(self, now_ms: int) -> None:
        """Drop whose term has ended at ``now_ms``, which is ``now()``."""
        self.rows.drop_expired(now_ms, self.excluded)

    def now(self) -> int:
        """Return the time, never before the one by which rows were last dropped or taken up."""
        self._latest_ms = max(self._latest_ms, self._core.clock.now_ms())
        return self._latest_ms

    def _reload(self, view: View, progress: Progress | None) -> None:
        self._latest_ms = 0
        self.empty()
        self._wake_ms = FOREVER
        done = 0
        granted = self._granted(view)
        self.rows.reserve(len(granted))
        for branch in view.branches_of(self._scope):
            for chunk in self._core.data.branch_rows(branch, _CHUNK, view.head.alloc.get(branch, 0)):
                self._open(view, chunk)
                done += len(chunk)
                if progress is not None:
                    progress(min(100, 100 * done // max(len(granted), 1)), 100)
        self._account(granted)
        self._mark(view)

    def _open(self, view: View, rows: SealedRows) -> None:
        """Open those rows that are the log's and that the rules let through; note whom terms exclude."""
        rows = rows.only(np.array([slot not in self.rows for slot in rows.slots.tolist()], np.bool_))
        rows = rows.only(self._core.are_logged(rows))
        if not len(rows):
            return
        slots = rows.slots
        keys, alive = view.tree.slot_keys(slots)
        terms = np.ascontiguousarray(rows.terms).view(TERMS_DTYPE).ravel()
        living = alive & ~view.pending.mask(slots) & _given_out(view, slots)
        now = self.now()
        fit = valid_now(terms, self._scope, self._region, now)
        model = self._model.id.encode("ascii")
        named = np.array([each == model for each in rows.models], np.bool_)
        shaped = is_shaped(terms, self._model.dimension, self._model.metric)
        fit &= named & shaped
        self.misfits.update(slots[living & named & ~shaped].tolist())
        self.excluded.update(slots[living & ~fit].tolist())  # by terms that are the log's
        later = terms["not_before_ms"][living & (terms["not_before_ms"] > now)]
        if len(later):
            self._wake_ms = min(self._wake_ms, int(later.min()))
        chosen = living & fit
        if not chosen.any():
            return
        wanted = rows.only(chosen)
        permit = permit_gallery(frozenset(wanted.slots.tolist()))
        used = keys[chosen]
        keys.fill(0)
        try:
            self.rows.add(
                wanted,
                terms["expires_at_ms"][chosen].astype(np.int64),
                terms["count"][chosen] > 1,
                lambda out: open_references(
                    self._core.sealer, permit, wanted, used, out, self._model.dimension
                ),
            )
        finally:
            used.fill(0)


def _given_out(view: View, slots: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Mask of the slots that the log knows: a row of any other is forged, or too new for the view."""
    branches, at = np.unique(slots >> SLOT_BITS, return_inverse=True)
    tops = np.array([view.head.alloc.get(branch, 0) for branch in branches.tolist()], np.int64)
    return np.asarray(slots - (slots >> SLOT_BITS << SLOT_BITS) < tops[at], np.bool_)


def _living(view: View, array: npt.NDArray[np.int64]) -> list[int]:
    """Those of the slots that were given out and are neither destroyed nor pending."""
    mask = view.tree.alive(array) & ~view.pending.mask(array) & _given_out(view, array)
    return cast("list[int]", array[mask].tolist())
