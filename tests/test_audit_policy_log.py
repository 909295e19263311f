"""What holds the log together: genesis, time, parts, chains, principals and their roles."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from audit_help import (
    ALICE,
    BOB,
    DAY,
    NOW,
    OPERATOR,
    SECOND,
    SERVICE,
    SIGNER,
    VAULT,
    Book,
    Entry,
    act,
    broken,
    expect,
    fingerprint,
    founded,
    honest,
    item,
    story,
    v,
)
from facekeep import audit
from facekeep.access.roles import ALLOWED
from facekeep.audit.consistency import CONSISTENCY_STEPS
from facekeep.audit.people import NEEDS
from facekeep.audit.replay import HEAD_RULES, Replay, replay
from facekeep.audit.report import LOG_STEPS, Verdict
from facekeep.auditlog import rules
from facekeep.auditlog.rotation import Keyring, signing_entry
from facekeep.auditlog.signed import LogSigner
from facekeep.formats import entries, roles
from facekeep.formats.checkpoint import Checkpoint, origin_of
from facekeep.limits import LIMITS

STORY = story()
AT = STORY.at
ROOT = Path(__file__).resolve().parent.parent
Change = Callable[[list[Entry]], object]


def edit(index: int, **values: object) -> Change:
    return lambda log: log[index].update(values)


# L3 and L4: the tree, the form


def test_the_entries_must_be_those_of_the_checkpoint() -> None:
    run = Replay()
    bodies = STORY.book.bodies()
    for body in bodies:
        run.feed(body)
    good = Checkpoint(origin_of(VAULT), run.size, run.root())
    report = replay(bodies, checkpoint=good)
    assert {step.id for step in report.steps if step.verdict is Verdict.NOT_JUDGED} == {"L1", "L2", "R10"}
    expect(bodies, "L3", None, checkpoint=Checkpoint(good.origin, run.size, bytes(32)))
    expect(bodies[:-1], "L3", None, checkpoint=good)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda body: body + b"\n",
        lambda body: body.replace(b'"v":1', b'"v": 1'),
        lambda body: body.replace(b'"v":1', b'"v":2'),
        lambda body: body.replace(b'"type"', b'"note":"x","type"'),
        lambda body: body.replace(b'"match"', b"null", 1),
        lambda body: body.replace(b'"scope"', b'"candidates":null,"scope"', 1),
        lambda _: b"",
        lambda _: b"[]",
    ],
)
def test_an_entry_of_another_form(spoil: Callable[[bytes], bytes]) -> None:
    bodies = STORY.book.bodies()
    bodies[AT["verify"]] = spoil(bodies[AT["verify"]])
    expect(bodies, "L4", AT["verify"])


# R1, where a log begins


def test_genesis() -> None:
    expect(STORY.book.bodies()[1:], "R1", 0)
    expect(STORY.doctored(lambda log: log.insert(7, log[0])), "R1", 7)
    expect(STORY.doctored(lambda log: log.insert(0, log[AT["denied"]])), "R1", 0)
    expect(STORY.doctored(edit(0, epoch=2)), "R1", 0)
    expect(STORY.doctored(edit(0, by=OPERATOR)), "R1", 0)
    other = Checkpoint(origin_of(b"w" * 16), 1, bytes(32))
    expect(STORY.book.bodies(), "R1", 0, checkpoint=other)


# R2 and R3: the clock


def test_a_clock_set_back() -> None:
    at = AT["last"]
    late = STORY.book.entries[at]["time_ms"]
    expect(STORY.doctored(edit(at, time_ms=late - LIMITS.clock_slack_ms - 1)), "R2", at)
    replay(STORY.doctored(edit(at, time_ms=late - LIMITS.clock_slack_ms)))


def test_a_clock_set_back_for_an_operation() -> None:
    at = AT["settings"]
    late = STORY.book.entries[at]["time_ms"]
    expect(STORY.doctored(edit(at, time_ms=late - LIMITS.clock_slack_ms - 1)), "R2", at)


def test_a_denial_may_have_any_time() -> None:
    replay(STORY.doctored(edit(AT["denied"], time_ms=0)))


@pytest.mark.parametrize("moved", [0, 1, 5_000])
def test_a_clock_entry_sets_the_time_back(moved: int) -> None:
    """One that does not, or names another time than the log's, is none."""
    high = STORY.book.entries[AT["expire"]]["time_ms"]
    expect(STORY.doctored(edit(AT["clock"], time_ms=high - moved)), "R3", AT["clock"])
    expect(STORY.doctored(edit(AT["clock"], high_ms=high + 1 + moved)), "R3", AT["clock"])


