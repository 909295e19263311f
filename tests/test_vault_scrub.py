"""check --scrub: what is damaged is put right from what is whole; what may be newer is left alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from facekeep.errors import ErasurePending, IntegrityError, NotAllowed, RootError, StoreError
from facekeep.operations.scrub import ScrubReport
from facekeep.store import logdb
from facekeep.store.keysdb import KeysStore
from facekeep.vault import Holders, Role, Vault
from vaultlab import VERIFY, Lab, calling, core, matches, reason, sql

FLIPPED = "CAST(substr({0}, 1, 20) || x'{1}' || substr({0}, 25) AS BLOB)"


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path, copies=True).create()
    lab.enrol("alice", "bob", "carol")
    lab.do(lambda vault: vault.withdraw("carol", [VERIFY]))  # stores a branch node and those below
    return lab


def scrub(lab: Lab, token: str | None = None) -> ScrubReport:
    return Vault.scrub(lab.path, token=token or lab.token, clock=lab.clock)


def flip(path: Path, table: str, column: str, where: str) -> None:
    """Damage a few bytes in the middle of a value."""
    change = FLIPPED.format(column, "a5a5a5a5")
    assert sql(path, f"SELECT 1 FROM {table} WHERE {where}")
    sql(path, f"UPDATE {table} SET {column} = {change} WHERE {where}")


def mended(lab: Lab) -> ScrubReport:
    """Scrub; everything must be whole then, and a second scrub has nothing to do."""
    report = scrub(lab)
    assert report.repairs
    assert not report.left
    again = scrub(lab)
    assert not again.repairs
    assert not again.left
    lab.clean()
    lab.do(lambda vault: [matches(vault, "alice") or pytest.fail("alice"), reason(vault, "carol")])
    return report


NODES = {
    "the root node, copy 0": ("top", "copy = 0"),
    "the root node, copy 1": ("top", "copy = 1"),
    "the branch node, copy 0": ("node", "id % 32768 = 0 AND id >= 32768"),
    "the branch node, copy 1": ("node", "id % 32768 = 1 AND id >= 32768"),
    "a node of level 2": ("node", "id % 32768 BETWEEN 256 AND 375 AND id >= 32768"),
    "a leaf": ("node", "id % 32768 >= 1024 AND id >= 32768"),
}


@pytest.mark.parametrize("where", ["vault", "copy"])
@pytest.mark.parametrize("node", NODES)
def test_a_damaged_node_is_written_anew(lab: Lab, node: str, where: str) -> None:
    table, which = NODES[node]
    path = lab.base / where / "keys.db"
    flip(path, table, "blob", which)
    report = mended(lab)
    assert all(each.file == "keys.db" for each in report.repairs)


@pytest.mark.parametrize("node", NODES)
def test_a_missing_node_is_put_back(lab: Lab, node: str) -> None:
    table, which = NODES[node]
    lab.sql("keys.db", f"DELETE FROM {table} WHERE {which}")
    mended(lab)


def test_what_is_damaged_everywhere_is_said_and_left(lab: Lab) -> None:
    for path in (lab.path, lab.copy_dir):
        flip(path / "keys.db", "node", "blob", NODES["a leaf"][1])
    before = (lab.copy_dir / "keys.db").read_bytes()
    report = scrub(lab)
    assert [each.file for each in report.left] == ["keys.db"]
    assert "no live copy has it whole" in report.left[0].message
    assert not report.repairs
    assert (lab.copy_dir / "keys.db").read_bytes() == before


def test_rows_of_principals_and_of_the_index_come_from_a_copy(lab: Lab) -> None:
    token = lab.add_principal(Role.SERVICE)
    flip(lab.path / "keys.db", "principal", "sealed", "slot = (SELECT max(slot) FROM principal)")
    flip(lab.path / "keys.db", "subject_index", "sealed", "1")
    mended(lab)
    with lab.open(token) as vault:
        assert matches(vault, "alice")


def test_a_copy_whose_rows_were_altered_is_written_anew(lab: Lab) -> None:
    flip(lab.copy_dir / "keys.db", "principal", "sealed", "1")
    sql(lab.copy_dir / "keys.db", "DELETE FROM subject_index")
    report = mended(lab)
    assert "had damaged rows" in report.repairs[0].message


@pytest.mark.parametrize("name", ["keys.db", "log.db"])
@pytest.mark.parametrize("how", ["cut", "emptied", "removed", "overwritten"])
@pytest.mark.parametrize("where", ["vault", "copy"])
def test_a_damaged_file_is_made_anew(lab: Lab, name: str, how: str, where: str) -> None:
    path = lab.base / where / name
    damage(path, how)
    report = mended(lab)
    assert {each.file for each in report.repairs} == {name}
    if how != "removed":
        assert path.with_name(f"{name}.damaged").exists()


def damage(path: Path, how: str) -> None:
    raw = path.read_bytes()
    if how == "removed":
        path.unlink()
    elif how == "emptied":
        path.write_bytes(b"")
    elif how == "cut":
        path.write_bytes(raw[: len(raw) // 2])
    else:
        path.write_bytes(raw[:4096] + bytes(4096 * 3) + raw[4096 * 4 :])


@pytest.mark.parametrize("name", ["keys.db", "log.db"])
def test_a_file_that_cannot_be_read_now_is_not_replaced(
    lab: Lab, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Locked, no permission, a disk that does not answer: it may be whole, and know more than the copy."""

    def locked(*_: object) -> None:
        raise StoreError("disk I/O error")

    before = (lab.path / name).stat().st_ino
    with monkeypatch.context() as patch:
        if name == "log.db":
            patch.setattr(logdb, "read_head", locked)
        else:
            patch.setattr(KeysStore, "integrity", locked)
        with pytest.raises(StoreError):
            scrub(lab)
    assert (lab.path / name).stat().st_ino == before
    assert not list(lab.path.glob("*.damaged"))
    lab.clean()


