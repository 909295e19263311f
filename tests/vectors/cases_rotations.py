"""Backups, rotations, keys and logs that were begun anew (SPEC §11.1, R10 and R29 to R35; L1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cases_log import enrolled, spoilt
from making import BOTH, Vectors

from audit_help import (
    ALICE,
    BOB,
    CAROL,
    DAY,
    NOW,
    OPERATOR,
    SECOND,
    SERVICE,
    SIGNER,
    VAULT,
    Book,
    crossed,
    founded,
    fresh_v,
    i,
    item,
    numbered,
    v,
)
from facekeep.auditlog.rotation import signing_entry
from facekeep.auditlog.signed import LogSigner
from facekeep.formats import entries
from restart_help import OTHER, Restarted, adopted

SECOND_KEYS, THIRD_KEYS = (LogSigner(b"k" * 32, VAULT, generation) for generation in (2, 3))


def copies(to: Vectors) -> None:
    for kind, rule in (("backup", "R29"), ("checkpoint", "R34")):
        for size, name in ((7, "plausible"), (8, "later_fail")):
            book = enrolled()
            how: dict[str, Any] = {"sha256": bytes(32), "size": size, "by": OPERATOR, "time_ms": NOW}
            book.add(entries.backup(rows=2, **how) if kind == "backup" else entries.checkpoint(**how))
            to.log(f"{rule.lower()}_{name}", book, f"entry 7 is a {kind} of a log of {size} entries", rule)
    good: dict[str, Any] = {"rows": 9, "merged": 2, "dead": 4, "present": 2, "refused": 1, "missing": 0}
    for name, values, why in (
        ("accounts", {}, "a restore that accounts for its rows"),
        ("merged_fail", {"merged": 1}, "its counts add up to fewer rows"),
        ("rows_fail", {"rows": 8}, "its counts add up to more rows"),
        ("living_fail", {"merged": 3, "dead": 3}, "it brings back more grants than live"),
        ("missing_fail", {"missing": 1}, "merged and missing grants are more than live"),
    ):
        book = enrolled()
        book.add(entries.restore(sha256=bytes(32), by=OPERATOR, time_ms=NOW, **good | values))
        to.log(f"r30_{name}", book, why, "R30")


def reasons(to: Vectors) -> None:
    def said(what: str, *then: str, **how: Any) -> Book:  # noqa: ANN401
        book = enrolled()
        book.rotation(what)
        for op in then:
            book.destroy(op, **how)
        return book

    both = said("root", "rotate")
    both.rotation("tree")
    both.destroy("rotate")
    to.log("r31_said", both, "a root and a tree are rotated after saying why", "R31")
    moved = said("move", "rotate")
    moved.rotated(7)
    to.log("r31_moved", moved, "a move replaces the root while it is open", "R31", "R33")
    again = spoilt(moved, 0)
    again.destroy("rotate")
    unsaid = enrolled()
    unsaid.destroy("rotate")
    unended = enrolled()
    unended.rotated(5)
    for name, made, why in (
        ("unsaid", unsaid, "a root is replaced, and nothing says why"),
        ("other", said("root", "extend"), "a rotation is announced, and something else follows"),
        ("hand", said("root", "rotate", by=SERVICE), "another hand ends what was announced"),
        ("ended", again, "a root is replaced in a move that has ended"),
        ("end", said("tree"), "the log ends with a rotation that does not follow"),
        ("signing_end", said("signing"), "the log ends before the new keys are named"),
        ("unopened", unended, "the end of a rotation that is not open"),
    ):
        to.log(f"r31_{name}_fail", made, why, "R31")
    between = said("root")
    between.verify(None, None, reason="scope")
    between.destroy("rotate")
    to.log("r31_between_fail", between, "a denial stands between a rotation and what it announces", "R31")
    twice = said("move")
    twice.rotation("move")
    to.log("r31_twice_fail", twice, "a move is begun while one is open", "R31")


def resealed(slot: int = fresh_v(0), **how: Any) -> Book:  # noqa: ANN401
    """A rotation of templates: Alice is re-sealed, Bob is not yet."""
    book = enrolled(
        item(v(0), ALICE), item(v(1), BOB), item(fresh_v(0), CAROL) if slot == fresh_v(1) else item(i(0), BOB)
    )
    window = {key: how.pop(key) for key in ("begins", "expires", "regions") if key in how}
    if how.pop("announced", True):
        book.rotation("templates", **{"below": {1: 2}, **how})
    book.grant("reseal", item(slot, ALICE, v(0), **window))
    book.destroy("reseal", v(0))
    return book


def templates(to: Vectors) -> None:
    good = resealed()
    to.base("rotating", good.bodies()[:8])
    to.log("r32_resealed", good, "templates are re-sealed in a new branch", "R32", "R14", "R15")
    for name, made, why in (
        ("unsaid", resealed(announced=False), "templates are re-sealed outside a rotation"),
        ("below", resealed(below={2: 9}), "templates are re-sealed of a branch that is not selected"),
        (
            "index",
            resealed(below={1: 0 + 1}, slot=v(2)),
            "templates are re-sealed in the branch they were in",
        ),
        ("model", resealed(model="raw:x"), "templates are re-sealed of a model that is not selected"),
        ("used", resealed(fresh_v(1)), "templates are re-sealed in a branch that was in use before"),
        ("expires", resealed(expires=NOW + 31 * DAY), "re-sealing makes a consent longer"),
        ("begins", resealed(begins=NOW - DAY), "re-sealing makes a consent begin earlier"),
        ("regions", resealed(regions=("DE", "FR")), "re-sealing makes a consent wider"),
    ):
        to.log(f"r32_{name}_fail", made, why, "R32")
    for left, name in ((1, "accounts"), (0, "fewer_fail"), (2, "more_fail")):
        book = spoilt(good, 0)
        book.rotated(7, left=left)
        to.log(f"r33_{name}", book, f"one selected grant is left, the end says {left}", "R33")


# --- the log's own keys ----------------------------------------------------------------------------


def turned(*signers: LogSigner, by: str = OPERATOR, generation: int = 2) -> Book:
    """A log whose keys are those of one signer after the other."""
    book = founded()
    for number in range(1, len(signers)):
        book.rotation("signing", by=by)
        new = numbered(signers[number], generation + number - 1)
        book.add(signing_entry(signers[number - 1], new, by=by, time_ms=book.now))
    return book


def signings(to: Vectors) -> None:
    both = {"keys": BOTH}
    to.base("turned", turned(SIGNER, SECOND_KEYS))
    turn = turned(SIGNER, SECOND_KEYS)
    why = "the keys were rotated, and the given ones lead on"
    to.log("r10_turned", turn, why, "L1", "R10", signer=SECOND_KEYS, **both)
    to.log("r10_old_keys_fail", turn, "keys sign that were rotated away", "R10", **both)
    skipped = turned(SIGNER, THIRD_KEYS, generation=3)
    to.log("r10_generation_fail", skipped, "the second generation is called the third", "R10", **both)
    nonce = spoilt(turn, 6, nonce="f" * 32)
    to.log("r10_altered_fail", nonce, "a signing entry was altered after it was signed", "R10", **both)
    new = LogSigner(b"o" * 32, VAULT, 2)
    for name, old in (("ed25519", crossed(SIGNER, OTHER)), ("ml_dsa_44", crossed(OTHER, SIGNER))):
        why = "of the keys that are rotated away one is known and one is not"
        to.log(f"l1_half_known_{name}_fail", turned(old, new), why, "L1", signer=new, **both)
    later = to.keys("log-2.txt", SECOND_KEYS.keys)
    to.log(
        "l1_later_keys",
        turn,
        "the keys in force are given",
        "L1",
        "R10",
        signer=SECOND_KEYS,
        keys=later,
        both=True,
    )
    to.log(
        "l1_earlier_fail", founded(), "later keys do not vouch for earlier ones", "L1", keys=later, both=True
    )


# --- logs that were begun anew ---------------------------------------------------------------------


def ended(book: Restarted, *closed: int, **how: int) -> Restarted:
    """End the adoption."""
    book.end(*closed, **how)
    return book


def begun(signer: LogSigner = SIGNER, by: str = OPERATOR) -> Restarted:
    """A restart and its principals."""
    book = Restarted()
    book.restart(by=by, signer=signer)
    book.adopt_people()
    return book


def restarts(to: Vectors) -> None:
    both = {"keys": BOTH}
    to.base("begun", begun())
    to.base("adopted", adopted())
    book = ended(adopted())
    book.destroy("extend")
    book.verify(v(3), ALICE)
    book.destroy("shred", v(3), tags=[ALICE])
    to.log("r35_restarted", book, "restart, adoption, restarted, and on", "R35", "R1", "R14", **both)
    to.log(
        "r35_branch_closed",
        ended(adopted(), 1, 2, 9),
        "a branch without a grant is closed, too",
        "R35",
        **both,
    )
    after = begun(SECOND_KEYS)
    after.add(signing_entry(SIGNER, SECOND_KEYS, by=OPERATOR, time_ms=after.now))
    to.log(
        "r35_after_signing",
        ended(after),
        "the lost log's keys had been rotated",
        "R35",
        "R10",
        signer=SECOND_KEYS,
        **both,
    )
    altered = ended(adopted())
    altered.entries[0]["pin"]["size"] = 2
    to.log("r35_altered_fail", altered, "the restart names another pin than was signed", "R35", **both)
    to.log(
        "r35_other_keys_fail",
        ended(begun(OTHER)),
        "keys signed the restart that nobody trusts",
        "R35",
        **both,
    )
    not_in_force = begun()
    not_in_force.add(signing_entry(SIGNER, SECOND_KEYS, by=OPERATOR, time_ms=not_in_force.now))
    to.log(
        "r35_not_in_force_fail",
        ended(not_in_force),
        "keys signed the restart that are not those in force at its end",
        "R35",
        **both,
    )
    not_closed = ended(adopted(), 2, 9)
    to.log("r35_not_closed_fail", not_closed, "a branch that has grants is not closed", "R35")
    lower = ended(adopted(), next_principal=17)
    to.log("r35_next_fail", lower, "the next slot of a principal is one that was adopted", "R35")
    again = ended(adopted())
    again.announce("enroll", item(v(8), CAROL))
    to.log("r5_closed_fail", again, "a slot of a branch that a restart closed", "R5", **both)
    to.log("r35_unended_fail", adopted(), "the adoption has no end", "R35")
    nobody = ended(begun(by=SECOND))
    nobody.entries[-1]["by"] = SECOND
    to.log("r11_restarted_by_nobody_fail", nobody, "whoever restarted the log was not adopted", "R11")


def smuggled(what: str) -> Restarted:
    """An adoption with something else in it."""
    book = adopted()
    if what == "decision":
        book.verify(v(3), ALICE)
    elif what == "enrolment":
        book.announce("enroll", item(v(9), CAROL))
    elif what == "hand":
        book.announce("adopt", item(v(9), CAROL), by=SERVICE)
    else:
        book.announce_principal(SECOND, 18, "service", by=None)
    return ended(book)


def adoptions(to: Vectors) -> None:
    for what, why in (
        ("decision", "a decision stands in the adoption"),
        ("enrolment", "an enrolment stands in it"),
        ("hand", "another hand adopts"),
        ("order", "a principal is adopted after a grant"),
    ):
        to.log(f"r35_{what}_fail", smuggled(what), why, "R35")
    begins: tuple[tuple[str, Book], ...] = (("nowhere", founded()), ("again", ended(adopted())))
    for name, book in begins:
        book.announce("adopt", item((9 << 21) + 1, ALICE))
        to.log(f"r35_{name}_fail", book, "a grant is adopted where no restart is under way", "R35")
    plain = Restarted(founded().entries)
    plain.end()
    to.log("r35_not_begun_fail", plain, "a restarted entry in a log that was not begun anew", "R35")
    later = founded()
    later.add(adopted().entries[0])
    to.log("r1_restart_later_fail", later, "a restart that is not the first entry", "R1")
    late = begun()
    first = late.announce("adopt", item(v(3), ALICE))
    late.announce("adopt", item(v(7), BOB))
    late.granted(first)
    to.log("r35_not_completed_fail", late, "a second grant before the first is complete", "R35")
    opened = begun()
    opened.grant("adopt", item(v(3), ALICE))
    opened.grant("adopt", item(v(7), ALICE, v(3)))
    to.log("r14_adopt_from_fail", opened, "op adopt: it names a grant that it was made from", "R14")
    to.log("r14_adopt", ended(adopted()), "op adopt: from no grant", "R14", "R35", keys=BOTH)


PAGES: tuple[Callable[[Vectors], None], ...] = (copies, reasons, templates, signings, restarts, adoptions)


def everything(to: Vectors) -> None:
    """Add all cases of this page."""
    for page in PAGES:
        page(to)
