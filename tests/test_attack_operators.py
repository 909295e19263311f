"""Attacks on what operators do to keys: rotations, moves of the root, holders, what vault.toml names.

The attacker writes every file but holds neither the root nor a token, and kills or runs processes.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from facekeep.errors import ErasurePending, FacekeepError, IntegrityError, RootError, UsageError
from facekeep.formats.rootfile import RootSlot, SlotState, encode_slot
from facekeep.keys.file_provider import FileProvider
from facekeep.keys.tree import open_tree
from facekeep.store.keysdb import KeysStore
from facekeep.vault import Holders, Vault, Why
from vaultlab import IDENTIFY, VERIFY, Lab, at_step, calling, core, matches, reason, slots, sql

PEOPLE = ("ada", "bob")


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    made = Lab(tmp_path).create()
    made.enrol(*PEOPLE)
    return made


def uri(lab: Lab, name: str) -> str:
    return f"file:{lab.base / name}"


def empty_root_file(lab: Lab, path: Path) -> None:
    """Put a root file that holds no root, for this very vault."""
    with lab.open() as vault:
        own = core(vault).vault_id
    path.write_bytes(2 * encode_slot(RootSlot(own, SlotState.EMPTY, bytes(32))))
    path.chmod(0o600)


def opens_under(lab: Lab, saved: Path) -> list[int]:
    """Slots of present rows whose keys an old root and an old keys.db lead to."""
    with lab.open() as vault:
        own = core(vault)
        store = KeysStore.open(saved / "vault" / "keys.db", own.vault_id)
        kept = FileProvider(saved / "root.key", own.vault_id).candidates()
        old, _ = open_tree(store, own.vault_id, kept)
        alive = []
        for row in own.data.rows():
            with contextlib.suppress(FacekeepError):
                own.sealer.open_record(old.slot_key(row.slot), row)
                alive.append(row.slot)
        return alive


# -- the only root, destroyed by a move


def test_a_layer_around_the_present_holder_takes_its_root_with_an_empty_record_file(lab: Lab) -> None:
    pass


def plant(lab: Lab, scheme: str, path: Path) -> None:
    from facekeep.store.holderfile import HolderFile

    with lab.open() as vault:
        own = core(vault).vault_id
    path.parent.mkdir(parents=True, exist_ok=True)
    HolderFile(path, own, scheme).create()


def test_planted(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = lab.base / "pass"
    secret.write_text("correct horse battery staple\n")
    secret.chmod(0o600)
    monkeypatch.setenv("FACEKEEP_PASSPHRASE_FILE", str(secret))
    plant(lab, "passphrase-file", lab.base / "layer")
    with lab.open() as vault:
        with pytest.raises(FacekeepError) as caught:
            vault.keys.move(Holders(root_uri=f"passphrase:?memory=64&file={lab.base / 'layer'}|{uri(lab, 'root.key')}"))
        print(repr(caught.value))
    assert lab.root.exists()
    lab.clean()


def test_lost_all(lab: Lab) -> None:
    with lab.open() as vault:
        with contextlib.suppress(FacekeepError):
            vault.keys.move(Holders(root_uri=uri(lab, "new.root"), lost=[uri(lab, "root.key")]))
    lab.clean()


def test_branches(lab: Lab) -> None:
    saved = lab.save("before")
    rows = lab.sql("vault.db", "SELECT * FROM grants")
    marks = ",".join("?" * len(rows[0]))

    def hide() -> None:
        lab.sql("vault.db", "DELETE FROM grants")

    def back() -> None:
        for row in rows:
            lab.sql("vault.db", f"INSERT INTO grants VALUES ({marks})", row)

    with lab.open() as vault:
        with calling("rotate.begun", hide):
            pass
    lab.crash(lambda vault: vault.keys.rotate_templates(Why.COMPROMISE), "rotate.begun")
    hide()

    def run() -> None:
        at_step("destroy.rows-deleted", signal.SIGKILL)
        lab.do(lambda vault: vault.keys.rotate_templates())

    process = lab.fork(run)
    with contextlib.suppress(AssertionError):
        process.wait_killed()
    back()
    with lab.open() as vault:
        done = vault.keys.rotate_templates()
        print(done)
    assert not opens_under(lab, saved)


def test_begun(lab: Lab) -> None:
    saved = lab.save("before")
    lab.crash(lambda vault: vault.keys.rotate_templates(Why.COMPROMISE), "rotate.begun")
    lab.enrol("dora")
    with lab.open() as vault:
        print(vault.keys.rotate_templates())
    assert not opens_under(lab, saved)


def test_empty_leaving(lab: Lab) -> None:
    kept = lab.base / "kept"
    empty_root_file(lab, lab.base / "empty")

    def swap_file() -> None:
        lab.root.rename(kept)
        (lab.base / "empty").rename(lab.root)

    with lab.open() as vault:
        vault.keys.move(Holders(mirrors=[uri(lab, "mirror.root")]))
        with calling("move.renamed", swap_file):
            try:
                print(vault.keys.move(Holders(root_uri=uri(lab, "mirror.root"), mirrors=[])))
            except FacekeepError as e:
                print(repr(e))
            else:
                raise AssertionError("said destroyed")


def test_empty_mirror(lab: Lab) -> None:
    kept = lab.base / "kept"
    with lab.open() as vault:
        vault.keys.move(Holders(mirrors=[uri(lab, "mirror.root")]))
    empty_root_file(lab, lab.base / "empty")
    (lab.base / "mirror.root").rename(kept)
    (lab.base / "empty").rename(lab.base / "mirror.root")
    with lab.open() as vault:
        with pytest.raises(ErasurePending):
            vault.shred("bob")


def test_tree_race(lab: Lab) -> None:
    with lab.open() as vault:
        tag = core(vault).index.lookup(b"ada")
    rows = lab.sql("vault.db", "SELECT * FROM grants WHERE tag = ?", [tag])
    marks = ",".join("?" * len(rows[0]))
    with lab.open() as vault:
        with calling("rotate.announced", lambda: lab.sql("vault.db", "DELETE FROM grants WHERE tag = ?", [tag])):
            with contextlib.suppress(FacekeepError):
                vault.keys.rotate_tree()
        for row in rows:
            lab.sql("vault.db", f"INSERT INTO grants VALUES ({marks})", row)
        vault.shred("ada")


def test_symlink(lab: Lab) -> None:
    victim = lab.base / "victim"
    victim.write_text("precious")
    (lab.path / "vault.toml.new").symlink_to(victim)
    with lab.open() as vault:
        vault.change_settings(region="FR")
    assert victim.read_text() == "precious"
