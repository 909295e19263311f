"""Who would return from a backup, who stays erased and why: what ``restore --dry-run`` tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np

from facekeep.access.core import Core
from facekeep.formats import entries
from facekeep.formats.canonical import JsonObject

_DESTROY: Final = b'"type":"destroy",'  # no string in an entry holds a quotation mark
_DESTROYED: Final = b'"type":"destroyed",'
#: What ended a slot, by the op of the destruction that names it (SPEC §6.1).
REASONS: Final = {
    "shred": "shredded",
    "withdraw": "withdrawn",
    "expire": "expired",
    "renew": "renewed",
    "reseal": "resealed",
    "void": "voided",
}
UNRECORDED: Final = "unrecorded"  # dead in the key tree, and the log, which was restarted, does not say why


@dataclass(frozen=True, slots=True)
class Returning:
    """A row that would be merged: whose, and for what."""

    slot: int
    tag: bytes
    subject: str
    scope: str

    def to_json(self) -> JsonObject:
        """Return it as JSON."""
        return {"scope": self.scope, "slot": self.slot, "subject": self.subject, "tag": self.tag.hex()}


@dataclass(frozen=True, slots=True)
class Staying:
    """A row whose slot is destroyed, or about to be.

    ``entry`` is the log index of what names the slot, ``time_ms`` when that was completed (None: pending).
    ``erased`` is the entry that erased the whole subject, None where nothing did.
    """

    slot: int
    tag: bytes
    reason: str
    entry: int | None
    time_ms: int | None
    erased: int | None

    def to_json(self) -> JsonObject:
        """Return it as JSON: a pseudonym and no id, since nobody can open the record any more."""
        return {
            "entry": self.entry,
            "erased": self.erased,
            "reason": self.reason,
            "slot": self.slot,
            "tag": self.tag.hex(),
            "time_ms": self.time_ms,
        }


@dataclass(frozen=True, slots=True)
class Refusal:
    """A row that is not merged though its slot lives: ``not_logged``, ``altered`` or ``other_enrolment``."""

    slot: int
    reason: str

    def to_json(self) -> JsonObject:
        """Return it as JSON."""
        return {"reason": self.reason, "slot": self.slot}


def staying(core: Core, dead: Sequence[tuple[int, bytes]]) -> list[Staying]:
    """Say of each (slot, tag) what destroyed it; reads the log's destructions once."""
    slots = np.array([slot for slot, _ in dead], np.int64)
    order = np.argsort(slots)
    ordered = slots[order]
    ended = np.full(len(slots), -1, np.int64)  # by place in ``ordered``: first entry of what names the slot
    operations: dict[int, str] = {}
    completed: dict[int, int] = {}
    erased: dict[str, int] = {}
    for index, body in core.log.control_bodies(0):
        if _DESTROY in body:
            entry = cast("dict[str, Any]", entries.parse(body))
            first = index - entry["part"] + 1
            operations[first] = entry["op"]
            for start, count in entry["slots"]:
                low, high = np.searchsorted(ordered, (start, start + count)).tolist()
                span = ended[low:high]
                span[span < 0] = first
            if entry["op"] == "shred":
                erased.update(dict.fromkeys(entry["tags"], first))
        elif _DESTROYED in body:
            entry = cast("dict[str, Any]", entries.parse(body))
            completed[entry["of"]] = entry["time_ms"]
    by_row = np.empty(len(slots), np.int64)
    by_row[order] = ended
    return [
        Staying(
            slot,
            tag,
            REASONS.get(operations.get(first, ""), UNRECORDED),
            first if first >= 0 else None,
            completed.get(first),
            erased.get(tag.hex()),
        )
        for (slot, tag), first in zip(dead, by_row.tolist(), strict=True)
    ]
