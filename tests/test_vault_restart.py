"""log.db is lost with every copy: a new one says so, adopts what proves itself, and revives nobody."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from facekeep.audit.bundle import verify
from facekeep.audit.consistency import verify_consistency
from facekeep.audit.logs import verify_log
from facekeep.audit.opening import open_trusted
from facekeep.audit.report import RuleBroken
from facekeep.audit.watch import watch
from facekeep.auditlog.exported import ExportDirectory, ExportedTree
from facekeep.errors import ClockError, FacekeepError, IntegrityError, NotAllowed, UsageError
from facekeep.formats.bundle import RESTARTED
from facekeep.operations.restart import Restarted
from facekeep.vault import Role, Vault
from vaultlab import DAY, IDENTIFY, VERIFY, Lab, core, identify, log_entries, matches, reason, slots


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path).create()
    lab.enrol("alice", "bob", "carol", "dave")
    lab.do(lambda vault: vault.shred("carol"))
    lab.do(lambda vault: vault.withdraw("dave", [VERIFY]))
    return lab


def lose_log(lab: Lab) -> None:
    for path in lab.path.glob("log.db*"):
        path.unlink()


def restart(lab: Lab, checkpoint: bytes | None = None, token: str | None = None) -> Restarted | None:
    return Vault.restart_log(lab.path, token=token or lab.token, checkpoint=checkpoint, clock=lab.clock)


def audited(lab: Lab, name: str = "export") -> tuple[str, ...]:
    """Export the log, verify all of it with the vault's keys, and return its notes."""
    with lab.open() as vault:
        keys = vault.audit_keys(every=True)
        vault.audit_export(lab.base / name)
    return verify_log(lab.base / name, keys).notes


def test_a_lost_log_is_named_with_the_command(lab: Lab) -> None:
    lose_log(lab)
    with pytest.raises(IntegrityError, match=r"log\.db is missing") as caught:
        lab.check()
    assert "facekeep restore --lost-log" in caught.value.next.command


def test_the_living_are_adopted_and_the_erased_stay_erased(lab: Lab) -> None:
    lab.do(lambda vault: vault.backup(lab.base / "before"))
    service = lab.add_principal(Role.SERVICE)
    before = lab.do(lambda vault: core(vault).view().tree.pin.size)
    lose_log(lab)
    done = restart(lab)
    assert done == Restarted(2, 5, 0, 0, before, done.epoch if done else 0)
    with lab.open(service) as vault:
        assert matches(vault, "alice")
        assert matches(vault, "bob")
        assert identify(vault, "dave") == ["dave"]
    with lab.open() as vault:
        assert reason(vault, "carol") == "subject_unknown"
        assert reason(vault, "dave") in {"scope", "withdrawn"}
        report = vault.restore(lab.base / "before", dry_run=True)
        assert (report.merged, report.present) == (0, 0)
    lab.clean()
    notes = audited(lab)
    assert "THE LOG WAS RESTARTED" in notes[0]
    assert f"had {before} entries at least" in notes[0]


def test_the_new_log_begins_with_what_the_key_tree_pins(lab: Lab) -> None:
    pin = lab.do(lambda vault: core(vault).view().tree.pin)
    lose_log(lab)
    restart(lab)
    with lab.open() as vault:
        first = log_entries(vault)[0]
        assert first["type"] == "restart"
        assert first["pin"] == {"root": pin.root.hex(), "size": pin.size}
        assert first["by"] == vault.whoami()[0]
        assert [each["type"] for each in log_entries(vault)].count("restarted") == 1


def test_no_slot_is_given_out_again(lab: Lab) -> None:
    old = lab.do(lambda vault: {slot for name in ("alice", "bob") for slot in slots(vault, name).values()})
    lose_log(lab)
    restart(lab)
    lab.enrol("erin")
    with lab.open() as vault:
        new = {slot for name in ("alice", "erin") for slot in slots(vault, name).values()}
        assert {slot >> 21 for slot in old}.isdisjoint(slot >> 21 for slot in new)
        assert matches(vault, "erin")
    lab.clean()
    audited(lab)


def test_what_was_not_adopted_is_ended_with_its_branch(lab: Lab) -> None:
    """A grant whose row was missing at the restart: no old backup and no later key opens it."""
    lab.do(lambda vault: vault.backup(lab.base / "before"))
    gone = lab.do(lambda vault: slots(vault, "bob"))
    lab.sql("vault.db", "DELETE FROM grants WHERE slot IN (?, ?)", tuple(gone.values()))
    lose_log(lab)
    done = restart(lab)
    assert done is not None
    assert done.grants == 3
    with lab.open() as vault:
        tree = core(vault).view().tree
        assert not tree.alive(list(gone.values())).any()
        report = vault.restore(lab.base / "before", dry_run=True)
        assert (report.merged, report.dead) == (0, report.rows)
        vault.enroll_many([lab.enrolment("bob")])
        assert matches(vault, "bob")
    lab.clean()


