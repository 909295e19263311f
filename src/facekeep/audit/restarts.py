"""How a log begins whose predecessor was lost: what is adopted, by whom, and no more (SPEC §11 R35)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from facekeep.audit.people import NEEDS, People
from facekeep.audit.register import Register
from facekeep.audit.report import RuleBroken

#: What stands in an adoption, in this order; behind each principal and grant its completion.
_ORDER: Final = ("principal", "signing", "grant", "restarted")


class Restarts:
    """Judges what stands between entry 0 of type ``restart`` and the ``restarted`` entry that ends it."""

    def __init__(self, register: Register, people: People) -> None:
        """Work on the auditor's picture."""
        self._register = register
        self._people = people
        self._by: str | None = None
        self._stage = 0  # place in _ORDER of the last entry
        self._due: int | None = None  # first entry of the operation that is to be completed next
        self._hand: str | None = None  # whose that operation is
        self.open = False

    def begin(self, entry: Mapping[str, Any]) -> str:
        """Take up entry 0; returns what a reader must be told."""
        self.open, self._by = True, entry["by"]
        if self._by is None:  # SPEC §11 R35
            raise RuleBroken("R35", 0, "nobody restarts the log")
        pin, seen = entry["pin"], entry["seen"]
        also = f", and a checkpoint of {seen['size']} was seen" if seen else ""
        return (
            f"entry 0: THE LOG WAS RESTARTED by principal {self._by}: the one before it is lost, which had "
            f"{pin['size']} entries at least{also}; whatever it recorded is not in this one, and an older "
            "checkpoint is not continued by it"
        )

    def before(self, index: int, entry: Mapping[str, Any]) -> None:
        """Hold any later entry against the adoption; raises RuleBroken."""
        kind, adopts = entry["type"], entry.get("op") == "adopt"
        if not self.open:
            if adopts or kind == "restarted":  # SPEC §11 R35
                raise RuleBroken("R35", index, "it adopts grants, and no restart is under way")
            return
        if kind not in (*_ORDER, "granted") or (kind == "grant" and not adopts):  # SPEC §11 R35
            raise RuleBroken("R35", index, f"type {kind} stands inside the adoption after a restart")
        hand = None if kind == "principal" else self._by
        if kind != "granted" and entry["by"] != hand:  # SPEC §11 R35
            raise RuleBroken("R35", index, "it is of another hand than an adoption's")
        self._in_order(index, entry)

    def _in_order(self, index: int, entry: Mapping[str, Any]) -> None:
        """Hold the adoption to the order of SPEC §6.6; each operation is completed at once."""
        kind, first = entry["type"], index - entry.get("part", 1) + 1
        due, self._due = self._due, None
        if kind == "granted":
            right = entry["of"] == due and entry["by"] == self._hand
        else:
            right = due in (None, first) and _ORDER.index(kind) >= self._stage
            self._stage = _ORDER.index(kind)
            self._due = first if kind in ("principal", "grant") else None
            self._hand = entry["by"]
        if not right:  # SPEC §11 R35
            raise RuleBroken("R35", index, f"type {kind} is out of the order of an adoption")

    def end(self, index: int, entry: Mapping[str, Any]) -> None:
        """Judge the ``restarted`` entry; raises RuleBroken."""
        self.open = False
        self._people.may(index, entry["by"], NEEDS["restarted", ""])
        if not self._register.branches.issubset(entry["closed"]):  # SPEC §11 R35
            raise RuleBroken("R35", index, "it does not close every branch that has grants")

    def finish(self, size: int) -> None:
        """Judge the end of the log; raises RuleBroken."""
        if self.open:  # SPEC §11 R35
            raise RuleBroken("R35", size - 1, "the log ends inside the adoption after a restart")
