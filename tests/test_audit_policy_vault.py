"""What real vaults append keeps every rule: each operation, each step at which a process may die."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from facekeep.audit.logs import verify_log
from facekeep.audit.replay import replay
from facekeep.audit.report import Report
from facekeep.auditlog.checkpoints import Checkpoints
from facekeep.auditlog.export import export
from facekeep.auditlog.tree import LogTree
from facekeep.errors import Denied, ErasurePending, FacekeepError, Unavailable
from facekeep.formats.entries import encode
from facekeep.formats.ids import slot_id
from facekeep.store import logdb
from facekeep.vault import Role, Scope, Vault
from vaultlab import (
    DAY,
    IDENTIFY,
    MODEL,
    THRESHOLD,
    VERIFY,
    Lab,
    core,
    face,
    identify,
    log_entries,
    matches,
    slots,
)

Act = Callable[[Vault], object]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path, copies=True).create()


def judge(vault: Vault) -> Report:
    return replay(map(encode, log_entries(vault)))


def denied(act: Callable[[], object]) -> None:
    with pytest.raises((Denied, Unavailable)):
        act()


def test_every_operation_and_its_export(lab: Lab) -> None:
    lab.enrol("alice", "bob", "carol")
    lab.enrol("dora", scopes=[VERIFY])
    lab.enrol("erik", scopes=[IDENTIFY], not_before_ms=lab.clock.ms + DAY, days=30)
    lab.enrol("fay", scopes=[IDENTIFY], regions=("FR",))
    with lab.open() as vault:
        vault.change_settings(regions=["FR"])
        for name in ("alice", "bob", "dora"):
            assert matches(vault, name)
            assert identify(vault, name) == ([] if name == "dora" else [name])
        vault.grant("dora", lab.consent(IDENTIFY))
        vault.renew("bob", lab.consent(VERIFY, IDENTIFY, days=60))
        vault.enroll_many([lab.enrolment("bob", consent=lab.consent(VERIFY))], existing="replace")
        vault.enroll_many([lab.enrolment("bob")], existing="add")
        assert identify(vault, "dora") == ["dora"]
        vault.backup(lab.base / "backup")
        vault.withdraw("alice", [VERIFY])
        denied(lambda: matches(vault, "alice"))
        vault.shred("carol", "dora")
        denied(lambda: matches(vault, "carol"))
        assert identify(vault, "carol") == []
        vault.restore(lab.base / "backup")
        lab.clock.ms += DAY
        assert identify(vault, "erik") == ["erik"]
        assert vault.identify(face("fay"), model=MODEL, threshold=THRESHOLD, region="FR").candidates
        identity, token = vault.add_principal("service", [Role.SERVICE])
        with lab.open(token) as other:
            assert matches(other, "bob")
            vault.revoke_principal(identity)
            denied(lambda: matches(other, "bob"))
        lab.clock.ms += 30 * DAY
        assert identify(vault, "alice") == []
        denied(lambda: matches(vault, "fay"))
        lab.clock.ms -= 2 * DAY
        denied(lambda: identify(vault, "bob"))
        vault.accept_clock()
        assert identify(vault, "bob") == ["bob"]
        judge(vault)
        report = exported(vault, lab.base / "export")
    assert report.counts["subjects erased"] == 2
    assert report.notes[0].endswith(f"set the log's time back by {2 * DAY} ms")


def exported(vault: Vault, directory: Path) -> Report:
    """Export the log as an operator does, and verify it as an auditor does."""
    inner = core(vault)
    tree = inner.view().tree
    with contextlib.closing(logdb.open_log(inner.path / "log.db", inner.vault_id)) as database:
        logs = LogTree(database, tree.slot_key(slot_id(0, 0)), inner.vault_id, inner.log.head)
        signing = Checkpoints(logs, tree.slot_key(slot_id(0, 2)), inner.vault_id)
        export(directory, signing, time_ms=inner.clock.now_ms())
        keys = signing.keys(signing.snapshot())
    return verify_log(directory, keys)


def test_what_was_granted_and_replaced_between_two_searches(lab: Lab) -> None:
    lab.enrol("alice", "bob")
    with lab.open() as vault:
        identify(vault, "alice")
        for _ in range(2):
            vault.enroll_many([lab.enrolment("alice")], existing="replace")
        vault.enroll_many([lab.enrolment("carol")])
        vault.shred("carol")
        assert identify(vault, "alice") == ["alice"]
        judge(vault)


@pytest.mark.parametrize("days", [1, 29, 30])
def test_a_small_step_back_of_the_clock_across_a_boundary(lab: Lab, days: int) -> None:
    lab.enrol("alice")
    lab.enrol("bob", not_before_ms=lab.clock.ms + DAY, days=29)
    with lab.open() as vault:
        identify(vault, "alice")
        start = lab.clock.ms
        for offset in (-2, 1, -1, 0, -3, 2):
            lab.clock.ms = start + days * DAY + offset
            identify(vault, "alice")
        judge(vault)


def test_missing_and_damaged_rows_are_accounted_for(lab: Lab) -> None:
    lab.enrol("alice", "bob", "carol", "dora")
    with lab.open() as vault:
        alice, bob = slots(vault, "alice")[IDENTIFY], slots(vault, "bob")[IDENTIFY]
        carol = slots(vault, "carol")[IDENTIFY]
    lab.sql("vault.db", "DELETE FROM grants WHERE slot = ?", [alice])
    lab.sql("vault.db", "UPDATE grants SET terms = zeroblob(87) WHERE slot = ?", [bob])
    lab.sql("vault.db", "UPDATE grants SET model = 'raw:other' WHERE slot = ?", [carol])
    with lab.open() as vault:
        assert identify(vault, "dora") == ["dora"]
        vault.withdraw("dora", [VERIFY])
        assert identify(vault, "dora") == ["dora"]
        report = judge(vault)
    assert report.counts["identify"] == 2


ACTS: dict[str, Act] = {
    "enrol": lambda vault: vault.enroll_many([LAB[0].enrolment("new")]),
    "grant": lambda vault: vault.grant("bob", LAB[0].consent(Scope.SHARE)),
    "renew": lambda vault: vault.renew("alice", LAB[0].consent(VERIFY, IDENTIFY, days=60)),
    "replace": lambda vault: vault.enroll_many([LAB[0].enrolment("alice")], existing="replace"),
    "add": lambda vault: vault.enroll_many([LAB[0].enrolment("alice")], existing="add"),
    "withdraw": lambda vault: vault.withdraw("alice", [VERIFY]),
    "shred": lambda vault: vault.shred("alice", "bob"),
    "principal": lambda vault: vault.add_principal("another", [Role.DPO]),
    "backup": lambda vault: vault.backup(LAB[0].base / "backup"),
}
LAB: list[Lab] = []


@pytest.mark.parametrize("name", ACTS)
def test_after_a_crash_at_every_step(tmp_path: Path, name: str) -> None:
    """Recovery's entries keep the rules, and so does what is done next."""
    lab = Lab(tmp_path).create()
    LAB[:] = [lab]
    lab.enrol("alice", "bob")
    before = lab.save("before")
    for step, occurrence in lab.steps_of(ACTS[name]):
        lab.put_back(before)
        (lab.base / "backup").unlink(missing_ok=True)
        lab.crash(ACTS[name], step, occurrence)
        with lab.open() as vault:
            with contextlib.suppress(Denied):
                matches(vault, "alice")
            with contextlib.suppress(Denied):
                identify(vault, "bob")
            judge(vault)
            with contextlib.suppress(FacekeepError):
                vault.shred("alice")
            vault.enroll_many([lab.enrolment("alice")], existing="skip")
            identify(vault, "alice")
            judge(vault)


