"""Attacks on the way from a subject id to what an erasure destroys: raw bytes, rows, nodes, copies.

The attacker writes every file and holds no key. Whatever they hide, and whenever they put it back, somebody
who was erased does not come back, and an erasure denies from the moment it was asked for.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facekeep.errors import (
    ErasurePending,
    FacekeepError,
    IntegrityError,
    NotAllowed,
    SubjectUnknown,
    Unavailable,
    UsageError,
)
from facekeep.operations import steps
from facekeep.sealing.handles import masked, table
from facekeep.vault import Role, Scope, Vault
from vaultlab import (
    IDENTIFY,
    MODEL,
    THRESHOLD,
    VERIFY,
    Lab,
    calling,
    core,
    face,
    identify,
    matches,
    reason,
    row_key,
    slots,
    sql,
)

REPLACE = """
import pathlib, sys
path, old, new = pathlib.Path(sys.argv[1]), bytes.fromhex(sys.argv[2]), bytes.fromhex(sys.argv[3])
count = 0
for each in (path, path.with_name(path.name + "-wal")):
    if not each.exists():
        continue
    data = each.read_bytes()
    with each.open("r+b") as file:
        at = data.find(old)
        while at >= 0:
            file.seek(at)
            file.write(new)
            count += 1
            at = data.find(old, at + 1)
print(count)
"""


def raw(path: Path, old: bytes, new: bytes) -> int:
    """Another process writes bytes into the file and its WAL: SQLite's counters say nothing of it."""
    done = subprocess.run(
        [sys.executable, "-c", REPLACE, str(path), old.hex(), new.hex()],
        check=True,
        capture_output=True,
        text=True,
    )
    return int(done.stdout)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path, copies=True).create()
    lab.enrol("alice", "bob")
    return lab


def slots_of(vault: Vault, name: str) -> list[int]:
    return sorted(slots(vault, name).values())


def is_erased(lab: Lab, name: str, *held: int) -> None:
    """Nobody opens what was held, in a process that has just begun and by any way there is."""
    with lab.open() as vault:
        assert not core(vault).view().tree.alive(np.array(held, np.int64)).any()
        assert reason(vault, name) != "ok"
        assert identify(vault, name) == []
        assert matches(vault, "bob")


class Hidden:
    """A row of the subject index whose key is changed in the raw bytes, and put back."""

    def __init__(self, lab: Lab, vault: Vault, name: str) -> None:
        self._path = lab.path / "keys.db"
        self._true = row_key(vault, name)
        self._false = self._true[:-1] + bytes([self._true[-1] ^ 1])

    def hide(self) -> None:
        assert raw(self._path, self._true, self._false)

    def put_back(self) -> None:
        raw(self._path, self._false, self._true)


def in_thread(work: Callable[[], object]) -> object:
    """Do it on a connection that no page was read with yet."""
    told: list[object] = []

    def run() -> None:
        try:
            told.append(work())
        except FacekeepError as error:
            told.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return told[0]


@pytest.mark.parametrize("how", ["shred", "withdraw"])
def test_raw_bytes_hide_her_index_row_from_a_running_process(lab: Lab, how: str) -> None:
    with lab.open() as vault:
        vault.enroll_many([lab.enrolment("zed")])
        held = slots_of(vault, "alice")
        hidden = Hidden(lab, vault, "alice")
        hidden.hide()
        again = in_thread(lambda: vault.enroll_many([lab.enrolment("alice")]))
        assert isinstance(again, UsageError)
        erased = in_thread(
            lambda: vault.shred("alice") if how == "shred" else vault.withdraw("alice", [VERIFY, IDENTIFY])
        )
        assert getattr(erased, "slots", 0) == 2
        hidden.put_back()
    is_erased(lab, "alice", *held)
    with lab.open() as vault:
        vault.repair_index()
    lab.clean()


