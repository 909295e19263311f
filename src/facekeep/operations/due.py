"""What the schedule says is due, from what the log and the key tree authenticate (SPEC §9.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from facekeep.access.core import Core, View
from facekeep.formats.canonical import JsonObject
from facekeep.operations.census import Census

_COMMANDS: Final = {
    "root": "facekeep maintain",
    "swap": "facekeep maintain",
    "tree": "facekeep maintain",
    "signing": "facekeep maintain",
    "checkpoint": "facekeep maintain",
    "expired": "facekeep maintain",
    "templates": "facekeep keys rotate templates",
    "backup": "facekeep backup FILE",
}
_KEYS: Final = {
    "root": "root_days",
    "swap": "swap_hours",
    "tree": "tree_days",
    "signing": "signing_days",
    "templates": "templates_days",
    "checkpoint": "checkpoint_hours",
    "backup": "backup_days",
}


@dataclass(frozen=True, slots=True)
class Due:
    """One thing of the schedule: when it was done last (or what it counts from), when it is due; in ms."""

    what: str
    last_ms: int
    due_ms: int

    @property
    def next(self) -> str:
        """The command that does it."""
        return _COMMANDS[self.what]

    def is_due(self, now_ms: int) -> bool:
        """Whether its time has come."""
        return now_ms >= self.due_ms

    def to_json(self, now_ms: int) -> JsonObject:
        """Return it as JSON."""
        return {
            "due": self.is_due(now_ms),
            "due_ms": self.due_ms,
            "last_ms": self.last_ms,
            "next": self.next,
            "what": self.what,
        }


def periods(core: Core, view: View) -> list[Due]:
    """Return what counts from a time: tree, root, pin, signing keys, checkpoint, backup.

    What was never done counts from the founding of the vault. Cheap, whatever the vault holds.
    """
    history, plan = core.ledger.history(), core.settings.schedule
    swapped, began = view.tree.swapped_at_ms, history.began_ms
    last: dict[str, int] = {
        "tree": history.rotated.get("tree", began),
        "root": swapped,
        "swap": swapped,
        "signing": history.rotated.get("signing", began),
        "backup": _time(history.newest("backup"), began),
    }
    published = history.newest("checkpoint")
    if plan.checkpoints or published is not None:  # else nobody said where to publish them
        last["checkpoint"] = _time(published, began)
    return [_due(core, what, ms) for what, ms in last.items() if plan.ms(_KEYS[what])]


def of_grants(core: Core, found: Census) -> list[Due]:
    """Return what counts from grants: templates by the oldest key in use, expiry by the first lapse."""
    plan = core.settings.schedule
    dues: list[Due] = []
    lapsed = found.expires[found.lapsed()]
    if len(lapsed):
        first = int(lapsed.min())
        dues.append(Due("expired", first, first + plan.ms("grace_days")))
    oldest = _oldest(core, found) if plan.templates_days else None
    if oldest is not None:
        dues.append(_due(core, "templates", oldest))
    return dues


def is_due(core: Core, view: View, *whats: str) -> bool:
    """Whether one of these periods is over."""
    now = core.clock.now_ms()
    return any(each.what in whats and each.is_due(now) for each in periods(core, view))


def _due(core: Core, what: str, last_ms: int) -> Due:
    return Due(what, last_ms, last_ms + core.settings.schedule.ms(_KEYS[what]))


def _time(entry: JsonObject | None, otherwise: int) -> int:
    return otherwise if entry is None else int(str(entry["time_ms"]))


def _oldest(core: Core, found: Census) -> int | None:
    """When the oldest slot key that is in use was given out: slots of a branch are given out in order."""
    times = []
    for slot in found.oldest():
        logged = core.log.entry_of_slot(slot)
        if logged is not None:
            times.append(int(str(logged[1]["time_ms"])))
    return min(times, default=None)
