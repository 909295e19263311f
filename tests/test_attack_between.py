"""Attacks between two steps: what was looked at a moment ago is altered, replaced or added to.

An erasure looks at each holder and at keys.db as seldom as it can. Whatever moves in between, nobody is
called erased who is not, no root dies that the living need, and what is put right again is finished.
"""

from __future__ import annotations

import shutil
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from facekeep.errors import ErasurePending, FacekeepError, IntegrityError
from facekeep.formats.rootfile import SLOT_LEN, RootSlot, SlotState, encode_slot
from facekeep.keys.file_provider import FileProvider
from facekeep.keys.provider import Receipt
from facekeep.keys.swap import Swap
from facekeep.keys.tree import KeyTree
from facekeep.vault import Holders, Role, Vault
from vaultlab import (
    IDENTIFY,
    VERIFY,
    Lab,
    at_step,
    calling,
    core,
    identify,
    log_entries,
    matches,
    reason,
    slots,
)

LOCAL = 1 << 15  # row ids of one branch
PLACES = {"branch, 0": "= 0", "branch, 1": "= 1", "inner": "BETWEEN 256 AND 1023", "leaf": ">= 1024"}
STEPS = ["before stage", "after stage", "before write", "after write", "after verify", "before promote"]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path).create()
    lab.enrol("alice", "bob", "carol")
    return lab


@pytest.fixture
def copied(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path, copies=True).create()
    lab.enrol("alice", "bob", "carol")
    return lab


def held(path: Path, vault: Vault) -> list[tuple[bytes, str]]:
    found = FileProvider(path, core(vault).vault_id).candidates()
    return [(each.root, each.state) for each in found]


def stopped(vault: Vault, root: Path, step: str, attack: Callable[[], object]) -> str:
    """Have an erasure meet an attack: it fails, is not called done, and no root is destroyed; the error."""
    before = [root for root, _ in held(root, vault)]
    with calling(step, attack), pytest.raises(FacekeepError) as caught:
        vault.shred("alice")
    assert log_entries(vault)[-1]["type"] == "destroy", "the erasure is called done"
    assert before[0] in [root for root, _ in held(root, vault)], "the root before was destroyed"
    return str(caught.value)


def alter(path: Path, statement: str) -> None:
    """As somebody else with the file open: what is changed stands in the WAL."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        assert connection.execute(statement).rowcount > 0


def finished(lab: Lab) -> None:
    """Any writing command finishes what is open: the erased are gone, and nobody else is."""
    lab.enrol("dave")
    with lab.open() as vault:
        assert reason(vault, "alice") == "subject_unknown"
        assert identify(vault, "alice") == []
        assert all(matches(vault, name) for name in ("bob", "carol", "dave"))
        assert len(held(lab.root, vault)) == 1
    lab.clean()


# -- keys.db is altered between the writing and the fresh look at it


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("copy", [False, True])
def test_a_node_is_altered_before_it_is_verified(copied: Lab, place: str, copy: bool) -> None:
    path = (copied.copy_dir if copy else copied.path) / "keys.db"
    with copied.open() as vault:
        assert matches(vault, "bob")
        statement = f"UPDATE node SET blob = x'00' WHERE id % {LOCAL} {PLACES[place]}"
        stopped(vault, copied.root, "after write", partial(alter, path, statement))
        assert reason(vault, "alice") != "ok"
    Vault.scrub(copied.path, token=copied.token, clock=copied.clock)
    finished(copied)


@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize("column", ["blob", "fingerprint", "epoch"])
@pytest.mark.parametrize("copy", [False, True])
def test_a_root_node_is_altered_before_it_is_verified(copied: Lab, row: int, column: str, copy: bool) -> None:
    path = (copied.copy_dir if copy else copied.path) / "keys.db"
    value = {"blob": "x'00'", "fingerprint": "zeroblob(32)", "epoch": "epoch - 1"}[column]
    with copied.open() as vault:
        statement = f"UPDATE top SET {column} = {value} WHERE copy = {row}"
        stopped(vault, copied.root, "after write", partial(alter, path, statement))
    if copy:  # nothing is written over one that names another root: a person takes it away
        shutil.rmtree(copied.copy_dir)
        copied.copy_dir.mkdir()
    else:
        Vault.scrub(copied.path, token=copied.token, clock=copied.clock)
    finished(copied)


def flip(path: Path, page: int) -> None:
    """Flip a bit in the midst of a page of the WAL, from its end, as a disk might."""
    raw = bytearray(path.read_bytes())
    at = len(raw) - page * (4096 + 24) + 24 + 2048
    raw[at] ^= 1
    with path.open("r+b") as file:
        file.seek(at)
        file.write(raw[at : at + 1])


def test_a_bit_of_the_wal_flips_before_it_is_verified(lab: Lab) -> None:
    """Each page that the swap wrote holds a node: of all, one flipped bit is seen by the fresh look."""
    wal = lab.path / "keys.db-wal"
    with lab.open() as vault:
        vault.shred("carol")  # so that the WAL begins with what is whole
        page = next(page for page in range(1, 40) if _holds_node(wal, page))
        said = stopped(vault, lab.root, "after write", lambda: flip(wal, page))
    assert "damaged" in said or "not written whole" in said


def _holds_node(wal: Path, page: int) -> bool:
    """Whether the frame begins with a table leaf (13) that has one cell, in its midst: a node's row."""
    raw = wal.read_bytes()
    at = len(raw) - page * (4096 + 24) + 24
    return raw[at] == 13 and int.from_bytes(raw[at + 3 : at + 5], "big") == 1