def test_even_where_no_row_is_left_of_a_scope(lab: Lab) -> None:
    verify = lab.do(lambda vault: [slots(vault, name)[VERIFY] for name in ("alice", "bob")])
    lab.sql("vault.db", "DELETE FROM grants WHERE slot < ?", (max(verify) + 1,))
    lose_log(lab)
    restart(lab)
    with lab.open() as vault:
        assert not core(vault).view().tree.alive(verify).any()
    lab.clean()


def test_an_altered_row_is_not_adopted(lab: Lab) -> None:
    slot = lab.do(lambda vault: slots(vault, "bob")[VERIFY])
    lab.sql("vault.db", "UPDATE grants SET record = zeroblob(length(record)) WHERE slot = ?", (slot,))
    lose_log(lab)
    done = restart(lab)
    assert done is not None
    assert (done.grants, done.left) == (4, 1)
    with lab.open() as vault:
        assert reason(vault, "bob") == "scope"
        assert not core(vault).view().tree.alive([slot]).any()


def test_a_renewal_that_was_cut_off_adopts_the_newer_consent_alone(lab: Lab) -> None:
    old = lab.do(lambda vault: slots(vault, "alice")[VERIFY])
    lab.clock.ms += DAY
    lab.crash(lambda vault: vault.renew("alice", lab.consent(VERIFY, days=90)), "grant.written")
    lose_log(lab)
    done = restart(lab)
    assert done is not None
    assert (done.grants, done.left) == (5, 1)
    with lab.open() as vault:
        assert matches(vault, "alice")
        assert not core(vault).view().tree.alive([old]).any()
    lab.clean()
    audited(lab)


def test_only_an_operator_restarts_and_nothing_is_left_by_others(lab: Lab) -> None:
    service = lab.add_principal(Role.SERVICE)
    revoked = lab.add_principal(Role.OPERATOR)
    lab.do(lambda vault: vault.revoke_principal(revoked.split(".")[1]))
    lose_log(lab)
    for token in (service, revoked, "fkt1." + "0" * 16 + "." + "A" * 43):
        with pytest.raises(NotAllowed):
            restart(lab, token=token)
    assert not list(lab.path.glob("log.db*"))
    assert restart(lab) is not None


def test_a_revoked_principal_is_not_adopted(lab: Lab) -> None:
    token = lab.add_principal(Role.OPERATOR)
    lab.do(lambda vault: vault.revoke_principal(token.split(".")[1]))
    lose_log(lab)
    restart(lab)
    with pytest.raises(NotAllowed), lab.open(token):
        pass


def test_while_a_log_or_a_copy_may_be_there_nothing_is_restarted(tmp_path: Path) -> None:
    lab = Lab(tmp_path, copies=True).create()
    lab.enrol("alice")
    with pytest.raises(UsageError, match=r"log\.db is there"):
        restart(lab)
    lose_log(lab)
    with pytest.raises(IntegrityError, match="there is a live copy") as caught:
        restart(lab)
    assert "check --scrub" in caught.value.next.command
    lab.copy_dir.rename(lab.base / "away")
    with pytest.raises(IntegrityError, match="are away"):
        restart(lab)
    assert not list(lab.path.glob("log.db*"))
    lab.copy_dir.mkdir()
    restart(lab)
    lab.clean()
    assert (lab.copy_dir / "keys.db").exists()
    assert (lab.copy_dir / "log.db").exists()


def test_a_clock_before_the_last_swap_restarts_nothing(lab: Lab) -> None:
    lose_log(lab)
    lab.clock.ms -= DAY
    with pytest.raises(ClockError):
        restart(lab)
    assert not list(lab.path.glob("log.db*"))


# vault.db is lost, too


def lose_both(lab: Lab) -> None:
    lose_log(lab)
    for path in lab.path.glob("vault.db*"):
        path.unlink()


def restart_from(lab: Lab, backup: str = "backup", token: str | None = None) -> Restarted | None:
    source, token = lab.base / backup, token or lab.token
    return Vault.restart_log(lab.path, token=token, backup=source, clock=lab.clock)


def names(lab: Lab) -> list[str]:
    return sorted(path.name for path in lab.path.iterdir())