def test_a_clock_entry_is_told_to_the_reader() -> None:
    (note,) = honest(STORY.book).notes
    assert note.startswith(f"entry {AT['clock']}: principal {OPERATOR}")
    assert note.endswith(f"back by {DAY} ms")


# R4, the parts of an operation


def parted() -> tuple[Book, int]:
    book = founded()
    count = LIMITS.grants_per_entry + 1
    first = book.announce("enroll", *(item(v(number), bytes([number]) * 32) for number in range(count)))
    assert len(book.entries) == first + 2
    return book, first


def test_the_parts_of_an_operation() -> None:
    book, first = parted()
    book.granted(first)
    honest(book)
    for values in ({"by": SERVICE}, {"time_ms": NOW + 1}, {"part": 1}, {"op": "grant"}, {"parts": 3}):
        copied = Book([dict(each) for each in book.entries])
        copied.entries[first + 1].update(values)
        expect(copied.bodies(), "R4", first + 1)


def test_a_decision_between_two_parts() -> None:
    book, first = parted()
    made = STORY.book.entries[AT["denied"]]
    book.entries.insert(first + 1, made)
    expect(book.bodies(), "R4", first + 1)


def test_a_log_that_ends_between_two_parts() -> None:
    book, first = parted()
    del book.entries[first + 1]
    expect(book.bodies(), "R4", first)


def test_a_destruction_in_parts_is_judged_whole() -> None:
    book = founded()
    step = 2  # every second slot, so that no two make a range
    count = LIMITS.ranges_per_entry + 1
    tags = [number.to_bytes(32, "big") for number in range(step * count)]
    book.grant("enroll", *(item(v(number), tag) for number, tag in enumerate(tags)))
    dying = range(0, step * count, step)
    first = book.intend("shred", *(v(number) for number in dying), tags=[tags[number] for number in dying])
    assert len(book.entries) > first + 2
    book.destroyed(first)
    honest(book)
    last = len(book.entries) - 2
    assert book.entries[first + 1]["slots"]
    book.entries[first + 1]["slots"] = []
    expect(book.bodies(), "R18", last)


# R8 and R9: epochs, roots, settings


@pytest.mark.parametrize(
    "values",
    [
        {"epoch": 1},
        {"previous": fingerprint(7).hex()},
        {"fingerprint": fingerprint(1).hex()},
        {"receipts": []},
        {"receipts": [{"action": "promoted", "class": "erasing", "limits": [], "scheme": "file"}]},
    ],
    ids=["epoch", "previous", "reused", "none", "promoted"],
)
def test_a_root_replacement_out_of_the_chain(values: Entry) -> None:
    index = AT["withdraw"] + 1
    expect(STORY.doctored(edit(index, **values)), "R8", index)


def test_no_root_is_used_again() -> None:
    book = founded()
    book.destroy("extend")
    index = book.destroy("extend") + 1
    book.destroy("extend")
    book.entries[index + 2]["fingerprint"] = book.entries[index - 2]["fingerprint"]
    expect(book.bodies(), "R8", index + 2)


def test_an_erased_epoch_is_missed() -> None:
    """Who removes an erasure whole, and numbers on, has a root that follows from none."""

    def change(log: list[Entry]) -> None:
        del log[AT["shred"] : AT["shred"] + 2]
        for entry in log[AT["shred"] :]:
            if entry["type"] == "destroyed":
                entry["of"] -= 2

    # Carol's grants live on: the searches show it before the chain does.
    expect(STORY.doctored(change), "R28", AT["shred"])


def test_settings_out_of_the_chain() -> None:
    expect(STORY.doctored(edit(AT["settings"], previous="f" * 64)), "R9", AT["settings"])


# R10: signing keys


def rotated(generation: int = 2, by: str = OPERATOR) -> Book:
    book = founded()
    book.rotation("signing", by=by)
    old, new = LogSigner(b"k" * 32, VAULT, generation - 1), LogSigner(b"k" * 32, VAULT, generation)
    book.add(signing_entry(old, new, by=by, time_ms=NOW))
    return book


