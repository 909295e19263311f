"""The set that a 1:N decision must have compared, recomputed from the log (SPEC §6.2, §11).

Kept up to date grant by grant for each (scope, model, region) that is ever asked for. Between two
decisions only what was granted, ended, began or lapsed is touched, so many decisions replay quickly.
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections.abc import Mapping
from typing import Any, TypeAlias

from facekeep.audit.register import Conditions, Grant, Register
from facekeep.audit.report import RuleBroken
from facekeep.auditlog.setdigest import SetDigest
from facekeep.formats.terms import covering_regions

Members: TypeAlias = dict[int, bytes]  # slot -> grant id
_Boundary: TypeAlias = tuple[int, int, Conditions]


class View:
    """Living grants of one scope and model that are valid in one region at one time."""

    def __init__(self, stock: Mapping[Conditions, Members], region: str, time_ms: int) -> None:
        """Take the stock as it stands at ``time_ms``."""
        self._stock = stock
        self._codes = frozenset(covering_regions(region))
        self._time_ms = time_ms
        self._inside: set[Conditions] = set()
        self._ahead: list[_Boundary] = []  # a heap of beginnings and ends that are still to come
        self._behind: list[_Boundary] = []  # ascending: decisions of one commit may step back a little
        self._serial = 0
        self._sum = SetDigest()
        self._adds: Members = {}
        self._drops: Members = {}
        self._digest = b""
        self.count = 0
        self.version = 0  # moves with the set
        for conditions in stock:
            self.meet(conditions)

    def meet(self, conditions: Conditions) -> None:
        """Take up conditions that were not in the stock before."""
        if not self._codes & conditions.regions:
            return
        for time_ms in (conditions.not_before_ms, conditions.expires_at_ms):
            self._serial += 1
            boundary = (time_ms, self._serial, conditions)
            if time_ms > self._time_ms:
                heapq.heappush(self._ahead, boundary)
            else:
                insort(self._behind, boundary)
        self._judge(conditions)

    def move(self, time_ms: int) -> None:
        """Go to another time, most often a later one."""
        self._time_ms = time_ms
        ahead, behind = self._ahead, self._behind
        while ahead and ahead[0][0] <= time_ms:
            behind.append(heapq.heappop(ahead))
            self._judge(behind[-1][2])
        while behind and behind[-1][0] > time_ms:
            boundary = behind.pop()
            heapq.heappush(ahead, boundary)
            self._judge(boundary[2])

    def valid(self, conditions: Conditions) -> bool:
        """Whether grants of these conditions are in the set."""
        return conditions in self._inside

    def add(self, conditions: Conditions, slot: int, grant_id: bytes) -> None:
        """Note that a grant was added to the stock."""
        if conditions in self._inside:
            self._put({slot: grant_id})

    def drop(self, conditions: Conditions, slot: int, grant_id: bytes) -> None:
        """Note that a grant was taken from the stock."""
        if conditions in self._inside:
            self._take({slot: grant_id})

    def digest(self, without: Members | None = None) -> bytes:
        """Set digest, of all but some members."""
        if self._adds or self._drops:
            self._sum.add_many(self._adds.keys(), self._adds.values())
            for slot, grant_id in self._drops.items():
                self._sum.remove(slot, grant_id)
            self._adds, self._drops, self._digest = {}, {}, b""
        if without:
            rest = self._sum.copy()
            for slot, grant_id in without.items():
                rest.remove(slot, grant_id)
            return rest.digest()
        self._digest = self._digest or self._sum.digest()
        return self._digest

    def _judge(self, conditions: Conditions) -> None:
        wanted = conditions.not_before_ms <= self._time_ms < conditions.expires_at_ms
        if wanted and conditions not in self._inside:
            self._inside.add(conditions)
            self._put(self._stock[conditions])
        elif not wanted and conditions in self._inside:
            self._inside.remove(conditions)
            self._take(self._stock[conditions])

    def _put(self, members: Members) -> None:
        for slot, grant_id in members.items():
            if self._drops.pop(slot, None) is None:
                self._adds[slot] = grant_id
        self.count += len(members)
        self.version += 1

    def _take(self, members: Members) -> None:
        for slot, grant_id in members.items():
            if self._adds.pop(slot, None) is None:
                self._drops[slot] = grant_id
        self.count -= len(members)
        self.version += 1


class _Stock:
    """Living grants of one scope and model, by conditions, and the views on them."""

    def __init__(self) -> None:
        self.members: dict[Conditions, Members] = {}
        self.views: dict[str, View] = {}

    def add(self, slot: int, grant: Grant) -> None:
        members = self.members.get(grant.terms)
        if members is None:
            members = self.members[grant.terms] = {}
            for view in self.views.values():
                view.meet(grant.terms)
        members[slot] = grant.id
        for view in self.views.values():
            view.add(grant.terms, slot, grant.id)

    def drop(self, slot: int, grant: Grant) -> None:
        del self.members[grant.terms][slot]
        for view in self.views.values():
            view.drop(grant.terms, slot, grant.id)


class Galleries:
    """Judges 1:N decisions."""

    def __init__(self, register: Register) -> None:
        """Follow a register; ``granted`` and ``ended`` must be told what moves in it."""
        self._register = register
        self._stocks: dict[tuple[str, str], _Stock] = {}
        self._moves = 0
        self._known: dict[View, tuple[object, Members, bytes]] = {}  # of the last ``omitted`` of each

    def granted(self, slot: int, grant: Grant) -> None:
        """Note a grant that has become a living one."""
        self._moves += 1
        stock = self._stocks.get((grant.terms.scope, grant.terms.model))
        if stock is not None:
            stock.add(slot, grant)

    def ended(self, slot: int, grant: Grant) -> None:
        """Note a grant that was a living one."""
        self._moves += 1
        stock = self._stocks.get((grant.terms.scope, grant.terms.model))
        if stock is not None:
            stock.drop(slot, grant)

    def check(self, index: int, entry: Mapping[str, Any]) -> None:
        """Judge an allowed 1:N decision; raises RuleBroken."""
        scope = entry["scope"]
        if scope != "identify":  # SPEC §11 R26
            raise RuleBroken("R26", index, f"a search in grants for {scope}")
        stock = self._stock(scope, entry["model"])
        view = self._view(stock, entry["region"], entry["time_ms"])
        without, digest = self._left_out(index, view, entry) if entry["omitted"] else ({}, view.digest())
        count = view.count - len(without)
        if entry["count"] != count:  # SPEC §11 R26
            raise RuleBroken("R26", index, f"{entry['count']} grants were compared, {count} were valid")
        if entry["set"] != digest.hex():  # SPEC §11 R26
            raise RuleBroken("R26", index, "the grants compared are not those that were valid")
        for slot in entry["candidates"]:  # SPEC §11 R27
            grant = self._register.living.get(slot)
            if grant is None:
                raise RuleBroken("R27", index, f"a candidate's grant: {self._register.why_not(slot)}")
            terms = grant.terms
            outside = (terms.scope, terms.model) != (scope, entry["model"]) or not view.valid(terms)
            if outside or slot in without:
                raise RuleBroken("R27", index, f"slot {slot} is a candidate and was not compared")
        left_out = self._register.alive[scope] - count  # SPEC §11 R28
        if entry["excluded"] != left_out:
            raise RuleBroken(
                "R28", index, f"{entry['excluded']} grants are said to be left out, {left_out} were"
            )

    def _stock(self, scope: str, model: str) -> _Stock:
        stock = self._stocks.get((scope, model))
        if stock is None:
            stock = self._stocks[scope, model] = _Stock()
            for slot, grant in self._register.living.items():
                if grant.terms.scope == scope and grant.terms.model == model:
                    stock.add(slot, grant)
        return stock

    @staticmethod
    def _view(stock: _Stock, region: str, time_ms: int) -> View:
        view = stock.views.get(region)
        if view is None:
            view = stock.views[region] = View(stock.members, region, time_ms)
        else:
            view.move(time_ms)
        return view

    def _left_out(self, index: int, view: View, entry: Mapping[str, Any]) -> tuple[Members, bytes]:
        """Return those of the set whose rows the entry says were lost or damaged, and the rest's digest."""
        state = (self._moves, view.version, entry["omitted"])
        known = self._known.get(view)
        if known is None or known[0] != state:
            without = self._omitted(index, view, entry)
            known = self._known[view] = (state, without, view.digest(without))
        return known[1], known[2]

    def _omitted(self, index: int, view: View, entry: Mapping[str, Any]) -> Members:
        living = self._register.living
        without: Members = {}
        for first, count in entry["omitted"]:
            for slot in range(first, first + count):
                grant = living.get(slot)
                if grant is None or grant.terms.scope != entry["scope"]:  # SPEC §11 R28
                    raise RuleBroken(
                        "R28", index, f"slot {slot} is omitted and is no living grant of the scope"
                    )
                if grant.terms.model == entry["model"] and view.valid(grant.terms):
                    without[slot] = grant.id
        return without
