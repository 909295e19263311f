"""R35: a log that is begun anew says so, and adopts in the open; nothing else hides in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from audit_help import (
    ALICE,
    BOB,
    OPERATOR,
    RECEIPT,
    SECOND,
    SERVICE,
    SIGNER,
    VAULT,
    Book,
    expect,
    fingerprint,
    founded,
    honest,
    item,
    v,
)
from facekeep.audit.people import People
from facekeep.audit.register import Register
from facekeep.audit.replay import Replay
from facekeep.audit.report import RuleBroken
from facekeep.audit.restarts import Restarts
from facekeep.auditlog.restarting import check_restart
from facekeep.auditlog.rotation import Keyring, signing_entry
from facekeep.auditlog.signed import LogSigner
from facekeep.errors import FacekeepError
from facekeep.formats import entries
from facekeep.formats.checkpoint import Checkpoint, origin_of
from facekeep.limits import LIMITS
from restart_help import OTHER, Restarted, adopted

Entry = dict[str, Any]


def test_an_honest_restart_is_told_and_goes_on() -> None:
    book = adopted()
    book.end()
    book.destroy("extend")
    report = honest(book, keyring=Keyring(origin_of(VAULT), SIGNER.keys))
    assert "THE LOG WAS RESTARTED by principal " + OPERATOR in report.notes[0]
    assert "41 entries" in report.notes[0]
    book.verify(v(3), ALICE)
    honest(book)
    book.destroy("shred", v(3), tags=[ALICE])
    honest(book)


def test_a_lapsed_grant_that_was_adopted_is_used_by_nobody() -> None:
    book = adopted()
    book.end()
    index = book.verify(v(7), BOB)
    expect(book.bodies(), "R24", index)


def test_no_slot_of_before_is_given_out_again() -> None:
    book = adopted()
    book.end()
    index = book.announce("enroll", item(v(8), ALICE))
    expect(book.bodies(), "R5", index)


SMUGGLED: dict[str, Callable[[Book], int]] = {
    "a decision": lambda book: book.verify(v(3), ALICE),
    "a denial": lambda book: book.verify(v(3), ALICE, reason="scope"),
    "an enrolment": lambda book: book.announce("enroll", item(v(9), ALICE)),
    "a destruction": lambda book: book.intend("shred", v(3), tags=[ALICE]),
    "a rotation": lambda book: book.rotation("root"),
    "a checkpoint": lambda book: book.published(),
    "a grant by another": lambda book: book.announce("adopt", item(v(9), ALICE), by=SERVICE),
    "a principal by somebody": lambda book: book.announce_principal(SECOND, 18, "operator", by=OPERATOR),
}


@pytest.mark.parametrize("what", SMUGGLED)
def test_nothing_else_stands_in_the_adoption(what: str) -> None:
    book = adopted()
    index = SMUGGLED[what](book)
    book.end()
    expect(book.bodies(), "R35", index)


def test_an_adopted_grant_is_made_of_no_other() -> None:
    book = Restarted()
    book.restart()
    book.adopt_people()
    book.grant("adopt", item(v(3), ALICE))
    index = book.announce("adopt", item(v(7), ALICE, v(3)))
    expect(book.bodies(), "R14", index)


def test_the_adoption_must_come_to_its_end() -> None:
    book = adopted()
    expect(book.bodies(), "R35", len(book.entries) - 1)


@pytest.mark.parametrize("begun", ["genesis", "restart"])
def test_grants_are_adopted_nowhere_else(begun: str) -> None:
    restarted = adopted()
    restarted.end()
    book = founded() if begun == "genesis" else restarted
    index = book.announce("adopt", item((9 << 21) + 1, ALICE))
    expect(book.bodies(), "R35", index)


def test_a_restart_does_not_end_twice_or_without_a_beginning() -> None:
    book = adopted()
    book.end()
    expect(book.bodies()[:] + another_end(book), "R35", len(book.entries))
    plain = Restarted()
    plain.entries = founded().entries
    index = plain.end()
    expect(plain.bodies(), "R35", index)


def another_end(book: Restarted) -> list[bytes]:
    made = Restarted(now=book.now)
    made.end()
    return made.bodies()


@pytest.mark.parametrize("closed", [(2,), (2, 9)])
def test_the_end_closes_every_branch_that_has_grants(closed: tuple[int, ...]) -> None:
    book = adopted()
    index = book.end(*closed)
    expect(book.bodies(), "R35", index)


def test_a_branch_in_which_nobody_was_adopted_is_closed() -> None:
    book = adopted()
    book.end(1, 2, 9)
    honest(book)


def test_a_slot_of_a_closed_branch_is_given_out_again() -> None:
    book = adopted()
    book.end()
    index = book.announce("enroll", item(v(1_000_000), b"c" * 32))
    expect(book.bodies(), "R5", index)


def unordered(change: str) -> tuple[Restarted, int]:
    """An adoption in another order than SPEC §6.6 has, and where that shows."""
    second = LogSigner(b"k" * 32, VAULT, 2)
    book = Restarted()
    book.restart(signer=second)
    sign = signing_entry(SIGNER, second, by=OPERATOR, time_ms=book.now)
    if change == "a principal after a signing entry":
        book.principal(OPERATOR, 16, "operator", by=None)
        book.add(sign)
        return book, book.announce_principal(SERVICE, 17, "service", by=None)
    book.adopt_people()
    if change == "two announced, then completed":
        first = book.announce("adopt", item(v(3), ALICE))
        later = book.announce("adopt", item(v(7), BOB))
        book.granted(first)
        return book, later
    if change == "completed by a recovery":
        return book, book.granted(book.announce("adopt", item(v(3), ALICE)), None)
    if change == "not completed":
        book.announce("adopt", item(v(3), ALICE))
        return book, book.end()
    book.grant("adopt", item(v(3), ALICE))
    if change == "a signing entry after a grant":
        return book, book.add(sign)
    return book, book.announce_principal(SECOND, 18, "service", by=None)


@pytest.mark.parametrize(
    "change",
    [
        "a principal after a signing entry", "a signing entry after a grant", "a principal after a grant",
        "two announced, then completed", "completed by a recovery", "not completed",
    ],
)  # fmt: skip
def test_the_order_of_an_adoption(change: str) -> None:
    book, index = unordered(change)
    expect(book.bodies(), "R35", index)


def test_the_end_gives_no_slot_out_again() -> None:
    book = adopted()
    index = book.end(next_principal=17)
    expect(book.bodies(), "R35", index)


def test_whoever_restarts_must_be_adopted_and_may_restore() -> None:
    book = Restarted()
    book.restart(by=SECOND)
    book.adopt_people()
    index = book.announce("adopt", item(v(3), ALICE), by=SECOND)
    expect(book.bodies(), "R11", index)
    book = Restarted()
    book.restart(by=SERVICE)
    book.adopt_people()
    index = book.announce("adopt", item(v(3), ALICE), by=SERVICE)
    expect(book.bodies(), "R12", index)


def test_a_subject_has_one_grant_of_a_scope_after_a_restart_too() -> None:
    book = Restarted()
    book.restart()
    book.adopt_people()
    first = book.announce("adopt", item(v(3), ALICE), item(v(7), ALICE))
    index = book.granted(first)
    expect(book.bodies(), "R15", index)


@pytest.mark.parametrize("op", ["revoke", "void"])
def test_a_slot_of_before_that_no_principal_was_adopted_in_is_destroyed(op: str) -> None:
    book = adopted()
    book.end()
    voids = [book.announce_principal(SECOND, 240, "service")] if op == "void" else []
    index = book.intend(op, 18, *[240 for _ in voids], voids=voids, by=None if voids else OPERATOR)
    expect(book.bodies(), "R16", index)


def test_a_restart_is_the_first_entry_or_none() -> None:
    book = Restarted()
    book.entries = founded().entries
    book.restart()
    expect(book.bodies(), "R1", len(book.entries) - 1)


FORGED: dict[str, Callable[[Entry], object]] = {
    "another pin": lambda entry: entry["pin"].update(size=2),
    "another hand": lambda entry: entry.update(by=SECOND),
    "a checkpoint that was not seen": lambda entry: entry.update(seen={"root": "00" * 32, "size": 9}),
    "other keys": lambda entry: entry.update(keys=[key.encode() for key in OTHER.keys]),
    "other settings": lambda entry: entry.update(settings="11" * 32),
}


@pytest.mark.parametrize("what", FORGED)
def test_a_forged_restart(what: str) -> None:
    book = adopted()
    FORGED[what](book.entries[0])
    expect(book.bodies(), "R35", 0)
    with pytest.raises(FacekeepError):
        check_restart(book.entries[0])


def test_a_restart_of_another_vaults_log() -> None:
    book = adopted()
    book.end()
    run = Replay()
    for body in book.bodies():
        run.feed(body)
    honest(book, checkpoint=Checkpoint(origin_of(VAULT), run.size, run.root()))
    expect(book.bodies(), "R1", 0, checkpoint=Checkpoint(origin_of(b"w" * 16), run.size, run.root()))


def test_the_root_of_a_restart_is_not_used_again() -> None:
    book = adopted()
    book.end()
    index = book.destroy("extend") + 1
    book.destroy("extend")
    honest(book)
    book.entries[index + 2]["fingerprint"] = book.entries[0]["fingerprint"]
    expect(book.bodies(), "R8", index + 2)


def test_a_restart_that_no_trusted_key_signed() -> None:
    book = Restarted()
    book.restart(signer=OTHER)
    book.adopt_people()
    book.grant("adopt", item(v(3), ALICE))
    book.end()
    honest(book, keyring=Keyring(origin_of(VAULT), OTHER.keys))
    expect(book.bodies(), "R35", 0, keyring=Keyring(origin_of(VAULT), SIGNER.keys))


def test_the_signing_keys_in_force_are_repeated_and_others_are_not_led_to() -> None:
    second = LogSigner(b"k" * 32, VAULT, 2)
    book = Restarted()
    book.restart(signer=second)
    book.adopt_people()
    book.add(signing_entry(SIGNER, second, by=OPERATOR, time_ms=book.now))
    index = book.end()
    for keys in (SIGNER.keys, second.keys):
        honest(book, keyring=Keyring(origin_of(VAULT), keys))
    book.entries[0] = adopted().entries[0]  # signed by the first keys, while the second are in force
    expect(book.bodies(), "R35", index, keyring=Keyring(origin_of(VAULT), SIGNER.keys))


def restarts() -> Restarts:
    """The rules of an adoption, begun by one hand."""
    rules = Restarts(Register(), People())
    rules.begin({"by": "aa" * 8, "pin": {"size": 41}, "seen": None})
    return rules


HAND = {"by": "aa" * 8}
ADOPTION: dict[str, Entry] = {
    "principal": {"type": "principal", "by": None},
    "granted": {"type": "granted", "of": 1, "by": None},
    "grant": {"type": "grant", "op": "adopt", "part": 1, "parts": 1, **HAND},
}


def test_nobody_restarts_no_log() -> None:
    with pytest.raises(RuleBroken, match="nobody restarts the log") as caught:
        Restarts(Register(), People()).begin({"by": None, "pin": {"size": 41}, "seen": None})
    assert (caught.value.rule, caught.value.index) == ("R35", 0)


def test_a_checkpoint_of_the_lost_log_that_was_seen_is_told() -> None:
    told = Restarts(Register(), People()).begin({"by": "aa" * 8, "pin": {"size": 41}, "seen": {"size": 77}})
    assert "41 entries at least, and a checkpoint of 77 was seen" in told


def test_an_adoption_in_parts() -> None:
    book = Restarted()
    book.restart()
    book.adopt_people()
    tags = [bytes([number]) * 32 for number in range(2 * LIMITS.grants_per_entry)]
    first = book.announce("adopt", *(item(v(number), tag) for number, tag in enumerate(tags)))
    assert len(book.entries) == first + 2
    book.granted(first)
    book.end(1)
    honest(book)


def test_whoever_ends_an_adoption_of_nobody_may_restore() -> None:
    book = Restarted()
    book.restart(by=SERVICE)
    book.adopt_people()
    index = book.end()
    book.entries[index]["by"] = SERVICE
    expect(book.bodies(), "R12", index)


@pytest.mark.parametrize("change", [{"of": 2}, {"by": "aa" * 8}, {"of": 2, "by": "aa" * 8}])
def test_an_adopted_principal_is_completed_at_once_by_its_own_hand(change: Entry) -> None:
    rules = restarts()
    rules.before(1, ADOPTION["principal"])
    with pytest.raises(RuleBroken, match="granted is out of the order"):
        rules.before(2, {**ADOPTION["granted"], **change})


def test_a_principal_is_not_adopted_after_a_grant() -> None:
    rules = restarts()
    rules.before(1, ADOPTION["principal"])
    rules.before(2, ADOPTION["granted"])
    rules.before(3, ADOPTION["grant"])
    rules.before(4, {"type": "granted", "of": 3, **HAND})
    with pytest.raises(RuleBroken, match="principal is out of the order"):
        rules.before(5, ADOPTION["principal"])


def test_a_grant_that_is_no_adoption_stands_in_none() -> None:
    with pytest.raises(RuleBroken, match="type grant stands inside"):
        restarts().before(1, {**ADOPTION["grant"], "op": "enroll"})


def test_the_root_of_before_is_none_of_a_later_epoch() -> None:
    book = adopted()
    book.end()
    first = book.intend("extend")
    index = book.add(
        entries.destroyed(
            first,
            epoch=4,
            fingerprint=fingerprint(3),
            previous=fingerprint(3),
            receipts=[RECEIPT],
            by=OPERATOR,
            time_ms=book.now,
        )
    )
    expect(book.bodies(), "R8", index)


def test_keys_that_no_entry_leads_to_are_no_matter_of_a_restart_where_there_is_none() -> None:
    """Who was given the keys of a later time judges the checkpoint by them, not the log's beginning."""
    book = founded()
    later = [LogSigner(b"k" * 32, VAULT, generation) for generation in (2, 3)]
    book.rotation("signing")
    book.add(signing_entry(SIGNER, later[0], by=OPERATOR, time_ms=book.now))
    ring = Keyring(origin_of(VAULT), later[1].keys)
    judge = Replay(VAULT, ring)
    for body in book.bodies():
        judge.feed(body)
    judge.finish()
    with pytest.raises(FacekeepError):
        ring.keys_at(judge.size)
