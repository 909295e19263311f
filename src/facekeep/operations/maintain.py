"""Doing what is due, in one idempotent command; each step by itself, so that one that fails stops no other.

Dueness is looked at again under the writer lock: of two that run at once one finds nothing left to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from facekeep.access.core import Core
from facekeep.access.roles import Action
from facekeep.access.session import Session
from facekeep.answers import Ambiguous
from facekeep.errors import (
    Busy,
    ClockError,
    FacekeepError,
    IntegrityError,
    SettingsChanged,
)
from facekeep.formats.canonical import JsonObject, JsonValue
from facekeep.operations import expiring, rotation
from facekeep.operations import move as moving
from facekeep.operations.census import census
from facekeep.operations.due import Due, is_due, of_grants, periods
from facekeep.operations.health import check_ready
from facekeep.operations.publishing import checkpoint_is_due, publish
from facekeep.operations.rotation import Rotated, Why
from facekeep.operations.steps import reached
from facekeep.operations.writing import writing

Progress: TypeAlias = Callable[[str, int, int], None]
Opened: TypeAlias = Callable[[], tuple[Core, Session]]

WAITING: Final = 3  # exit status where something waits for a person, as "done in part"
_FOR_ALL: Final = (Busy, ClockError, SettingsChanged)  # what stops one step stops the others


@dataclass(frozen=True, slots=True)
class MaintenanceStep(Ambiguous):
    """What became of one step. ``state``: done, not_due, due, waiting, failed, off.

    ``due`` is what a dry run would do, and what only a person does; ``waiting`` is for a person's yes.
    """

    name: str
    state: str
    message: str = ""
    next: str = ""
    error: FacekeepError | None = None

    def to_json(self) -> JsonObject:
        """Return it as JSON."""
        return {
            "code": None if self.error is None else self.error.code,
            "message": self.message,
            "next": self.next or None,
            "state": self.state,
            "step": self.name,
        }


@dataclass(frozen=True, slots=True)
class Maintained(Ambiguous):
    """Every step, in order."""

    steps: tuple[MaintenanceStep, ...]
    dry_run: bool

    @property
    def exit_code(self) -> int:
        """Exit status: that of the worst error (damage first), 3 where something waits, else 0."""
        errors = [each.error for each in self.steps if each.error is not None]
        ranks = [(isinstance(each, IntegrityError), each.exit_code) for each in errors]
        waiting = any(each.state == "waiting" for each in self.steps)
        return max(ranks)[1] if ranks else WAITING * waiting

    def to_json(self) -> JsonObject:
        """Return it as JSON."""
        steps: list[JsonValue] = [each.to_json() for each in self.steps]
        return {"dry_run": self.dry_run, "steps": steps}


class Maintenance:
    """One run. ``opened`` gives the vault as it is open now, ``reopen`` opens it under changed settings."""

    def __init__(
        self,
        opened: Opened,
        reopen: Callable[[], None],
        *,
        confirmed: bool = False,
        checkpoints: Path | None = None,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> None:
        """Plan it; ``confirmed``: a person has looked at what waits; ``checkpoints``: where they go now."""
        self._opened = opened
        self._reopen = reopen
        self._confirmed = confirmed
        self._directory = checkpoints
        self._dry_run = dry_run
        self._progress = progress

    def run(self) -> Maintained:
        """Do what is due. Raises NotAllowed before anything is done; every other error stands in its step."""
        _, session = self._opened()
        for action in (Action.MAINTAIN, Action.KEYS, Action.SHRED):
            session.require(action)
        return Maintained(tuple(self._steps()), self._dry_run)

    def _steps(self) -> Iterator[MaintenanceStep]:
        stopped: FacekeepError | None = None
        for name, act in _STEPS.items():
            if stopped is not None:
                yield MaintenanceStep(name, "failed", "not tried", stopped.next.command, stopped)
                continue
            try:
                step = act(self, name)
            except FacekeepError as error:
                stopped = error if isinstance(error, _FOR_ALL) else None
                step = MaintenanceStep(name, "failed", str(error), error.next.command, error)
            reached(f"maintain.{name}")
            yield step

    def _told(self, name: str) -> Callable[[int, int], None] | None:
        progress = self._progress
        if progress is None:
            return None
        return lambda done, total: progress(name, done, total)

    # The steps

    def _pending(self, name: str) -> MaintenanceStep:
        core, session = self._opened()
        before = len(core.view().head.operations)
        if self._dry_run:
            return MaintenanceStep(
                name, "due" if before else "not_due", _many(before, "pending operation") * bool(before)
            )
        with writing(core, session, Action.MAINTAIN) as view:
            check_ready(core, view)  # whoever is away holds up the next erasure, too
        return MaintenanceStep(
            name, "done" if before else "not_due", _many(before, "operation") * bool(before)
        )

    def _move(self, name: str) -> MaintenanceStep:
        core, session = self._opened()
        if all(each.op != "move" for each in core.view().head.rotations):
            return MaintenanceStep(name, "not_due")
        if self._dry_run:
            return MaintenanceStep(name, "due", "a move of the root was begun")
        with writing(core, session, Action.KEYS) as view:
            check_ready(core, view)
            moved = moving.finish(core, session)
        self._reopen()
        return MaintenanceStep(name, "done", f"the root is held by {', '.join(moved.holders)}")

    def _expired(self, name: str) -> MaintenanceStep:
        core, session = self._opened()
        if self._dry_run:
            found = expiring.plan(core, census(core, core.view()), confirmed=self._confirmed)
            done = expiring.Expired(None, len(found.slots), 0, found)
        else:
            done = expiring.expire(core, session, confirmed=self._confirmed, progress=self._told(name))
        many = _many(done.grants, "grant") if done.grants else ""
        if done.waiting.waits:
            waits = f"{_many(done.waiting.waits, 'grant')} wait: {done.waiting.why}"
            step = "check the clock and the list, then: facekeep maintain --yes"
            return MaintenanceStep(name, "waiting", f"{many} destroyed; {waits}" if many else waits, step)
        return MaintenanceStep(name, self._did(many), many)

    def _did(self, what: object) -> str:
        return ("due" if self._dry_run else "done") if what else "not_due"

    def _tree(self, name: str) -> MaintenanceStep:
        return self._rotation(name, ("tree",), rotation.rotate_tree)

    def _root(self, name: str) -> MaintenanceStep:
        return self._rotation(name, ("root", "swap"), _rotate_root)

    def _signing(self, name: str) -> MaintenanceStep:
        return self._rotation(name, ("signing",), rotation.rotate_signing)

    def _rotation(
        self,
        name: str,
        whats: tuple[str, ...],
        rotate: Callable[[Core, Session, Why, Callable[[int, int], None] | None], object],
    ) -> MaintenanceStep:
        core, session = self._opened()
        if not is_due(core, core.view(), *whats):
            return MaintenanceStep(name, "not_due")
        if self._dry_run:
            return MaintenanceStep(name, "due")
        with writing(core, session, Action.KEYS) as view:
            if not is_due(core, view, *whats):
                return MaintenanceStep(name, "not_due")
            if name != "signing":
                check_ready(core, view)
            rotate(core, session, Why.SCHEDULED, self._told(name))
        return MaintenanceStep(name, "done", f"epoch {core.view().tree.epoch}" if name != "signing" else "")

    def _rows(self, name: str) -> MaintenanceStep:
        """Delete rows of destroyed grants, which nothing opens; nothing is logged, since nothing changes."""
        core, session = self._opened()
        dead = census(core, core.view()).dead_rows()
        if len(dead) and not self._dry_run:
            with writing(core, session, Action.MAINTAIN) as view:
                dead = census(core, view).dead_rows()
                core.data.delete(dead.tolist())
        return MaintenanceStep(name, self._did(len(dead)), _many(len(dead), "row") * bool(len(dead)))

    def _checkpoint(self, name: str) -> MaintenanceStep:
        core, session = self._opened()
        named = core.settings.schedule.checkpoints
        directory = self._directory or (Path(named) if named else None)
        if directory is None:
            return MaintenanceStep(
                name, "off", "no directory was named", "facekeep settings --schedule checkpoints=DIR"
            )
        if not checkpoint_is_due(core):
            return MaintenanceStep(name, "not_due")
        if self._dry_run:
            return MaintenanceStep(name, "due")
        return MaintenanceStep(name, "done", publish(core, session, directory, self._told(name)))

    def _backup(self, name: str) -> MaintenanceStep:
        core, _ = self._opened()
        return self._remind(name, periods(core, core.view()))

    def _templates(self, name: str) -> MaintenanceStep:
        core, _ = self._opened()
        return self._remind(name, of_grants(core, census(core, core.view())))

    def _remind(self, name: str, dues: Sequence[Due]) -> MaintenanceStep:
        due = next((each for each in dues if each.what == name), None)
        if due is None or not due.is_due(self._opened()[0].clock.now_ms()):
            return MaintenanceStep(name, "not_due")
        return MaintenanceStep(name, "due", "a person does this", due.next)


def _rotate_root(core: Core, session: Session, why: Why, _: object) -> Rotated:
    return rotation.rotate_root(core, session, why)


def _many(count: int, one: str) -> str:
    return f"{count} {one}{'' if count == 1 else 's'}"


_STEPS: Final[dict[str, Callable[[Maintenance, str], MaintenanceStep]]] = {
    "pending": Maintenance._pending,  # noqa: SLF001 - the table of this very class
    "move": Maintenance._move,  # noqa: SLF001
    "expired": Maintenance._expired,  # noqa: SLF001
    "tree": Maintenance._tree,  # noqa: SLF001
    "root": Maintenance._root,  # noqa: SLF001
    "signing": Maintenance._signing,  # noqa: SLF001
    "rows": Maintenance._rows,  # noqa: SLF001
    "checkpoint": Maintenance._checkpoint,  # noqa: SLF001
    "backup": Maintenance._backup,  # noqa: SLF001
    "templates": Maintenance._templates,  # noqa: SLF001
}
