"""The set behind a 1:N decision, kept incrementally, is the one that the rules of SPEC §6.2 give."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from facekeep.audit.galleries import Galleries, View
from facekeep.audit.register import Conditions, Grant, Register
from facekeep.audit.report import RuleBroken
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


LAB = conditions(0, 10, ("DE",))


def gallery(*others: Conditions) -> Galleries:
    """Two grants of the laboratory's model in slots 0 and 1, one of each of the others from slot 2 on."""
    register = Register()
    for slot, terms in enumerate((LAB, LAB, *others)):
        register.living[slot] = Grant(bytes([slot]) * 32, terms, slot.to_bytes(16, "big"), 1)
        register.alive[terms.scope] += 1
    return Galleries(register)


def search(members: Sequence[int] = (0, 1), **fields: object) -> dict[str, object]:
    """A decision that compared these slots and says so."""
    total = SetDigest()
    total.add_many(members, [slot.to_bytes(16, "big") for slot in members])
    said: dict[str, object] = {
        "scope": "identify",
        "model": "raw:lab",
        "region": "DE",
        "time_ms": 5,
        "omitted": [],
        "count": len(members),
        "set": total.digest().hex(),
        "candidates": [],
        "excluded": 0,
    }
    return {**said, **fields}


def other(model: str = "raw:other", scope: Scope = Scope.IDENTIFY, ends: int = 10) -> Conditions:
    return Conditions(model, Terms(scope, 0, ends, ("DE",), 1, 32, bytes(32)))


def test_a_count_is_that_of_the_set() -> None:
    gallery().check(7, search())
    for count in (1, 3):
        with pytest.raises(RuleBroken, match="grants were compared, 2 were valid") as caught:
            gallery().check(7, search(count=count))
        assert caught.value.rule == "R26"


@pytest.mark.parametrize("terms", [other(), other(model="raw:lab", scope=Scope.VERIFY)])
def test_a_candidate_of_another_model_or_scope_was_not_compared(terms: Conditions) -> None:
    judge = gallery(terms)
    excluded = int(terms.scope == "identify")
    judge.check(7, search(candidates=[1], excluded=excluded))
    with pytest.raises(RuleBroken, match="slot 2 is a candidate and was not compared") as caught:
        judge.check(8, search(candidates=[2], excluded=excluded))
    assert caught.value.rule == "R27"


def test_a_search_in_grants_of_another_scope_is_none() -> None:
    judge = gallery(other(model="raw:lab", scope=Scope.VERIFY))
    with pytest.raises(RuleBroken, match="a search in grants for verify") as caught:
        judge.check(7, search([2], scope="verify"))
    assert caught.value.rule == "R26"


def test_who_is_omitted_again_is_judged_again() -> None:
    lapsing = other(model="raw:lab", ends=8)
    judge = gallery(lapsing)
    judge.check(7, search(omitted=[[2, 1]], excluded=1))
    judge.check(8, search(omitted=[[2, 1]], excluded=1, time_ms=9))
    judge.ended(2, judge._register.living.pop(2))
    with pytest.raises(RuleBroken, match="slot 2 is omitted and is no living grant") as caught:
        judge.check(9, search(omitted=[[2, 1]], excluded=1, time_ms=9))
    assert caught.value.rule == "R28"


@pytest.mark.parametrize("terms", [other(), other(model="raw:lab", ends=3)])
def test_who_is_omitted_and_would_not_have_been_compared_changes_nothing(terms: Conditions) -> None:
    judge = gallery(terms)
    judge.check(7, search(omitted=[[2, 1]], excluded=1))
    judge.check(8, search([0], omitted=[[1, 2]], excluded=2))
    with pytest.raises(RuleBroken, match="are said to be left out"):
        judge.check(9, search([0], omitted=[[1, 2]], excluded=1))