STEPS = ["grant.announced", "grant.indexed", "grant.written", "grant.completed", "destroy.announced"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("do", ["replace", "renew"])
def test_raw_bytes_hide_her_row_at_a_step_of_a_reenrolment(lab: Lab, step: str, do: str) -> None:
    with lab.open() as vault:
        hidden = Hidden(lab, vault, "alice")
        held = slots_of(vault, "alice")
        with calling(step, hidden.hide), contextlib.suppress(FacekeepError, AssertionError):
            if do == "replace":
                vault.enroll_many([lab.enrolment("alice")], existing="replace")
            else:
                vault.renew("alice", lab.consent(VERIFY, IDENTIFY))
        held += slots_of(vault, "alice")
        vault.shred("alice")
        hidden.put_back()
        lab.sql("keys.db", "UPDATE subject_index SET hash = hash")
    is_erased(lab, "alice", *held)


@pytest.mark.parametrize("step", ["destroy.announced", "swap.staged", "swap.written", "destroy.completed"])
@pytest.mark.parametrize("how", ["shred", "withdraw"])
def test_raw_bytes_hide_her_row_at_a_step_of_an_erasure(lab: Lab, step: str, how: str) -> None:
    with lab.open() as vault:
        hidden = Hidden(lab, vault, "alice")
        held = slots_of(vault, "alice")
        with calling(step, lambda: raw(lab.path / "keys.db", row_key(vault, "alice"), bytes(32))):
            if how == "shred":
                vault.shred("alice")
            else:
                vault.withdraw("alice", [VERIFY, IDENTIFY])
        hidden.put_back()
    is_erased(lab, "alice", *held)


@pytest.mark.parametrize("scopes", [[VERIFY], [VERIFY, IDENTIFY]])
def test_all_rows_of_her_are_hidden_and_put_back_after_the_erasure(lab: Lab, scopes: list[Scope]) -> None:
    """Index, rows and all: what is destroyed comes from the log."""
    saved = lab.save("before")
    with lab.open() as vault:
        held = [slots(vault, "alice")[scope] for scope in scopes]
        lab.sql("vault.db", "DELETE FROM grants")
        lab.sql("keys.db", "DELETE FROM subject_index")
        if len(scopes) > 1:
            vault.shred("alice")
        else:
            assert vault.withdraw("alice", scopes).slots == 1
    lab.put_back(saved, "vault.db")
    with lab.open() as vault:
        vault.repair_index()
        assert not core(vault).view().tree.alive(np.array(held, np.int64)).any()
        assert reason(vault, "alice") != "ok"
        assert matches(vault, "bob")
    lab.clean()


def test_two_deletes_hold_up_nobodys_erasure(lab: Lab) -> None:
    """Somebody's index row and rows are gone: others are erased, and so is she, by her id."""
    with lab.open() as vault:
        held = slots_of(vault, "alice")
        lab.sql("keys.db", "DELETE FROM subject_index WHERE hash = ?", (row_key(vault, "alice"),))
        lab.sql("vault.db", f"DELETE FROM grants WHERE slot IN ({held[0]}, {held[1]})")
    with lab.open() as vault:
        assert matches(vault, "bob")
        vault.withdraw("bob", [VERIFY])
        assert reason(vault, "bob") != "ok"
        vault.enroll_many([lab.enrolment("carol")])
        vault.shred("carol")
        assert vault.shred("alice").slots == 2
        assert vault.shred("bob").slots == 1
        identity, _ = vault.add_principal("x", [Role.SERVICE])
        vault.revoke_principal(identity)
        vault.keys.rotate_tree()
        vault.keys.rotate_templates()
        assert not core(vault).view().tree.alive(np.array(held, np.int64)).any()
    lab.clean()


COPY_LIES = [
    "UPDATE meta SET value = value + 1 WHERE key = 'generation'",
    "UPDATE meta SET value = 9007199254740993 WHERE key = 'generation'",
    "UPDATE meta SET value = value - 1 WHERE key = 'generation'",
    "UPDATE top SET epoch = 0",
]


@pytest.mark.parametrize("change", COPY_LIES)
def test_a_number_in_a_copy_holds_up_no_erasure(lab: Lab, change: str) -> None:
    sql(lab.copy_dir / "keys.db", change)
    with lab.open() as vault:
        vault.shred("alice")
        vault.withdraw("bob", [IDENTIFY])
        identity, _ = vault.add_principal("x", [Role.SERVICE])
        vault.revoke_principal(identity)
        assert matches(vault, "bob")
    lab.clean()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("keys.db", "UPDATE top SET fingerprint = zeroblob(32)"),
        ("keys.db", "UPDATE top SET epoch = epoch + 7"),
        ("keys.db", "DELETE FROM meta WHERE key = 'generation'"),
        ("keys.db", "UPDATE meta SET value = zeroblob(16) WHERE key = 'vault'"),
        ("log.db", "UPDATE entry SET chain = zeroblob(32) WHERE idx = (SELECT max(idx) FROM entry)"),
        ("log.db", "DELETE FROM meta WHERE key = 'vault'"),
    ],
)
@pytest.mark.parametrize("how", ["shred", "withdraw"])
def test_a_copy_that_is_no_use_leaves_an_erasure_pending_and_denied(
    lab: Lab, name: str, change: str, how: str
) -> None:
    with lab.open() as vault, lab.open() as other:
        sql(lab.copy_dir / name, change)
        with contextlib.suppress(ErasurePending):
            if how == "shred":
                vault.shred("alice")
            else:
                vault.withdraw("alice", [VERIFY, IDENTIFY])
        for each in (vault, other):
            assert reason(each, "alice") != "ok"
            assert identify(each, "alice") == []
            assert matches(each, "bob")


