"""Many people in one operation: killed or failing at every step, it is whole or wholly absent."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from facekeep.errors import FacekeepError
from facekeep.operations import granting
from facekeep.operations.steps import reached
from facekeep.sealing.many import Place, Plain, seal_grants
from facekeep.sealing.sealer import Sealer
from facekeep.store.keysdb import KeysStore
from facekeep.store.vaultdb import GrantRow, VaultStore
from facekeep.vault import Vault
from test_sealing_grants import sealed
from vaultlab import IDENTIFY, VERIFY, Lab, at_step, calling, core, identify, log_entries, matches

CROWD = tuple(f"person{number}" for number in range(80))
STEPS = ("grant.announced", "grant.indexed", "grant.written", "grant.completed")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path, copies=True).create()
    lab.enrol("alice")
    return lab


def enrol(lab: Lab, vault: Vault, existing: str = "refuse") -> None:
    consent = lab.consent(VERIFY, IDENTIFY)
    vault.enroll_many([lab.enrolment(name, consent=consent) for name in CROWD], existing=existing)


def crowd(lab: Lab) -> int:
    """How many of the crowd are enrolled; everything verifies, and nothing is open."""
    lab.clean()
    with lab.open() as vault:
        assert core(vault).log.head().open == ()
        assert matches(vault, "alice")
        return sum(info.subject in CROWD for info in vault.subjects())


def test_a_crowd_is_enrolled_as_one(lab: Lab) -> None:
    lab.do(lambda vault: enrol(lab, vault))
    assert crowd(lab) == len(CROWD)
    with lab.open() as vault:
        assert matches(vault, "person79")
        assert identify(vault, "person7") == ["person7"]
        rows = list(core(vault).data.rows())
        assert len({row.grant_id for row in rows}) == len({row.templates[2:14] for row in rows}) == len(rows)


@pytest.mark.parametrize("existing", ["add", "replace"])
def test_a_crowd_gets_new_photographs(lab: Lab, existing: str) -> None:
    lab.do(lambda vault: enrol(lab, vault))
    lab.do(lambda vault: enrol(lab, vault, existing))
    assert crowd(lab) == len(CROWD)
    with lab.open() as vault:
        images = {grant.images for info in vault.subjects() if info.subject in CROWD for grant in info.grants}
        assert images == ({2} if existing == "add" else {1})
        assert matches(vault, "person40")


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_a_step(lab: Lab, step: str) -> None:
    lab.crash(lambda vault: enrol(lab, vault), step)
    whole = step in {"grant.written", "grant.completed"}
    assert crowd(lab) == (len(CROWD) if whole else 0)
    if not whole:
        lab.do(lambda vault: enrol(lab, vault))
    assert crowd(lab) == len(CROWD)


@pytest.mark.parametrize("occurrence", [1, 2])
def test_killed_while_sealing(lab: Lab, monkeypatch: pytest.MonkeyPatch, occurrence: int) -> None:
    """Announced, some of it sealed and inserted: nothing of it is in vault.db, and the intent is voided."""

    def killed(sealer: Sealer, where: Sequence[Place], plain: Sequence[Plain]) -> list[GrantRow]:
        rows = seal_grants(sealer, where, plain)
        reached("sealed")
        return rows

    monkeypatch.setattr(granting, "seal_grants", killed)
    monkeypatch.setattr(granting, "_CHUNK", 64)

    def run() -> None:
        at_step("sealed", signal.SIGKILL, occurrence)
        lab.do(lambda vault: enrol(lab, vault))

    lab.fork(run).wait_killed()
    monkeypatch.undo()
    with lab.open() as vault:
        assert [entry["op"] for entry in log_entries(vault) if entry["type"] == "destroy"] == ["void"]
        assert core(vault).data.count() == 2
    lab.do(lambda vault: enrol(lab, vault))
    assert crowd(lab) == len(CROWD)


def broken(*_: object) -> None:
    raise sqlite3.OperationalError("disk I/O error")


def slow_then_broken(self: KeysStore, rows: object, ready: Callable[[], object] = lambda: None) -> None:
    ready()
    broken(self, rows)


@pytest.mark.parametrize("where", ["seal", "append", "rows", "index", "index late"])
def test_a_failure_of_any_thread_enrols_nobody(lab: Lab, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    with lab.open() as vault:
        with monkeypatch.context() as patched:
            if where == "seal":
                patched.setattr(granting, "seal_grants", broken)
            elif where == "append":
                patched.setattr(core(vault).log, "append_parts", broken)
            elif where == "rows":
                patched.setattr("facekeep.store.vaultdb.insert_columns", broken)
            elif where == "index":
                patched.setattr("facekeep.store.keysdb.insert_many", broken)
            else:
                patched.setattr(KeysStore, "index_put_many", slow_then_broken)
            with pytest.raises((FacekeepError, sqlite3.OperationalError)):
                enrol(lab, vault)
        assert matches(vault, "alice")
        assert identify(vault, "person3") == []
        assert core(vault).data.count() == 2
        enrol(lab, vault)
        assert matches(vault, "person3")
    assert crowd(lab) == len(CROWD)


def test_rows_that_are_not_committed_are_in_no_file(tmp_path: Path) -> None:
    lab = Lab(tmp_path).create()
    with lab.open() as vault:
        store: VaultStore = core(vault).data
        store.database.connection().execute("PRAGMA cache_size=10")
        wal = lab.path / "vault.db-wal"
        before = wal.stat().st_size
        row = sealed()
        rows = [row._replace(slot=row.slot + at, templates=bytes(1_000)) for at in range(1_000)]
        with store.adding() as add:
            add(rows)
            assert wal.stat().st_size == before
        assert wal.stat().st_size > before + 1_000_000


def test_the_gate_denies_a_crowd_that_is_announced(lab: Lab) -> None:
    seen: list[list[str]] = []
    with lab.open() as vault, calling("grant.announced", lambda: seen.append(identify(vault, "person5"))):
        enrol(lab, vault)
        assert seen == [[]]
        assert identify(vault, "person5") == ["person5"]