def test_both_files_of_a_vault_are_put_back_together(lab: Lab) -> None:
    (lab.path / "keys.db").unlink()
    damage(lab.path / "log.db", "cut")
    mended(lab)


def test_an_older_keys_db_gives_way_to_the_copy_that_the_root_opens(lab: Lab) -> None:
    saved = lab.save("before")
    lab.do(lambda vault: vault.shred("bob"))
    lab.put_back(saved, "keys.db")
    with pytest.raises(RootError):
        lab.check()
    mended(lab)
    with lab.open() as vault:
        assert reason(vault, "bob") == "subject_unknown"


def test_nothing_takes_a_place_under_the_wrong_root(lab: Lab) -> None:
    (lab.path / "keys.db").unlink()
    raw = lab.root.read_bytes()
    other = Lab(lab.base / "other").create()
    lab.root.write_bytes(other.root.read_bytes())
    with pytest.raises(RootError):
        scrub(lab)
    lab.root.write_bytes(raw)
    assert not list(lab.path.glob("keys.db*"))
    mended(lab)


def test_a_copy_that_lacks_the_last_swap_takes_no_place(lab: Lab) -> None:
    lab.copy_dir.rename(lab.base / "kept")
    lab.copy_dir.mkdir()
    lab.do(lambda vault: vault.shred("bob"))
    shutil.rmtree(lab.copy_dir)
    (lab.base / "kept").rename(lab.copy_dir)
    for name in ("keys.db", "log.db"):
        (lab.path / name).unlink()
        with pytest.raises((IntegrityError, RootError)):
            scrub(lab)
        assert not list(lab.path.glob(f"{name}*"))
        break


def test_only_who_may_restore_puts_files_back(lab: Lab) -> None:
    token = lab.add_principal(Role.AUDITOR)
    (lab.path / "keys.db").unlink()
    with pytest.raises(NotAllowed):
        scrub(lab, token)
    assert not (lab.path / "keys.db").exists()
    assert not (lab.path / "keys.db.new").exists()


ENTRIES = {"the first": "idx = 0", "one amid": "idx = 4", "the last": "idx = (SELECT max(idx) FROM entry)"}


@pytest.mark.parametrize("where", ["vault", "copy"])
@pytest.mark.parametrize("column", ["sealed", "chain", "leaf"])
@pytest.mark.parametrize("entry", ENTRIES)
def test_a_damaged_entry_is_put_back(lab: Lab, entry: str, column: str, where: str) -> None:
    path = lab.base / where / "log.db"
    flip(path, "entry", column, ENTRIES[entry])
    report = mended(lab)
    assert {each.file for each in report.repairs} == {"log.db"}


@pytest.mark.parametrize("where", ["vault", "copy"])
def test_a_missing_entry_and_list_of_slots_are_put_back(lab: Lab, where: str) -> None:
    path = lab.base / where / "log.db"
    sql(path, "DELETE FROM entry WHERE idx = 3")
    sql(path, "DELETE FROM grant_entry WHERE slot = (SELECT max(slot) FROM grant_entry)")
    mended(lab)


def test_a_head_that_was_altered_brings_the_whole_file_from_the_copy(lab: Lab) -> None:
    flip(lab.path / "log.db", "head", "sealed", "1")
    report = mended(lab)
    assert "does not authenticate" in report.repairs[0].message


def test_a_rolled_back_log_is_not_written_over_the_copy_that_knows_more(lab: Lab) -> None:
    saved = lab.save("before")
    lab.do(lambda vault: reason(vault, "alice"))
    lab.put_back(saved, "log.db")
    before = sql(lab.copy_dir / "log.db", "SELECT count(*) FROM entry")
    report = scrub(lab)
    assert any("ahead" in each.message for each in report.left)
    assert sql(lab.copy_dir / "log.db", "SELECT count(*) FROM entry") == before
    with pytest.raises(IntegrityError, match=r"log\.db was rolled back"):
        lab.check()


