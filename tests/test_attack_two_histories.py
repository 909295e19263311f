"""Attacks with two histories: all files are rolled back once within an epoch, and rows of both are mixed.

Every row of a log that was rolled back is authentic by itself, and `chain` is a column that anybody writes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from facekeep.errors import ErasurePending, FacekeepError
from facekeep.vault import Role, Vault
from vaultlab import IDENTIFY, VERIFY, Lab, core, identify, matches, reason, sql

Rows = list[tuple[Any, ...]]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path).create()
    lab.enrol("zed")
    lab.enrol("alice", scopes=[IDENTIFY])
    return lab


def size(lab: Lab) -> int:
    return int(lab.sql("log.db", "SELECT max(idx) + 1 FROM entry")[0][0])


def put(lab: Lab, name: str, table: str, rows: Rows) -> None:
    for row in rows:
        places = ", ".join("?" * len(row))
        lab.sql(name, f"INSERT OR REPLACE INTO {table} VALUES ({places})", row)


class History:
    """What the files say after some acts; the files are as they were before, afterwards."""

    def __init__(self, lab: Lab, name: str, act: Callable[[Vault], object]) -> None:
        base = lab.save(name)
        first = size(lab)
        lab.do(act)
        self.entries: Rows = lab.sql("log.db", "SELECT * FROM entry WHERE idx >= ? ORDER BY idx", (first,))
        self.grants: Rows = lab.sql("vault.db", "SELECT * FROM grants")
        self.index: Rows = lab.sql("keys.db", "SELECT * FROM subject_index")
        self.principals: Rows = lab.sql("keys.db", "SELECT * FROM principal")
        lab.put_back(base)


@pytest.mark.parametrize("chains", [False, True], ids=["row", "row and chain before it"])
def test_an_entry_of_the_hidden_history_grants_to_one_who_is_erased(lab: Lab, chains: bool) -> None:
    """Her slot was given to bob in the history that counts; then she was erased."""
    hidden = History(lab, "base", lambda vault: vault.grant("alice", lab.consent(VERIFY)))
    before = lab.sql("log.db", "SELECT chain FROM entry WHERE idx = ?", (size(lab) - 1,))[0][0]
    at = size(lab)
    lab.enrol("bob", scopes=[VERIFY])
    lab.do(lambda vault: vault.shred("alice"))
    true = lab.sql("log.db", "SELECT * FROM entry")
    put(lab, "log.db", "entry", hidden.entries[:1])
    if chains:
        lab.sql("log.db", "UPDATE entry SET chain = ? WHERE idx = ?", (before, at - 1))
    put(lab, "vault.db", "grants", hidden.grants)
    put(lab, "keys.db", "subject_index", hidden.index)
    with lab.open() as vault:
        assert reason(vault, "alice") != "ok"
        with pytest.raises(FacekeepError):
            identify(vault, "zed")
    put(lab, "log.db", "entry", true)
    with lab.open() as vault:
        assert reason(vault, "alice") != "ok"
        assert identify(vault, "alice") == []


def test_a_principal_of_the_hidden_history_gets_in(lab: Lab) -> None:
    token = ""

    def add(vault: Vault) -> None:
        nonlocal token
        token = vault.add_principal("theirs", [Role.OPERATOR])[1]

    hidden = History(lab, "base", add)
    lab.add_principal(Role.AUDITOR)
    lab.do(lambda vault: vault.keys.rotate_root())
    put(lab, "log.db", "entry", hidden.entries[:1])
    lab.sql("keys.db", "DELETE FROM principal WHERE slot = (SELECT max(slot) FROM principal)")
    put(lab, "keys.db", "principal", hidden.principals)
    for call in (
        lambda vault: vault.add_principal("another", [Role.OPERATOR]),
        lambda vault: list(vault.subjects()),
        lambda vault: vault.backup(lab.base / "backup"),
    ):
        with pytest.raises(FacekeepError), lab.open(token) as vault:
            call(vault)


def test_an_erasure_of_the_hidden_history_is_finished(lab: Lab, tmp_path: Path) -> None:
    """Both histories wait for an erasure at one index: whom recovery destroys comes from the true one."""
    lab.enrol("bob")

    def pending(name: str) -> Callable[[Vault], object]:
        def ask(vault: Vault) -> None:
            lab.root.rename(tmp_path / "away")
            with pytest.raises(ErasurePending):
                vault.shred(name)
            (tmp_path / "away").rename(lab.root)

        return ask

    hidden = History(lab, "base", pending("bob"))
    at = size(lab)
    lab.do(pending("alice"))
    true = lab.sql("log.db", "SELECT * FROM entry WHERE idx = ?", (at,))
    put(lab, "log.db", "entry", hidden.entries[:1])
    with pytest.raises(FacekeepError), lab.open() as vault:
        vault.enroll_many([lab.enrolment("carol")])
    put(lab, "log.db", "entry", true)
    with lab.open() as vault:
        vault.enroll_many([lab.enrolment("carol")])
        assert matches(vault, "bob")
        assert reason(vault, "alice") == "subject_unknown"
    lab.clean()


def test_a_running_process_takes_a_longer_fork_for_its_log(lab: Lab) -> None:
    """One cell says that the fork passes through what the process has seen."""
    lab.do(lambda vault: vault.grant("alice", lab.consent(VERIFY)))
    base = lab.save("base")
    with lab.open() as service:
        assert matches(service, "alice")
        seen = core(service).log.head()
        fork = lab.base / "fork"
        shutil.copytree(base / "vault", fork)
        with Vault.open(fork, token=lab.token, clock=lab.clock) as victim:
            for _ in range(6):
                assert matches(victim, "alice")
        entries = sql(fork / "log.db", "SELECT * FROM entry")
        head = sql(fork / "log.db", "SELECT * FROM head")
        assert len(entries) > seen.size
        put(lab, "log.db", "entry", entries)
        put(lab, "log.db", "head", head)
        lab.sql("log.db", "UPDATE entry SET chain = ? WHERE idx = ?", (seen.chain, seen.size - 1))
        with pytest.raises(FacekeepError):
            matches(service, "alice")
