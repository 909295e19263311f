"""What rotations may do to grants and keys, and that they say why (SPEC §11 R31 to R33)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from facekeep.audit.register import Grant, Register
from facekeep.audit.report import RuleBroken
from facekeep.formats.ids import SLOT_BITS, split_slot

#: what is rotated -> (type, op) of the entry that must follow in the same append.
_FOLLOWS: Final[Mapping[str, tuple[str, str]]] = {
    "root": ("destroy", "rotate"),
    "tree": ("destroy", "rotate"),
    "signing": ("signing", ""),
}


class Selection(NamedTuple):
    """Which grants a rotation of templates re-seals: below an index of their branch, of a model.

    ``used`` are the branches that had given out a slot when it began.
    """

    first: int
    below: Mapping[int, int]
    model: str | None
    used: frozenset[int]

    def has(self, slot: int, grant: Grant) -> bool:
        """Whether a grant is to be re-sealed."""
        branch, index = split_slot(slot)
        return index < self.below.get(branch, 0) and self.model in (None, grant.terms.model)


class Rotations:
    """Rotations that are open, and what the next entry must be after one that is not."""

    def __init__(self, register: Register) -> None:
        """Work on the auditor's picture."""
        self._register = register
        self._open: dict[str, Selection] = {}  # what -> its selection, empty for a move
        self._due: tuple[str, str, str | None] | None = None  # type, op and hand of the next entry

    @property
    def waiting(self) -> bool:
        """Whether the next entry must go on with a rotation."""
        return self._due is not None

    def before(self, index: int, entry: Mapping[str, Any]) -> None:
        """Hold any entry against a rotation that stands right before it; raises RuleBroken."""
        found = (entry["type"], entry.get("op", ""), entry["by"])
        due, self._due = self._due, None
        if due is not None and found != due:  # SPEC §11 R31
            raise RuleBroken("R31", index, "the entry before it announces a rotation that does not follow")
        rotates = found[:2] in _FOLLOWS.values() and entry.get("part", 1) == 1
        inside = entry["type"] == "destroy" and bool(self._open)
        if rotates and due is None and not inside:  # SPEC §11 R31
            raise RuleBroken("R31", index, "nothing says which rotation it is part of, and why")

    def finish(self, size: int) -> None:
        """Judge the end of the log; raises RuleBroken."""
        if self._due is not None:  # SPEC §11 R31
            raise RuleBroken("R31", size - 1, "it announces a rotation that does not follow")

    def begin(self, index: int, entry: Mapping[str, Any]) -> None:
        """Take up a ``rotation`` entry."""
        what = entry["what"]
        if what in _FOLLOWS:
            self._due = (*_FOLLOWS[what], entry["by"])
        else:
            used = self._register.branches
            self._open[what] = Selection(index, dict(entry["below"]), entry["model"], used)

    def resealed(self, index: int, slot: int, grant: Grant, source: int, old: Grant) -> None:
        """Judge a grant of op ``reseal`` in ``slot`` that is made from ``source``; raises RuleBroken."""
        selection = self._open.get("templates")
        if selection is None or not selection.has(source, old):  # SPEC §11 R32
            raise RuleBroken("R32", index, f"no open rotation re-seals the grant in slot {source}")
        if slot >> SLOT_BITS in selection.used:  # SPEC §11 R32, §3.3
            raise RuleBroken("R32", index, f"slot {slot} is in a branch that was in use before the rotation")
        if grant.terms is not old.terms:  # SPEC §11 R32
            raise RuleBroken("R32", index, f"re-sealing changes the terms of the grant in slot {source}")

    def end(self, index: int, entry: Mapping[str, Any]) -> None:
        """Judge a ``rotated`` entry: it accounts for every grant that was selected and still lives."""
        what = next(what for what, each in self._open.items() if each.first == entry["of"])
        selection = self._open.pop(what)
        left = sum(selection.has(slot, grant) for slot, grant in self._register.living.items())
        if entry["left"] != (left if what == "templates" else 0):  # SPEC §11 R33
            raise RuleBroken("R33", index, f"it says {entry['left']} grants are left, there are {left}")
