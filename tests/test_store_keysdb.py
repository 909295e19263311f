from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from facekeep.errors import (
    ErasurePending,
    FacekeepError,
    ForeignFile,
    IntegrityError,
    StoreError,
    UsageError,
)
from facekeep.formats.nodes import NODE_LEN
from facekeep.keys.swap import initial
from facekeep.store import keysdb, keysrows
from facekeep.store.keysdb import KeysStore, PrincipalRow
from facekeep.store.sqlite import Database
from keys_help import NOW, VAULT, Lab, copy_file, sql, verify_slot


def principal(slot: int, number: int = 1) -> PrincipalRow:
    return PrincipalRow(slot, number.to_bytes(8, "big"), b"g" * 16, b"c" * 32, b"sealed")


def content(path: Path) -> list[tuple[object, ...]]:
    tables = ("meta", "top", "node", "subject_index", "principal")
    return [row for table in tables for row in sql(path, f"SELECT '{table}', * FROM {table} ORDER BY 2")]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


@pytest.fixture
def twin(tmp_path: Path) -> Lab:
    """A lab with one live copy."""
    return Lab(tmp_path, [tmp_path / "usb" / "keys.db"])


def test_a_stored_node_fits_one_page(lab: Lab) -> None:
    header, cell, pointer = 8, 9 + 3 + 1 + 1 + 8 + 3, 2  # the longest varints and an 8-byte epoch
    assert header + pointer + cell + NODE_LEN + 30 <= 4096
    lab.shred(*(verify_slot(120 * i) for i in range(200)))
    (page_size,) = sql(lab.path, "PRAGMA page_size")[0]
    assert page_size == 4096
    pages = sql(lab.path, "SELECT count(*) FROM node")[0][0]
    lab.store.close()
    connection = sqlite3.connect(lab.path)
    try:
        overflow = connection.execute(
            "SELECT count(*) FROM dbstat WHERE name = 'node' AND pagetype = 'overflow'"
        ).fetchone()[0]
        leaves = connection.execute(
            "SELECT count(*) FROM dbstat WHERE name = 'node' AND pagetype = 'leaf'"
        ).fetchone()[0]
    except sqlite3.OperationalError:
        pytest.skip("this SQLite has no dbstat")
    finally:
        connection.close()
    assert overflow == 0
    assert leaves == pages


def test_the_node_table_is_a_strict_rowid_table(lab: Lab) -> None:
    schema = {
        str(name): str(text)
        for name, text in sql(lab.path, "SELECT name, sql FROM sqlite_master WHERE sql > ''")
    }
    assert all("STRICT" in schema[name] for name in ("top", "node", "subject_index", "principal"))
    assert "WITHOUT ROWID" in schema["subject_index"]
    assert "WITHOUT ROWID" not in schema["node"]
    with pytest.raises(sqlite3.IntegrityError):
        sql(lab.path, "INSERT INTO top VALUES (2, 1, x'', x'')")


def test_the_index_keeps_and_forgets(lab: Lab) -> None:
    lab.store.index_put_many([(b"a" * 32, b"1"), (b"b" * 32, b"2")])
    lab.store.index_put_many([(b"a" * 32, b"3")])
    assert lab.store.index_get(b"a" * 32) == b"3"
    assert lab.store.index_count() == 2
    lab.store.index_delete([b"a" * 32, b"x" * 32])
    assert lab.store.index_get(b"a" * 32) is None
    lab.store.index_replace([(b"c" * 32, b"4")])
    assert lab.store.index_get(b"b" * 32) is None
    assert lab.store.index_get(b"c" * 32) == b"4"


def test_principals_are_kept_by_slot_and_unique_by_id(lab: Lab) -> None:
    lab.store.principal_put(principal(16))
    lab.store.principal_put(principal(16))
    lab.store.principal_put(principal(17, 2))
    assert lab.store.principal_get((2).to_bytes(8, "big")) == principal(17, 2)
    assert lab.store.principal_list() == (principal(16), principal(17, 2))
    lab.store.principal_put(principal(18, 2))
    lab.store.principal_delete([16, 99])
    assert lab.store.principal_list() == (principal(18, 2),)
    assert (lab.store.principal_at(18), lab.store.principal_at(17)) == (principal(18, 2), None)
    assert lab.store.principal_get((1).to_bytes(8, "big")) is None


def test_every_write_transaction_adds_one_to_the_generation(lab: Lab) -> None:
    first = lab.store.generation()
    lab.store.index_put_many([(b"a" * 32, b"1")])
    lab.store.principal_put(principal(16))
    lab.store.principal_delete([16])
    lab.shred(verify_slot(1))
    assert lab.store.generation() == first + 4


def test_a_swap_deletes_the_rows_it_names(lab: Lab) -> None:
    lab.store.principal_put(principal(16))
    lab.store.index_put_many([(b"a" * 32, b"1"), (b"b" * 32, b"2")])
    swap = lab.swap([16])
    swap._principals, swap._index_hashes = (16,), (b"a" * 32,)
    swap.run()
    assert lab.store.principal_list() == ()
    assert lab.store.index_get(b"a" * 32) is None
    assert lab.store.index_get(b"b" * 32) == b"2"


