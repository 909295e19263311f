"""Attack: all files are rolled back within one epoch, so that the log does not know a grant that was made.

No erasure names its slot. Whoever kept the row must have nothing of it after the next swap: no keys.db of
then opens it under the root of then, and no log that is begun anew takes it up.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from facekeep.errors import FacekeepError, IntegrityError, NotAllowed
from facekeep.formats.ids import split_slot
from facekeep.keys.tree import open_tree
from facekeep.operations.destroy import Destruction, destroy
from facekeep.vault import Role, Vault
from vaultlab import DAY, IDENTIFY, MODEL, THRESHOLD, VERIFY, Lab, core, face, identify, matches, reason

SWAP_STEPS = [
    "destroy.announced",
    *(f"{when} {name}" for name in ("stage", "write", "verify", "promote") for when in ("before", "after")),
    "destroy.completed",
    "destroy.rows-deleted",
]


class Hidden:
    """A vault rolled back behind Alice's grant to search and an operator's making; what they had was kept."""

    def __init__(self, base: Path, *, copies: bool = False) -> None:
        self.lab = lab = Lab(base, copies=copies).create()
        lab.enrol("bob", "carol")
        lab.enrol("alice", scopes=(VERIFY,))
        _, token = lab.do(lambda vault: vault.add_principal("leaving", [Role.SERVICE]))
        self.leaving = token.split(".")[1]
        old = lab.save("old")
        with lab.open() as vault:
            before = set(core(vault).data.slots())
            vault.grant("alice", lab.consent(IDENTIFY))
            (self.row,) = [row for row in core(vault).data.rows() if row.slot not in before]
            assert identify(vault, "alice") == ["alice"]
            self.guest, self.guest_token = vault.add_principal("guest", [Role.OPERATOR])
        self.slot = self.row.slot
        self.kept = lab.sql("vault.db", "SELECT * FROM grants WHERE slot = ?", (self.slot,))[0]
        principals = lab.sql("keys.db", "SELECT * FROM principal ORDER BY slot")
        self.kept_principal = principals[-1]
        lab.put_back(old)
        assert self.opens(), "the attack has no object"

    def opens(self) -> bool:
        """Whether the kept row opens with the present keys.db under the present root."""
        with self.lab.open() as vault:
            own = core(vault)
            tree, _ = open_tree(own.keys, own.vault_id, own.providers[0].candidates())
            try:
                own.sealer.open_record(tree.slot_key(self.slot), self.row)
            except FacekeepError:
                return False
            return True

    def plant(self) -> None:
        """Put what was kept back beside what is there."""
        marks = "?,?,?,?,?,?,?,?"
        self.lab.sql("vault.db", f"INSERT OR REPLACE INTO grants VALUES ({marks})", self.kept)
        self.lab.sql("keys.db", "INSERT OR REPLACE INTO principal VALUES (?,?,?,?,?)", self.kept_principal)

    def lose_log(self) -> None:
        for directory in (self.lab.path, self.lab.copy_dir):
            for suffix in ("", "-wal", "-shm"):
                (directory / f"log.db{suffix}").unlink(missing_ok=True)


@pytest.fixture
def hidden(tmp_path: Path) -> Hidden:
    return Hidden(tmp_path)


def bare_swap(_: Hidden, vault: Vault) -> object:
    with core(vault).lock.held():
        return destroy(core(vault), None, Destruction("rotate", ()))


def days_later(hidden: Hidden, vault: Vault) -> object:
    hidden.lab.clock.ms += 2 * DAY
    return vault.maintain()


ACTS: dict[str, Callable[[Hidden, Vault], object]] = {
    "shred": lambda _, vault: vault.shred("alice"),
    "shred another": lambda _, vault: vault.shred("bob"),
    "withdraw": lambda _, vault: vault.withdraw("alice", [VERIFY]),
    "renew": lambda hidden, vault: vault.renew("bob", hidden.lab.consent(VERIFY)),
    "revoke": lambda hidden, vault: vault.revoke_principal(hidden.leaving),
    "root": lambda _, vault: vault.keys.rotate_root(),
    "tree": lambda _, vault: vault.keys.rotate_tree(),
    "templates": lambda _, vault: vault.keys.rotate_templates(),
    "maintain": days_later,
    "nothing": bare_swap,
}


@pytest.mark.parametrize("act", ACTS)
def test_a_grant_of_the_hidden_history_ends_with_any_swap(hidden: Hidden, act: str) -> None:
    hidden.lab.do(lambda vault: ACTS[act](hidden, vault))
    assert not hidden.opens()
    if act != "maintain":  # which expires what is older
        assert hidden.lab.do(lambda vault: matches(vault, "carol"))
    hidden.lab.clean()


def test_its_row_put_back_and_a_log_begun_anew_do_not_bring_the_erased_back(hidden: Hidden) -> None:
    lab = hidden.lab
    lab.do(lambda vault: vault.shred("alice"))
    hidden.plant()
    hidden.lose_log()
    done = Vault.restart_log(lab.path, token=lab.token, clock=lab.clock)
    assert done is not None
    assert (done.grants, done.dead + done.left) == (4, 1)
    with lab.open() as vault:
        assert identify(vault, "alice") == []
        assert reason(vault, "alice") == "subject_unknown"
        assert identify(vault, "bob") == ["bob"]
        assert "alice" not in {each.subject for each in vault.subjects()}


def test_a_principal_of_the_hidden_history_is_not_taken_up_after_a_swap(hidden: Hidden) -> None:
    lab = hidden.lab
    lab.do(lambda vault: vault.shred("alice"))
    hidden.plant()
    with pytest.raises(FacekeepError):
        lab.do(lambda vault: vault.whoami(), hidden.guest_token)
    hidden.lose_log()
    with pytest.raises(NotAllowed):
        Vault.restart_log(lab.path, token=hidden.guest_token, clock=lab.clock)
    done = Vault.restart_log(lab.path, token=lab.token, clock=lab.clock)
    assert done is not None
    assert done.principals == 2
    with pytest.raises(FacekeepError):
        lab.do(lambda vault: vault.whoami(), hidden.guest_token)


def test_the_slot_given_out_again_after_a_swap_has_another_key(hidden: Hidden) -> None:
    lab = hidden.lab
    lab.do(lambda vault: vault.shred("alice"))
    lab.enrol("dave", scopes=(IDENTIFY,))
    with lab.open() as vault:
        assert hidden.slot in set(core(vault).data.slots()), "the slot is another"
        assert identify(vault, "dave") == ["dave"]
    assert not hidden.opens()
    marks = ",".join("?" * len(hidden.kept))
    lab.sql("vault.db", f"INSERT OR REPLACE INTO grants VALUES ({marks})", hidden.kept)
    with lab.open() as vault:
        assert identify(vault, "alice") == identify(vault, "dave") == []


def test_rolled_back_again_and_again(hidden: Hidden) -> None:
    """Each life of the vault gives out the same slots; none outlasts the swap that follows it."""
    lab = hidden.lab
    lab.do(lambda vault: vault.keys.rotate_root())
    kept = [hidden.row]
    for name in ("dave", "eve"):
        old = lab.save(name)
        lab.enrol(name, scopes=(IDENTIFY,))
        with lab.open() as vault:
            kept += [row for row in core(vault).data.rows() if row.slot == hidden.slot]
        lab.put_back(old)
        lab.do(lambda vault: vault.keys.rotate_root())
    assert len(kept) == 3
    for hidden.row in kept:
        assert not hidden.opens()


@pytest.mark.parametrize("step", SWAP_STEPS)
def test_killed_at_any_step_the_finished_erasure_ends_it_too(hidden: Hidden, step: str) -> None:
    lab = hidden.lab
    lab.crash(lambda vault: vault.shred("alice"), step)
    lab.do(lambda vault: vault.keys.resume())
    assert not hidden.opens()
    with lab.open() as vault:
        assert reason(vault, "alice") in {"subject_unknown", "destroyed"}
        assert matches(vault, "bob")
        assert not core(vault).view().head.operations


def test_a_grant_that_was_announced_and_no_more_keeps_its_key(tmp_path: Path) -> None:
    """Its slot is below what was given out: another's erasure in the meantime does not break it."""
    lab = Lab(tmp_path).create()
    lab.enrol("bob")
    lab.crash(lambda vault: vault.enroll_many([lab.enrolment("dave")]), "grant.written")
    with lab.open() as vault:
        vault.shred("bob")
        assert matches(vault, "dave")
        assert identify(vault, "dave") == ["dave"]
    lab.clean()


