"""A file of the vault is gone or damaged: what the error says, and vault.db made anew from backups."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from facekeep.errors import Denied, FacekeepError, IntegrityError, NotAllowed, UsageError
from facekeep.vault import Enrolment, Role, Vault
from maintain_help import audited
from vaultlab import VERIFY, Lab, core, identify, log_entries, matches, reason, slots


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    made = Lab(tmp_path, copies=True).create()
    made.enrol("alice", "bob")
    return made


def lose(lab: Lab, name: str = "vault.db") -> None:
    for suffix in ("", "-wal", "-shm"):
        (lab.path / (name + suffix)).unlink(missing_ok=True)


def opened(lab: Lab, token: str | None = None) -> Vault:
    return Vault.open(lab.path, token=token or lab.token, clock=lab.clock, lost_data=True)


def test_a_lost_vault_db_is_made_anew_and_a_backup_merged(lab: Lab) -> None:
    lab.do(lambda vault: vault.backup(lab.base / "backup"))
    lab.do(lambda vault: vault.shred("bob"))
    lose(lab)
    with pytest.raises(IntegrityError, match=r"vault\.db is missing") as caught:
        lab.check()
    assert "facekeep restore BACKUP" in caught.value.next.command
    with opened(lab) as vault:
        assert vault.status()["missing"] == 2
        report = vault.restore(lab.base / "backup")
        assert (report.rows, report.merged, report.dead, report.missing) == (4, 2, 2, ())
        assert matches(vault, "alice")
        assert reason(vault, "bob") == "subject_unknown"
        assert identify(vault, "bob") == []
    assert (lab.path / "vault.db").stat().st_mode & 0o777 == 0o600
    lab.clean()


def test_an_old_backup_brings_back_its_own_and_the_others_are_listed(lab: Lab) -> None:
    lab.do(lambda vault: vault.backup(lab.base / "backup"))
    lab.enrol("carol")
    lab.do(lambda vault: vault.renew("alice", lab.consent(VERIFY, days=99)))
    with lab.open() as vault:
        late = sorted([*slots(vault, "carol").values(), slots(vault, "alice")[VERIFY]])
    lose(lab)
    with opened(lab) as vault:
        report = vault.restore(lab.base / "backup")
        assert (report.merged, report.dead, sorted(report.missing)) == (3, 1, late)
        assert identify(vault, "alice") == ["alice"]
        assert reason(vault, "alice") == "scope"
        assert vault.check().missing == late
        for name in ("alice", "carol"):
            vault.enroll_many([lab.enrolment(name)], existing="replace")
            assert matches(vault, name)
    lab.clean()


def test_without_a_backup_the_missing_are_listed_and_the_vault_goes_on(lab: Lab) -> None:
    lose(lab)
    with opened(lab) as vault:
        assert len(vault.restore(None, dry_run=True).missing) == 4
        report = vault.restore(None)
        assert (report.rows, report.merged, len(report.missing)) == (0, 0, 4)
        assert (log_entries(vault)[-1]["type"], log_entries(vault)[-1]["missing"]) == ("restore", 4)
        with pytest.raises(Denied):
            matches(vault, "alice")
        vault.enroll_many([lab.enrolment("alice")], existing="replace")
        vault.shred("bob")
        assert vault.restore(None).missing == ()
    lab.clean()


def test_who_is_enrolled_again_withdraws_what_was_lost(lab: Lab) -> None:
    """Another tag ends in no replacement: whose grants these were, no log would show (SPEC §11 R15)."""
    with lab.open() as vault:
        lost = slots(vault, "alice")
    lose(lab)
    with opened(lab) as vault:
        vault.restore(None)
        vault.enroll_many([lab.enrolment(name) for name in ("alice", "bob", "carol")], existing="replace")
        ends = [entry for entry in log_entries(vault) if entry["type"] == "destroy"]
        assert [entry["op"] for entry in ends] == ["withdraw", "withdraw"]
        assert [[first, 1] for first in sorted(lost.values())] in [entry["slots"] for entry in ends]
        assert all(matches(vault, name) for name in ("alice", "bob", "carol"))
    audited(lab)
    lab.clean()


def enrol(lab: Lab, who: Enrolment, existing: Literal["refuse", "replace"] = "refuse") -> None:
    lab.do(lambda vault: vault.enroll_many([who], existing=existing))


def test_killed_between_the_withdrawal_and_the_enrolment(lab: Lab) -> None:
    lose(lab)
    with opened(lab) as vault:
        vault.restore(None)
    again = lab.enrolment("alice")
    lab.kill(lambda: enrol(lab, again, "replace"), "destroy.completed")
    enrol(lab, again)
    with lab.open() as vault:
        assert matches(vault, "alice")
    audited(lab)


def test_a_backup_that_turns_up_later_still_counts(lab: Lab) -> None:
    lab.do(lambda vault: vault.backup(lab.base / "backup"))
    lose(lab)
    with opened(lab) as vault:
        vault.restore(None)
        assert vault.restore(lab.base / "backup").merged == 4
    lab.clean()


def test_only_who_may_restore_makes_it_anew(lab: Lab) -> None:
    service = lab.add_principal(Role.SERVICE)
    lose(lab)
    for token in (service, "fkt1.0123456789abcdef." + "A" * 43, "nonsense"):
        with pytest.raises(NotAllowed):
            opened(lab, token)
    assert [path.name for path in lab.path.glob("vault.db*")] == []


def test_what_is_left_of_it_is_not_overwritten(lab: Lab) -> None:
    lose(lab)
    (lab.path / "vault.db-wal").write_bytes(b"pages")
    with pytest.raises(IntegrityError, match=r"something is left of it: vault\.db-wal") as caught:
        opened(lab)
    assert "move vault.db-wal aside, then make the call again" in caught.value.next
    assert "then type the command again" in caught.value.next.command
    assert (lab.path / "vault.db-wal").read_bytes() == b"pages"


def test_a_vault_db_that_is_there_stays(lab: Lab) -> None:
    with opened(lab) as vault:
        assert core(vault).data.count() == 4


def test_killed_while_it_is_made_anew(lab: Lab) -> None:
    lab.do(lambda vault: vault.backup(lab.base / "backup"))
    lose(lab)
    start = lab.save("start")

    def restore() -> None:
        with opened(lab) as vault:
            vault.restore(lab.base / "backup")

    for step in ("lost.made", "lost.named", "restore.merged"):
        lab.put_back(start)
        lab.kill(restore, step)
        lab.fork(restore).wait()
        lab.clean()
        assert not list(lab.path.glob("vault.db.new*"))


@pytest.mark.parametrize("content", [b"", b"x" * 20_000], ids=["empty", "noise"])
def test_a_damaged_vault_db_says_to_move_it_aside_and_restore(lab: Lab, content: bytes) -> None:
    (lab.path / "vault.db").write_bytes(content)
    with pytest.raises(IntegrityError) as caught:
        lab.check()
    for word in ("vault.db-wal", "vault.db-shm", "aside", "facekeep restore BACKUP"):
        assert word in caught.value.next.command


@pytest.mark.parametrize("name", ["keys.db", "log.db"])
def test_a_lost_file_with_a_live_copy_says_where_it_is(lab: Lab, name: str) -> None:
    lose(lab, name)
    with pytest.raises(IntegrityError, match=f"{name} is missing") as caught:
        lab.check()
    assert "facekeep check --scrub" in caught.value.next.command
    with pytest.raises(IntegrityError, match=f"{name} is missing"):
        opened(lab)
    assert Vault.scrub(lab.path, token=lab.token, clock=lab.clock).repairs
    lab.clean()
    lose(lab, name)
    (lab.path / f"{name}-wal").write_bytes(b"")
    lab.copy_dir.rename(lab.base / "away")
    with pytest.raises(IntegrityError, match=f"{name} is missing") as caught:
        lab.check()
    assert f"bring back {lab.copy_dir}" in caught.value.next


@pytest.mark.parametrize("name", ["keys.db", "log.db"])
def test_a_lost_file_without_a_copy_says_so(tmp_path: Path, name: str) -> None:
    lab = Lab(tmp_path).create()
    lose(lab, name)
    with pytest.raises(IntegrityError, match=f"{name} is missing") as caught:
        lab.check()
    assert "vault.toml names none" in caught.value.next


def test_a_backup_that_is_no_file_is_refused_before_anything_is_made(lab: Lab) -> None:
    with lab.open() as vault, pytest.raises(UsageError):
        vault.restore(lab.base / "nothing")
    with lab.open() as vault, pytest.raises(FacekeepError, match="the backup"):
        vault.restore(lab.path / "vault.db")
