"""Who lives in the vault, by the log and the key tree: counted for a million grants at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from facekeep.access.core import Core, View
from facekeep.formats.canonical import JsonObject
from facekeep.formats.ids import BRANCH_SLOTS, SLOT_BITS
from facekeep.formats.nodes import Kind
from facekeep.formats.terms import Scope

_SLOTS = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Census:
    """Slots of grants that are not destroyed, ascending, int64 (n,); ``expires`` beside them, in ms.

    The ends are those of the log, whatever stands in vault.db. ``settled`` is False where an operation is
    pending for the slot; ``rows`` are the slots with a row in vault.db, ``dead`` those granted and destroyed.
    """

    view: View
    now_ms: int
    slots: _SLOTS
    expires: _SLOTS
    settled: npt.NDArray[np.bool_]
    rows: _SLOTS
    dead: _SLOTS

    def of(self, scope: Scope) -> npt.NDArray[np.bool_]:
        """Mask of the slots in branches of a scope."""
        branches = np.array(self.view.branches_of(scope), np.int64)
        return np.isin(self.slots >> SLOT_BITS, branches)

    def lapsed(self, grace_ms: int = 0) -> npt.NDArray[np.bool_]:
        """Mask of the settled grants that lapsed as long ago as that, or longer."""
        return np.asarray(self.settled & (self.expires <= self.now_ms - grace_ms))

    def missing(self) -> _SLOTS:
        """Slots of settled grants without a row."""
        return np.setdiff1d(self.slots[self.settled], self.rows, assume_unique=True)

    def dead_rows(self) -> _SLOTS:
        """Slots that the log granted, that are destroyed and have a row, left there by a killed process."""
        return np.intersect1d(self.rows, self.dead, assume_unique=True)

    def scopes(self) -> JsonObject:
        """Count slots (``used``, ``free``) and grants (``live``, ``expired``, ``pending``) of each scope."""
        found: JsonObject = {}
        lapsed = self.lapsed()
        alloc = self.view.head.alloc
        for scope in Scope:
            branches, mine = self.view.branches_of(scope), self.of(scope)
            free = BRANCH_SLOTS - alloc.get(branches[-1], 0) if branches else 0
            found[scope.word] = {
                "expired": int((mine & lapsed).sum()),
                "free": free,
                "live": int((mine & self.settled & ~lapsed).sum()),
                "pending": int((mine & ~self.settled).sum()),
                "used": sum(alloc.get(branch, 0) for branch in branches),
            }
        return found

    def oldest(self) -> list[int]:
        """Lowest slot of each branch that has a grant which has not lapsed."""
        live = self.slots[self.settled & ~self.lapsed()]
        _, first = np.unique(live >> SLOT_BITS, return_index=True)
        return [int(slot) for slot in live[first]]


def census(core: Core, view: View) -> Census:
    """Take it: reads the log's ledger and the slots of vault.db, opens nothing but nodes of the tree."""
    granted, expires = core.ledger.expiries()
    alive = view.tree.alive(granted)
    slots = granted[alive]
    return Census(
        view=view,
        now_ms=core.clock.now_ms(),
        slots=slots,
        expires=expires[alive],
        settled=~view.pending.mask(slots),
        rows=core.data.slot_array(),
        dead=granted[~alive],
    )


def branches_free(view: View) -> int:
    """Positions of the key tree that no branch has: each is one more branch of any scope."""
    return sum(kind == Kind.FREE for _, kind in view.tree.root_node.positions)