def test_a_copy_of_another_history_is_left_as_it_is(lab: Lab) -> None:
    saved = lab.save("before")
    lab.do(lambda vault: reason(vault, "alice"))
    forked = (lab.copy_dir / "log.db").read_bytes()
    lab.put_back(saved)
    lab.do(lambda vault: reason(vault, "bob"))
    (lab.copy_dir / "log.db").write_bytes(forked)
    report = scrub(lab)
    assert any("another history" in each.message for each in report.left)
    assert (lab.copy_dir / "log.db").read_bytes() == forked


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE meta SET value = value + 5 WHERE key = 'generation'",
        "UPDATE top SET fingerprint = zeroblob(32) WHERE copy = 0",
        "UPDATE top SET fingerprint = zeroblob(32)",
        "UPDATE top SET epoch = epoch + 5",
        "UPDATE top SET epoch = epoch + 5, fingerprint = zeroblob(32)",
    ],
)
def test_what_a_copy_of_keys_db_says_of_itself_holds_nothing_up(lab: Lab, change: str) -> None:
    sql(lab.copy_dir / "keys.db", change)
    mended(lab)
    lab.do(lambda vault: vault.shred("bob"))


def test_a_copy_that_was_away_is_named_and_then_brought_up_to_date(lab: Lab) -> None:
    lab.copy_dir.rename(lab.base / "away")
    lab.enrol("dave")
    report = scrub(lab)
    assert {each.error for each in report.left} == {ErasurePending}
    (lab.base / "away").rename(lab.copy_dir)
    mended(lab)


# Root holders


@pytest.fixture
def mirrored(lab: Lab) -> Lab:
    lab.do(lambda vault: vault.keys.move(Holders(mirrors=[f"file:{lab.base}/mirror.root"])))
    return lab


@pytest.mark.parametrize("slot", [0, 1])
@pytest.mark.parametrize("name", ["root.key", "mirror.root"])
def test_a_damaged_slot_of_a_holder_is_written_anew(mirrored: Lab, name: str, slot: int) -> None:
    path = mirrored.base / name
    raw = bytearray(path.read_bytes())
    raw[4096 * slot + 60] ^= 1
    path.write_bytes(raw)
    report = mended(mirrored)
    assert report.repairs[0].file == "root"
    assert (mirrored.base / "mirror.root").read_bytes().count(b"FKROOT1") == 2


def test_a_stale_mirror_gets_the_root_that_opens_and_loses_the_old_one(mirrored: Lab) -> None:
    mirror = mirrored.base / "mirror.root"
    old = mirror.read_bytes()
    mirrored.do(lambda vault: vault.shred("bob"))
    mirror.write_bytes(old)
    mended(mirrored)
    with mirrored.open() as vault:
        assert {each.state for each in vault.keys.holders()} == {"current"}
        marks = [{each.fingerprint for each in holder.candidates()} for holder in core(vault).providers]
        assert marks == [{core(vault).view().tree.fingerprint}] * 2


def test_a_holder_that_is_lost_is_named_with_the_command(mirrored: Lab) -> None:
    (mirrored.base / "mirror.root").unlink()
    report = scrub(mirrored)
    assert [each.file for each in report.left] == ["root"]
    assert "keys move --lost" in report.left[0].next


# Interruptions


@pytest.mark.parametrize("step", ["scrub.mended", "salvage.tried", "salvage.named"])
def test_a_scrub_that_is_killed_is_done_again(lab: Lab, step: str) -> None:
    damages: dict[str, Callable[[], None]] = {
        "scrub.mended": lambda: flip(lab.path / "keys.db", "node", "blob", NODES["a leaf"][1]),
        "salvage.tried": lambda: damage(lab.path / "log.db", "cut"),
        "salvage.named": lambda: damage(lab.path / "log.db", "cut"),
    }
    damages[step]()
    lab.kill(lambda: scrub(lab), step)
    scrub(lab)
    lab.clean()


def test_an_erasure_that_waits_for_a_damaged_copy_is_finished_after_the_scrub(lab: Lab) -> None:
    announced = calling("destroy.announced", lambda: damage(lab.copy_dir / "keys.db", "cut"))
    with lab.open() as vault, announced, pytest.raises(ErasurePending):
        vault.shred("bob")
    found = lab.check().findings
    assert any("keys.db" in each.message and "check --scrub" in each.next for each in found)
    with lab.open() as vault:
        assert reason(vault, "bob") == "withdrawn"
        with pytest.raises(ErasurePending):
            vault.shred("alice")
        assert reason(vault, "alice") == "withdrawn"
    report = scrub(lab)
    assert [each.file for each in report.repairs] == ["keys.db"]
    with lab.open() as vault:
        assert not vault.keys.pending()
        assert reason(vault, "bob") == "subject_unknown"
    lab.clean()
