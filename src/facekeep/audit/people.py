"""Who may act: principals as the log adds and revokes them (SPEC §11 R11, R12, R21)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from facekeep.audit.report import RuleBroken
from facekeep.formats.roles import actions_of

_GRANTING: Final = frozenset({"enroll", "grant", "renew"})

#: (type, op) -> actions of which any one suffices; what an entry of the log needs.
NEEDS: Final[Mapping[tuple[str, str], frozenset[str]]] = {
    ("grant", "enroll"): frozenset({"enroll"}),
    ("grant", "grant"): frozenset({"grant"}),
    ("grant", "renew"): frozenset({"renew"}),
    ("grant", "reseal"): frozenset({"keys"}),
    ("grant", "adopt"): frozenset({"restore"}),
    ("principal", ""): frozenset({"principals"}),
    ("destroy", "shred"): frozenset({"shred"}),
    ("destroy", "withdraw"): frozenset({"withdraw"}),
    ("destroy", "revoke"): frozenset({"principals"}),
    ("destroy", "expire"): frozenset({"shred"}),
    ("destroy", "extend"): _GRANTING | {"keys"},
    ("destroy", "rotate"): frozenset({"keys"}),
    ("rotation", ""): frozenset({"keys"}),
    ("rotated", ""): frozenset({"keys"}),
    ("settings", ""): frozenset({"settings"}),
    ("signing", ""): frozenset({"keys"}),
    ("checkpoint", ""): frozenset({"log", "maintain"}),
    ("clock", ""): frozenset({"clock"}),
    ("backup", ""): frozenset({"backup"}),
    ("restore", ""): frozenset({"restore"}),
    ("restarted", ""): frozenset({"restore"}),
}


class People:
    """Principals by id; ``active`` leads to the actions each may do now."""

    def __init__(self) -> None:
        """Start before the first entry."""
        self.active: dict[str, frozenset[str]] = {}
        self.added = 0
        self._first_done = False
        self._of_slot: dict[int, tuple[str, frozenset[str]]] = {}
        self._states: dict[str, str] = {}  # why a known principal is not active

    def may(self, index: int, by: str | None, needs: frozenset[str]) -> None:
        """Raise RuleBroken unless ``by`` is active and may do one of ``needs``."""
        actions = self.active.get(by) if by is not None else None
        if actions is None:  # SPEC §11 R11
            raise RuleBroken("R11", index, self.why_not(by))
        if not needs & actions:  # SPEC §11 R12
            raise RuleBroken("R12", index, f"no role of principal {by} allows {' or '.join(sorted(needs))}")

    def why_not(self, by: str | None) -> str:
        """Say why ``by`` may not act."""
        if by is None:
            return "it names nobody who acts"
        return f"principal {by} {self._states.get(by, 'was never added')}"

    def announce(self, index: int, entry: Mapping[str, Any], *, adopted: bool = False) -> None:
        """Take up a ``principal`` entry; raises RuleBroken. Nobody has to allow one that is ``adopted``."""
        identity = entry["principal"]
        if not adopted and (entry["by"] is not None or self._first_done):
            self.may(index, entry["by"], NEEDS["principal", ""])
        if identity in self._states:  # SPEC §11 R11
            raise RuleBroken("R11", index, f"principal {identity} was added before")
        try:
            actions = actions_of(entry["roles"])
        except KeyError as error:  # SPEC §11 R12
            raise RuleBroken("R12", index, f"{error.args[0]!r} is no role") from None
        self._of_slot[entry["slot"]] = (identity, actions)
        self._states[identity] = f"is announced by entry {index} and not complete"

    def complete(self, slot: int) -> None:
        """Let a principal act whose entry was completed, unless it was ended meanwhile."""
        identity, actions = self._of_slot[slot]
        self._first_done = True
        if self._states[identity].startswith("is announced"):
            self._states[identity] = "is active"
            self.active[identity] = actions
            self.added += 1

    def knows(self, slot: int) -> bool:
        """Whether a slot is a principal's."""
        return slot in self._of_slot

    def end(self, index: int, slot: int) -> None:
        """Take a principal's right to act from the intent on."""
        identity = self._of_slot[slot][0]
        self.active.pop(identity, None)
        self._states[identity] = f"was revoked by entry {index}"
