"""Every grant the log ever announced, and what became of it: the auditor's picture of the key tree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from facekeep.audit.report import RuleBroken
from facekeep.errors import FormatError
from facekeep.formats.ids import SLOT_BITS
from facekeep.formats.terms import Terms

_SHARED: Final = 112  # hex digits of packed terms before the record digest (SPEC §5.3)


class Conditions:
    """What the grants of one notice have in common: model and terms without the record digest.

    Compared by identity: ``Register`` keeps one of each. Times in ms.
    """

    __slots__ = (
        "count", "dimension", "expires_at_ms", "metric", "model", "not_before_ms", "regions", "scope",
    )  # fmt: skip

    def __init__(self, model: str, terms: Terms) -> None:
        """Take what matters of unpacked terms."""
        self.model = model
        self.scope = terms.scope.word
        self.not_before_ms = terms.not_before_ms
        self.expires_at_ms = terms.expires_at_ms
        self.regions = frozenset(terms.regions)
        self.count = terms.count
        self.dimension = terms.dimension
        self.metric = terms.metric


class Grant(NamedTuple):
    """One grant: subject tag, conditions, grant id, and the index of its operation's first entry."""

    tag: bytes
    terms: Conditions
    id: bytes
    first: int


class Register:
    """Grants by slot, in the state they are in after the entries so far.

    ``announced`` is not complete yet, ``living`` is, ``dying`` was named by a destruction that is open.
    ``ended`` leads from a slot to the first entry that names it for destruction, ``dead`` is destroyed.
    """

    def __init__(self) -> None:
        """Start before the first entry."""
        self.announced: dict[int, Grant] = {}
        self.living: dict[int, Grant] = {}
        self.dying: dict[int, Grant] = {}
        self.ended: dict[int, int] = {}
        self.dead: set[int] = set()
        self.of_tag: dict[bytes, list[int]] = {}
        self.erased: dict[bytes, int] = {}  # tag -> index of the erasure
        self.alive: Counter[str] = Counter()  # living grants by scope
        self.total = 0
        self._conditions: dict[tuple[str, str], Conditions] = {}
        self._scopes: dict[int, str] = {}  # of each branch

    @property
    def branches(self) -> frozenset[int]:
        """Branches of which a slot was ever announced."""
        return frozenset(self._scopes)

    def announce(self, index: int, first: int, item: Mapping[str, Any]) -> Grant:
        """Take up one element of ``grants``; raises RuleBroken."""
        terms = item["terms"]
        key = (item["model"], terms[:_SHARED])
        conditions = self._conditions.get(key) or self._unpack(index, key, terms)
        tag, slot = bytes.fromhex(item["tag"]), item["slot"]
        if tag in self.erased:  # SPEC §11 R19
            raise RuleBroken("R19", index, f"it grants to a subject whom entry {self.erased[tag]} erased")
        if self._scopes.setdefault(slot >> SLOT_BITS, conditions.scope) != conditions.scope:
            scope = self._scopes[slot >> SLOT_BITS]  # SPEC §11 R5
            raise RuleBroken("R5", index, f"slot {slot} is for {conditions.scope} in a branch of {scope}")
        grant = self.announced[slot] = Grant(tag, conditions, bytes.fromhex(item["grant"]), first)
        self.total += 1
        slots = self.of_tag.get(tag)
        if slots is None:
            self.of_tag[tag] = [slot]
        else:
            slots.append(slot)
        return grant

    def complete(self, slots: Iterable[int]) -> list[tuple[int, Grant]]:
        """Move an operation's grants to the living ones; those that were destroyed meanwhile stay so."""
        completed = []
        for slot in slots:
            grant = self.announced.pop(slot, None)
            if grant is not None:
                self.living[slot] = grant
                self.alive[grant.terms.scope] += 1
                completed.append((slot, grant))
        return completed

    def end(self, index: int, slot: int) -> Grant | None:
        """Take a grant out that a destruction names; None if its slot was never a grant's."""
        grant = self.living.pop(slot, None)
        if grant is not None:
            self.alive[grant.terms.scope] -= 1
        else:
            grant = self.announced.pop(slot, None) or self.dying.get(slot)
        if grant is not None:
            self.dying[slot] = grant
        self.ended.setdefault(slot, index)
        return grant

    def destroy(self, slots: Iterable[int]) -> None:
        """Note that a destruction is complete."""
        for slot in slots:
            self.dying.pop(slot, None)
            self.dead.add(slot)

    def elsewhere(self, slot: int, grant: Grant) -> list[int]:
        """Other living slots of the grant's subject and scope."""
        of_tag = self.of_tag[grant.tag]
        if len(of_tag) == 1:
            return []
        scope, living = grant.terms.scope, self.living
        return [
            each for each in of_tag if each != slot and each in living and living[each].terms.scope == scope
        ]

    def why_not(self, slot: int) -> str:
        """Say in which state a slot is that is not a living grant's."""
        if slot in self.announced:
            return f"the grant of entry {self.announced[slot].first} is not complete"
        if slot in self.ended:
            what = "destroyed" if slot in self.dead else "about to be destroyed"
            return f"slot {slot} is {what}: entry {self.ended[slot]} names it"
        return f"slot {slot} was never granted"

    def _unpack(self, index: int, key: tuple[str, str], terms: str) -> Conditions:
        try:
            conditions = Conditions(key[0], Terms.unpack(bytes.fromhex(terms)))
        except FormatError as error:  # SPEC §11 R13
            raise RuleBroken("R13", index, str(error)) from error
        self._conditions[key] = conditions
        return conditions