def test_a_trigger_that_is_planted_before_the_swap_is_verified_stops_it_and_the_next_writer(lab: Lab) -> None:
    planted = "CREATE TRIGGER quiet BEFORE INSERT ON node BEGIN SELECT RAISE(IGNORE); END"
    with lab.open() as vault:
        doomed = list(slots(vault, "alice").values())
        with (
            calling("after write", lambda: lab.sql("keys.db", planted)),
            pytest.raises(IntegrityError, match="not facekeep's"),
        ):
            vault.shred("alice")
        assert log_entries(vault)[-1]["type"] == "destroy"
        assert not core(vault).view().tree.alive(doomed).any()
        with pytest.raises(IntegrityError, match="not facekeep's"):
            vault.shred("bob")
    lab.sql("keys.db", "DROP TRIGGER quiet")
    finished_without_bob(lab)


def finished_without_bob(lab: Lab) -> None:
    lab.enrol("dave")
    with lab.open() as vault:
        assert reason(vault, "bob") == "subject_unknown"
        assert matches(vault, "carol")
    lab.clean()


# -- keys.db is another file


@pytest.mark.parametrize("step", [*STEPS, "after promote"])
def test_an_older_keys_db_takes_the_place_in_the_midst_of_an_erasure(lab: Lab, step: str) -> None:
    old = lab.save("old")
    lab.do(lambda vault: vault.shred("carol"))
    lab.enrol("carol")
    path, aside = lab.path / "keys.db", lab.path / "aside"

    def replace() -> None:
        path.rename(aside)
        shutil.copy2(old / "vault" / "keys.db", path)

    with lab.open() as vault:
        with calling(step, replace), pytest.raises(IntegrityError):
            vault.shred("alice")
        assert log_entries(vault)[-1]["type"] == "destroy"
        assert held(lab.root, vault)
        for act in (lambda: matches(vault, "bob"), lambda: vault.enroll_many([lab.enrolment("eve")])):
            with pytest.raises(FacekeepError):
                act()
        aside.replace(path)
    finished(lab)


@pytest.mark.parametrize("act", ["shred", "enroll", "gallery", "check"])
def test_an_older_keys_db_takes_the_place_between_two_operations(lab: Lab, act: str) -> None:
    old = lab.save("old")
    path, aside = lab.path / "keys.db", lab.path / "aside"
    acts: dict[str, Callable[[Vault], object]] = {
        "shred": lambda vault: vault.shred("bob"),
        "enroll": lambda vault: vault.enroll_many([lab.enrolment("eve")]),
        "gallery": lambda vault: identify(vault, "bob"),
        "check": lambda vault: vault.check(),
    }
    with lab.open() as vault:
        vault.shred("alice")
        assert matches(vault, "bob")
        size = len(log_entries(vault))
        path.rename(aside)
        shutil.copy2(old / "vault" / "keys.db", path)
        with pytest.raises(FacekeepError):
            acts[act](vault)
        announced = {"destroy"} if act == "shred" else set()  # denied first, then found impossible
        assert {each["type"] for each in log_entries(vault)[size:]} <= {"decision", *announced}
        aside.replace(path)
    if act == "shred":
        with lab.open() as vault:
            assert reason(vault, "bob") != "ok"
        return
    finished(lab)


