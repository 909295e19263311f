"""Several processes and threads at one vault, some of them stopped or killed in the midst of it."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from facekeep.auditlog.brake import Asked
from facekeep.errors import Busy, Denied, ErasurePending, FacekeepError, UsageError
from facekeep.formats.canonical import JsonObject
from facekeep.keys.provider import RootProvider
from facekeep.keys.tree import KeyTree
from facekeep.operations import opening
from facekeep.store.keysdb import KeysStore
from facekeep.store.lock import WriterLock
from facekeep.vault import Existing, Scope, Vault
from vaultlab import (
    IDENTIFY,
    VERIFY,
    Lab,
    Process,
    at_step,
    calling,
    core,
    identify,
    log_entries,
    matches,
    prove,
    reason,
)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path).create()
    lab.enrol("alice", "bob")
    return lab


def test_a_vault_is_opened_while_its_tree_is_re_keyed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the root node and what is below it another process swaps: it is opened again."""
    with lab.open() as other:
        other.keys.rotate_tree()
        left, real = [1, 1], opening._tree

        def swapped(keys: KeysStore, vault_id: bytes, readers: Sequence[RootProvider]) -> KeyTree:
            tree = real(keys, vault_id, readers)
            if left:
                left.pop()
                other.keys.rotate_tree()
            return tree

        monkeypatch.setattr(opening, "_tree", swapped)
        with lab.open() as late:
            assert not left
            assert matches(late, "alice")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for the writer lock ends soon."""
    held: Any = WriterLock.held
    monkeypatch.setattr(held.__wrapped__, "__defaults__", (0.05,))


@contextlib.contextmanager
def stopped_at(lab: Lab, action: Callable[[Vault], object], step: str) -> Iterator[Process[object]]:
    """A process that has stopped itself in the midst of an action."""

    def run() -> object:
        at_step(step, signal.SIGSTOP)
        try:
            lab.do(action)
        except FacekeepError as error:
            return error.code
        return "done"

    process: Process[object] = lab.fork(run)
    try:
        process.wait_stopped()
        yield process
    finally:
        process.kill()


ENROL = ("grant.announced", "grant.indexed", "grant.written")
DESTROY = ("destroy.announced", "after stage", "after write", "after verify", "after promote")


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("step", ENROL)
def test_a_second_process_comes_while_the_first_is_enrolling(lab: Lab, step: str) -> None:
    with stopped_at(lab, lambda vault: vault.enroll_many([lab.enrolment("carol")]), step) as first:
        with lab.open() as vault:  # its opening must not finish, nor void, what is at work
            assert len(core(vault).log.head().open) == 1
            assert reason(vault, "carol") in {"subject_unknown", "scope"}
            assert identify(vault, "carol") == []
            assert matches(vault, "alice")
            with pytest.raises(ErasurePending):  # it denies at once, and waits with the rest
                vault.withdraw("alice", [VERIFY])
            assert reason(vault, "alice") == "withdrawn"
            with pytest.raises(Busy):
                vault.check()
        first.resume()
        assert first.wait() == "done"
    with lab.open() as vault:
        assert matches(vault, "carol")
        assert identify(vault, "carol") == ["carol"]
    lab.clean()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("step", DESTROY)
def test_a_second_process_comes_while_the_first_is_shredding(lab: Lab, step: str) -> None:
    with stopped_at(lab, lambda vault: vault.shred("alice"), step) as first:
        with lab.open() as vault:
            assert reason(vault, "alice") in {"withdrawn", "destroyed", "subject_unknown"}
            assert identify(vault, "alice") == []
            assert matches(vault, "bob")
            assert identify(vault, "bob") == ["bob"]
            if step == "destroy.announced":  # the lock is not taken yet: who has it finishes the erasure
                vault.enroll_many([lab.enrolment("carol")])
            else:
                with pytest.raises(Busy):
                    vault.enroll_many([lab.enrolment("carol")])
        first.resume()
        assert first.wait() == "done"
    with lab.open() as vault:
        assert reason(vault, "alice") == "subject_unknown"
    lab.clean()


@pytest.mark.parametrize("step", ["grant.announced", "grant.written", "grant.completed", "after write"])
def test_the_first_process_dies_and_the_second_that_is_open_finishes(lab: Lab, step: str) -> None:
    def action(vault: Vault) -> object:
        return vault.enroll_many([lab.enrolment("alice")], existing=Existing.REPLACE)

    with stopped_at(lab, action, step) as first, lab.open() as vault:
        assert matches(vault, "bob")
        first.kill()
        vault.enroll_many([lab.enrolment("carol")])  # any writer finishes it first
        assert core(vault).log.head().open == ()
        assert matches(vault, "alice")
        assert identify(vault, "alice") == ["alice"]
    lab.clean()


@pytest.mark.parametrize("ask", [matches, identify])
@pytest.mark.parametrize("begun", [False, True], ids=["withdrawn", "announced"])
def test_a_withdrawal_comes_between_the_gate_and_the_append(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, ask: Callable[[Vault, str], object], begun: bool
) -> None:
    """The decision was made, the templates were compared; what is appended is decided anew."""
    with lab.open() as asking, lab.open() as withdrawing:
        assert ask(asking, "alice")
        log = core(asking).log
        append = log.decide
        waiting = ["alice"]

        def withdraw() -> None:
            withdrawing.withdraw(waiting.pop(), [VERIFY, IDENTIFY])

        def late(
            entry: JsonObject | bytes,
            *,
            control_seq: int,
            valid_until_ms: int,
            allow: bool,
            asked: Asked | None = None,
        ) -> int:
            if waiting and not begun:
                withdraw()
            elif waiting:  # only the intent stands in the log when the decision is to be appended
                with calling("destroy.announced", cut_off), pytest.raises(InterruptedError):
                    withdraw()
            return append(
                entry, control_seq=control_seq, valid_until_ms=valid_until_ms, allow=allow, asked=asked
            )

        monkeypatch.setattr(log, "decide", late)
        try:
            assert not ask(asking, "alice")
        except Denied as error:
            assert error.decision is not None  # noqa: PT017 - a search finds nobody instead
        assert allowed_after_intent(asking) == []
        prove(asking)
    lab.clean()


def cut_off() -> None:
    raise InterruptedError


def test_a_decision_races_a_withdrawal_in_another_process(lab: Lab) -> None:
    """None is logged after the intent, whatever the answer was."""

    def ask() -> int:
        count = 0
        with lab.open() as vault:
            (lab.base / "ready").touch()
            while True:
                try:
                    assert matches(vault, "alice")
                except Denied:
                    return count
                count += 1

    process = lab.fork(ask)
    wait_for(lab.base / "ready")
    with lab.open() as vault:
        head = core(vault).log.head().size
        while core(vault).log.head().size < head + 5:
            time.sleep(0.001)
        vault.withdraw("alice", [VERIFY])
        assert process.wait() >= 5
        assert allowed_after_intent(vault) == []
        prove(vault)
    lab.clean()


def test_a_search_races_a_shred_in_another_process(lab: Lab) -> None:
    def ask() -> int:
        count = 0
        with lab.open() as vault:
            (lab.base / "ready").touch()
            while identify(vault, "alice") == ["alice"]:
                count += 1
        return count

    process = lab.fork(ask)
    wait_for(lab.base / "ready")
    with lab.open() as vault:
        head = core(vault).log.head().size
        while core(vault).log.head().size < head + 5:
            time.sleep(0.001)
        vault.shred("alice")
        assert process.wait() >= 5
        assert allowed_after_intent(vault) == []
        prove(vault)
    lab.clean()


def allowed_after_intent(vault: Vault) -> list[int]:
    """Decisions that use a slot after the log announced its destruction."""
    gone: set[int] = set()
    late = []
    log: list[Any] = log_entries(vault)
    for index, entry in enumerate(log):
        if entry["type"] == "destroy":
            gone |= {slot for first, count in entry["slots"] for slot in range(first, first + count)}
        elif entry["type"] == "decision" and entry["allow"]:
            used = [entry["slot"]] if entry["op"] == "verify" else entry["candidates"]
            late += [index for slot in used if slot in gone]
    return late


def wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.001)


def shuffle(lab: Lab, seed: int, rounds: int, names: list[str], vault: Vault) -> int:
    """Enrol, shred, verify at random; returns how many of it succeeded. Only our own refusals may come."""
    chance = random.Random(seed)
    done = 0
    for _ in range(rounds):
        name = chance.choice(names)
        act: Callable[[], object] = chance.choice(
            (
                lambda name=name: vault.enroll_many([lab.enrolment(name)], existing="skip"),
                lambda name=name: vault.enroll_many([lab.enrolment(name)], existing="replace"),
                lambda name=name: vault.shred(name),
                lambda name=name: vault.withdraw(name, [chance.choice((VERIFY, IDENTIFY))]),
                lambda name=name: vault.renew(name, lab.consent(VERIFY)),
                lambda name=name: vault.grant(name, lab.consent(Scope.SHARE)),
                lambda name=name: matches(vault, name),
                lambda name=name: matches(vault, name),
                lambda name=name: identify(vault, name),
                lambda name=name: identify(vault, name),
            )
        )
        try:
            act()
        except (Denied, UsageError):
            continue
        done += 1
    return done


def test_enrolments_race_shreds_in_threads(lab: Lab) -> None:
    with lab.open() as vault:
        run_threads(lambda seed: shuffle(lab, seed, 10, ["carol", "dave"], vault), 4)
        for name in ("carol", "dave"):
            with contextlib.suppress(UsageError):
                vault.shred(name)
            assert reason(vault, name) == "subject_unknown"
            assert identify(vault, name) == []
    lab.clean()


def test_enrolments_race_shreds_in_processes(lab: Lab) -> None:
    def work(seed: int) -> int:
        return lab.do(lambda vault: shuffle(lab, seed, 15, ["carol", "dave"], vault))

    processes = [lab.fork(partial(work, seed)) for seed in range(2)]
    assert all(process.wait() for process in processes)
    with lab.open() as vault:
        for name in ("carol", "dave"):
            with contextlib.suppress(UsageError):
                vault.shred(name)
            assert reason(vault, name) == "subject_unknown"
    lab.clean()


def test_two_processes_with_sixteen_threads_each(lab: Lab) -> None:
    """The log verifies, the check is clean, and every decision stood inside a grant's life."""
    names = ["alice", "bob", "carol", "dave", "erin"]

    def work(base: int) -> int:
        with lab.open() as vault:
            return run_threads(lambda seed: shuffle(lab, base + seed, 5, names, vault), 16)

    processes = [lab.fork(partial(work, base)) for base in (100, 200)]
    assert all(process.wait() > 0 for process in processes)
    with lab.open() as vault:
        kinds = {str(entry["type"]) for entry in log_entries(vault)}
        assert {"decision", "grant", "granted", "destroy", "destroyed"} <= kinds
        assert core(vault).log.verify().open == ()
    lab.clean()


def run_threads(work: Callable[[int], int], count: int) -> int:
    """Sum of what threads returned; the first error of any of them is raised."""
    results: list[int] = []
    errors: list[BaseException] = []

    def run(seed: int) -> None:
        try:
            results.append(work(seed))
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in errors:
        raise error
    return sum(results)