def edit_settings(lab: Lab) -> None:
    path = lab.path / "vault.toml"
    path.write_text(path.read_text().replace('region = "DE"', 'region = "US"'))


UNOPENABLE: dict[str, Callable[[Lab], object]] = {
    "a journal beside vault.db": lambda lab: (lab.path / "vault.db-journal").write_bytes(b"x" * 600),
    "a journal beside keys.db": lambda lab: (lab.path / "keys.db-journal").write_bytes(b"x" * 600),
    "a journal beside log.db": lambda lab: (lab.path / "log.db-journal").write_bytes(b"x" * 600),
    "a trigger in vault.db": lambda lab: lab.sql(
        "vault.db", "CREATE TRIGGER t AFTER DELETE ON grants BEGIN SELECT 1; END"
    ),
    "vault.db of another schema": lambda lab: lab.sql("vault.db", "PRAGMA user_version = 99"),
    "vault.toml was edited": edit_settings,
    "a schema that is no text": lambda lab: raw(lab.path / "vault.db", b"CREATE TABLE", b"CREA\xccE TABLE"),
}


@pytest.mark.parametrize("what", UNOPENABLE)
@pytest.mark.parametrize("how", ["shred", "withdraw", "revoke"])
def test_a_vault_that_does_not_open_still_denies(lab: Lab, what: str, how: str) -> None:
    """A service goes on with what it has open; the operator's command cannot open the vault any more."""
    stolen = lab.add_principal(Role.SERVICE)
    with lab.open() as service, lab.open(stolen) as thief:
        assert matches(service, "alice")
        UNOPENABLE[what](lab)
        with pytest.raises(FacekeepError), lab.open():
            pass
        with Vault.open(lab.path, token=lab.token, clock=lab.clock, to_erase=True) as vault:
            asked: dict[str, Callable[[], object]] = {
                "shred": lambda: vault.shred("alice"),
                "withdraw": lambda: vault.withdraw("alice", [VERIFY, IDENTIFY]),
                "revoke": lambda: vault.revoke_principal(stolen.split(".")[1]),
            }
            with pytest.raises(ErasurePending, match="denied to everybody"):
                asked[how]()
            for call in (
                lambda: vault.verify("bob", face("bob"), model=MODEL, threshold=THRESHOLD),
                lambda: vault.enroll_many([lab.enrolment("carol")]),
                lambda: vault.add_principal("x", [Role.OPERATOR]),
                lambda: vault.backup(lab.base / "backup"),
                lambda: list(vault.subjects()),
            ):
                with pytest.raises(FacekeepError):
                    call()
        if how == "revoke":
            with pytest.raises(FacekeepError):
                thief.verify("alice", face("alice"), model=MODEL, threshold=THRESHOLD)
        else:
            with contextlib.suppress(IntegrityError):  # or it stops at what it finds
                assert reason(service, "alice") in {"withdrawn", "unavailable"}
                assert reason(service, "bob") in {"ok", "unavailable"}


def damage_her_leaf(lab: Lab) -> None:
    """Re-key her path, then damage the stored leaf that has it: nobody can read her key from the file."""
    lab.sql(
        "keys.db", "UPDATE node SET blob = zeroblob(length(blob)) WHERE id % 32768 >= 1024 AND id > 32768"
    )


