"""Attacks on which key tree is believed: a column names the old root, a lock file is replaced."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from facekeep.access import core as core_module
from facekeep.access.core import is_tree_of
from facekeep.errors import Busy, ErasurePending, FacekeepError, IntegrityError
from facekeep.keys.settle import settle
from facekeep.keys.tree import KeyTree, TreeStale
from facekeep.store.lock import WriterLock
from facekeep.vault import Role
from keys_help import Lab as KeysLab
from keys_help import candidate, verify_slot
from keys_help import sql as keys_sql
from vaultlab import IDENTIFY, VERIFY, Lab, at_step, core, identify, log_entries, matches, slots

COPIES = [0, 1]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path).create()
    lab.enrol("alice", "bob", "carol")
    return lab


class Rows:
    """What an attacker kept from before a shred, to be put back after it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.mark = lab.sql("keys.db", "SELECT fingerprint FROM top WHERE copy = 1")[0][0]
        self.top = lab.sql("keys.db", "SELECT epoch, fingerprint, blob FROM top WHERE copy = 1")[0]
        self.kept = {
            (name, table): lab.sql(name, f"SELECT * FROM {table}")
            for name, table in (
                ("keys.db", "subject_index"),
                ("keys.db", "principal"),
                ("vault.db", "grants"),
            )
        }

    def name_old_root(self, copy: int, *, whole: bool = False) -> None:
        """Write the old fingerprint, or the whole old row, into one copy of the root node."""
        if whole:
            statement = "UPDATE top SET epoch = ?, fingerprint = ?, blob = ? WHERE copy = ?"
            self.lab.sql("keys.db", statement, (*self.top, copy))
        else:
            self.lab.sql("keys.db", "UPDATE top SET fingerprint = ? WHERE copy = ?", (self.mark, copy))

    def put_back(self) -> None:
        for (name, table), rows in self.kept.items():
            for row in rows:
                marks = ",".join("?" * len(row))
                self.lab.sql(name, f"INSERT OR REPLACE INTO {table} VALUES ({marks})", row)


def refused(ask: Callable[[], object]) -> bool:
    """Whether a question gets no answer, or an empty one."""
    try:
        return not ask()
    except FacekeepError:
        return True


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("copy", COPIES)
def test_an_open_process_does_not_keep_the_tree_that_a_column_names(lab: Lab, copy: int, whole: bool) -> None:
    with lab.open() as service:
        assert matches(service, "bob")
        assert identify(service, "bob") == ["bob"]
        old = Rows(lab)
        lab.do(lambda vault: vault.shred("alice"))
        old.name_old_root(copy, whole=whole)
        old.put_back()
        assert refused(lambda: matches(service, "alice"))
        assert refused(lambda: identify(service, "alice"))
        assert matches(service, "bob")
        view = core(service).view()
        assert is_tree_of(view.tree, view.head)
        allowed = [entry for entry in log_entries(service) if entry["type"] == "decision" and entry["allow"]]
        assert {entry["op"] for entry in allowed[2:]} <= {"verify", "identify"}
        assert not any(entry.get("candidates") for entry in allowed[2:])


@pytest.mark.parametrize("copy", COPIES)
def test_a_revoked_principal_does_not_come_back(lab: Lab, copy: int) -> None:
    token = lab.add_principal(Role.SERVICE)
    with lab.open(token) as service:
        assert matches(service, "alice")
        old = Rows(lab)
        lab.do(lambda vault: vault.revoke_principal(token.split(".")[1]))
        old.name_old_root(copy)
        old.put_back()
        assert refused(lambda: matches(service, "alice"))
        assert refused(service.whoami)


@pytest.mark.parametrize("copy", COPIES)
def test_a_swap_is_never_planned_on_a_tree_from_memory(lab: Lab, copy: int) -> None:
    """A service that was open while Alice was shredded shreds Carol: Alice's keys are not written anew."""
    with lab.open() as service:
        assert matches(service, "bob")
        dead, dying = list(slots(service, "alice").values()), list(slots(service, "carol").values())
        old = Rows(lab)
        lab.do(lambda vault: vault.shred("alice"))
        old.name_old_root(copy)
        service.shred("carol")
    with lab.open() as vault:
        tree = core(vault).view().tree
        assert not tree.alive(dead + dying).any()
        assert not tree.damage  # the damaged twin was mended by the swap
        assert matches(vault, "bob")
    old.put_back()
    with lab.open() as vault:
        assert refused(lambda: matches(vault, "alice"))
        assert refused(lambda: identify(vault, "alice"))