def test_a_second_first_epoch_is_refused(lab: Lab) -> None:
    before = content(lab.path)
    with pytest.raises(IntegrityError):
        initial(lab.store, VAULT, b"r" * 32, NOW, ())
    assert content(lab.path) == before


def test_a_swap_planned_on_another_epoch_is_refused(lab: Lab) -> None:
    stale = lab.swap([verify_slot(1)])
    lab.shred(verify_slot(2))
    before = content(lab.path)
    for step in (stale.stage, stale.write):
        with pytest.raises(IntegrityError):
            step()
    assert content(lab.path) == before


def test_integrity_finds_a_damaged_page(lab: Lab) -> None:
    lab.shred(*(verify_slot(120 * i) for i in range(50)))
    lab.store.integrity()
    lab.store.close()
    raw = bytearray(lab.path.read_bytes())
    for page in range(4, len(raw) // 4096):
        raw[4096 * page : 4096 * page + 8] = b"\xff" * 8
    lab.path.write_bytes(raw)
    with pytest.raises(FacekeepError), KeysStore.open(lab.path, VAULT) as store:
        store.integrity()


def test_a_file_of_another_vault_is_foreign(lab: Lab) -> None:
    with pytest.raises(ForeignFile):
        KeysStore.open(lab.path, b"another vault id")
    with pytest.raises(IntegrityError, match=r"nothing\.db is missing"):
        KeysStore.open(lab.directory / "nothing.db", VAULT)


def test_a_file_replaced_under_a_running_store_is_noticed(lab: Lab) -> None:
    saved = lab.save("saved.db")
    saved.rename(lab.path)
    for read in (lab.store.read_top, lab.store.read_fingerprints, lambda: lab.store.index_get(b"a" * 32)):
        with pytest.raises(IntegrityError, match="replaced"):
            read()


# -- live copies


def test_a_copy_follows_every_write(twin: Lab) -> None:
    twin.store.index_put_many([(b"a" * 32, b"1")])
    twin.store.principal_put(principal(16))
    twin.shred(verify_slot(5))
    (state,) = twin.store.copies_state()
    assert (state.state, state.epoch, state.generation) == ("current", 2, twin.store.generation())
    assert content(state.path) == content(twin.path)


def test_a_copy_that_is_the_file_itself_is_refused(lab: Lab) -> None:
    link = lab.directory / "link.db"
    link.hardlink_to(lab.path)
    for path in (lab.path, link):
        with pytest.raises((UsageError, IntegrityError)):
            KeysStore.open(lab.path, VAULT, [path])


def test_copy_away_stops_a_swap_before_anything_changed(twin: Lab) -> None:
    usb = twin.directory / "usb"
    usb.rename(twin.directory / "pocket")
    before, root_file = content(twin.path), twin.root_path.read_bytes()
    assert [each.state for each in twin.store.copies_state()] == ["away"]
    with pytest.raises(ErasurePending):
        twin.shred(verify_slot(5))
    assert content(twin.path) == before
    assert twin.root_path.read_bytes() == root_file
    twin.store.index_put_many([(b"a" * 32, b"1")])
    (twin.directory / "pocket").rename(usb)
    assert [each.state for each in twin.store.copies_state()] == ["behind"]
    twin.store.index_put_many([(b"b" * 32, b"2")])
    assert [each.state for each in twin.store.copies_state()] == ["behind"]
    assert [each.state for each in twin.store.resync_copies()] == ["current"]
    assert content(usb / "keys.db") == content(twin.path)
    assert not twin.shred(verify_slot(5)).alive([verify_slot(5)])[0]


def test_a_swap_catches_up_a_copy_that_is_behind(twin: Lab) -> None:
    (twin.directory / "usb").rename(twin.directory / "pocket")
    twin.store.index_put_many([(b"a" * 32, b"1")])
    (twin.directory / "pocket").rename(twin.directory / "usb")
    twin.shred(verify_slot(5))
    assert content(twin.directory / "usb" / "keys.db") == content(twin.path)


def test_a_missing_copy_is_made_whole(twin: Lab) -> None:
    copy = twin.directory / "usb" / "keys.db"
    copy.unlink()
    (copy.parent / "keys.db-wal").write_bytes(b"leftover")
    (copy.parent / "keys.db.new").write_bytes(b"leftover")
    assert [each.state for each in twin.store.resync_copies(create=False)] == ["missing"]
    with pytest.raises(ErasurePending):
        twin.shred(verify_slot(5))
    assert [each.state for each in twin.store.resync_copies()] == ["current"]
    assert content(copy) == content(twin.path)
    assert copy.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in copy.parent.iterdir()] == ["keys.db"]


