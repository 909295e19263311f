"""Which keys a log is believed under: half known, rotated, crossed ones, restarts (SPEC §10.8)."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from audit_help import (
    ALICE,
    DAY,
    NOW,
    OPERATOR,
    SERVICE,
    SIGNER,
    VAULT,
    Book,
    crossed,
    founded,
    item,
    numbered,
    v,
    write_export,
)
from facekeep.audit.consistency import verify_consistency
from facekeep.audit.logs import verify_log
from facekeep.audit.report import Verdict
from facekeep.audit.watch import Seen, watch
from facekeep.auditlog.rotation import signing_entry
from facekeep.auditlog.signed import Cosigner, LogSigner
from facekeep.formats.note import Signature, VerifierKey
from proof_help import step_of
from restart_help import Restarted
from shared_help import retold

SECOND, THIRD = (LogSigner(b"k" * 32, VAULT, number) for number in (2, 3))
FOREIGN, FOREIGN_TOO = (LogSigner(b"x" * 32, VAULT, number) for number in (1, 2))
BOTH, ED, ML = SIGNER.keys, SIGNER.keys[:1], SIGNER.keys[1:]


def turn(book: Book, old: LogSigner, new: LogSigner, number: int = 2) -> None:
    """Rotate the keys to generation ``number``."""
    book.rotation("signing")
    book.add(signing_entry(old, numbered(new, number), by=OPERATOR, time_ms=book.now))


def turned(*signers: LogSigner, begun: Book | None = None) -> Book:
    """A log whose keys are those of one signer after the other; a denial after each rotation."""
    book = founded() if begun is None else begun
    for number in range(1, len(signers)):
        turn(book, signers[number - 1], signers[number], number + 1)
        book.verify(None, None, reason="role", by=SERVICE)
    return book


def older(folder: Path, bodies: Sequence[bytes], signer: LogSigner = SIGNER) -> bytes:
    write_export(folder, bodies, signer)
    return (folder / "checkpoint").read_bytes()


def seen(export: Path, keys: Sequence[VerifierKey], state: Path, witness: Cosigner | None = None) -> Seen:
    return watch(export, keys, state, time_ms=NOW, witness=witness)


Judge = Callable[..., list[str]]


@pytest.fixture
def judge(tmp_path: Path) -> Judge:
    """The step that each command breaks: verify-log, verify-consistency from the first entry, watch."""

    def steps(
        book: Book, signer: LogSigner, keys: Sequence[VerifierKey], first: LogSigner = SIGNER
    ) -> list[str]:
        export, bodies, state = tmp_path / "e", book.bodies(), tmp_path / "state"
        shutil.rmtree(export, ignore_errors=True)
        write_export(export, bodies, signer)
        old = older(tmp_path / "o", bodies[:1], first)
        found = [step_of(verify_log, export, keys), step_of(verify_consistency, old, export, keys)]
        state.unlink(missing_ok=True)
        return [*found, step_of(seen, export, keys, state)]

    return steps


HALVES = {"ed25519 known": crossed(SIGNER, FOREIGN), "ml-dsa-44 known": crossed(FOREIGN, SIGNER)}


REFUSED, ACCEPTED = ["L1", "C2", "W2"], ["none"] * 3


@pytest.mark.parametrize("what", HALVES)
def test_half_a_generation_is_followed_nowhere(what: str, judge: Judge) -> None:
    half = HALVES[what]
    assert judge(turned(half, FOREIGN_TOO), FOREIGN_TOO, BOTH) == REFUSED
    assert judge(turned(half, FOREIGN_TOO, THIRD), THIRD, BOTH) == REFUSED
    assert judge(turned(FOREIGN_TOO, half, THIRD), THIRD, BOTH) == REFUSED
    assert judge(turned(FOREIGN, SIGNER), SIGNER, BOTH, FOREIGN) == ACCEPTED  # what is given may be later


@pytest.mark.parametrize("what", HALVES)
def test_half_a_generation_signs_nothing(what: str, judge: Judge) -> None:
    assert judge(founded(), HALVES[what], BOTH) == REFUSED
    assert judge(turned(SIGNER, SECOND), HALVES[what], BOTH) == REFUSED
    new = crossed(SECOND, FOREIGN) if what[0] == "e" else crossed(FOREIGN, SECOND)
    assert judge(turned(SIGNER, SECOND), new, BOTH) == REFUSED


def test_who_gives_one_key_trusts_one_algorithm(judge: Judge) -> None:
    for keys in (ED, ML, BOTH):
        assert judge(turned(SIGNER, SECOND, THIRD), THIRD, keys) == ACCEPTED
    half = HALVES["ed25519 known"]
    assert judge(turned(half, FOREIGN_TOO), FOREIGN_TOO, ED, half) == ACCEPTED
    assert judge(turned(half, FOREIGN_TOO), FOREIGN_TOO, ML) == REFUSED


def test_keys_of_two_generations_lead_on_and_two_halves_do_not(judge: Judge) -> None:
    book = turned(SIGNER, SECOND, THIRD)
    assert judge(book, THIRD, (*SIGNER.keys, *SECOND.keys)) == ACCEPTED
    assert judge(book, THIRD, (*SECOND.keys, *SIGNER.keys, *THIRD.keys)) == ACCEPTED
    halves = (SIGNER.keys[0], SECOND.keys[1])
    assert judge(book, THIRD, halves) == REFUSED
    assert judge(book, crossed(SIGNER, SECOND), halves) == ["R10", "C5", "W6"]  # which opens it, and no more


def test_trust_does_not_lead_backwards(judge: Judge) -> None:
    assert judge(turned(SIGNER, SECOND), SECOND, THIRD.keys) == ["L1", "C2", "W2"]
    assert judge(turned(SIGNER, SECOND, THIRD), SECOND, THIRD.keys) == ["L1", "C2", "W2"]


@pytest.mark.parametrize("old", [SIGNER, SECOND])
def test_keys_that_were_rotated_away_sign_nothing_more(old: LogSigner, judge: Judge) -> None:
    book = turned(SIGNER, SECOND, THIRD)
    assert judge(book, old, (*SIGNER.keys, *SECOND.keys)) == ["R10", "C5", "W6"]


def test_a_rotation_hidden_from_who_reads_the_bundles(tmp_path: Path) -> None:
    book = turned(SIGNER, SECOND)
    old = older(tmp_path / "o", book.bodies()[:3])
    write_export(tmp_path / "e", book.bodies(), SIGNER)
    entries_file = next((tmp_path / "e/tile/entries").rglob(str(len(book.entries))))
    book.entries[6] = book.entries[-1]
    write_export(tmp_path / "other", book.bodies())
    shutil.copy(next((tmp_path / "other/tile/entries").rglob(entries_file.name)), entries_file)
    assert step_of(verify_consistency, old, tmp_path / "e", BOTH) == "C5"
    assert step_of(seen, tmp_path / "e", BOTH, tmp_path / "state", Never()) == "W6"
    assert not (tmp_path / "state").exists()


class Never(Cosigner):
    """A witness that must not be asked."""

    def __init__(self) -> None:
        super().__init__("w.example", b"w" * 32)

    def sign(self, *_: object) -> Signature:
        pytest.fail("it cosigned")


def test_what_was_seen_before_a_rotation_and_the_keys_of_after_it(tmp_path: Path) -> None:
    book, state = founded(), tmp_path / "state"
    old = older(tmp_path / "e", book.bodies())
    seen(tmp_path / "e", BOTH, state)
    shutil.rmtree(tmp_path / "e")
    write_export(tmp_path / "e", turned(SIGNER, SECOND, THIRD, begun=book).bodies(), THIRD)
    for keys in (BOTH, SECOND.keys, THIRD.keys, THIRD.keys[:1]):
        assert verify_consistency(old, tmp_path / "e", keys).steps[4].verdict is Verdict.HOLDS
        state.write_bytes(old)
        assert seen(tmp_path / "e", keys, state).before == 5
    assert step_of(verify_consistency, old, tmp_path / "e", FOREIGN.keys) == "C2"


def test_another_history_under_keys_of_before_the_rotation(tmp_path: Path) -> None:
    book = turned(SIGNER, SECOND)
    write_export(tmp_path / "e", book.bodies(), SECOND)
    fork = older(tmp_path / "o", founded().bodies())
    for keys in (BOTH, SECOND.keys):
        assert step_of(verify_consistency, fork, tmp_path / "e", keys) == "C4"
    foreign = older(tmp_path / "o", book.bodies()[:5], FOREIGN)
    assert step_of(verify_consistency, foreign, tmp_path / "e", SECOND.keys) == "C1"
    later = older(tmp_path / "o", book.bodies()[:5], SECOND)  # keys that were not in force yet
    assert step_of(verify_consistency, later, tmp_path / "e", SECOND.keys) == "C5"


def test_keys_that_no_entry_replaced_do_not_take_turns(tmp_path: Path) -> None:
    """Somebody gives the keys of two generations; the log knows of one."""
    bodies, given, state = founded().bodies(), (*SIGNER.keys, *SECOND.keys), tmp_path / "state"
    for before, now in ((SIGNER, SECOND), (SECOND, SIGNER), (SIGNER, crossed(SIGNER, SECOND))):
        old = older(tmp_path / "o", bodies[:3], before)
        write_export(tmp_path / "e", bodies, now)
        assert step_of(verify_consistency, old, tmp_path / "e", given) == "C5"
        state.write_bytes(old)
        assert step_of(seen, tmp_path / "e", given, state, Never()) == "W6"
    write_export(tmp_path / "e", bodies, SIGNER)
    assert step_of(verify_consistency, older(tmp_path / "o", bodies[:3]), tmp_path / "e", given) == "none"


# restarts


def begun_anew(*signers: LogSigner, signed: LogSigner | None = None) -> Restarted:
    """A restart under the last signer's keys, or those of ``signed``, with the generations before."""
    book = Restarted()
    book.restart(signer=signed or signers[-1])
    book.adopt_people()
    for number in range(1, len(signers)):
        new = numbered(signers[number], number + 1)
        book.add(signing_entry(signers[number - 1], new, by=OPERATOR, time_ms=book.now))
    book.grant("adopt", item(v(3), ALICE), item(v(7), b"b" * 32, expires=NOW - DAY, begins=NOW - 9 * DAY))
    book.end()
    return book