def test_signing_keys() -> None:
    def keyring() -> Keyring:
        return Keyring(origin_of(VAULT), SIGNER.keys)

    assert (
        next(step for step in honest(rotated(), keyring=keyring()).steps if step.id == "R10").verdict
        is Verdict.HOLDS
    )
    expect(rotated(3).bodies(), "R10", 6, keyring=keyring())
    forged = rotated()
    forged.entries[6]["nonce"] = "0" * 32
    expect(forged.bodies(), "R10", 6, keyring=keyring())
    expect(rotated(by=SERVICE).bodies(), "R12", 5, keyring=keyring())
    honest(rotated(), keyring=Keyring(origin_of(VAULT), LogSigner(b"o" * 32, VAULT).keys))  # L1 judges those


# R11 and R12: who, and by which role


@pytest.mark.parametrize("by", [None, "f" * 16, SERVICE, SECOND])
@pytest.mark.parametrize("chapter", ["enrol", "withdraw", "shred", "settings", "clock", "backup", "restore"])
def test_an_entry_by_somebody_else(chapter: str, by: str | None) -> None:
    """The service may do none of it; it is revoked before the end, and the second is added late."""
    index = AT[chapter]
    revoked, added = index > AT["revoke"], index > AT["second"]
    known = by == SERVICE or (by == SECOND and added)
    active = known and not (by == SERVICE and revoked)
    expect(STORY.doctored(edit(index, by=by)), "R12" if active else "R11", index)


def test_a_principal_who_is_only_announced() -> None:
    book = founded()
    first = book.announce_principal(SECOND, 18, "operator")
    index = book.destroy("extend", by=SECOND)
    expect(book.bodies(), "R11", index)
    del book.entries[index:]
    book.epoch = 1
    book.granted(first)
    book.destroy("extend", by=SECOND)
    honest(book)


def test_a_principal_added_twice_by_nobody_or_without_a_role() -> None:
    for identity, by, words, rule in (
        (SERVICE, OPERATOR, ("dpo",), "R11"),
        (SECOND, None, ("dpo",), "R11"),
        (SECOND, SERVICE, ("dpo",), "R12"),
        (SECOND, OPERATOR, ("root",), "R12"),
    ):
        book = founded()
        index = book.announce_principal(identity, 18, *words, by=by)
        expect(book.bodies(), rule, index)


def test_a_principal_may_revoke_itself_and_then_do_nothing() -> None:
    book = founded()
    book.destroy("revoke", 16)
    honest(book)
    expect([*book.bodies(), *rest(book)], "R11", 7)


def rest(book: Book) -> list[bytes]:
    made = Book(now=book.now)
    made.destroy("extend")
    return made.bodies()[:1]


def test_a_revoked_principal_acts_no_more_from_the_intent_on() -> None:
    book = founded()
    book.grant("enroll", item(v(0), ALICE))
    book.intend("revoke", 17)
    expect([*book.bodies(), *decided(book)], "R11", 8)


def decided(book: Book) -> list[bytes]:
    index = book.verify(v(0), ALICE)
    made = book.bodies()[index:]
    del book.entries[index:]
    return made


@pytest.mark.parametrize("role", sorted(roles.ALLOWED))
def test_what_each_role_may_record(role: str) -> None:
    """Every role against every entry that takes an action."""
    for (kind, op), needs in NEEDS.items():
        if op == "adopt" or kind == "restarted":
            continue  # only where a log begins: test_audit_policy_restart.py
        book = founded()
        book.grant("enroll", item(v(0), ALICE), item(v(1), BOB))
        book.principal(SECOND, 18, role)
        index = act(book, kind, op)
        if needs & roles.ALLOWED[role]:
            honest(book)
        else:
            expect(book.bodies(), "R12", index)


# The report, and the words


def test_a_report_tells_what_was_judged_until_then() -> None:
    error = broken(STORY.doctored(edit(AT["shred"], slots=[])))
    report = error.report
    assert report is not None
    by_id = {step.id: step for step in report.steps}
    assert by_id["R18"].verdict is Verdict.BROKEN
    assert by_id["R17"].detail == f"for the first {AT['shred']} entries"
    assert by_id["L1"].verdict is Verdict.NOT_JUDGED
    assert str(error).startswith(f"R18: log entry {AT['shred']}: ")
    assert report.to_json()["size"] == AT["shred"] + 1


