"""kill -9 at every step: an operation is whole or wholly absent, and what was announced as erased is."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from facekeep.errors import ErasurePending, FacekeepError, SubjectUnknown, UsageError
from facekeep.operations import steps
from facekeep.vault import Role, Scope, Vault
from vaultlab import (
    IDENTIFY,
    MODEL,
    VERIFY,
    Lab,
    at_step,
    calling,
    core,
    face,
    identify,
    log_entries,
    matches,
    prove,
    reason,
)

Grants = dict[str, dict[str, tuple[int, int]]]
NAMES = ("alice", "bob", "carol")


@dataclass(frozen=True)
class World:
    """What a vault answers, and to whom."""

    grants: Grants  # subject -> scope -> (expiry, photographs)
    principals: frozenset[tuple[str, ...]]


def world(vault: Vault) -> World:
    """Ask for everything, and see that listing, verifying and searching agree."""
    grants: Grants = {
        info.subject: {grant.scope: (grant.expires_at_ms, grant.images) for grant in info.grants}
        for info in vault.subjects()
    }
    for name in NAMES:
        scopes = grants.get(name, {})
        assert (reason(vault, name) == "ok") is ("verify" in scopes), name
        assert identify(vault, name) == ([name] if "identify" in scopes else []), name
    assert all(each.state == "active" for each in vault.principals())
    return World(grants, frozenset(each.roles for each in vault.principals()))


def settled(lab: Lab) -> World:
    """The world after a reopening; nothing is open, damaged, missing or stale."""
    with lab.open() as vault:
        assert core(vault).log.head().open == ()
        report = vault.check()
        assert report.findings == [], report.findings
        assert report.missing == []
        prove(vault)
        assert vault.status()["warnings"] == ([] if lab.copies else vault.status()["warnings"])
        return world(vault)


OPERATIONS: dict[str, Callable[[Lab, Vault], object]] = {
    "enrol": lambda lab, vault: vault.enroll_many([lab.enrolment("carol")]),
    "enrol two": lambda lab, vault: vault.enroll_many(
        [lab.enrolment("carol"), lab.enrolment("dave", VERIFY)]
    ),
    "replace": lambda lab, vault: vault.enroll_many(
        [lab.enrolment("alice", consent=lab.consent(VERIFY, IDENTIFY, days=7))], existing="replace"
    ),
    "add": lambda lab, vault: vault.enroll_many([lab.enrolment("alice", VERIFY)], existing="add"),
    "grant": lambda lab, vault: vault.grant("bob", lab.consent(IDENTIFY, Scope.SHARE)),
    "renew": lambda lab, vault: vault.renew("alice", lab.consent(VERIFY, IDENTIFY, days=99)),
    "withdraw": lambda _, vault: vault.withdraw("alice", [IDENTIFY]),
    "withdraw the last": lambda _, vault: vault.withdraw("bob", [VERIFY]),
    "shred": lambda _, vault: vault.shred("alice"),
    "shred two": lambda _, vault: vault.shred("alice", "bob"),
    "add principal": lambda _, vault: vault.add_principal("new", [Role.AUDITOR]),
    "revoke principal": lambda _, vault: vault.revoke_principal(
        next(each.id for each in vault.principals() if each.roles == ("dpo",))
    ),
    "backup": lambda lab, vault: vault.backup(lab.path / "another.backup"),
    "restore": lambda lab, vault: vault.restore(lab.base / "backup"),
}
ERASING = {"withdraw", "withdraw the last", "shred", "shred two", "revoke principal"}


def furnished(lab: Lab, operation: str) -> None:
    """Alice may be verified and searched for, Bob verified; a DPO; a backup; rows to restore."""
    lab.create()
    lab.enrol("alice")
    lab.enrol("bob", scopes=[VERIFY])
    lab.add_principal(Role.DPO)
    lab.do(lambda vault: vault.backup(lab.base / "backup"))
    if operation == "restore":
        lab.sql("vault.db", "DELETE FROM grants WHERE 1")
        lab.sql("keys.db", "DELETE FROM subject_index WHERE 1")


@pytest.mark.parametrize("copies", [False, True], ids=["alone", "with copies"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_kill_at_every_step(tmp_path: Path, operation: str, copies: bool) -> None:
    lab = Lab(tmp_path, copies=copies)
    furnished(lab, operation)
    act = partial(OPERATIONS[operation], lab)
    start = lab.save("start")
    before = lab.do(world) if operation != "restore" else World({}, frozenset())
    lab.put_back(start)
    found = lab.steps_of(act)
    assert found
    after = settled(lab)
    announced = found.index(("destroy.announced", 1)) if operation in ERASING else len(found)
    for at, (step, occurrence) in enumerate(found):
        lab.put_back(start)
        lab.crash(act, step, occurrence)
        if operation == "restore":
            lab.do(act)
            assert settled(lab) == after
            continue
        now = settled(lab)
        assert now in (before, after), f"half of {operation} was done: killed at {step}"
        assert now == after or at < announced, f"an announced erasure was forgotten: killed at {step}"
        with lab.open() as vault:
            vault.restore(lab.base / "backup")
            assert world(vault) == now, f"a backup brought something back: killed at {step}"
        if now == before != after:
            lab.do(act)
            assert settled(lab) == after, f"{operation} cannot be done again: killed at {step}"


@pytest.mark.parametrize("operation", ["enrol", "replace", "renew", "shred", "add principal"])
def test_kill_at_every_step_of_the_recovery(tmp_path: Path, operation: str) -> None:
    lab = Lab(tmp_path, copies=True)
    furnished(lab, operation)
    act = partial(OPERATIONS[operation], lab)
    start = lab.save("start")
    before = lab.do(world)
    lab.put_back(start)
    first = [step for step in lab.steps_of(act) if "promote" in step[0] or step[0].endswith("announced")]
    after = settled(lab)
    for number, (step, occurrence) in enumerate(first):
        lab.put_back(start)
        lab.crash(act, step, occurrence)
        broken = lab.save(f"broken{number}")
        for inner, inner_occurrence in recovery_steps(lab):
            lab.put_back(broken)
            lab.crash(lambda _: None, inner, inner_occurrence)
            assert settled(lab) in (before, after), f"killed at {step}, then in recovery at {inner}"


def recovery_steps(lab: Lab) -> list[tuple[str, int]]:
    """What opening the vault announces, in the order it does."""

    def run() -> list[str]:
        names: list[str] = []
        steps.observe(names.append)
        lab.do(lambda _: None)
        return names

    names = lab.fork(run).wait()
    return [(name, names[: at + 1].count(name)) for at, name in enumerate(names)]


def test_two_erasures_are_pending_and_one_was_swapped(tmp_path: Path) -> None:
    """The swap that lacks its completion is Bob's; calling Alice's complete for it would leave her alive."""
    lab = Lab(tmp_path, copies=True).create()
    lab.enrol("alice", "bob", "carol")
    lab.do(lambda vault: vault.backup(lab.base / "backup"))
    away = lab.base / "away"
    lab.copy_dir.rename(away)
    with lab.open() as vault:
        with pytest.raises(ErasurePending):
            vault.shred("alice")
        assert reason(vault, "alice") == "withdrawn"
        assert identify(vault, "alice") == []

    def shred_bob() -> None:
        at_step("after write", signal.SIGKILL)
        with calling("destroy.announced", lambda: away.rename(lab.copy_dir)):
            lab.do(lambda vault: vault.shred("bob"))

    lab.fork(shred_bob).wait_killed()
    with lab.open() as vault:
        vault.restore(lab.base / "backup")
        assert reason(vault, "alice") == reason(vault, "bob") == "subject_unknown"
        assert identify(vault, "alice") == identify(vault, "bob") == []
        log: list[Any] = log_entries(vault)
        named = [span[0] for entry in log if entry["type"] == "destroy" for span in entry["slots"]]
        assert not core(vault).view().tree.alive(named).any()
        assert matches(vault, "carol")
    lab.clean()


def test_an_erasure_that_waits_for_a_copy_denies_and_goes_on_later(tmp_path: Path) -> None:
    lab = Lab(tmp_path, copies=True).create()
    lab.enrol("alice", "bob")
    lab.copy_dir.rename(lab.base / "away")
    with lab.open() as vault:
        with pytest.raises(ErasurePending):
            vault.withdraw("alice", [VERIFY])
        with pytest.raises(ErasurePending):
            vault.shred("alice")
        assert reason(vault, "alice") == "withdrawn"
        assert matches(vault, "bob")
        vault.enroll_many([lab.enrolment("carol")])
        assert matches(vault, "carol")
        assert len(vault.status()["warnings"]) == 3  # type: ignore[arg-type]
    (lab.base / "away").rename(lab.copy_dir)
    with lab.open() as vault:
        assert reason(vault, "alice") == "subject_unknown"
        assert matches(vault, "bob")
    lab.clean()


def test_whoever_asks_again_is_told_that_a_pending_erasure_was_finished(tmp_path: Path) -> None:
    lab = Lab(tmp_path, copies=True).create()
    lab.enrol("alice", "bob", "carol", "dave")
    away = lab.base / "away"

    def pending(*names: str) -> None:
        lab.copy_dir.rename(away)
        with lab.open() as vault, pytest.raises(ErasurePending):
            vault.shred(*names)
        away.rename(lab.copy_dir)

    pending("alice")
    with lab.open() as vault:
        done = vault.shred("alice")
        assert (done.begun_before, done.subjects, done.slots) == (True, 1, 2)
        assert log_entries(vault)[done.erasure]["op"] == "shred"
        with pytest.raises(SubjectUnknown) as caught:
            vault.shred("alice")
        assert "pending" not in str(caught.value)
    pending("bob")
    with lab.open() as vault:
        done = vault.shred("bob", "carol")
        assert (done.begun_before, done.subjects, done.slots) == (True, 1, 2)
        assert not vault.shred("dave").begun_before
    lab.clean()
    lab.enrol("alice")
    lab.crash(lambda vault: vault.shred("alice"), "destroy.completed")
    with lab.open() as vault, pytest.raises(SubjectUnknown):
        vault.shred("alice")
    lab.enrol("alice")
    pending("alice")
    with lab.open() as vault, pytest.raises(SubjectUnknown, match="a pending erasure was finished just now"):
        vault.shred("alice", "erin")
    lab.clean()


def test_an_enrolment_that_fails_midway_is_voided_by_the_next_writer(tmp_path: Path) -> None:
    lab = Lab(tmp_path).create()
    lab.enrol("alice")
    with lab.open() as vault:

        def fail() -> None:
            raise OSError("the disk is gone")

        with calling("grant.announced", fail), pytest.raises(OSError, match="disk"):
            vault.enroll_many([lab.enrolment("bob")])
        assert matches(vault, "alice")
        assert reason(vault, "bob") == "subject_unknown"
        vault.enroll_many([lab.enrolment("bob")])
        assert matches(vault, "bob")
    lab.clean()


def test_an_altered_index_row_does_not_hold_up_a_recovery(tmp_path: Path) -> None:
    lab = Lab(tmp_path).create()
    lab.enrol("alice", "bob")
    lab.crash(lambda vault: vault.shred("alice"), "destroy.announced")
    lab.sql("keys.db", "UPDATE subject_index SET sealed = zeroblob(62) WHERE 1")
    with lab.open() as vault:
        assert identify(vault, "alice") == []
        vault.repair_index()
        assert matches(vault, "bob")
    lab.clean()


def test_a_forked_process_opens_a_vault_of_its_own(tmp_path: Path) -> None:
    """Locked memory is not inherited by a fork: what this thread kept for matching must not be used there."""
    lab = Lab(tmp_path).create()
    lab.enrol("alice")
    assert lab.do(lambda vault: matches(vault, "alice") and identify(vault, "alice") == ["alice"])
    process = lab.fork(lambda: lab.do(lambda vault: (matches(vault, "alice"), identify(vault, "alice"))))
    assert process.wait() == (True, ["alice"])
    assert lab.do(lambda vault: matches(vault, "alice"))


def test_what_cannot_be_written_leaves_everything_as_it_was(tmp_path: Path) -> None:
    lab = Lab(tmp_path).create()
    lab.enrol("alice")
    before = lab.do(world)
    with lab.open() as vault:
        wrong: list[Callable[[], object]] = [
            lambda: vault.enroll("x", embeddings=face("x"), model=MODEL, consent=lab.consent(VERIFY, days=0)),
            lambda: vault.enroll("x" * 513, embeddings=face("x"), model=MODEL, consent=lab.consent(VERIFY)),
            lambda: vault.renew("alice", lab.consent(VERIFY, regions=("Germany",))),
            lambda: vault.grant("alice", lab.consent()),
        ]
        size = core(vault).log.head().size
        for each in wrong:
            with pytest.raises(UsageError):
                each()
        assert core(vault).log.head().size == size
        assert world(vault) == before
    with contextlib.suppress(FacekeepError):
        lab.clean()
    lab.clean()