def test_what_is_printed_after_a_restart_and_a_rotation_verifies(judge: Judge) -> None:
    for keys in (SIGNER.keys, SECOND.keys, ED, (*SIGNER.keys, *SECOND.keys)):
        book = begun_anew(SIGNER)
        turn(book, SIGNER, SECOND)
        assert judge(book, SECOND, keys) == ACCEPTED
    book = begun_anew(SIGNER, SECOND)
    turn(book, SECOND, THIRD, 3)
    for keys in (SIGNER.keys, SECOND.keys, THIRD.keys):
        assert judge(book, THIRD, keys, SECOND)[0::2] == ["none", "none"]


def test_a_restart_by_keys_that_are_not_in_force(judge: Judge) -> None:
    other = begun_anew(SIGNER, SECOND, signed=SIGNER)
    assert judge(other, SECOND, BOTH) == REFUSED
    assert judge(other, SECOND, SECOND.keys)[0] == "R35"
    book = begun_anew(SIGNER)
    turn(book, HALVES["ed25519 known"], FOREIGN_TOO)
    for keys in (BOTH, ED):
        assert judge(book, FOREIGN_TOO, keys) == REFUSED
    assert judge(begun_anew(FOREIGN), SIGNER, BOTH) == ["R35", "C5", "W6"]
    for half in HALVES.values():
        assert judge(begun_anew(half), SIGNER, BOTH)[0] == "R35"
        book = begun_anew(half)
        turn(book, half, SECOND)
        assert judge(book, SECOND, BOTH) == REFUSED


SHARED_STEPS = {
    "history_rewritten_half_known_fail": "L1",
    "restart_branch_not_closed_fail": "R35",
    "restart_keys_other_than_in_force_fail": "L1",
    "signing_previous_half_known_fail": "L1",
}


def test_the_shared_cases(shared_data: Path, tmp_path: Path) -> None:
    for case in sorted((shared_data.parent / "cases/audit").iterdir()):
        told = retold(tmp_path / case.name, case)
        assert step_of(verify_log, told.export, told.keys) == SHARED_STEPS.get(case.name, "none"), case.name
        assert told.good is (case.name not in SHARED_STEPS)
        if told.older is not None:
            broken = step_of(verify_consistency, told.older, told.export, told.keys)
            assert (broken == "none") is told.good, (case.name, broken)
