"""The set behind a 1:N decision, kept incrementally, is the one that the rules of SPEC §6.2 give."""

from __future__ import annotations

import random

import pytest

from facekeep.audit.galleries import View
from facekeep.audit.register import Conditions
from facekeep.auditlog.setdigest import SetDigest
from facekeep.formats.terms import Scope, Terms, covering_regions

REGIONS = (("DE",), ("EU",), ("CH",), ("CH", "DE"))


def conditions(begins: int, ends: int, regions: tuple[str, ...]) -> Conditions:
    return Conditions("raw:lab", Terms(Scope.IDENTIFY, begins, ends, regions, 1, 32, bytes(32)))


def naive(stock: dict[Conditions, dict[int, bytes]], region: str, now: int) -> tuple[int, bytes]:
    total, count = SetDigest(), 0
    for terms, members in stock.items():
        covered = terms.regions & set(covering_regions(region))
        if covered and terms.not_before_ms <= now < terms.expires_at_ms:
            total.add_many(members.keys(), members.values())
            count += len(members)
    return count, total.digest()


@pytest.mark.parametrize("seed", range(20))
def test_the_incremental_set_is_the_naive_one(seed: int) -> None:
    dice = random.Random(seed)
    region = dice.choice(["DE", "CH", "EU"])
    stock: dict[Conditions, dict[int, bytes]] = {}
    slot = 0
    for _ in range(dice.randrange(8)):
        begins = dice.randrange(50)
        stock[conditions(begins, begins + 1 + dice.randrange(40), dice.choice(REGIONS))] = {}
    for members in stock.values():
        members[slot] = slot.to_bytes(16, "big")
        slot += 1
    now = dice.randrange(60)
    view = View(stock, region, now)
    for _ in range(150):
        what = dice.randrange(4)
        if what == 0:
            begins = dice.randrange(80)
            terms = conditions(begins, begins + 1 + dice.randrange(30), dice.choice(REGIONS))
            stock[terms] = {}
            view.meet(terms)
        if what == 1 and stock:
            terms = dice.choice(list(stock))
            stock[terms][slot] = slot.to_bytes(16, "big")
            view.add(terms, slot, stock[terms][slot])
            slot += 1
        if what == 2 and (filled := [terms for terms in stock if stock[terms]]):
            terms = dice.choice(filled)
            gone = dice.choice(list(stock[terms]))
            view.drop(terms, gone, stock[terms].pop(gone))
        if what == 3:
            now = max(0, now + dice.randrange(-6, 9))
            view.move(now)
        if dice.random() < 0.6:
            assert (view.count, view.digest()) == naive(stock, region, now)


def test_some_members_are_left_out_of_a_digest_and_stay_in_the_set() -> None:
    terms = conditions(0, 10, ("DE",))
    stock = {terms: {slot: slot.to_bytes(16, "big") for slot in range(5)}}
    view = View(stock, "DE", 5)
    whole = view.digest()
    rest = view.digest({3: stock[terms][3]})
    assert view.digest() == whole != rest
    del stock[terms][3]
    assert naive(stock, "DE", 5) == (4, rest)
