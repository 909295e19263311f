"""When keys are due: the section [schedule] of vault.toml (SPEC §9.2)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final, NamedTuple

from facekeep.errors import FormatError
from facekeep.formats.canonical import JsonObject


class Bounds(NamedTuple):
    """Least and greatest value of a key. 0, where it is below ``low``, is allowed as well: never."""

    low: int
    high: int
    never: bool = False


#: key -> what it may be; the unit is in its name.
BOUNDS: Final[Mapping[str, Bounds]] = {
    "root_days": Bounds(1, 3_660),
    "swap_hours": Bounds(1, 24),
    "tree_days": Bounds(1, 3_660, never=True),
    "templates_days": Bounds(1, 3_660, never=True),
    "signing_days": Bounds(1, 3_660, never=True),
    "checkpoint_hours": Bounds(1, 8_760, never=True),
    "backup_days": Bounds(1, 3_660, never=True),
    "grace_days": Bounds(0, 3_660),
    "jump_hours": Bounds(48, 720),
    "shred_count": Bounds(0, 100),
}
_MS: Final = {"hours": 3_600_000, "days": 86_400_000}
_PAIR: Final = re.compile(r"([a-z_]{1,40})=(0|[1-9][0-9]{0,8})\Z")


@dataclass(frozen=True, slots=True)
class Schedule:
    """Cryptoperiods, ages and limits; 0 is never. ``checkpoints`` is a directory, empty for none.

    ``maintain`` does what is due, but for templates, which a person re-seals, and backups, which one keeps.
    """

    root_days: int = 30  # greatest age of a root
    swap_hours: int = 23  # age of the log pin at which the root is replaced: at least daily, run hourly
    tree_days: int = 365  # node keys and subject index
    templates_days: int = 730  # slot keys: said, never done by itself
    signing_days: int = 365  # the log's signing keys
    checkpoint_hours: int = 23  # since the last published checkpoint
    backup_days: int = 7  # since the last data backup: said
    grace_days: int = 30  # from a grant's lapse to its destruction
    jump_hours: int = 72  # longest silence of the log after which time is believed without a person
    shred_count: int = 10  # grants of a scope destroyed in a day without a person, where 1 % is fewer
    checkpoints: str = ""

    def ms(self, key: str) -> int:
        """Return a period in milliseconds; 0 is never."""
        return int(getattr(self, key)) * _MS[key.rpartition("_")[2]]

    def check(self) -> None:
        """Raise FormatError for a number out of its bounds, or of another type than int."""
        for key, bounds in BOUNDS.items():
            value = getattr(self, key)
            never = bounds.never and value == 0
            if type(value) is not int or not (never or bounds.low <= value <= bounds.high):
                orelse = ", or 0 for never" if bounds.never else ""
                raise FormatError(f"{key} is not a number from {bounds.low} to {bounds.high}{orelse}")
        if type(self.checkpoints) is not str or not self.checkpoints.isprintable():
            raise FormatError("checkpoints is not the name of a directory")

    def document(self) -> JsonObject:
        """Return what differs from the defaults."""
        default = Schedule()
        pairs = ((each.name, getattr(self, each.name)) for each in fields(self))
        return {name: value for name, value in pairs if value != getattr(default, name)}

    @staticmethod
    def parse(document: object) -> Schedule:
        """Return the schedule of a table of vault.toml; raises FormatError."""
        names = {each.name for each in fields(Schedule)}
        if not isinstance(document, dict) or not names.issuperset(document):
            raise FormatError("[schedule] has a key that facekeep does not know")
        schedule = Schedule(**document)
        schedule.check()
        return schedule

    def changed(self, words: tuple[str, ...]) -> Schedule:
        """Return it with changes such as ``root_days=7`` or ``root_days=default``. Raises FormatError."""
        default = Schedule()
        values: dict[str, int | str] = {each.name: getattr(self, each.name) for each in fields(self)}
        for word in words:
            key, equals, text = word.partition("=")
            number = _PAIR.match(word)
            if not equals or key not in values:
                raise FormatError(f"{key[:40]!r} is no key of the schedule, or has no value: {_keys()}")
            if text == "default":
                values[key] = getattr(default, key)
            elif key == "checkpoints":
                values[key] = text
            elif number is None:
                raise FormatError(f"{key} takes a whole number")
            else:
                values[key] = int(number[2])
        return Schedule.parse(values)


def _keys() -> str:
    return f"say KEY=VALUE, of {', '.join(each.name for each in fields(Schedule))}"