def test_the_first_branch_that_is_taken_for_a_full_one_is_fresh_each_time(hidden: Hidden) -> None:
    """A branch in which nobody was given a slot is no exception."""
    lab = hidden.lab
    with lab.open() as vault:
        own = core(vault)
        unused = [each for each in own.view().kinds if each not in own.view().head.alloc]
        assert unused
        before = {each: own.view().tree.slot_key(each << 21) for each in unused}
        vault.keys.rotate_root()
        assert all(own.view().tree.slot_key(each << 21) != before[each] for each in unused)
    assert not hidden.opens()


def test_a_damaged_node_on_the_way_leaves_the_erasure_pending_and_denied(tmp_path: Path) -> None:
    """What cannot be read cannot be told apart: nobody says "erased"; a live copy mends it."""
    hidden = Hidden(tmp_path, copies=True)
    lab = hidden.lab
    lab.do(lambda vault: vault.keys.rotate_root())
    branch, _ = split_slot(hidden.slot)
    (leaf,) = lab.sql("keys.db", "SELECT max(id) FROM node WHERE id >> 15 = ?", (branch,))[0]
    lab.sql("keys.db", "UPDATE node SET blob = zeroblob(3900) WHERE id = ?", (leaf,))
    with lab.open() as vault:
        with pytest.raises(IntegrityError, match="damaged"):
            vault.shred("alice")
        assert reason(vault, "alice") == "withdrawn"
    Vault.scrub(lab.path, token=lab.token, clock=lab.clock)
    lab.do(lambda vault: vault.keys.resume())
    assert not hidden.opens()
    lab.clean()