def test_what_a_report_counts_and_what_nothing_was_given_for() -> None:
    book = founded()
    book.grant("enroll", item(v(0), ALICE), item(v(1), BOB))
    book.destroy("shred", v(0), tags=[ALICE])
    book.announce("enroll", item(v(2), BOB))
    book.verify(v(1), BOB)
    report = honest(book)
    assert {step.id for step in report.steps if step.verdict is Verdict.NOT_JUDGED} == {
        "L1",
        "L2",
        "L3",
        "R10",
    }
    assert {word: count for word, count in report.counts.items() if count} == {
        "entries": 11,
        "epoch": 2,
        "grants": 3,
        "grants living": 1,
        "operations open": 1,
        "principals active": 2,
        "shred": 1,
        "slots destroyed": 1,
        "slots named": 1,
        "subjects": 2,
        "subjects erased": 1,
        "verify": 1,
    }


def test_what_is_open_at_the_end_is_told() -> None:
    book = founded()
    book.grant("enroll", item(v(0), ALICE))
    book.intend("shred", v(0), tags=[ALICE])
    book.announce("enroll", item(v(1), BOB))
    notes = honest(book).notes
    assert [note.split(":")[0] for note in notes] == ["entry 7", "entry 8"]
    assert "not yet destroyed" in notes[0]
    assert "the enroll begun there is not complete; it grants nothing yet" in notes[1]


def test_every_rule_of_the_head_has_its_number() -> None:
    """No rule of §6.8 ends in a verdict without one."""
    source = inspect.getsource(rules)
    said = re.findall(r'_break\(f?"([^"]+)"\)', source)
    said += re.findall(r'self\._close\(.*, "([^"]+)"\)', source)
    assert len(said) == len(re.findall(r"_break\((?!rule)", source)) - 1 + 4  # less the definition
    for text in said:
        assert any(text.startswith(start) for start in HEAD_RULES), text
    assert all(any(text.startswith(start) for text in said) for start in HEAD_RULES)


def test_the_specification_lists_the_steps_and_the_code_tags_them() -> None:
    spec = (ROOT / "docs" / "spec" / "log.md").read_text()
    section = spec[spec.index("## 11. Verification") :]
    code = "".join(path.read_text() for path in Path(audit.__path__[0]).glob("*.py"))
    for key, text in {**LOG_STEPS, **CONSISTENCY_STEPS}.items():
        assert f"| {key} | {text} |" in section.replace("**", ""), key
        assert f'"{key}"' in code.replace(f'"{key}": "{text}"', ""), key


def test_the_gate_and_the_auditor_read_one_table_of_roles() -> None:
    told = {role.value: frozenset(action.value for action in actions) for role, actions in ALLOWED.items()}
    assert told == dict(roles.ALLOWED)


# The specification's log


def specified() -> tuple[list[bytes], bytes]:
    """Entries and root of SPEC §6.7."""
    section = (ROOT / "docs/spec/log.md").read_text().partition("\n### 6.7 ")[2].partition("\n## ")[0]
    root = re.search(r"^`([0-9a-f]{64})`\.$", section, re.MULTILINE)
    assert root is not None
    lines = section.partition("```json\n")[2].partition("```")[0].splitlines()
    return [line.encode() for line in lines], bytes.fromhex(root[1])


def test_the_log_of_the_specification_has_its_root_and_breaks_no_rule() -> None:
    bodies, root = specified()
    vault = bytes.fromhex(str(entries.parse(bodies[0])["vault"]))
    report = replay(bodies, checkpoint=Checkpoint(origin_of(vault), len(bodies), root))
    not_held = {step.id for step in report.steps if step.verdict is not Verdict.HOLDS}
    assert not_held == {"L1", "L2", "R10"}  # there are no tiles, no checkpoint note and no keys


def test_the_log_of_the_specification_has_every_type_of_entry() -> None:
    bodies, _ = specified()
    table = (ROOT / "docs/spec/log.md").read_text().partition("### 6.1 ")[2].partition("### 6.2")[0]
    types = set(re.findall(r"^\| `([a-z]+)` \|", table, re.MULTILINE))
    assert {str(entries.parse(body)["type"]) for body in bodies} == types - {"signing"}
    assert all(entries.encode(entries.parse(body)) == body for body in bodies)
