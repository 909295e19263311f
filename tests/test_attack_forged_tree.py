"""Attack: a root and a key tree of the attacker's own beside the vault's, while an erasure waits.

Whoever may write keys.db and one holder, and knows no root, adds a root node of the next epoch under a root
of theirs. A process that has the vault open must not take it for the swap of the erasure.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from facekeep.errors import Denied, ErasurePending, FacekeepError, IntegrityError, Unavailable
from facekeep.formats.ids import FANOUT
from facekeep.formats.nodes import EMPTY_PIN, KEY_LEN, Kind, Node, RootNode
from facekeep.formats.rootfile import SLOT_LEN, RootSlot, SlotState, encode_slot
from facekeep.keys.file_provider import FileProvider
from facekeep.keys.plan import seal_top
from facekeep.vault import Holders, Vault
from vaultlab import Lab, core, log_entries, matches

OWN_ROOT = b"A" * KEY_LEN


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path).create()
    lab.enrol("alice", "bob")
    lab.do(lambda vault: vault.keys.move(Holders(mirrors=[f"file:{tmp_path / 'mirror.root'}"])))
    return lab


def roots(path: Path, vault: Vault) -> set[bytes]:
    return {each.root for each in FileProvider(path, core(vault).vault_id).candidates()}


def plant(lab: Lab, vault: Vault, ahead: int = 1) -> None:
    """Write a root node in which nobody lives over one of the two, and its root into a spare slot."""
    own = core(vault)
    epoch = own.view().tree.epoch + ahead
    positions = ((0, Kind.SYSTEM), *[(0, Kind.FREE)] * (FANOUT - 1))
    made = RootNode(Node(b"K" * (FANOUT * KEY_LEN)), positions, 6, epoch, EMPTY_PIN, lab.clock.ms)
    row = seal_top(own.vault_id, OWN_ROOT, made)
    lab.sql(
        "keys.db",
        "UPDATE top SET epoch = ?, fingerprint = ?, blob = ? WHERE copy = 1",
        (row.epoch, row.fingerprint, row.blob),
    )
    with lab.root.open("r+b") as file:
        file.seek(SLOT_LEN)
        file.write(encode_slot(RootSlot(own.vault_id, SlotState.STAGED, OWN_ROOT)))


def wait_for_mirror(lab: Lab, vault: Vault) -> None:
    mirror = lab.base / "mirror.root"
    mirror.rename(lab.base / "away")
    with pytest.raises(ErasurePending):
        vault.shred("bob")
    (lab.base / "away").rename(mirror)


def look_again(vault: Vault) -> object:
    core(vault).forget_tree()
    return matches(vault, "alice")


@pytest.mark.parametrize("act", ["enroll", "resume", "verify"])
def test_a_root_of_the_attackers_is_not_the_swap_of_a_waiting_erasure(lab: Lab, act: str) -> None:
    acts: dict[str, Callable[[Vault], object]] = {
        "enroll": lambda vault: vault.enroll_many([lab.enrolment("eve")]),
        "resume": lambda vault: vault.keys.resume(),
        "verify": look_again,
    }
    with lab.open() as vault:
        before, size = roots(lab.root, vault), len(log_entries(vault))
        wait_for_mirror(lab, vault)
        plant(lab, vault)
        with pytest.raises((IntegrityError, Denied, Unavailable)):
            acts[act](vault)
        ends = [each["type"] for each in log_entries(vault)[size:]]
        assert "destroyed" not in ends, "the erasure is claimed under the attacker's root"
        assert "grant" not in ends, "somebody was sealed under the attacker's keys"
        for holder in (lab.root, lab.base / "mirror.root"):
            assert before & roots(holder, vault), "the root of the living was destroyed"


@pytest.mark.parametrize("ahead", [1, 5])
def test_it_is_refused_by_who_opens_the_vault_and_no_holder_loses_a_root(lab: Lab, ahead: int) -> None:
    with lab.open() as vault:
        before, vault_id = roots(lab.root, vault), core(vault).vault_id
        wait_for_mirror(lab, vault)
        plant(lab, vault, ahead)
    for act in (lab.check, lambda: Vault.scrub(lab.path, token=lab.token, clock=lab.clock)):
        with pytest.raises(FacekeepError):
            act()
    for holder in (lab.root, lab.base / "mirror.root"):
        assert before & {each.root for each in FileProvider(holder, vault_id).candidates()}


def test_once_it_is_taken_out_again_the_erasure_is_finished(lab: Lab) -> None:
    with lab.open() as vault:
        wait_for_mirror(lab, vault)
        saved = lab.sql("keys.db", "SELECT epoch, fingerprint, blob FROM top WHERE copy = 1")[0]
        holder = lab.root.read_bytes()
        plant(lab, vault)
        with pytest.raises(IntegrityError, match="not this vault's"):
            vault.keys.resume()
        lab.sql("keys.db", "UPDATE top SET epoch = ?, fingerprint = ?, blob = ? WHERE copy = 1", saved)
        lab.root.write_bytes(holder)
        vault.keys.resume()
        assert matches(vault, "alice")
    lab.clean()