def test_a_gallery_that_is_open_goes_on_over_the_swap(hidden: Hidden) -> None:
    with hidden.lab.open() as vault, vault.gallery(model=MODEL) as gallery:
        assert [each.subject for each in gallery.search(face("bob"), THRESHOLD, 1).candidates] == ["bob"]
        vault.shred("alice")
        vault.enroll_many([hidden.lab.enrolment("dave", IDENTIFY)])
        assert [each.subject for each in gallery.search(face("dave"), THRESHOLD, 1).candidates] == ["dave"]
        assert gallery.search(face("alice"), THRESHOLD, 1).candidates == ()


def test_damaged_nodes_of_the_principals_keep_no_operator_out(tmp_path: Path) -> None:
    """Every swap stores the newest of them, once: the log knows who is an operator, and who is no more."""
    lab = Lab(tmp_path).create()
    lab.enrol("alice", "bob")
    identity, revoked = lab.do(lambda vault: vault.add_principal("gone", [Role.OPERATOR]))
    lab.do(lambda vault: vault.revoke_principal(identity))
    lab.sql("keys.db", "UPDATE node SET blob = zeroblob(length(blob)) WHERE id BETWEEN 256 AND 32767")
    with pytest.raises(NotAllowed):
        lab.do(lambda vault: vault.whoami(), revoked)
    with lab.open() as vault:
        assert matches(vault, "bob")
        with pytest.raises(IntegrityError, match="damaged"):
            vault.shred("alice")
        assert reason(vault, "alice") == "withdrawn"