def test_a_backup_takes_the_place_of_a_lost_vault_db(lab: Lab) -> None:
    lab.do(lambda vault: vault.backup(lab.base / "backup"))
    lab.do(lambda vault: vault.shred("bob"))
    lab.enrol("erin")
    lose_both(lab)
    with pytest.raises(IntegrityError, match=r"vault\.db is lost too") as caught:
        restart(lab)
    assert "--lost-log" in caught.value.next.command
    done = restart_from(lab)
    assert done is not None
    assert (done.grants, done.left, done.dead) == (3, 0, 2)
    lab.clean()
    audited(lab)
    with lab.open() as vault:
        assert matches(vault, "alice")
        assert identify(vault, "dave") == ["dave"]
        for name in ("bob", "carol", "erin"):
            assert reason(vault, name) == "subject_unknown"
    lab.enrol("erin")


def test_a_backup_is_not_put_over_a_vault_db(lab: Lab) -> None:
    lab.do(lambda vault: vault.backup(lab.base / "backup"))
    lose_log(lab)
    before = names(lab)
    with pytest.raises(UsageError, match=r"vault\.db is there"):
        restart_from(lab)
    assert names(lab) == before


@pytest.mark.parametrize("what", ["another vault's backup", "a token without the role", "a bad checkpoint"])
def test_nothing_is_done_where_a_backup_cannot_take_the_place(lab: Lab, tmp_path: Path, what: str) -> None:
    other = Lab(tmp_path / "other").create()
    other.do(lambda vault: vault.backup(tmp_path / "foreign"))
    lab.do(lambda vault: vault.backup(lab.base / "backup"))
    service = lab.add_principal(Role.SERVICE)
    lose_both(lab)
    before = names(lab)
    source = tmp_path / "foreign" if what.startswith("another") else lab.base / "backup"
    with pytest.raises(FacekeepError):
        Vault.restart_log(
            lab.path,
            token=service if what.startswith("a token") else lab.token,
            backup=source,
            checkpoint=b"none\n" if what.startswith("a bad") else None,
            clock=lab.clock,
        )
    assert names(lab) == before


def test_an_altered_row_of_the_backup_is_not_adopted(lab: Lab) -> None:
    lab.do(lambda vault: vault.backup(lab.base / "backup"))
    lose_both(lab)
    with contextlib.closing(sqlite3.connect(lab.base / "backup")) as connection:
        connection.execute(
            "UPDATE grants SET terms = zeroblob(88) WHERE slot = (SELECT min(slot) FROM grants)"
        )
        connection.commit()
    done = restart_from(lab)
    assert done is not None
    assert (done.grants, done.left) == (4, 1)
    lab.clean()
    audited(lab)


@pytest.mark.parametrize("step", ["restart.made", "restart.data", "restart.named"])
def test_a_restart_from_a_backup_that_is_killed_is_gone_on_with(lab: Lab, step: str) -> None:
    lab.do(lambda vault: vault.backup(lab.base / "backup"))
    lose_both(lab)
    lab.kill(lambda: restart_from(lab), step)
    if step == "restart.data":
        with pytest.raises(UsageError, match=r"vault\.db is there"):
            restart_from(lab)
        restart(lab)
    else:
        restart_from(lab)
    lab.clean()
    audited(lab)
    with lab.open() as vault:
        assert matches(vault, "bob")


# What auditors see


def test_a_watcher_of_the_old_log_is_told_that_this_is_another(lab: Lab) -> None:
    with lab.open() as vault:
        keys = vault.audit_keys()
        vault.audit_export(lab.base / "old")
        old = vault.audit_checkpoint()
    watch(lab.base / "old", keys, lab.base / "state", time_ms=lab.clock.ms)
    lose_log(lab)
    restart(lab, old)
    with lab.open() as vault:
        assert vault.audit_keys() == keys
        vault.audit_export(lab.base / "new")
        with pytest.raises(IntegrityError):
            vault.audit_consistency(old)
        with pytest.raises(IntegrityError):
            vault.audit_export(lab.base / "old")
    with pytest.raises(RuleBroken) as caught:
        watch(lab.base / "new", keys, lab.base / "state", time_ms=lab.clock.ms)
    assert caught.value.rule in {"W4", "W5"}
    assert "--restarted" in caught.value.next
    state = (lab.base / "state").read_bytes()
    seen = watch(lab.base / "new", keys, lab.base / "state", time_ms=lab.clock.ms, restarted=True)
    (kept,) = lab.base.glob("state.until-*")
    assert kept.read_bytes() == state
    assert seen.report.steps[4].detail.startswith("begun anew")
    again = watch(lab.base / "new", keys, lab.base / "state", time_ms=lab.clock.ms)
    assert again.before == seen.checkpoint.size
    assert "and a checkpoint of" in verify_log(lab.base / "new", keys).notes[0]


