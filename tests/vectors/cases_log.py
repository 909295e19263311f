"""What holds a log together: tree, forms, time, parts, chains, principals, roles (SPEC §11.1, L1 to R12)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from making import BOTH, ED25519, Vectors

from audit_help import (
    ALICE,
    BOB,
    CAROL,
    NOW,
    OPERATOR,
    RECEIPT,
    SECOND,
    SERVICE,
    SIGNER,
    VAULT,
    Book,
    act,
    fingerprint,
    founded,
    i,
    item,
    story,
    terms_of,
    v,
)
from facekeep.audit.people import NEEDS
from facekeep.auditlog.signed import LogSigner
from facekeep.formats import canonical, entries
from facekeep.formats.ids import BRANCH_SLOTS
from facekeep.formats.roles import ALLOWED
from facekeep.formats.terms import Scope
from facekeep.limits import LIMITS

SLACK = LIMITS.clock_slack_ms
EXCEPT_KEYS = tuple(f"R{number}" for number in range(1, 39) if number not in (10, 35, 37))


def spoilt(book: Book, at: int, **values: Any) -> Book:  # noqa: ANN401
    """The same log with other values in one entry."""
    made = Book([dict(each) for each in book.entries], book.now, book.epoch)
    made.entries[at].update(values)
    return made


def enrolled(*items: Any) -> Book:  # noqa: ANN401
    """Alice for both scopes, or what is given: entries 5 and 6."""
    book = founded()
    book.grant("enroll", *(items or (item(v(0), ALICE), item(i(0), ALICE))))
    return book


def whole(to: Vectors) -> None:
    made = story()
    bodies = made.book.bodies()
    steps = ("L1", "L3", "L4", *EXCEPT_KEYS)
    to.log(
        "story", bodies, "every kind of entry that a vault writes but signing and restart", *steps, keys=BOTH
    )
    altered = [*bodies[:8], bodies[8].replace(b'"nonce":"0', b'"nonce":"f')]
    to.log(
        "l3_entry_altered_fail",
        altered,
        "an entry was altered under a checkpoint that stands",
        "L3",
        signed=bodies[:9],
    )
    to.log("l3_last_missing_fail", bodies[:4], "the last entry is missing", "L3", signed=bodies[:5])
    to.log("l3_more_fail", bodies[:5], "an entry more than the checkpoint has", "L3", signed=bodies[:4])
    other = LogSigner(b"x" * 32, VAULT)
    to.log("l1_other_key_fail", bodies[:5], "another key signed the checkpoint", "L1", signer=other)
    to.log(
        "l1_one_key_of_two_fail",
        bodies[:5],
        "both keys are given, and only one signed",
        "L1",
        keys=BOTH,
        both=False,
    )


def forms(to: Vectors) -> None:
    good = enrolled()
    at = good.verify(v(0), ALICE)
    good.identify(i(0), candidates=[i(0)], region="DE")
    to.log("l4_decisions", good, "one decision 1:1 and one 1:N", "L4", "R22", "R23", "R26", "R27", "R28")
    body = good.bodies()[at]
    denied = enrolled()
    denied.verify(v(0), ALICE, reason="withdrawn")
    denied.verify(None, None, reason="subject_unknown")
    to.log("l4_denied", denied, "denials: of somebody who was found, and of nobody", "L4")
    for name, changed, why in (
        (
            "null",
            body.replace(b'"model":', b'"candidates":null,"model":'),
            "a key of a search in a decision 1:1",
        ),
        ("result", body.replace(b'"result":"match",', b""), "an allowed decision without a result"),
        (
            "denied",
            denied.bodies()[7].replace(b'"scope":', b'"result":"match","scope":'),
            "a denial with a result",
        ),
        ("space", body.replace(b'"v":1', b'"v": 1'), "a space in an entry: not canonical"),
        ("version", body.replace(b'"v":1', b'"v":2'), "another version"),
        ("more", body.replace(b'"v":1', b'"v":1,"w":1'), "a key that is none"),
        ("reason", body.replace(b'"reason":"ok"', b'"reason":"rate"'), "allowed, for a reason to deny"),
        ("region", body.replace(b'"DE"', b'"XX"'), "a region that is none"),
        ("nonce", body.replace(b'"nonce":"00', b'"nonce":"'), "a nonce of 15 bytes"),
    ):
        made = good.bodies()
        made[at] = changed
        assert changed != body, name
        to.log(f"l4_{name}_fail", made, why, "L4")
    to.base("shapes", next(shapes())[1][:-1])
    for name, made, why in shapes():
        to.log(f"l4_{name}_fail", made, why, "L4")
    many = founded()
    codes = [
        "AT",
        "BE",
        "BG",
        "CY",
        "CZ",
        "DE",
        "DK",
        "EE",
        "ES",
        "FI",
        "FR",
        "GB",
        "GR",
        "HR",
        "HU",
        "IE",
        "IT",
    ]
    many.entries[0]["regions"] = codes
    to.log("l4_17_regions", many, "as many regions as an entry may have", "L4", "R1")
    longer = canonical.dumps(many.entries[0] | {"regions": [*codes, "LT"]})
    to.log("l4_18_regions_fail", [longer, *many.bodies()[1:]], "a region more than an entry may have", "L4")


def shapes() -> Iterator[tuple[str, list[bytes], str]]:
    """Entries of which one value is out of its form."""
    book = enrolled()
    book.grant("enroll", item(v(1), BOB), item(i(1), BOB))
    search = book.identify(i(0), i(1), candidates=[i(0)])
    erasure = book.intend("shred", v(0), v(1), i(0), i(1), tags=[ALICE, BOB])
    book.rotation("move")
    book.intend("void", voids=[1], by=None)
    one, two = (element["tag"] for element in (book.entries[5]["grants"][0], book.entries[7]["grants"][0]))
    twice = [book.entries[7]["grants"][0]] * 2
    for name, at, values, why in (
        ("ranges_touch", erasure, {"slots": [[v(0), 1], [v(1), 1], [i(0), 2]]}, "two ranges touch"),
        ("ranges_order", erasure, {"slots": [[i(0), 2], [v(0), 2]]}, "ranges out of order"),
        ("range_empty", erasure, {"slots": [[v(0), 0]]}, "a range of no slot"),
        ("range_branches", erasure, {"slots": [[v(BRANCH_SLOTS - 1), 2]]}, "a range over two branches"),
        ("tags_order", erasure, {"tags": [two, one]}, "tags out of order"),
        ("tag_twice", erasure, {"tags": [one, one]}, "a tag is named twice"),
        ("part", erasure, {"part": 2}, "part 2 of 1"),
        ("sought", erasure, {"sought": "0" * 32}, "an erasure of somebody sought names what it destroys"),
        ("void", erasure + 2, {"voids": []}, "op void voids nothing"),
        ("below", erasure + 1, {"below": [[1, 1]]}, "a move selects templates"),
        ("result_other", search, {"result": "no_match"}, "no match, and a candidate"),
        ("most", search, {"most": 2}, "cut at another number than its candidates"),
        ("mean", search, {"mean_e6": 500_000}, "a limit for means that is the other one"),
        ("score", search, {"score": False}, "a score that is false, which is said by absence"),
        ("candidate_twice", search, {"candidates": [i(0), i(0)]}, "a candidate is named twice"),
        ("grant_twice", 7, {"grants": twice}, "a slot is named twice in one entry"),
        ("time", 7, {"time_ms": 2**53}, "a time of 2^53"),
        ("roles", 3, {"roles": ["service", "dpo"]}, "roles out of order"),
    ):
        entry = {**book.entries[at], **values}
        yield (
            name,
            [*book.bodies()[:at], json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()],
            why,
        )


def beginnings(to: Vectors) -> None:
    book = founded()
    to.log("r1_founded", book, "a vault, an operator, a service", "R1", "R4", "R5", "R6", "R11", "R12")
    to.log("r1_no_genesis_fail", book.bodies()[1:], "the genesis entry is missing", "R1")
    twice = [*book.bodies(), book.bodies()[0]]
    to.log("r1_genesis_twice_fail", twice, "a second genesis entry", "R1")
    to.log("r1_epoch_fail", spoilt(book, 0, epoch=2), "it begins with epoch 2", "R1")
    to.log("r1_by_fail", spoilt(book, 0, by=OPERATOR), "somebody made the genesis entry", "R1")
    other = spoilt(book, 0, vault=(b"w" * 16).hex())
    to.log("r1_other_vault_fail", other, "another vault's log under this one's origin", "R1")


def times(to: Vectors) -> None:
    def at(time_ms: int, *, denied: bool = False) -> Book:
        book = enrolled()
        book.now = time_ms
        book.verify(v(0), ALICE, reason="scope" if denied else "ok")
        return book

    later = enrolled(item(v(0), ALICE, begins=NOW - 60_000))
    later.now += 6_000
    later.verify(v(0), ALICE)
    later.now -= SLACK
    later.verify(v(0), ALICE)
    to.log("r2_slack", later, "a decision dated 5 s before the one before it", "R2")
    late = spoilt(later, len(later.entries) - 1, time_ms=later.now - 1)
    to.log("r2_decision_fail", late, "a decision dated 5,001 ms before the one before it", "R2")
    to.log("r2_denial", at(0, denied=True), "a denial may have any time", "R2")
    early = enrolled()
    early.now -= SLACK + 1
    early.published()
    to.log("r2_control_fail", early, "an entry dated 5,001 ms before the one before it", "R2")
    to.log("r3_set_back", set_back(SLACK + 1), "a clock entry sets the time back, and it goes on", "R2", "R3")
    to.log("r3_not_back_fail", set_back(SLACK), "a clock entry sets the time back by 5 s only", "R3")
    to.log("r3_high_fail", set_back(9_000, 1), "a clock entry names another time than the log had seen", "R3")
    to.log("r3_forward_fail", set_back(-9_000), "a clock entry sets the time forward", "R3")


def set_back(by_ms: int, wrong_ms: int = 0) -> Book:
    """A clock entry, and a decision after it."""
    book = enrolled(item(v(0), ALICE, begins=NOW - 60_000))
    book.set_back(by_ms, wrong_ms)
    book.verify(v(0), ALICE)
    return book


def parted() -> tuple[Book, int]:
    """An operation in two parts, shorter than a vault would part."""
    book = founded()
    first = book.announce("enroll", item(v(0), ALICE))
    book.announce("enroll", item(v(1), BOB))
    for part in (1, 2):
        book.entries[first + part - 1].update(part=part, parts=2)
    book.granted(first)
    return book, first


def parts(to: Vectors) -> None:
    book, first = parted()
    to.log("r4_two_parts", book, "an operation in two parts", "R4")
    for name, values, why in (
        ("by", {"by": SERVICE}, "the second part is of another hand"),
        ("time", {"time_ms": NOW + 1}, "the second part has another time"),
        ("op", {"op": "grant"}, "the second part is of another op"),
    ):
        to.log(f"r4_{name}_fail", spoilt(book, first + 1, **values), why, "R4")
    between = Book([*book.entries])
    between.verify(None, None, reason="scope")
    between.entries.insert(first + 1, between.entries.pop())
    to.log("r4_between_fail", between, "a denial stands between two parts", "R4")
    to.log("r4_end_fail", book.bodies()[: first + 1], "the log ends between two parts", "R4")
    headless = spoilt(founded(), 4)
    headless.add(book.entries[first + 1])
    to.log("r4_no_first_fail", headless, "the first part is missing", "R4")


def slots(to: Vectors) -> None:
    gap = enrolled(item(v(2), ALICE), item(v(7), BOB))
    to.log("r5_gap", gap, "slots may be left out", "R5")
    for name, slot, why in (
        ("twice", v(7), "a slot is given out twice"),
        ("lower", v(5), "a slot below one that was given out"),
    ):
        book = spoilt(gap, 0)
        book.announce("enroll", item(slot, CAROL))
        to.log(f"r5_{name}_fail", book, why, "R5")
    again = enrolled(item(v(0), ALICE))
    again.destroy("withdraw", v(0))
    again.announce("enroll", item(v(0), ALICE))
    to.log("r5_destroyed_fail", again, "a slot is given out again after its destruction", "R5")
    mixed = enrolled(item(v(0), ALICE), item(v(1), ALICE))
    mixed.entries[5]["grants"][1]["terms"] = terms_of(Scope.SHARE).hex()
    to.log("r5_scope_fail", mixed, "a grant in a branch of another scope", "R5")
    system = enrolled(item(v(0), ALICE))
    system.entries[5]["grants"][0]["slot"] = 30
    to.log("r5_system_branch_fail", system, "a grant in the system branch", "R5")
    for name, slot in (("outside", v(0)), ("reserved", 3)):
        book = founded()
        book.announce_principal(SECOND, slot, "dpo")
        to.log(f"r5_principal_{name}_fail", book, f"a principal in slot {slot}", "R5")


def completions(to: Vectors) -> None:
    good = enrolled()
    at = good.destroy("withdraw", v(0)) + 1
    to.log("r6_own_hand", good, "completions by the hand that began", "R6", "R8", "R17")
    to.log("r6_other_hand_fail", spoilt(good, 6, by=SERVICE), "a grant completed by another hand", "R6")
    to.log(
        "r6_other_hand_destroyed_fail",
        spoilt(good, at, by=SERVICE),
        "a destruction completed by another",
        "R6",
    )
    to.log("r6_closed_fail", spoilt(good, 6, of=3), "it completes what is complete", "R6")
    to.log("r6_unknown_fail", spoilt(good, 6, of=500), "it completes an entry that is not there", "R6")
    to.log("r6_kind_fail", spoilt(good, at, of=5), "a destroyed entry completes a grant", "R6")
    recovered = founded()
    recovered.recovered(recovered.announce("enroll", item(v(0), ALICE)))
    to.log("r6_recovery", recovered, "recovery completes an enrolment", "R6", "R11")


def voids(to: Vectors) -> None:
    good = founded()
    first = good.announce("enroll", item(v(0), ALICE), item(i(0), ALICE))
    at = good.destroy("void", v(0), i(0), voids=[first], by=None)
    to.log("r7_void", good, "recovery voids an interrupted enrolment", "R7", "R11", "R16")
    to.log("r7_by_fail", spoilt(good, at, by=OPERATOR), "a principal voids", "R7")
    to.log("r7_less_fail", spoilt(good, at, slots=[[v(0), 1]]), "it leaves a slot of what it voids", "R7")
    to.log("r7_completed_fail", spoilt(good, at, voids=[3]), "it voids what is complete", "R7")
    shred = spoilt(good, at, op="shred", by=OPERATOR, tags=[ALICE.hex()])
    to.log("r7_op_fail", shred, "an erasure voids", "R7")
    second = spoilt(good, at)
    del second.entries[at:]
    second.announce("enroll", item(v(1), BOB))
    second.intend("void", v(0), i(0), v(1), voids=[first], by=None)
    to.log("r7_more_fail", second, "it destroys a slot of what it does not void", "R7")


def chains(to: Vectors) -> None:
    good = enrolled()
    at = good.destroy("withdraw", v(0)) + 1
    to.log("r8_skipped", spoilt(good, at, epoch=5), "an epoch may be skipped", "R8")
    promoted = [RECEIPT | {"action": "promoted"}]
    for name, values, why in (
        ("epoch", {"epoch": 1}, "the epoch does not grow"),
        ("previous", {"previous": fingerprint(7).hex()}, "the root before is another"),
        ("returns", {"fingerprint": fingerprint(1).hex()}, "a root's fingerprint returns"),
        ("receipts", {"receipts": []}, "no receipt"),
        ("promoted", {"receipts": promoted}, "no receipt of a root that was destroyed"),
    ):
        to.log(f"r8_{name}_fail", spoilt(good, at, **values), why, "R8")
    settings = founded()
    settings.add(entries.settings(b"s" * 32, bytes(32), by=OPERATOR, time_ms=NOW))
    settings.add(entries.settings(b"t" * 32, b"s" * 32, by=OPERATOR, time_ms=NOW))
    to.log("r9_settings", settings, "two changes of the settings", "R9")
    to.log("r9_previous_fail", spoilt(settings, 6, previous="00" * 32), "a change of other settings", "R9")


def people(to: Vectors) -> None:
    def acting(**how: Any) -> Book:  # noqa: ANN401
        book = founded()
        if how.pop("announced", True):
            first = book.announce_principal(SECOND, 18, "operator")
            if how.pop("completed", True):
                book.granted(first)
        book.destroy("extend", by=SECOND, **how)
        return book

    to.log("r11_second", acting(), "a second operator acts", "R11", "R12")
    to.log("r11_unknown_fail", acting(announced=False), "somebody acts who was never added", "R11")
    to.log("r11_announced_fail", acting(completed=False), "somebody acts who is only announced", "R11")
    to.log("r11_nobody_fail", spoilt(acting(), 7, by=None), "nobody acts", "R11")
    for name, made in (("revoked", True), ("pending", False)):
        book = enrolled()
        first = book.intend("revoke", 17)
        if made:
            book.destroyed(first)
        book.verify(v(0), ALICE)
        why = "a decision by a principal whose revocation is " + ("complete" if made else "announced")
        to.log(f"r11_{name}_fail", book, why, "R11")
    twice = founded()
    twice.announce_principal(SERVICE, 18, "dpo")
    to.log("r11_twice_fail", twice, "a principal's id is added twice", "R11")
    nobody = founded()
    nobody.announce_principal(SECOND, 18, "dpo", by=None)
    to.log("r11_added_by_nobody_fail", nobody, "nobody adds a second principal", "R11")


def hired(role: str) -> Book:
    """A second principal, with one role."""
    book = enrolled(item(v(0), ALICE), item(v(1), BOB))
    book.principal(SECOND, 18, role)
    return book


def roles(to: Vectors) -> None:
    to.base("hired", hired("registrar"))
    for role in sorted(ALLOWED):
        book = hired(role)
        if role == "service":
            book.verify(v(0), ALICE, by=SECOND)
        else:
            act(book, *next(entry for entry, needs in sorted(NEEDS.items()) if needs & ALLOWED[role]))
        to.log(f"r12_{role}", book, f"role {role} allows it", "R12")
    for (kind, op), needs in NEEDS.items():
        if op == "adopt" or kind == "restarted":
            continue  # only where a log begins anew
        role = next(role for role in ("registrar", "service") if not needs & ALLOWED[role])
        book = hired(role)
        act(book, kind, op)
        name = "_".join(filter(None, (kind, op)))
        to.log(f"r12_{name}_fail", book, f"role {role} does not allow {op or kind}", "R12")
    for role, op in (("operator", "verify"), ("registrar", "identify")):
        book = enrolled()
        book.principal(SECOND, 18, role)
        book.verify(v(0), ALICE, by=SECOND) if op == "verify" else book.identify(i(0), by=SECOND)
        to.log(f"r12_{op}_by_{role}_fail", book, f"role {role} does not allow {op}", "R12")
    none = founded()
    none.announce_principal(SECOND, 18, "root")
    to.log("r12_no_role_fail", none, "a role that is none", "R12")


PAGES: tuple[Callable[[Vectors], None], ...] = (
    whole,
    forms,
    beginnings,
    times,
    parts,
    slots,
    completions,
    voids,
    chains,
    people,
    roles,
)


def everything(to: Vectors) -> None:
    """Add all cases of this page."""
    to.keys(BOTH, SIGNER.keys)
    to.given = {"keys": to.keys(ED25519, SIGNER.keys[:1])}
    to.base("founded", founded())
    to.base("enrolled", enrolled())
    for page in PAGES:
        page(to)
