"""A vault with a recovery key: what it says of it, what damage does, and what it opens (SPEC §4.7)."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import cast

import pytest

from facekeep.access.core import LOG_KEY_SLOT
from facekeep.audit.bundle import verify
from facekeep.audit.certificate import render
from facekeep.errors import ErasurePending, IntegrityError, RootError, SlotDead, UsageError
from facekeep.formats.canonical import JsonObject
from facekeep.formats.recoverykey import recovery_uri
from facekeep.formats.settings import Settings
from facekeep.keys.recovery_key import WEAKENING, RecoveryKey
from facekeep.keys.secrets import Secrets
from facekeep.keys.tree import open_tree
from facekeep.operations import recovering
from facekeep.operations.move import Holders
from facekeep.operations.opening import open_core
from facekeep.store.keysdb import KeysStore
from facekeep.vault import Vault
from recovery_help import KEY, OTHER
from vaultlab import VERIFY, Lab, core, log_entries, matches, reason, slots

NONE = Secrets()


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path, recovery=recovery_uri(KEY.public)).create()


def file_of(lab: Lab) -> Path:
    return lab.path / f"recovery-{KEY.mark.hex()[:16]}"


def key_of(lab: Lab, name: str) -> tuple[int, bytes]:
    """A person's slot and its key."""

    def look(vault: Vault) -> tuple[int, bytes]:
        slot = slots(vault, name)[VERIFY]
        return slot, core(vault).view().tree.slot_key(slot)

    return lab.do(look)


def opened_with(saved: Path, key: RecoveryKey, slot: int) -> bytes:
    """What somebody has who holds saved files of a vault and a private key, and nothing else."""
    root = recovering.recover_root(saved / "vault", key, NONE)
    vault_id = Settings.decode((saved / "vault" / "vault.toml").read_text()).vault_id
    store = KeysStore.open(saved / "vault" / "keys.db", vault_id, ())
    standing = recovering.stand_in(saved / "vault", key, NONE)
    tree, winner = open_tree(store, vault_id, standing.candidates())
    assert winner.root == root
    found = tree.slot_key(slot)
    store.close()
    return found


# -- the words


def test_status_states_the_weakening_and_does_not_warn_of_it(lab: Lab) -> None:
    lab.enrol("ada")
    found = lab.do(lambda vault: vault.status())
    assert found["recovery"] == {"key": KEY.mark.hex(), "weakening": WEAKENING}
    holders = cast("list[JsonObject]", found["holders"])
    assert [(each["class"], each["limits"]) for each in holders[1:]] == [("recovery", ["offline_key"])]
    assert "recovery" not in str(found["warnings"])
    lab.clean()


def test_a_vault_without_one_says_so(tmp_path: Path) -> None:
    lab = Lab(tmp_path).create()
    assert lab.do(lambda vault: vault.status())["recovery"] is None
    with pytest.raises(UsageError, match="no recovery key"):
        recovering.recover_root(lab.path, KEY, NONE)


def test_a_proof_counts_the_recovery_key_and_its_certificate_says_what_it_means(lab: Lab) -> None:
    lab.enrol("ada")
    with lab.open() as vault:
        vault.shred("ada")
        (tag,) = [each["tags"] for each in log_entries(vault) if each["type"] == "destroy"]
        proof = vault.audit_proof(str(tag[0]))  # type: ignore[index] # JSON
        keys = vault.audit_keys()
    proven = verify(proof.data, keys)
    assert (proven.statement.mirrors, proven.statement.recovery_keys) == (0, 1)
    receipts = [each for each in proven.receipts if each["class"] == "recovery"]
    assert {str(each["action"]) for each in receipts} == {"promoted", "destroyed"}
    assert all(each["limits"] == ["offline_key"] for each in receipts)
    page = render(proven)
    assert WEAKENING.replace("'", "&#x27;") in page
    assert "recovery keys</th><td>1" in page


# -- what it weakens, and for whom


def test_an_old_copy_and_the_private_key_open_what_was_erased_since(lab: Lab) -> None:
    """The weakening, asserted: were this to fail, the words in init, status and proofs would be wrong."""
    lab.enrol("ada", "bob")
    slot, key = key_of(lab, "ada")
    saved = lab.save("before")
    lab.do(lambda vault: vault.shred("ada"))
    assert opened_with(saved, KEY, slot) == key


def test_an_old_copy_without_the_private_key_opens_nothing(lab: Lab) -> None:
    lab.enrol("ada")
    slot, _ = key_of(lab, "ada")
    saved = lab.save("before")
    lab.do(lambda vault: vault.shred("ada"))
    with pytest.raises(RootError, match="not the vault's recovery key"):
        opened_with(saved, OTHER, slot)
    shutil.copy2(lab.root, saved / "root.key")  # the present root
    lab.put_back(saved)
    with pytest.raises(RootError, match="no root opens"):
        lab.do(matches_ada)


def matches_ada(vault: Vault) -> bool:
    return matches(vault, "ada")


def test_the_private_key_and_no_copy_open_nothing_erased(lab: Lab) -> None:
    lab.enrol("ada", "bob")
    slot, _ = key_of(lab, "ada")
    lab.do(lambda vault: vault.shred("ada"))
    saved = lab.save("after")
    with pytest.raises(SlotDead):
        opened_with(saved, KEY, slot)