def test_a_proof_and_a_checkpoint_of_the_old_log_are_not_called_forged(lab: Lab) -> None:
    """An attacker who deletes the log makes no evidence against the operator of it."""
    with lab.open() as vault:
        proof = vault.audit_proof(vault.shred("alice", openings=True).openings[0]).data
        keys, old = vault.audit_keys(), vault.audit_checkpoint()
    lose_log(lab)
    restart(lab, old)
    with lab.open() as vault:
        vault.audit_export(lab.base / "new")
        files = ExportDirectory(lab.base / "new")
        tree = ExportedTree(files, open_trusted(files.checkpoint(), keys, files))
    assert not verify(proof, keys).complete
    with pytest.raises(RuleBroken, match="P13: the exported log was begun anew") as caught:
        verify(proof, keys, log=tree)
    assert "lost log" in caught.value.next
    with pytest.raises(RuleBroken, match="was begun anew") as caught:
        verify_consistency(old, lab.base / "new", keys)
    assert "lost log" in caught.value.next


def test_rotated_signing_keys_stay_in_force(lab: Lab) -> None:
    with lab.open() as vault:
        first = vault.audit_keys()
        vault.keys.rotate_signing()
        vault.keys.rotate_signing()
        keys = vault.audit_keys()
        old = vault.audit_checkpoint()
    lose_log(lab)
    restart(lab, old)
    with lab.open() as vault:
        assert vault.audit_keys() == keys
        vault.audit_export(lab.base / "new")
    assert verify_log(lab.base / "new", keys).notes
    with pytest.raises(FacekeepError):
        verify_log(lab.base / "new", first[:0] or ())
    assert verify_log(lab.base / "new", first).notes  # who trusts the first is led to the third


def test_a_checkpoint_of_another_log_is_refused(lab: Lab, tmp_path: Path) -> None:
    other = Lab(tmp_path / "other").create()
    foreign = other.do(lambda vault: vault.audit_checkpoint())
    lose_log(lab)
    for data in (foreign, b"no checkpoint\n"):
        with pytest.raises(FacekeepError):
            restart(lab, data)
    assert not list(lab.path.glob("log.db*"))


def test_a_proof_says_that_what_came_before_is_not_proved(lab: Lab) -> None:
    lose_log(lab)
    restart(lab)
    with lab.open() as vault:
        erasure = vault.shred("alice")
        proof = vault.audit_proof(str(erasure.erasure))
        assert RESTARTED.items() <= proof.proven.not_proved().items()
    other = Lab(lab.base / "plain").create()
    other.enrol("alice")
    with other.open() as vault:
        plain = vault.audit_proof(str(vault.shred("alice").erasure))
        assert not RESTARTED.keys() & plain.proven.not_proved().keys()


# Attacks with files kept from before


def test_the_old_log_put_back_after_the_restart_is_refused(lab: Lab) -> None:
    saved = lab.save("before")
    lose_log(lab)
    restart(lab)
    kept = lab.save("after")
    lab.put_back(saved, "log.db")
    with pytest.raises(FacekeepError):
        lab.check()
    lab.put_back(kept)
    lab.clean()


def test_an_erasure_before_the_restart_is_not_undone_by_files_of_before(lab: Lab) -> None:
    saved = lab.save("before")
    lab.do(lambda vault: vault.shred("bob"))
    lose_log(lab)
    restart(lab)
    for name in ("keys.db", "log.db"):
        kept = lab.save(f"after {name}")
        lab.put_back(saved, name)
        with pytest.raises(FacekeepError):
            lab.check()
        lab.put_back(kept)
    lab.put_back(saved, "vault.db")
    with lab.open() as vault:
        assert reason(vault, "bob") == "subject_unknown"
        assert not vault.check().ok or not slots(vault, "bob")


@pytest.mark.parametrize(
    "step",
    [
        "restart.made",
        "restart.named",
        "restart.extended",
        "grant.written",
        "destroy.completed",
        "rotate.ended",
    ],
)
def test_a_restart_that_is_killed_is_gone_on_with(lab: Lab, step: str) -> None:
    old = lab.do(lambda vault: list(slots(vault, "bob").values()))
    lose_log(lab)
    lab.kill(lambda: restart(lab), step)
    assert (restart(lab) is not None) is (step == "restart.made")
    lab.clean()
    audited(lab)
    with lab.open() as vault:
        assert matches(vault, "bob")
        assert not core(vault).view().tree.alive(old).any()
        assert identify(vault, "dave") == ["dave"]
    assert IDENTIFY
