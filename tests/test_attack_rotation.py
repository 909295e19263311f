"""kill -9 at every step of every rotation: everybody matches, the erased stay erased, and it goes on."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from facekeep.audit.logs import verify_log
from facekeep.errors import IntegrityError, RootError, UsageError
from facekeep.keys.file_provider import FileProvider
from facekeep.keys.tree import open_tree
from facekeep.store.holderfile import HolderFile
from facekeep.store.keysdb import KeysStore
from facekeep.vault import Holders, Vault, Why
from layers_help import PASSPHRASE
from vaultlab import Lab, core, identify, matches, reason

PEOPLE = ("ada", "bob")


def move(lab: Lab, vault: Vault) -> None:
    """Move, or go on with it; a second time there is nothing to do."""
    if vault.keys.resume().entry is None and vault.settings.root_uri == f"file:{lab.root}":
        vault.keys.move(Holders(root_uri=f"file:{lab.base / 'new.root'}"))


def mirror(lab: Lab, vault: Vault) -> None:
    if vault.keys.resume().entry is None and not vault.settings.mirrors:
        vault.keys.move(Holders(mirrors=[f"file:{lab.base / 'mirror.root'}"]))


ROTATIONS: dict[str, Callable[[Lab, Vault], object]] = {
    "root": lambda _, vault: vault.keys.rotate_root(Why.DRILL),
    "tree": lambda _, vault: vault.keys.rotate_tree(Why.DRILL),
    "templates": lambda _, vault: vault.keys.rotate_templates(Why.DRILL),
    "signing": lambda _, vault: vault.keys.rotate_signing(Why.DRILL),
    "move": move,
    "mirror": mirror,
}


def sound(lab: Lab) -> None:
    """Everybody matches, Cy stays erased, all verifies; an auditor finds no rule broken."""
    with lab.open() as vault:
        for name in PEOPLE:
            assert matches(vault, name)
            assert identify(vault, name) == [name]
        assert reason(vault, "cy") == "subject_unknown"
        assert core(vault).log.head().operations == ()
        report = vault.check()
        assert report.findings == [], report.findings
        assert report.missing == []
        vault.audit_export(lab.base / "export")
        verify_log(lab.base / "export", vault.audit_keys(every=True))


def old_roots_open_nothing_new(lab: Lab, old_root: Path) -> None:
    """The root that was kept from before opens the present keys.db under no circumstances."""
    with lab.open() as vault:
        own = core(vault)
        with pytest.raises((RootError, IntegrityError)):
            open_tree(own.keys, own.vault_id, FileProvider(old_root, own.vault_id).candidates())


@pytest.mark.parametrize("copies", [False, True], ids=["alone", "with copies"])
@pytest.mark.parametrize("rotation", ROTATIONS)
def test_kill_at_every_step_of_a_rotation(tmp_path: Path, rotation: str, copies: bool) -> None:
    lab = Lab(tmp_path, copies=copies).create()
    lab.enrol(*PEOPLE, "cy")
    lab.do(lambda vault: vault.shred("cy"))
    act = partial(ROTATIONS[rotation], lab)
    start = lab.save("start")
    found = lab.steps_of(act)
    assert found
    for step, occurrence in found:
        for extra in ("new.root", "mirror.root"):
            (lab.base / extra).unlink(missing_ok=True)
        lab.put_back(start)
        remove(lab.base / "export")
        lab.crash(act, step, occurrence)
        sound(lab)
        lab.do(act)
        sound(lab)
        if rotation != "signing":
            old_roots_open_nothing_new(lab, start / "root.key")
    if rotation == "templates":
        nothing_new_opens(lab, start)


def nothing_new_opens(lab: Lab, start: Path) -> None:
    """Not one row of now has a slot to which the old root and the old keys.db lead."""
    with lab.open() as vault:
        own = core(vault)
        store = KeysStore.open(start / "vault" / "keys.db", own.vault_id)
        old, _ = open_tree(store, own.vault_id, FileProvider(start / "root.key", own.vault_id).candidates())
        slots = own.data.slots()
        assert slots
        assert not old.alive(slots).any()


def remove(directory: Path) -> None:
    for path in sorted(directory.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def test_a_layer_before_the_root_in_use_destroys_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where a move to it was killed once, when it had made its file and no more."""
    lab = Lab(tmp_path).create()
    lab.enrol("ada")
    (tmp_path / "words").touch(mode=0o600)
    (tmp_path / "words").write_bytes(PASSPHRASE)
    monkeypatch.setenv("FACEKEEP_PASSPHRASE_FILE", str(tmp_path / "words"))
    with lab.open() as vault:
        HolderFile(tmp_path / "layer", core(vault).vault_id, "passphrase-file").create()
        with pytest.raises(UsageError, match="two of the root holders are one"):
            vault.keys.move(Holders(root_uri=f"passphrase:?file={tmp_path / 'layer'}|file:{lab.root}"))
    assert lab.do(lambda vault: matches(vault, "ada"))
    lab.clean()
