"""A destruction names every slot of the grants it voids (SPEC §6.1), or they would look alive."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from facekeep.auditlog.pending import Ranges
from facekeep.errors import IntegrityError
from facekeep.formats.canonical import JsonObject
from facekeep.formats.entries import slots_of


def check_voids(appended: Sequence[JsonObject], entry_at: Callable[[int], JsonObject]) -> None:
    """Check all destroy operations among whole, consecutive ``appended`` entries, or IntegrityError.

    ``entry_at`` returns an earlier entry, authenticated.
    """
    for operation in _destructions(appended):
        voids = [index for part in operation for index in part["voids"]]
        if not voids:
            continue
        named = Ranges(span for part in operation for span in part["slots"])
        for first in voids:
            for slot in _slots(first, entry_at):
                if slot not in named:
                    raise IntegrityError(
                        f"a destruction voids entry {first} but does not name its slot {slot}"
                    )


def _destructions(appended: Sequence[JsonObject]) -> list[list[dict[str, Any]]]:
    operations: list[list[dict[str, Any]]] = []
    for entry in appended:
        if entry["type"] == "destroy":
            if entry["part"] == 1:
                operations.append([])
            operations[-1].append(cast("dict[str, Any]", entry))
    return operations


def _slots(first: int, entry_at: Callable[[int], JsonObject]) -> list[int]:
    opening = entry_at(first)
    parts = cast("int", opening.get("parts", 1))
    rest = (entry_at(index) for index in range(first + 1, first + parts))
    return [slot for entry in (opening, *rest) for slot in slots_of(entry)]