def test_a_damaged_node_hides_nobody_from_an_erasure(tmp_path: Path) -> None:
    """One process has the node open and goes on; another cannot read the key, and denies all the same."""
    lab = Lab(tmp_path).create()
    lab.enrol("alice", "bob", "carol", "zed")
    lab.do(lambda vault: vault.shred("zed"))  # stores the leaves that alice and bob stand in
    saved = lab.save("whole")
    with lab.open() as service:
        assert matches(service, "alice")
        held = slots_of(service, "alice")
        damage_her_leaf(lab)
        with lab.open() as vault:
            with pytest.raises(FacekeepError):
                vault.shred("alice")
            with pytest.raises(FacekeepError):
                vault.enroll_many([lab.enrolment("dora")])  # she might be among those that nobody can tell
            with pytest.raises(ErasurePending, match="denied to everybody"):
                vault.shred("nobody at all")  # not: unknown
        assert reason(service, "alice") == "unavailable"
        assert reason(service, "bob") == "unavailable"
    lab.put_back(saved, "keys.db")
    with lab.open() as vault:
        with contextlib.suppress(SubjectUnknown):
            vault.shred("alice")
        assert not core(vault).view().tree.alive(np.array(held, np.int64)).any()
        with pytest.raises(SubjectUnknown):
            vault.shred("nobody at all")
        assert matches(vault, "bob")
    lab.clean()


def test_an_old_entry_of_the_log_is_damaged_before_an_erasure(lab: Lab) -> None:
    """Nobody can tell what there ever was; what the gate would go by is denied, and nothing called erased."""
    lab.enrol("carol")
    with lab.open() as other:
        assert matches(other, "alice")
        lab.sql("log.db", "UPDATE entry SET chain = zeroblob(32) WHERE idx = 2")
        with lab.open() as vault:
            with pytest.raises(ErasurePending, match="denied to everybody"):
                vault.shred("alice")
            assert reason(vault, "alice") != "ok"
        assert reason(other, "alice") != "ok"


