"""Grants, and what destroys them (SPEC §11.1, R13 to R21)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cases_log import enrolled, spoilt
from making import Vectors

from audit_help import (
    ALICE,
    BOB,
    CAROL,
    DAY,
    NOW,
    OPERATOR,
    SERVICE,
    Book,
    founded,
    fresh_v,
    i,
    item,
    v,
)
from facekeep.formats import entries
from facekeep.formats.canonical import JsonObject
from facekeep.limits import LIMITS

SLACK = LIMITS.clock_slack_ms
LONGEST = LIMITS.consent_days * DAY


def reterm(given: JsonObject, at: int, field: bytes) -> JsonObject:
    """An element of ``grants`` with other bytes in its packed terms (SPEC §5.3)."""
    raw = bytes.fromhex(str(given["terms"]))
    return given | {"terms": (raw[:at] + field + raw[at + len(field) :]).hex()}


def terms(to: Vectors) -> None:
    longest = enrolled(item(v(0), ALICE, expires=NOW + LONGEST), item(i(0), ALICE, begins=NOW + DAY))
    to.log("r13_longest", longest, "a consent of 3,660 days, and one that begins tomorrow", "R13")
    places = enrolled(item(v(0), ALICE, regions=("EU",)), item(i(0), ALICE, regions=("DE", "ZZ")))
    to.log("r13_regions", places, "regions EU, and DE with ZZ", "R13")
    for name, made, why in (
        ("lapsed", item(v(0), ALICE, begins=0, expires=NOW - SLACK), "terms that had ended 5 s before"),
        (
            "endless",
            item(v(0), ALICE, expires=NOW + LONGEST + SLACK + 1),
            "terms of more than 3,660 days and 5 s",
        ),
        ("version", reterm(item(v(0), ALICE), 0, b"\2"), "another version of terms"),
        ("scope", reterm(item(v(0), ALICE), 1, b"\1"), "scope 1"),
        ("window", reterm(item(v(0), ALICE), 4, bytes([127, *bytes(7)])), "terms that end before they begin"),
        ("nowhere", reterm(item(v(0), ALICE), 20, bytes(32)), "terms without a region"),
        ("region", reterm(item(v(0), ALICE), 20, b"XX"), "terms with a region that is none"),
    ):
        book = founded()
        book.announce("enroll", made)
        to.log(f"r13_{name}_fail", book, why, "R13")


# --- R14, row by row: op of the grant -> what differs from a grant that may be --------------------

OTHERS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "subject": ("another subject's templates", {"tag": BOB}),
    "model": ("templates of another model", {"model": "raw:x"}),
    "fewer": ("fewer templates than were opened", {"count": 2}),
    "more": ("more templates than were opened", {"count": 4}),
    "unknown": ("templates of a slot that was never granted", {"source": v(77)}),
    "none": ("templates of no grant", {"source": None}),
    "announced": ("templates of a grant that is only announced", {"source": i(9)}),
    "destroyed": ("templates of a grant that was destroyed", {"source": i(7)}),
    "dimension": ("templates of another dimension", {"field": (54, b"\0\x21")}),
    "metric": ("templates of another metric", {"field": (2, b"\0\1")}),
}
REFUSED: Mapping[str, tuple[str, ...]] = {
    "enroll": ("subject", "fewer", "announced", "destroyed", "dimension"),
    "grant": ("subject", "model", "fewer", "more", "none", "destroyed"),
    "renew": ("subject", "fewer", "more", "none", "unknown", "metric"),
    "reseal": ("subject", "model", "fewer", "more", "none"),
}
TARGET = {"enroll": v(1), "grant": i(10), "renew": v(1), "reseal": fresh_v(0)}


def sealed() -> Book:
    """A grant of three templates; one that was destroyed, and one that is announced."""
    book = founded()
    book.grant("enroll", item(v(0), ALICE, count=3), item(i(7), ALICE, count=3))
    book.destroy("withdraw", i(7))
    book.announce("enroll", item(i(9), ALICE, count=3))
    return book


def opened(op: str, *, tag: bytes = ALICE, source: int | None = v(0), **more: Any) -> Book:  # noqa: ANN401
    """A grant that is made from another one."""
    book = sealed()
    if op == "reseal":
        book.rotation("templates", below={1: 1})
    how = {"count": 3, "field": (0, b""), **more}
    field = how.pop("field")
    book.announce(op, reterm(item(how.pop("slot", TARGET[op]), tag, source, **how), *field))
    return book


def sources(to: Vectors) -> None:
    to.base("sealed", sealed())
    said = {
        "enroll": "photographs are added",
        "grant": "a further scope",
        "renew": "a renewal",
        "reseal": "re-sealed",
    }
    for op, why in said.items():
        for count in (3, 4) if op == "enroll" else (3,):
            to.log(f"r14_{op}_{count}", opened(op, count=count), f"{why}: {count} templates of 3", "R14")
        for what in REFUSED[op]:
            text, how = OTHERS[what]
            to.log(f"r14_{op}_{what}_fail", opened(op, **how), f"op {op}: {text}", "R14")
    for op in ("enroll", "renew"):
        other = opened(op, slot=i(10))
        to.log(f"r14_{op}_scope_fail", other, f"op {op}: templates of another scope", "R14")


def windows(to: Vectors) -> None:
    def made(op: str, days: int, ms: int) -> Book:
        book = founded()
        book.grant("enroll", item(v(0), ALICE, begins=NOW + DAY, expires=NOW + 2 * DAY))
        book.now = NOW + days * DAY + ms
        slot = v(1) if op == "renew" else i(0)
        book.announce(op, item(slot, ALICE, v(0), begins=0, expires=NOW + 9 * DAY))
        return book

    to.log(
        "r14_grant_5_s_early",
        made("grant", 1, -SLACK),
        "op grant: 5 s before the window of its source",
        "R14",
    )
    to.log("r14_grant_5_s_late", made("grant", 2, SLACK - 1), "op grant: less than 5 s after it", "R14")
    to.log(
        "r14_grant_early_fail", made("grant", 1, -SLACK - 1), "op grant: 5,001 ms before the window", "R14"
    )
    to.log("r14_grant_late_fail", made("grant", 2, SLACK), "op grant: 5 s after the window", "R14")
    to.log("r14_renew_late", made("renew", 5, 0), "op renew: a lapsed grant is renewed", "R14")


# --- R15 ------------------------------------------------------------------------------------------


def renewed(op: str = "renew", ending: str | None = None, *, source: int | None = v(0)) -> tuple[Book, int]:
    """A second grant of a scope, and where its predecessor is ended: by ``ending``."""
    book = enrolled(item(v(0), ALICE), item(i(0), ALICE), item(v(1), BOB))
    book.grant(op, item(v(2), ALICE, source))
    return book, book.destroy(ending or ("renew" if op == "renew" else "reseal"), v(0))


def successors(to: Vectors) -> None:
    good, at = renewed()
    to.base("renewed", good.bodies()[: at - 2])
    to.log("r15_renewed", good, "a renewal ends its predecessor", "R15", "R14")
    to.log("r15_replaced", renewed("enroll", source=None)[0], "new photographs end their predecessor", "R15")
    to.log("r15_added", renewed("enroll")[0], "photographs that are added end their predecessor", "R15")
    earlier = enrolled(item(v(0), ALICE), item(i(0), ALICE))
    earlier.grant("enroll", item(v(2), CAROL))
    earlier.destroy("reseal", v(0), i(0))
    to.log("r15_other_tag_fail", earlier, "a replacement ends grants of another tag", "R15")
    to.log("r15_left_fail", good.bodies()[:at], "a renewal leaves its predecessor", "R15")
    for name, values, why in (
        ("other", {"slots": [[v(1), 1]]}, "a renewal ends another subject's grant"),
        ("more", {"slots": [[v(0), 2]]}, "a renewal ends more than its predecessor"),
        ("nothing", {"slots": []}, "a renewal's destruction names nothing"),
        ("op", {"op": "reseal"}, "op reseal after a renewal"),
        ("hand", {"by": SERVICE}, "a predecessor is ended by another hand"),
    ):
        to.log(f"r15_{name}_fail", spoilt(good, at, **values), why, "R15")
    late = spoilt(good, at)
    late.verify(None, None, reason="scope")
    late.entries.insert(at, late.entries.pop())
    to.log("r15_late_fail", late, "a denial stands before the predecessor's end", "R15")
    to.log(
        "r15_two_fail",
        enrolled(item(v(0), ALICE), item(v(1), ALICE)),
        "two grants of one scope at once",
        "R15",
    )
    for op in ("renew", "reseal"):
        book = enrolled()
        book.verify(v(0), ALICE)
        book.intend(op, v(0))
        to.log(f"r15_{op}_alone_fail", book, f"op {op} where nothing was granted", "R15")
    own = enrolled()
    own.intend("reseal", v(0))
    to.log("r15_own_fail", own, "op reseal ends the new grants", "R15")


# --- R16 to R21: destructions ----------------------------------------------------------------------


def destructions(to: Vectors) -> None:
    def after(*operations: tuple[str, tuple[int, ...], list[bytes]]) -> Book:
        book = enrolled(item(v(0), ALICE), item(i(0), ALICE), item(v(1), BOB), item(v(5), CAROL))
        for op, slots, tags in operations:
            book.destroy(op, *slots, tags=tags)
        return book

    to.base("people", after())
    both = after()
    withdrawn, shredded = both.intend("withdraw", v(0)), both.intend("shred", v(0), i(0), tags=[ALICE])
    both.destroyed(withdrawn)
    both.destroyed(shredded)
    to.log("r16_pending", both, "an erasure names what an open withdrawal names", "R16", "R17", "R18")
    for name, made, why in (
        ("never", after(("shred", (v(4), v(5)), [CAROL])), "a slot that was never given out"),
        (
            "destroyed",
            after(("withdraw", (v(0),), []), ("shred", (v(0), i(0)), [ALICE])),
            "what is destroyed already",
        ),
        ("system", after(("revoke", (2,), [])), "one of the vault's own slots"),
        ("nobody", after(("revoke", (18,), [])), "the slot of a principal who never was"),
        ("extend", after(("extend", (v(0),), [])), "a slot, in op extend"),
    ):
        to.log(f"r16_{name}_fail", made, f"a destruction names {why}", "R16")
    to.log("r17_withdrawn", after(("withdraw", (v(0), i(0)), [])), "a withdrawal of both scopes", "R17")
    to.log(
        "r17_two_subjects_fail", after(("withdraw", (v(0), v(1)), [])), "a withdrawal of two subjects", "R17"
    )
    to.log("r17_nobody_fail", after(("withdraw", (), [])), "a withdrawal of nothing", "R17")
    announced = after()
    announced.announce("enroll", item(v(7), ALICE))
    announced.destroy("withdraw", v(0))
    to.log("r17_left_fail", announced, "a withdrawal leaves a grant of the scope that is announced", "R17")
    to.log(
        "r18_shredded", after(("shred", (v(0), i(0), v(1)), [ALICE, BOB])), "two subjects are erased", "R18"
    )
    for name, slots, tags, why in (
        ("nobody", (v(5),), [], "names no subject"),
        ("nothing", (), [CAROL], "names no slot"),
        ("left", (v(0),), [ALICE], "leaves a slot of its subject"),
        ("more", (v(1), v(5)), [CAROL], "names another subject's slot"),
        ("unknown", (v(5),), [CAROL, b"u" * 32], "names a subject who never had a grant"),
    ):
        to.log(f"r18_{name}_fail", after(("shred", slots, tags)), f"an erasure {why}", "R18")
    to.log("r18_op_fail", after(("withdraw", (v(5),), [CAROL])), "a withdrawal names a subject tag", "R18")
    for op in ("shred", "withdraw"):
        book = after()
        book.destroyed(book.add(entries.sought(op, b"s" * 16, f"{99:032x}", by=OPERATOR, time_ms=NOW)))
        rule = "R18" if op == "shred" else "R17"
        to.log(f"{rule.lower()}_sought", book, f"op {op} of somebody who cannot be found", rule)


def ends(to: Vectors) -> None:
    for name, tag, why in (
        ("again", DIANA, "a person is enrolled again under another tag"),
        ("erased_fail", ALICE, "a grant to an erased subject"),
    ):
        book = enrolled()
        book.destroy("shred", v(0), i(0), tags=[ALICE])
        book.announce("enroll", item(v(1), tag))
        to.log(f"r19_{name}", book, why, "R19")
    for name, ms, why in (
        ("at_the_end", 0, "the moment it has lapsed"),
        ("living_fail", -1, "a moment too early"),
    ):
        book = enrolled(item(v(0), ALICE, expires=NOW + DAY))
        book.now = NOW + DAY + ms
        book.destroy("expire", v(0))
        to.log(f"r20_{name}", book, f"a grant is destroyed as lapsed, {why}", "R20")
    for op, rule in (("expire", "R20"), ("revoke", "R21")):
        book = enrolled()
        book.destroy(op)
        to.log(f"{rule.lower()}_nothing_fail", book, f"op {op} names no slot", rule)
    for name, op, slot, why in (
        ("revoked", "revoke", 17, "a service is revoked"),
        ("grant_fail", "revoke", v(0), "op revoke names a grant"),
        ("withdraw_fail", "withdraw", 17, "op withdraw names a principal"),
    ):
        book = enrolled()
        book.destroy(op, slot)
        to.log(f"r21_{name}", book, why, "R21")


DIANA = b"d" * 32
PAGES: tuple[Callable[[Vectors], None], ...] = (terms, sources, windows, successors, destructions, ends)


def everything(to: Vectors) -> None:
    """Add all cases of this page."""
    for page in PAGES:
        page(to)