def test_an_old_recovery_file_beside_the_present_tree_is_refused(lab: Lab) -> None:
    lab.enrol("ada")
    old = file_of(lab).read_bytes()
    lab.do(lambda vault: vault.shred("ada"))
    file_of(lab).write_bytes(old)
    with pytest.raises(RootError, match="different times"):
        recovering.recover_root(lab.path, KEY, NONE)


# -- attacks and accidents


def test_another_key_in_vault_toml_is_refused_before_anything_is_sealed_to_it(lab: Lab) -> None:
    lab.enrol("ada")
    toml = lab.path / "vault.toml"
    mine, theirs = (recovery_uri(key.public) for key in (KEY, OTHER))
    toml.write_text(toml.read_text().replace(mine, theirs))
    before = {path: path.read_bytes() for path in lab.path.glob("recovery-*")}
    with pytest.raises(IntegrityError, match="edited by hand"):
        lab.do(lambda vault: vault.shred("ada"))
    assert {path: path.read_bytes() for path in lab.path.glob("recovery-*")} == before


@pytest.mark.parametrize("content", [b"", b"{}\n", None])
def test_a_lost_or_damaged_recovery_file_is_told_answers_go_on_and_an_erasure_waits(
    lab: Lab, content: bytes | None
) -> None:
    lab.enrol("ada", "bob")
    good = file_of(lab).read_bytes()
    file_of(lab).unlink()
    if content is not None:
        file_of(lab).write_bytes(content)
    with lab.open() as vault:
        assert matches(vault, "bob")
        warnings = str(vault.status()["warnings"])
        assert "recovery" in warnings
        assert any("recovery" in str(each.message) for each in vault.check().findings)
        with pytest.raises(ErasurePending):
            vault.shred("ada")
        assert reason(vault, "ada") != "ok"
    file_of(lab).write_bytes(good)
    lab.do(lambda vault: vault.enroll_many([lab.enrolment("eve")]))  # any writing command finishes it
    lab.clean()
    recovering.recover_root(lab.path, KEY, NONE)


def test_an_altered_record_is_told_before_it_is_needed(lab: Lab) -> None:
    text = file_of(lab).read_text()
    at = text.index('"box":"') + 50
    file_of(lab).write_text(text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :])
    with lab.open() as vault:
        assert "altered" in str(vault.status()["warnings"])
        assert any("altered" in each.message for each in vault.check().findings)
    with pytest.raises(RootError, match="altered"):
        recovering.recover_root(lab.path, KEY, NONE)
    lab.enrol("ada")
    lab.do(lambda vault: vault.shred("ada"))  # seals the new root
    lab.clean()
    recovering.recover_root(lab.path, KEY, NONE)


def test_a_recovery_key_is_no_first_holder(tmp_path: Path) -> None:
    uri = recovery_uri(KEY.public)
    for given in ({"root": uri}, {"mirrors": [uri]}, {"recovery": f"file:{tmp_path / 'r'}"}):
        with pytest.raises(UsageError, match="no first holder"):
            Vault.create(tmp_path / "v", **{"root": f"file:{tmp_path / 'k'}", **given})  # type: ignore[arg-type]
    assert not (tmp_path / "v").exists()
    assert not (tmp_path / "k").exists()


# -- given to a vault that has none, exchanged, and taken away


def test_a_recovery_key_comes_changes_and_goes_with_a_move(tmp_path: Path) -> None:
    lab = Lab(tmp_path).create()
    lab.enrol("ada")
    for key in (KEY, OTHER):
        with lab.open() as vault:
            moved = vault.keys.move(Holders(recovery=[recovery_uri(key.public)]))
        assert recovery_uri(key.public) in moved.holders
        assert [path.name for path in lab.path.glob("recovery-*")] == [f"recovery-{key.mark.hex()[:16]}"]
        recovering.recover_root(lab.path, key, NONE)
    with pytest.raises(RootError, match="not the vault's recovery key"):
        recovering.recover_root(lab.path, KEY, NONE)
    lab.do(lambda vault: vault.keys.move(Holders(recovery=[])))
    assert not list(lab.path.glob("recovery-*"))
    assert lab.do(lambda vault: vault.status())["recovery"] is None
    lab.clean()


def test_after_an_exchange_the_old_private_key_opens_no_present_file(lab: Lab) -> None:
    """The reason to exchange one that was seen."""
    saved = lab.save("before")
    lab.do(lambda vault: vault.keys.move(Holders(recovery=[recovery_uri(OTHER.public)])))
    shutil.copy2(saved / "vault" / file_of(lab).name, file_of(lab))
    shutil.copy2(saved / "vault" / "vault.toml", lab.path / "vault.toml")
    with pytest.raises(RootError, match="different times"):
        recovering.recover_root(lab.path, KEY, NONE)


# -- every root holder is lost


def test_the_recovered_root_opens_the_vault_and_finishes_nothing(lab: Lab) -> None:
    lab.enrol("ada", "bob")
    file = file_of(lab)
    file.rename(file.with_name("away"))
    with lab.open() as vault, pytest.raises(ErasurePending):
        vault.shred("ada")
    file.with_name("away").rename(file)
    lab.root.unlink()
    with pytest.raises(RootError, match="missing"):
        lab.do(lambda vault: vault.status())
    before = file.read_bytes()
    found = open_core(lab.path, lab.clock, NONE, stand_in=recovering.stand_in(lab.path, KEY, NONE))
    assert found.view().head.operations
    assert found.view().tree.slot_key(LOG_KEY_SLOT)
    found.close()
    assert file.read_bytes() == before
