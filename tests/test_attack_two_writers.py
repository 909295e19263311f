"""Attacks with vault.lock: it is moved away so that two processes write at once, or held for good.

The lock is a convenience. What is announced was found out in the very state in which it is appended.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from facekeep.errors import Busy, ErasurePending, FacekeepError
from facekeep.operations import enrol, erase, reseal, whose
from facekeep.store import lock as locks
from facekeep.vault import Role, Vault
from vaultlab import IDENTIFY, VERIFY, Lab, calling, core, identify, matches, reason, slots


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path).create()
    lab.enrol("alice", "bob", scopes=[VERIFY])
    return lab


@contextlib.contextmanager
def lock_moved(lab: Lab) -> Iterator[None]:
    """Another process may take a lock of its own meanwhile; then the first one is back in its place."""
    path, aside = lab.path / "vault.lock", lab.base / "aside"
    if path.exists():
        path.rename(aside)
    yield
    if aside.exists():
        path.unlink(missing_ok=True)
        aside.rename(path)


def once_after(
    monkeypatch: pytest.MonkeyPatch, module: object, name: str, lab: Lab, work: Callable[[], object]
) -> None:
    """Have ``work`` done by another process right after a function of ours has found out what it wanted."""
    real = getattr(module, name)

    def stopped(*args: object, **options: object) -> object:
        found = real(*args, **options)
        monkeypatch.setattr(module, name, real)
        with lock_moved(lab):
            work()
        return found

    monkeypatch.setattr(module, name, stopped)


MEANWHILE: dict[str, Callable[[Lab, Vault], object]] = {
    "a scope is added": lambda lab, other: other.grant("alice", lab.consent(IDENTIFY)),
    "she renews": lambda lab, other: other.renew("alice", lab.consent(VERIFY)),
    "new photographs": lambda lab, other: other.enroll_many([lab.enrolment("alice")], existing="replace"),
    "templates rotate": lambda _lab, other: other.keys.rotate_templates(),
}


@pytest.mark.parametrize("what", MEANWHILE)
@pytest.mark.parametrize("how", ["shred", "withdraw"])
def test_she_gets_a_grant_between_the_finding_and_the_announcement_of_her_erasure(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, what: str, how: str
) -> None:
    with lab.open() as vault, lab.open() as other:
        held = [*slots(vault, "alice").values()]
        once_after(monkeypatch, erase, "_found", lab, lambda: MEANWHILE[what](lab, other))
        if how == "shred":
            vault.shred("alice")
        else:
            vault.withdraw("alice", [VERIFY, IDENTIFY])
        held += [*slots(other, "alice").values()]
    with lab.open() as vault:
        assert not core(vault).view().tree.alive(np.array(held, np.int64)).any()
        assert reason(vault, "alice") != "ok"
        assert identify(vault, "alice") == []
        assert matches(vault, "bob")
    lab.clean()


@pytest.mark.parametrize("do", ["enroll", "replace", "renew", "grant"])
def test_she_is_erased_between_the_finding_and_the_announcement_of_a_grant(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, do: str
) -> None:
    """What was found out before the erasure makes nobody anew."""
    with lab.open() as vault, lab.open() as other:
        held = [*slots(vault, "alice").values()]
        module = enrol if do in {"enroll", "replace"} else reseal
        once_after(monkeypatch, module, "for_grants", lab, lambda: other.shred("alice"))
        with contextlib.suppress(FacekeepError):
            if do in {"enroll", "replace"}:
                vault.enroll_many([lab.enrolment("alice")], existing="replace")
            elif do == "renew":
                vault.renew("alice", lab.consent(VERIFY))
            else:
                vault.grant("alice", lab.consent(IDENTIFY))
        assert not core(other).view().tree.alive(np.array(held, np.int64)).any()
    lab.clean()


def test_two_registrars_enrol_one_person_at_once(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    with lab.open() as vault, lab.open() as other:
        once_after(monkeypatch, enrol, "for_grants", lab, lambda: other.enroll_many([lab.enrolment("carol")]))
        with pytest.raises(FacekeepError, match="already enrolled"):
            vault.enroll_many([lab.enrolment("carol")])
        assert vault.shred("carol").slots == len([VERIFY, IDENTIFY])
    lab.clean()


def test_templates_rotate_under_a_process_that_counts_who_lives(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older tree knows no new branches: it calls nobody dead for that."""
    with lab.open() as vault, lab.open() as other:
        once_after(monkeypatch, whose, "keys_of", lab, other.keys.rotate_templates)
        vault.check()
        rows = lab.sql("keys.db", "SELECT * FROM subject_index")
        lab.sql("keys.db", "DELETE FROM subject_index")
        with pytest.raises(FacekeepError, match="already enrolled"):
            vault.enroll_many([lab.enrolment("alice", VERIFY)])
        assert vault.shred("alice").slots == 1
        for row in rows:
            lab.sql("keys.db", "INSERT OR REPLACE INTO subject_index VALUES (?, ?)", row)
        assert reason(other, "alice") != "ok"
        vault.repair_index()
    lab.clean()