def test_another_vaults_keys_db_takes_the_place_of_a_copy_before_it_is_verified(
    copied: Lab, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = Lab(tmp_path / "other").create()
    path, aside = copied.copy_dir / "keys.db", tmp_path / "aside"

    def replace() -> None:
        path.rename(aside)
        shutil.copy2(other.path / "keys.db", path)

    with copied.open() as vault:
        stopped(vault, copied.root, "before verify", replace)
        aside.replace(path)
    finished(copied)


# -- another process


@pytest.mark.parametrize("step", ["after verify", "before promote", "after promote"])
def test_another_process_swaps_before_the_erasure_is_completed(lab: Lab, step: str) -> None:
    """Its lock file was replaced: the other finishes this erasure, and nothing of the other's is undone."""

    def first() -> str:
        at_step(step, signal.SIGSTOP)
        with lab.open() as vault:
            try:
                vault.shred("alice")
            except (ErasurePending, IntegrityError):
                assert matches(vault, "bob")
                assert identify(vault, "alice") == []
                vault.withdraw("carol", [VERIFY])  # and goes on from the other's tree
                return "refused"
        return "done"

    writer = lab.fork(first)
    try:
        writer.wait_stopped()
        (lab.path / "other").touch()
        (lab.path / "other").replace(lab.path / "vault.lock")
        lab.do(lambda vault: vault.withdraw("bob", [IDENTIFY]))
        writer.resume()
        assert writer.wait() == "refused"
    finally:
        writer.kill()
    with lab.open() as vault:
        assert slots(vault, "alice") == {}
        assert (set(slots(vault, "bob")), set(slots(vault, "carol"))) == ({VERIFY}, {IDENTIFY})
        assert len(held(lab.root, vault)) == 1
        ends = [each["of"] for each in log_entries(vault) if each["type"] == "destroyed"]
        assert len(ends) == len(set(ends))
    lab.clean()


def test_a_process_follows_the_swaps_of_another_after_its_own(lab: Lab) -> None:
    with lab.open() as one, lab.open() as other:
        for vault, name in ((one, "alice"), (other, "carol"), (one, "dave"), (other, "eve")):
            vault.enroll_many([lab.enrolment(name)], existing="skip")
            vault.shred(name)
            for each in (one, other):
                assert matches(each, "bob")
                assert identify(each, name) == []
                assert core(each).view().tree.fingerprint == core(vault).view().tree.fingerprint
    lab.clean()


# -- a holder has more than it had


def stray(path: Path, vault: Vault, root: bytes) -> None:
    """Put a root into the slot of a holder that is not the one in use alone."""
    slot = encode_slot(RootSlot(core(vault).vault_id, SlotState.STAGED, root))
    raw = path.read_bytes()
    number = 0 if raw[len(b"FKROOT1\n") + 16] == SlotState.STAGED else 1
    with path.open("r+b") as file:
        file.seek(number * SLOT_LEN)
        file.write(slot)


ACTS: dict[str, Callable[[Lab, Vault], object]] = {
    "enroll": lambda lab, vault: vault.enroll_many([lab.enrolment("dave")]),
    "withdraw": lambda _lab, vault: vault.withdraw("bob", [IDENTIFY]),
    "resume": lambda _lab, vault: vault.keys.resume(),
}


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("kind", ["old", "foreign"])
@pytest.mark.parametrize("where", ["root.key", "mirror.root"])
def test_a_root_comes_into_a_holder_between_two_operations(lab: Lab, act: str, kind: str, where: str) -> None:
    """An old one above all: beside an old keys.db it would bring back who was erased."""
    lab.do(lambda vault: vault.keys.move(Holders(mirrors=[f"file:{lab.base / 'mirror.root'}"])))
    path = lab.base / where
    with lab.open() as vault:
        old = held(lab.root, vault)[0][0]
        vault.shred("alice")
        vault.enroll_many(
            [lab.enrolment("eve")]
        )  # the holders were asked, and had nothing but the present one
        planted = old if kind == "old" else b"A" * 32
        stray(path, vault, planted)
        assert planted in [root for root, _ in held(path, vault)]
        ACTS[act](lab, vault)
        assert planted not in [root for root, _ in held(path, vault)]
        assert planted not in path.read_bytes()
        assert len(held(path, vault)) == 1
        assert matches(vault, "carol")
    lab.clean()


@pytest.mark.parametrize("step", ["destroy.announced", *STEPS, "after promote", "destroy.completed"])
def test_an_old_root_comes_into_a_holder_in_the_midst_of_an_erasure(lab: Lab, step: str) -> None:
    with lab.open() as vault:
        old = held(lab.root, vault)[0][0]
        vault.shred("carol")
        vault.enroll_many([lab.enrolment("carol")])
        with calling(step, lambda: stray(lab.root, vault, old)):
            try:
                vault.shred("alice")
            except ErasurePending:
                assert log_entries(vault)[-1]["type"] == "destroy"
        vault.enroll_many([lab.enrolment("dave")])
        assert old not in lab.root.read_bytes()
        assert matches(vault, "bob")
    with lab.open() as vault:
        assert slots(vault, "alice") == {}
    lab.clean()


def test_a_holder_that_was_away_when_asked_is_asked_again(lab: Lab) -> None:
    mirror, away = lab.base / "mirror.root", lab.base / "away"
    lab.do(lambda vault: vault.keys.move(Holders(mirrors=[f"file:{mirror}"])))
    with lab.open() as vault:
        old = held(mirror, vault)[0][0]
        vault.shred("alice")
        stray(mirror, vault, old)
        mirror.rename(away)
        vault.enroll_many([lab.enrolment("dave")])
        assert not core(vault).is_settled
        away.rename(mirror)
        vault.enroll_many([lab.enrolment("eve")])
        assert old not in mirror.read_bytes()
    lab.clean()


# -- damage beside the path of an erasure


@pytest.mark.parametrize("copy", [0, 1])
def test_a_damaged_row_of_the_system_branch_holds_no_erasure_up(lab: Lab, copy: int) -> None:
    """The log key lies below it: its other row serves, and the swap writes both anew."""
    another = lab.do(lambda vault: vault.add_principal("another", [Role.AUDITOR]))[1]
    with lab.open() as vault:
        vault.revoke_principal(another.split(".")[1])
        lab.sql("keys.db", f"UPDATE node SET blob = x'00' WHERE id = {copy}")
        vault.shred("alice")
        assert log_entries(vault)[-1]["type"] == "destroyed"
        assert not vault.check().findings
    assert not Vault.scrub(lab.path, token=lab.token, clock=lab.clock).repairs
    finished(lab)


@pytest.mark.parametrize("place", PLACES)
def test_the_check_of_a_process_that_erased_reads_the_nodes_again(lab: Lab, place: str) -> None:
    with lab.open() as vault:
        vault.shred("alice")
        assert matches(vault, "bob")
        assert not vault.check().findings
        lab.sql("keys.db", f"UPDATE node SET blob = x'00' WHERE id % {LOCAL} {PLACES[place]}")
        assert {each.file for each in vault.check().findings} == {"keys.db"}


def test_an_interruption_right_after_the_swap_leaves_no_old_tree_in_use(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lab.open() as vault:
        doomed = list(slots(vault, "alice").values())

        whole = Swap.run

        def interrupted(swap: Swap) -> tuple[KeyTree, tuple[Receipt, ...]]:
            whole(swap)
            raise InterruptedError

        with monkeypatch.context() as patched:
            patched.setattr(Swap, "run", interrupted)
            with pytest.raises(InterruptedError):
                vault.shred("alice")
        assert not core(vault).view().tree.alive(doomed).any()
        assert reason(vault, "alice") != "ok"
    finished(lab)


def test_a_holder_that_loses_the_new_root_and_says_promoted_is_noticed_before_destroyed_is_logged(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(provider: FileProvider, fingerprint: bytes) -> Receipt:
        provider.drop(fingerprint)
        return provider.receipt("promoted")

    with lab.open() as vault:
        with monkeypatch.context() as patched:
            patched.setattr(FileProvider, "promote", lost)
            with pytest.raises(FacekeepError):
                vault.shred("alice")
        assert log_entries(vault)[-1]["type"] == "destroy"
