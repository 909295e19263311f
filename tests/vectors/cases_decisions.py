"""Decisions, and the limits that they keep to (SPEC §11.1, R22 to R28 and R36 to R38)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cases_log import enrolled, spoilt
from making import Vectors

from audit_help import (
    ALICE,
    BOB,
    CAROL,
    DAY,
    DORA,
    EVE,
    NOW,
    OPERATOR,
    SECOND,
    SERVICE,
    Book,
    founded,
    i,
    item,
    limits,
    set_of,
    v,
)
from facekeep.formats import entries


def answered(asked: int = v(0), **values: Any) -> Book:  # noqa: ANN401
    """One decision 1:1 about Alice, of whom and Bob there are grants."""
    book = enrolled(item(v(0), ALICE), item(i(0), ALICE), item(v(1), BOB))
    book.entries[book.verify(asked, ALICE)].update(values)
    return book


def verifications(to: Vectors) -> None:
    to.base("two", answered().bodies()[:-1])
    to.log("r22_answered", answered(), "a decision on a living grant", "R22", "R23", "R24", "R25")
    to.log("r22_never_fail", answered(v(7)), "a decision on a slot that was never granted", "R22")
    announced = founded()
    first = announced.announce("enroll", item(v(0), ALICE))
    announced.verify(v(0), ALICE)
    announced.granted(first)
    to.log("r22_announced_fail", announced, "a decision on a grant that is only announced", "R22")
    for op, completed in (("withdraw", False), ("withdraw", True), ("shred", True)):
        book = enrolled()
        slots = (v(0), i(0)) if op == "shred" else (v(0),)
        at = book.intend(op, *slots, tags=[ALICE] if op == "shred" else ())
        if completed:
            book.destroyed(at)
        book.verify(v(0), ALICE)
        name, state = ("ed", "complete") if completed else ("ing", "announced")
        to.log(f"r22_{op}{name}_fail", book, f"a decision on a grant whose {op} is {state}", "R22")
    voided = founded()
    voided.destroy("void", v(0), voids=[voided.announce("enroll", item(v(0), ALICE))], by=None)
    voided.verify(v(0), ALICE)
    to.log("r22_voided_fail", voided, "a decision on a grant that recovery voided", "R22")
    for name, values, why in (
        ("tag", {"tag": BOB.hex()}, "another subject than the grant's"),
        ("model", {"model": "raw:x"}, "another model than the grant's"),
        ("scope", {"scope": "share"}, "another scope than verify"),
        ("identify", {"slot": i(0)}, "a grant for identify"),
    ):
        to.log(f"r23_{name}_fail", answered(**values), f"a decision by {why}", "R23")


def windows(to: Vectors) -> None:
    for name, ms, why in (
        ("begin", DAY, "at its begin"),
        ("end", 2 * DAY - 1, "1 ms before its end"),
        ("early_fail", DAY - 1, "1 ms before its begin"),
        ("late_fail", 2 * DAY, "at its end"),
    ):
        book = enrolled(item(v(0), ALICE, begins=NOW + DAY, expires=NOW + 2 * DAY))
        book.now = NOW + ms
        book.verify(v(0), ALICE)
        to.log(f"r24_{name}", book, f"a decision on a grant {why}", "R24")
    for name, of, region in (
        ("member", "EU", "DE"),
        ("own", "CH", "CH"),
        ("not_stated", "ZZ", "ZZ"),
        ("other_fail", "DE", "FR"),
        ("no_member_fail", "EU", "CH"),
        ("wider_fail", "DE", "EU"),
    ):
        book = enrolled(item(v(0), ALICE, regions=(of,)))
        book.entries[book.verify(v(0), ALICE)]["region"] = region
        to.log(f"r25_{name}", book, f"a grant for {of}, a decision in {region}", "R25")


def gallery() -> Book:
    """Two people may be searched for; one begins tomorrow, one is of another region, one of another model."""
    return enrolled(
        item(i(0), ALICE),
        item(i(1), BOB),
        item(i(2), CAROL, begins=NOW + DAY),
        item(i(3), DORA, regions=("FR",)),
        item(i(4), EVE, model="raw:x"),
        item(v(0), ALICE),
    )


def searched(*members: int, excluded: int = 3, **how: Any) -> Book:  # noqa: ANN401
    """A search that says that it compared these."""
    book = gallery()
    book.identify(*members, excluded=excluded, **how)
    return book


def searches(to: Vectors) -> None:
    to.base("gallery", gallery())
    good = searched(i(0), i(1), candidates=[i(1)])
    to.log("r26_searched", good, "a search of two, with a candidate", "R26", "R27", "R28")
    nobody = enrolled(item(v(0), ALICE))
    nobody.identify()
    to.log("r26_nobody", nobody, "a search where nobody may be searched for", "R26")
    for name, members, why in (
        ("fewer", (i(0),), "one is lacking"),
        ("begun", (i(0), i(1), i(2)), "one has not begun"),
        ("region", (i(0), i(1), i(3)), "one is not for this region"),
        ("model", (i(0), i(1), i(4)), "one is of another model"),
        ("verify", (i(0), i(1), v(0)), "one is of another scope"),
    ):
        made = searched(*members, excluded=5 - len(members))
        to.log(f"r26_{name}_fail", made, f"a search of other grants than were valid: {why}", "R26")
    at = len(good.entries) - 1
    to.log("r26_scope_fail", spoilt(good, at, scope="verify"), "a search for another scope", "R26")
    book = gallery()
    book.intend("withdraw", i(0))
    book.identify(i(0), i(1), excluded=3)
    to.log("r26_withdrawing_fail", book, "a search of a grant that is about to be withdrawn", "R26")
    lapsed = gallery()
    lapsed.now += 31 * DAY
    lapsed.identify(i(0), excluded=4)
    to.log("r26_lapsed_fail", lapsed, "a search of a lapsed grant", "R26")
    omitted = searched(i(1), omitted=[i(0)], excluded=4)
    to.log("r26_omitted", omitted, "a search that leaves out a row which did not authenticate", "R26", "R28")
    hidden = {"count": 2, "set": set_of(i(0), i(1)), "excluded": 3}
    to.log("r26_omitted_fail", spoilt(omitted, at, **hidden), "a grant is omitted and compared", "R26")
    for name, slot in (("other_region", i(3)), ("other_scope", v(0)), ("never", i(9))):
        made = searched(i(0), i(1), candidates=[slot])
        to.log(
            f"r27_{name}_fail", made, f"a candidate that was not compared: {name.replace('_', ' ')}", "R27"
        )
    made = searched(i(1), omitted=[i(0)], excluded=4, candidates=[i(0)])
    to.log("r27_omitted_fail", made, "a candidate that was omitted", "R27")
    for excluded in (0, 2, 4):
        made = searched(i(0), i(1), excluded=excluded)
        to.log(
            f"r28_{excluded}_fail", made, f"3 living grants were left out, the entry says {excluded}", "R28"
        )
    for name, slot in (("other_scope", v(0)), ("never", i(9))):
        made = searched(i(0), i(1), omitted=[slot])
        to.log(f"r28_omitted_{name}_fail", made, f"what was omitted is no living grant: {name}", "R28")


# --- R36 to R38 ------------------------------------------------------------------------------------


NARROW = limits(500_000, 400_000, top=1)


def bound(**settings: Any) -> Book:  # noqa: ANN401
    """Limits 500,000 and for means 400,000; Alice has one photograph, Bob four. Then other settings."""
    book = founded()
    book.principal(SECOND, 18, "operator", "service")
    book.entries[0]["matching"] = NARROW
    book.grant("enroll", item(v(0), ALICE), item(i(0), ALICE), item(v(1), BOB, count=4), item(i(1), BOB))
    if settings:
        settle(book, **settings)
    return book


def settle(book: Book, **settings: Any) -> None:  # noqa: ANN401
    """Change the settings."""
    chain = [bytes(32), *(bytes.fromhex(each["digest"]) for each in book.entries if "digest" in each)]
    book.add(entries.settings(bytes([len(chain)]) * 32, chain[-1], by=OPERATOR, time_ms=NOW, **settings))


def held(*asked: dict[str, Any], **matching: Any) -> Book:  # noqa: ANN401
    """Decisions on a log with limits: 1:1 on ``slot``, or 1:N."""
    book = bound(matching=NARROW | matching) if matching else bound()
    for each in asked:
        values, at, by = {**each}, each.get("slot"), str(each.get("by", SERVICE))
        if at is None:
            candidates = values.pop("candidates", [i(0)])
            values["mean_e6"] = values.get("mean_e6", 400_000)
            made = book.identify(i(0), i(1), candidates=candidates, by=by)
        else:
            made = book.verify(at, ALICE if at == v(0) else BOB, by=by)
        book.entries[made].update(values)
        if values.get("mean_e6", 0) is None:
            del book.entries[made]["mean_e6"]
    return book


def limited(to: Vectors) -> None:
    to.base("bound", bound())
    mean = {"slot": v(1), "threshold_e6": 400_000}
    good = held({"slot": v(0)}, mean, {"most": 1})
    to.log("r36_within", good, "decisions within the limits: 1:1 of one photograph and of four, 1:N", "R36")
    free = held({"slot": v(0), "by": SECOND, "threshold_e6": 9, "score": True})
    to.log("r36_not_bound", free, "who may change the limits is not bound by them", "R36")
    for name, asked, why in (
        ("threshold", {"slot": v(0), "threshold_e6": 500_001}, "1:1 by another threshold"),
        ("mean_1", {"slot": v(1)}, "a mean of four photographs by the threshold of one"),
        ("score", {"slot": v(0), "score": True}, "1:1 with a score"),
        ("search", {"threshold_e6": 500_001}, "1:N by another threshold"),
        ("mean", {"mean_e6": 400_001}, "1:N by another threshold for means"),
        ("mean_hidden", {"mean_e6": None}, "1:N by the threshold of one photograph for means, too"),
        ("top", {"candidates": [i(0), i(1)]}, "two candidates where one may be named"),
    ):
        to.log(f"r36_{name}_fail", held(asked), f"somebody bound is answered {why}", "R36")
    for name, key in (("model", "thresholds"), ("search_model", "search_thresholds")):
        made = held({"slot": v(0)} if key == "thresholds" else {}, **{key: []})
        to.log(f"r36_{name}_fail", made, "somebody bound is answered about a model without a limit", "R36")
    changed = bound(matching=limits(300_000, 300_000))
    changed.verify(v(0), ALICE)
    to.log("r36_changed_fail", changed, "the limits were changed, and the old ones are kept to", "R36")


def regions(to: Vectors) -> None:
    for name, allowed, why in (
        ("r37_allowed", ["DE", "FR"], "a decision in a region that the settings allow"),
        ("r37_member_fail", ["EU"], "EU in the settings is for itself alone"),
        ("r37_other_fail", ["FR"], "a decision in a region that the settings do not allow"),
    ):
        book = bound(regions=allowed)
        book.verify(v(0), ALICE)
        to.log(name, book, why, "R37")
    for name, now, why in (("still", ["DE"], "still allow"), ("changed_fail", ["FR"], "no longer allow")):
        book = bound(regions=["DE", "FR"])
        settle(book, regions=now)
        book.verify(v(0), ALICE)
        to.log(f"r37_{name}", book, f"a decision in a region that changed settings {why}", "R37")


def brakes(to: Vectors) -> None:
    def asked(*times: int, match: bool = True, **limit: int) -> Book:
        book = bound(matching={**NARROW, "failures": 0, **limit})
        for ms in times:
            book.now = NOW + ms
            at = book.verify(v(0), ALICE)
            book.entries[at]["result"] = "match" if match else "no_match"
        return book

    to.log("r38_asked", asked(0, 0, DAY, DAY, asks=2), "as many answers a day as the limit lets", "R38")
    to.log("r38_asked_fail", asked(0, 0, 0, asks=2), "an answer more a day than the limit lets", "R38")
    pause = {"failures": 2, "pause_s": 30, "longest_s": 50}
    slow, soon = (0, 1_000, 31_000, 81_000), (0, 1_000, 31_000, 80_999)
    to.log("r38_paused", asked(*slow, match=False, **pause), "the pauses were kept: 30 s, then 50 s", "R38")
    to.log("r38_soon_fail", asked(*soon, match=False, **pause), "the second pause was 1 ms too short", "R38")
    searches: list[dict[str, Any]] = [{} for _ in range(3)]
    to.log("r38_searched", held(*searches, searches=3), "as many searches a day as the limit lets", "R38")
    to.log("r38_searched_fail", held(*searches, {}, searches=3), "a search more a day than that", "R38")
    again = asked(0, 60_000, asks=2)
    again.set_back(30_000)
    again.verify(v(0), ALICE)
    to.log("r38_set_back", again, "a clock entry begins the counting anew", "R38", "R3")


PAGES: tuple[Callable[[Vectors], None], ...] = (
    verifications,
    windows,
    searches,
    limited,
    regions,
    brakes,
)


def everything(to: Vectors) -> None:
    """Add all cases of this page."""
    for page in PAGES:
        page(to)