@pytest.mark.parametrize("how", ["shred", "withdraw"])
def test_neither_the_log_nor_the_index_leads_to_her(lab: Lab, how: str) -> None:
    """A service has her open. Nobody is answered until the file is whole and she was asked for again."""
    saved = lab.save("whole")
    with lab.open() as service, service.gallery(model=MODEL) as gallery:
        assert matches(service, "alice")
        lab.sql("log.db", "UPDATE entry SET chain = zeroblob(32) WHERE idx = 2")
        lab.sql("keys.db", "DELETE FROM subject_index")
        lab.sql("vault.db", "DELETE FROM grants")
        with lab.open() as vault, pytest.raises(ErasurePending, match="denied to everybody"):
            vault.shred("alice") if how == "shred" else vault.withdraw("alice", [VERIFY, IDENTIFY])
        for name in ("alice", "bob"):
            assert reason(service, name) == "unavailable"
            with pytest.raises(Unavailable):
                gallery.search(face(name), THRESHOLD, 5)
        chain = sql(saved / "vault" / "log.db", "SELECT chain FROM entry WHERE idx = 2")[0]
        lab.sql("log.db", "UPDATE entry SET chain = ? WHERE idx = 2", chain)
        for row in sql(saved / "vault" / "vault.db", "SELECT * FROM grants"):
            lab.sql("vault.db", "INSERT INTO grants VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        with lab.open() as vault:
            vault.repair_index()
            assert reason(vault, "bob") == "unavailable"
            vault.shred("alice") if how == "shred" else vault.withdraw("alice", [VERIFY, IDENTIFY])
            assert matches(vault, "bob")
            assert reason(vault, "alice") != "ok"
        assert matches(service, "bob")
        assert reason(service, "alice") != "ok"
    lab.clean()


def test_one_id_that_leads_to_nobody_saves_none_of_a_list(lab: Lab) -> None:
    with lab.open() as service:
        assert matches(service, "alice")
        lab.sql("log.db", "UPDATE entry SET chain = zeroblob(32) WHERE idx = 2")
        lab.sql("keys.db", "DELETE FROM subject_index WHERE hash = ?", (row_key(service, "bob"),))
        with lab.open() as vault, pytest.raises(ErasurePending):
            vault.shred("alice", "bob")
        assert {reason(service, name) for name in ("alice", "bob")} == {"unavailable"}


def test_a_clock_that_stands_behind_holds_up_no_erasure(lab: Lab) -> None:
    with lab.open() as vault:
        assert matches(vault, "bob")
        lab.clock.ms -= 3_600_000
        assert reason(vault, "alice") == "clock"
        vault.withdraw("alice", [IDENTIFY])
        vault.shred("alice")
        lab.clock.ms += 3_600_000
        assert reason(vault, "alice") == "subject_unknown"
    lab.clean()


def test_a_grant_id_says_nothing_without_its_key_and_nothing_at_all_after_the_erasure(lab: Lab) -> None:
    """The same id twice: two grant ids that have nothing in common; dead keys unmask nothing."""
    with lab.open() as vault:
        own = core(vault)
        ids = {row.slot: row.grant_id for row in own.data.rows()}
        held = np.array(slots_of(vault, "alice"), np.int64)
        assert len(set(ids.values())) == 4
        keys, _ = own.view().tree.slot_keys(held)
        handle = own.handles.of(b"alice")
        for at, slot in enumerate(held.tolist()):
            one = masked(own.sealer, held[at : at + 1], keys[at : at + 1], table([ids[slot]]))
            assert one.tobytes() == handle
            assert handle not in ids[slot]
        vault.shred("alice")
        dead, alive = own.view().tree.slot_keys(held)
        assert not alive.any()
        for at, slot in enumerate(held.tolist()):
            one = masked(own.sealer, held[at : at + 1], dead[at : at + 1], table([ids[slot]]))
            assert one.tobytes() == ids[slot]  # a destroyed key masks nothing, and so tells nothing
        vault.enroll_many([lab.enrolment("alice")])
        assert not {row.grant_id for row in own.data.rows()} & set(ids.values()) - {
            ids[slot] for slot in slots_of(vault, "bob")
        }


def test_a_stolen_token_is_revoked_though_its_row_and_all_others_are_gone(lab: Lab) -> None:
    """Who asks is an operator who stays: no row of another decides, and one that comes back helps nobody."""
    with lab.open() as vault:
        identity, token = vault.add_principal("stolen", [Role.OPERATOR, Role.SERVICE])
        vault.add_principal("third", [Role.OPERATOR])
        own = bytes.fromhex(vault.whoami()[0])
        gone = lab.sql("keys.db", "SELECT * FROM principal WHERE principal <> ?", (own,))
        lab.sql("keys.db", "DELETE FROM principal WHERE principal <> ?", (own,))
        vault.revoke_principal(identity)
        for row in gone:
            lab.sql("keys.db", "INSERT OR REPLACE INTO principal VALUES (?, ?, ?, ?, ?)", row)
    with pytest.raises(NotAllowed), lab.open(token):
        pass


@contextlib.contextmanager
def every_write(work: Callable[[], Any]) -> Iterator[None]:
    """Do something whenever an operation comes to a step, again and again."""
    steps.observe(lambda _step: work())
    try:
        yield
    finally:
        steps._observers.pop()


def test_the_index_is_emptied_and_filled_at_every_step_of_a_life(lab: Lab) -> None:
    """Enrol, re-enrol, renew, withdraw, grant, shred, while somebody rewrites the index at each step."""
    rows: list[tuple[Any, ...]] = lab.sql("keys.db", "SELECT * FROM subject_index")

    def flip() -> None:
        path = lab.path / "keys.db"
        if sql(path, "SELECT count(*) FROM subject_index")[0][0]:
            rows[:] = sql(path, "SELECT * FROM subject_index")
            sql(path, "DELETE FROM subject_index")
        else:
            for row in rows:
                sql(path, "INSERT OR REPLACE INTO subject_index VALUES (?, ?)", row)

    held: set[int] = set()
    with lab.open() as vault:
        busy = False

        def work() -> None:
            nonlocal busy
            if not busy:
                busy = True
                with contextlib.suppress(Exception):
                    flip()
                busy = False

        with every_write(work):
            for name in ("dora", "erik"):
                vault.enroll_many([lab.enrolment(name)])
                held.update(slots_of(vault, name))
                vault.enroll_many([lab.enrolment(name)], existing="replace")
                held.update(slots_of(vault, name))
                vault.renew(name, lab.consent(VERIFY, IDENTIFY))
                held.update(slots_of(vault, name))
                vault.withdraw(name, [VERIFY])
                vault.grant(name, lab.consent(VERIFY))
                held.update(slots_of(vault, name))
                vault.shred(name)
    for row in rows:
        lab.sql("keys.db", "INSERT OR REPLACE INTO subject_index VALUES (?, ?)", row)
    assert len(held) >= 10
    with lab.open() as vault:
        assert not core(vault).view().tree.alive(np.array(sorted(held), np.int64)).any()
        for name in ("dora", "erik"):
            assert reason(vault, name) != "ok"
            assert identify(vault, name) == []
        vault.repair_index()
    lab.clean()