DOES = ["renew", "replace", "add"]
STEPS = ["grant.announced", "grant.indexed", "grant.written", "grant.completed"]


@pytest.mark.parametrize(
    ("step", "do"), [each for each in itertools.product(STEPS, DOES) if each != ("grant.indexed", "renew")]
)
def test_an_erasure_is_announced_while_another_process_grants(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, step: str, do: str
) -> None:
    """It does not wait for the lock: she is denied at once, and all of it is destroyed in the end."""
    monkeypatch.setattr(locks.WriterLock.held, "__defaults__", (0.2,))
    with lab.open() as vault, lab.open() as other:

        def ask() -> None:
            with pytest.raises(ErasurePending, match="denied to everybody"):
                other.shred("alice")
            assert reason(other, "alice") != "ok"

        with calling(step, ask), contextlib.suppress(FacekeepError):
            if do == "renew":
                vault.renew("alice", lab.consent(VERIFY))
            else:
                vault.enroll_many([lab.enrolment("alice")], existing=do)
        assert reason(vault, "alice") != "ok"
        held = core(vault).ledger.all_slots()
        other.shred("bob")  # finishes what waits
        assert not core(vault).view().tree.alive(held).any()
    lab.clean()


@pytest.mark.parametrize("how", ["shred", "withdraw", "revoke"])
@pytest.mark.parametrize("what", ["held", "a directory", "a pipe"])
def test_the_lock_is_not_to_be_had(lab: Lab, monkeypatch: pytest.MonkeyPatch, how: str, what: str) -> None:
    monkeypatch.setattr(locks.WriterLock.held, "__defaults__", (0.2,))
    stolen = lab.add_principal(Role.OPERATOR)
    path = lab.path / "vault.lock"
    with lab.open() as vault, lab.open() as service:
        assert matches(service, "alice")
        path.unlink(missing_ok=True)
        if what == "a directory":
            path.mkdir()
        elif what == "a pipe":
            os.mkfifo(path, 0o600)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600) if what == "held" else -1
        if what == "held":
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        asked: dict[str, Callable[[], object]] = {
            "shred": lambda: vault.shred("alice"),
            "withdraw": lambda: vault.withdraw("alice", [VERIFY]),
            "revoke": lambda: vault.revoke_principal(stolen.split(".")[1]),
        }
        with pytest.raises(ErasurePending, match="denied to everybody"):
            asked[how]()
        if how == "revoke":
            with pytest.raises(FacekeepError), lab.open(stolen):
                pass
        else:
            assert reason(service, "alice") == "withdrawn"
        with pytest.raises((Busy, FacekeepError)):
            vault.enroll_many([lab.enrolment("carol")])
        if what == "held":
            os.close(descriptor)
        path.rmdir() if what == "a directory" else path.unlink()
        assert vault.shred("bob").slots == 1
        if how != "revoke":
            assert reason(service, "alice") != "ok"
    lab.clean()