@pytest.mark.parametrize("copy", COPIES)
def test_an_old_root_named_while_the_writer_waits_for_its_lock(lab: Lab, copy: int) -> None:
    """The stale process has done nothing since: not even its view was renewed before it writes."""
    with lab.open() as service:
        stale = core(service).view().tree
        dead = list(slots(service, "alice").values())
        old = Rows(lab)
        lab.do(lambda vault: vault.shred("alice"))
        old.name_old_root(copy, whole=True)
        assert stale.alive(dead).all()  # what it remembers
        service.withdraw("bob", [VERIFY])
        assert not core(service).view().tree.alive(dead).any()
    assert not lab.do(lambda vault: core(vault).view().tree.alive(dead).any())
    lab.clean()


def test_a_tree_that_the_log_does_not_name_is_refused(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    with lab.open() as service:
        stale = core(service).view().tree
        lab.do(lambda vault: vault.shred("alice"))

        def believes(*_: object) -> tuple[KeyTree, None]:
            return stale, None

        monkeypatch.setattr(core_module, "open_tree", believes)
        with pytest.raises(IntegrityError, match="not the one"):
            core(service).view()
        with pytest.raises(IntegrityError, match="not the one"):
            service.shred("carol")


def test_opening_refuses_a_tree_that_the_log_does_not_name(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facekeep.operations.opening.is_tree_of", lambda *_: False)
    assert lab.do(lambda vault: matches(vault, "bob"))  # looked at again: another process may have swapped
    monkeypatch.setattr(core_module, "is_tree_of", lambda *_: False)
    with pytest.raises(IntegrityError, match="not the one"), lab.open():
        pass


@pytest.mark.parametrize("step", ["after write", "after verify", "before promote", "after promote"])
def test_a_swap_that_waits_for_its_completion_may_be_one_epoch_ahead(lab: Lab, step: str) -> None:
    with lab.open() as service:
        assert matches(service, "bob")
    lab.crash(lambda vault: vault.shred("alice"), step)
    with lab.open() as vault:
        view = core(vault).view()
        assert view.tree.epoch == view.head.epoch
        assert is_tree_of(view.tree, view.head)
    lab.clean()


def test_the_check_names_a_destroyed_slot_that_lives(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = lab.do(lambda vault: list(slots(vault, "alice").values()))
    lab.do(lambda vault: vault.shred("alice"))
    lab.clean()
    real = KeyTree.alive

    def forged(tree: KeyTree, asked: object) -> object:
        found = real(tree, asked)  # type: ignore[arg-type] # what alive takes
        found[[slot in dead for slot in asked]] = True  # type: ignore[attr-defined] # it is a sequence
        return found

    with lab.open() as vault:
        monkeypatch.setattr(KeyTree, "alive", forged)
        messages = [finding.message for finding in vault.check().findings]
    assert any("slots live that the log" in message and str(dead[0]) in message for message in messages)


# -- the writer lock


def test_a_writer_whose_lock_file_is_replaced_stops_before_it_writes(tmp_path: Path) -> None:
    lab = Lab(tmp_path, copies=True).create()
    lab.enrol("alice", "bob", "carol")

    def first() -> str:
        at_step("after stage", signal.SIGSTOP)
        at_step("after write", signal.SIGKILL)
        try:
            lab.do(lambda vault: vault.shred("carol"))
        except ErasurePending as error:
            return str(error)
        return "done"

    writer = lab.fork(first)
    try:
        writer.wait_stopped()
        (lab.path / "vault.lock").unlink()
        # The second writer finishes the first one's work under a root of its own, and dies before it writes.
        lab.crash(lambda vault: vault.withdraw("bob", [VERIFY]), "after stage")
        writer.resume()
        assert "vault.lock" in writer.wait()
    finally:
        writer.kill()
    with lab.open() as vault:
        assert matches(vault, "alice")
        assert identify(vault, "carol") == []
    lab.clean()


@pytest.mark.parametrize("step", ["before stage", "before write", "after write", "before promote"])
def test_a_lock_file_put_in_place_of_another_at_any_step(lab: Lab, step: str) -> None:
    def first() -> bool:
        at_step(step, signal.SIGSTOP)
        try:
            lab.do(lambda vault: vault.shred("carol"))
        except ErasurePending:
            return True
        return False

    writer = lab.fork(first)
    try:
        writer.wait_stopped()
        (lab.path / "other").touch()
        (lab.path / "other").replace(lab.path / "vault.lock")
        lab.do(lambda vault: vault.withdraw("bob", [VERIFY]))
        writer.resume()
        assert writer.wait()
    finally:
        writer.kill()
    with lab.open() as vault:
        assert matches(vault, "alice")
        assert set(slots(vault, "bob")) == {IDENTIFY}
        assert identify(vault, "carol") == []
    lab.clean()


def test_a_lock_knows_whether_it_is_still_held(tmp_path: Path) -> None:
    path = tmp_path / "vault.lock"
    lock = WriterLock(path)
    assert not lock.still_held()
    with lock.held():
        assert lock.still_held()
        path.unlink()
        assert not lock.still_held()
        with WriterLock(path).held():
            assert not lock.still_held()
    assert not lock.still_held()


def test_a_lock_replaced_while_it_is_waited_for_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "vault.lock"
    real, left = os.open, [3]

    def replaced(name: str | Path, *rest: int) -> int:
        descriptor = real(name, *rest)
        if name == path and left[0]:
            left[0] -= 1
            path.unlink()
        return descriptor

    monkeypatch.setattr("facekeep.store.lock.os.open", replaced)
    lock = WriterLock(path)
    with lock.held(0):
        assert lock.still_held()
    left[0] = 1_000_000_000
    monkeypatch.setattr("facekeep.store.lock._REPLACED_S", 0.05)
    with pytest.raises(Busy, match="again and again"), lock.held(0):
        pass


# -- the swap by itself


@pytest.fixture
def keys(tmp_path: Path) -> KeysLab:
    return KeysLab(tmp_path)


def test_a_root_dropped_after_staging_stops_the_write(keys: KeysLab) -> None:
    before = keys_sql(keys.path, "SELECT * FROM top")
    swap = keys.swap([verify_slot(5)])
    swap.stage()
    keys.provider.drop(swap.fingerprint)
    with pytest.raises(ErasurePending):
        swap.write()
    assert keys_sql(keys.path, "SELECT * FROM top") == before
    keys.tree, _ = swap.run()
    assert not keys.tree.alive([verify_slot(5)])[0]


def test_a_root_that_opens_keys_db_is_not_dropped(keys: KeysLab) -> None:
    """A writer that knows an older root must not throw away the one that the file stands under."""
    first = keys.tree.fingerprint
    old = candidate(keys.root())
    row = keys_sql(keys.path, "SELECT * FROM top WHERE copy = 0")[0]
    swap = keys.swap([verify_slot(5)])
    swap.stage()
    swap.write()
    keys_sql(keys.path, "INSERT OR REPLACE INTO top VALUES (?, ?, ?, ?)", row)  # so that the old one opens it
    before = keys.root_path.read_bytes()
    with pytest.raises(TreeStale):
        settle(keys.store, old, [keys.provider])
    assert keys.root_path.read_bytes() == before
    assert {each.fingerprint for each in keys.provider.candidates()} == {first, swap.fingerprint}


@pytest.mark.parametrize("copy", COPIES)
@pytest.mark.parametrize("mark", [b"x" * 32, None])
def test_a_swap_written_on_another_epoch_is_refused(keys: KeysLab, copy: int, mark: bytes | None) -> None:
    swap = keys.swap([verify_slot(5)])
    swap.stage()
    if mark is None:
        keys_sql(keys.path, "DELETE FROM top WHERE copy = ?", (copy,))
    else:
        keys_sql(keys.path, "UPDATE top SET fingerprint = ? WHERE copy = ?", (mark, copy))
    with pytest.raises(IntegrityError, match="planned on"):
        swap.write()
    keys.tree, _ = keys.swap([verify_slot(5)]).run()  # the twin is mended from the row that opens
    assert not keys.tree.damage


def test_a_damaged_root_node_in_a_copy_is_mended_by_the_swap(tmp_path: Path) -> None:
    path = tmp_path / "copy" / "keys.db"
    keys = KeysLab(tmp_path, [path])
    keys_sql(path, "UPDATE top SET blob = x'00' WHERE copy = 1")
    keys.shred(verify_slot(5))
    assert keys_sql(path, "SELECT * FROM top") == keys_sql(keys.path, "SELECT * FROM top")