def test_a_copy_that_is_ahead_is_never_overwritten(twin: Lab) -> None:
    copy = twin.directory / "usb" / "keys.db"
    old = twin.save("old.db")
    twin.shred(verify_slot(5))
    twin.store.close()
    for name in ("keys.db", "keys.db-wal", "keys.db-shm"):
        (twin.directory / name).unlink(missing_ok=True)
    copy_file(old, twin.path)
    before = content(copy)
    with KeysStore.open(twin.path, VAULT, [copy]) as store:
        assert [each.state for each in store.copies_state()] == ["ahead"]
        with pytest.raises(IntegrityError, match="newer") as caught:
            store.resync_copies()
        assert "check --scrub" in caught.value.next.command
        store.index_put_many([(b"a" * 32, b"1")])
    assert content(copy) == before


def test_a_generation_decides_nothing(twin: Lab) -> None:
    copy = twin.directory / "usb" / "keys.db"
    sql(copy, "UPDATE meta SET value = value + 9 WHERE key = 'generation'")
    assert [each.state for each in twin.store.copies_state()] == ["behind"]
    twin.shred(verify_slot(5))
    assert [each.state for each in twin.store.copies_state()] == ["current"]


def test_a_principal_that_only_the_copy_has_comes_back(twin: Lab) -> None:
    copy = twin.directory / "usb" / "keys.db"
    sql(copy, "INSERT INTO principal VALUES (99, x'00', x'01', x'02', x'03')")
    sql(copy, "UPDATE meta SET value = value + 1 WHERE key = 'generation'")
    twin.store.resync_copies()
    assert [row.slot for row in twin.store.principal_list()] == [99]
    assert content(copy) == content(twin.path)


def test_a_copy_of_another_history_is_never_overwritten(twin: Lab) -> None:
    copy = twin.directory / "usb" / "keys.db"
    fork = copy_file(twin.save("fork.db"), twin.directory / "fork2.db")
    twin.shred(verify_slot(5))
    sql(fork, "UPDATE top SET epoch = epoch + 1")
    shutil.copy(fork, copy)
    assert [each.state for each in twin.store.copies_state()] == ["diverged"]
    with pytest.raises(IntegrityError):
        twin.store.resync_copies()


def test_foreign_and_damaged_copies_are_never_overwritten(twin: Lab, tmp_path: Path) -> None:
    copy = twin.directory / "usb" / "keys.db"
    copy.unlink()
    KeysStore.create(copy, b"another vault id").close()
    with pytest.raises(ForeignFile):
        twin.store.resync_copies()
    copy.write_bytes(b"not a database at all" * 300)
    with pytest.raises(IntegrityError, match="damaged"):
        twin.store.resync_copies()
    with pytest.raises(ErasurePending, match="damaged"):
        twin.shred(verify_slot(1))
    copy.unlink()
    copy.symlink_to(tmp_path / "nowhere.db")
    with pytest.raises(IntegrityError):
        twin.store.resync_copies()


@contextmanager
def copy_fails(monkeypatch: pytest.MonkeyPatch, when: str) -> Iterator[None]:
    """Let transactions on the copy fail at their beginning or at their commit."""
    real = Database.transaction

    @contextmanager
    def faulty(self: Database, shared: sqlite3.Connection | None = None) -> Iterator[sqlite3.Connection]:
        if self.path.parent.name == "usb" and when == "begin":
            raise StoreError("the copy's disk is gone")
        with real(self, shared) as connection:
            yield connection
            if self.path.parent.name == "usb" and when == "commit":
                raise StoreError("the copy's disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Database, "transaction", faulty)
        yield


@pytest.mark.parametrize("when", ["begin", "commit"])
def test_a_copy_failing_inside_a_swap_leaves_it_to_be_finished(
    twin: Lab, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    living = twin.tree.slot_key(verify_slot(6))
    before = content(twin.path)
    with copy_fails(monkeypatch, when), pytest.raises(ErasurePending):
        twin.shred(verify_slot(5))
    assert (content(twin.path) == before) == (when == "begin")
    assert len(twin.provider.candidates()) == 2
    tree = twin.recover()
    assert len(twin.provider.candidates()) == 1
    assert [each.state for each in twin.store.copies_state()] == ["current"]
    assert tree.alive([verify_slot(5)])[0] == (when == "begin")
    assert tree.slot_key(verify_slot(6)) == living
    assert not twin.shred(verify_slot(5)).alive([verify_slot(5)])[0]


def test_a_copy_failing_a_row_changes_nothing(twin: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    before = content(twin.path)
    real = keysrows.apply_swap

    def full(*arguments: object) -> None:
        real(*arguments)  # type: ignore[arg-type]
        raise ErasurePending("the copy's disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(keysdb, "apply_swap", full)
        with pytest.raises(ErasurePending):
            twin.shred(verify_slot(5))
    assert content(twin.path) == before
    assert content(twin.directory / "usb" / "keys.db") == before


@pytest.mark.parametrize("when", ["begin", "commit"])
def test_ordinary_writes_go_on_without_the_copy(
    twin: Lab, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    with copy_fails(monkeypatch, when):
        twin.store.index_put_many([(b"a" * 32, b"1")])
    assert twin.store.index_get(b"a" * 32) == b"1"
    assert [each.state for each in twin.store.copies_state()] == ["behind"]
    assert [each.state for each in twin.store.resync_copies()] == ["current"]