def test_while_a_copy_is_away_destructions_wait_and_may_overlap(lab: Lab) -> None:
    lab.enrol("alice", "bob", "carol")
    away = lab.base / "away"
    lab.copy_dir.rename(away)
    with lab.open() as vault:
        with pytest.raises(ErasurePending):
            vault.withdraw("alice", [VERIFY])
        denied(lambda: matches(vault, "alice"))
        with pytest.raises(ErasurePending):
            vault.shred("alice")
        with pytest.raises(ErasurePending):
            vault.renew("bob", lab.consent(VERIFY, days=60))
        assert identify(vault, "bob") == ["bob"]
        waiting = judge(vault)
    assert len(waiting.notes) == 3
    away.rename(lab.copy_dir)
    with lab.open() as vault:
        vault.enroll_many([lab.enrolment("dora")])
        assert identify(vault, "alice") == []
        assert matches(vault, "bob")
        report = judge(vault)
    assert not report.notes
    assert report.counts["recovered"] == 3


def test_random_lives_of_a_vault(lab: Lab) -> None:
    """A few hundred random acts; the searches recompute after each."""
    random = np.random.default_rng(3)
    names = [f"person {number}" for number in range(8)]
    scopes = (VERIFY, IDENTIFY)
    with lab.open() as vault:
        for _ in range(150):
            lab.clock.ms += int(random.integers(0, 3 * DAY))
            name, scope = str(random.choice(names)), scopes[int(random.integers(2))]
            consent = lab.consent(scope, days=float(random.integers(1, 9)))
            made = lab.enrolment(name, consent=consent)
            acts: list[Callable[[], object]] = [
                partial(vault.enroll_many, [made]),
                partial(vault.enroll_many, [made], existing="replace"),
                partial(vault.enroll_many, [made], existing="add"),
                partial(vault.renew, name, consent),
                partial(vault.grant, name, consent),
                partial(vault.withdraw, name, [scope]),
                partial(vault.shred, name),
                partial(matches, vault, name),
            ]
            with contextlib.suppress(FacekeepError):
                acts[int(random.integers(len(acts)))]()
            identify(vault, name)
        report = judge(vault)
    assert report.counts["identify"] == 150
    assert min(report.counts[key] for key in ("shred", "withdraw", "renew", "reseal", "verify")) > 0
