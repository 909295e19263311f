"""What an operator does to a vault's keys, behind ``Vault.keys``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

from facekeep.access.core import Core
from facekeep.access.life import Life, living
from facekeep.access.roles import Action
from facekeep.access.session import Session
from facekeep.arguments import checks_arguments
from facekeep.formats.note import VerifierKey
from facekeep.operations import estimating, rotation
from facekeep.operations import move as moving
from facekeep.operations import rotate_templates as resealing
from facekeep.operations.estimating import Extent
from facekeep.operations.health import HolderState
from facekeep.operations.move import Holders, Moved, Planned
from facekeep.operations.rotate_templates import Estimate, Resealed, Selection
from facekeep.operations.rotation import Rotated, Why

__all__ = [
    "Estimate", "Extent", "HolderState", "Holders", "Keys", "Moved", "Planned", "Resealed", "Rotated",
    "Selection", "Why",
]  # fmt: skip

Progress: TypeAlias = Callable[[int, int], None]
Opened: TypeAlias = Callable[[], tuple[Core, Session]]


@living
@checks_arguments
class Keys:
    """Rotation and custody of the root, for operators; every method says in the log why and by whom.

    Each raises NotAllowed, Busy, ErasurePending where a holder or copy is away, UsageError with nothing done.
    """

    def __init__(self, opened: Opened, reopen: Callable[[], None], life: Life) -> None:
        """Use ``Vault.keys``."""
        self._life = life
        self._opened = opened
        self._reopen = reopen

    def rotate_root(self, why: Why = Why.SCHEDULED) -> Rotated:
        """Replace the root with every holder, in constant time."""
        return rotation.rotate_root(*self._opened(), why)

    def rotate_tree(self, why: Why = Why.SCHEDULED, progress: Progress | None = None) -> Rotated:
        """Give every stored node of the key tree and the subject index fresh keys."""
        return rotation.rotate_tree(*self._opened(), why, progress)

    def rotate_templates(
        self,
        why: Why = Why.SCHEDULED,
        selection: Selection | None = None,
        progress: Progress | None = None,
    ) -> Resealed:
        """Seal templates again under new slots, all or a selection; goes on with what was begun before."""
        return resealing.rotate_templates(*self._opened(), why, selection or Selection(), progress)

    def rotate_signing(
        self, why: Why = Why.SCHEDULED, progress: Progress | None = None
    ) -> tuple[int, tuple[VerifierKey, ...]]:
        """Give the log new signing keys, cross-signed; returns the log index and the keys for auditors."""
        return rotation.rotate_signing(*self._opened(), why, progress)

    def extent(self, what: str) -> Extent:
        """Count what a rotation of ``root``, ``tree`` or ``signing`` would write, and estimate the time."""
        return estimating.extent(*self._opened(), what)

    def estimate(self, selection: Selection | None = None) -> Estimate:
        """Count what ``rotate_templates`` would seal again, and estimate the time."""
        return resealing.estimate(*self._opened(), selection or Selection())

    def move(self, holders: Holders, why: Why = Why.MIGRATION) -> Moved:
        """Change who holds the root. New holders get a fresh root only; old ones destroy all they have."""
        core, session = self._opened()
        first = moving.begin(core, session, why, holders)
        if first is None:
            return Moved(None, core.settings.holders, (), core.view().tree.epoch)
        self._reopen()
        return self.resume()

    def plan_move(self, holders: Holders) -> Planned:
        """Say who would hold the root after ``move``, and estimate the time; nothing is done."""
        return moving.plan_move(*self._opened(), holders)

    def holders(self) -> list[HolderState]:
        """Who holds the root now, and how each stands to the root that opens the vault."""
        return moving.holder_states(*self._opened())

    def pending(self) -> tuple[int, ...]:
        """Log indices of operations that wait for a holder or a copy."""
        core, session = self._opened()
        view = core.view()
        session.require(Action.STATUS, view)
        return tuple(each.first for each in view.head.operations)

    def resume(self) -> Moved:
        """Finish pending erasures, and a move that was begun; templates are gone on with by rotating them.

        ``finished`` of the result has those, too, that opening the vault has finished.
        """
        core, session = self._opened()
        moved = moving.finish(core, session)
        ended, core.finished = core.finished, []
        if moved.entry is not None:
            self._reopen()
        return replace(moved, finished=tuple(each.first for each in ended))
