"""Backup, restore, status, check, settings of a new vault."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from facekeep.errors import (
    FacekeepError,
    ForeignFile,
    IntegrityError,
    RootError,
    StoreError,
    UsageError,
    VaultExists,
)
from facekeep.vault import Vault
from vaultlab import DAY, IDENTIFY, VERIFY, Lab, core, identify, matches, reason, slots, sql


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path, copies=True).create()


def test_a_backup_of_any_age_brings_back_the_living_and_never_the_erased(lab: Lab) -> None:
    lab.enrol("alice", "bob")
    with lab.open() as vault:
        report = vault.backup(lab.base / "old")
        assert report.rows == 4
        vault.enroll_many([lab.enrolment("carol")])
        vault.backup(lab.base / "new")
        vault.shred("alice")
    lab.sql("vault.db", "DELETE FROM grants")
    with lab.open() as vault:
        assert len(vault.check().missing) == 4
        assert vault.status()["missing"] == 4
        assert reason(vault, "bob") == "scope"
        dry = vault.restore(lab.base / "new", dry_run=True)
        assert (dry.merged, dry.dead) == (4, 2)
        assert core(vault).data.count() == 0
        new = vault.restore(lab.base / "new")
        assert (new.rows, new.merged, new.dead, new.present, new.refused, new.missing) == (6, 4, 2, 0, 0, ())
        old = vault.restore(lab.base / "old")
        assert (old.rows, old.merged, old.dead, old.present, old.refused) == (4, 0, 2, 2, 0)
        assert matches(vault, "bob")
        assert matches(vault, "carol")
        assert reason(vault, "alice") == "subject_unknown"
        assert identify(vault, "alice") == []
        entries = [entry["type"] for _, entry in core(vault).log.control_since(0)]
        assert entries.count("backup") == entries.count("restore") == 2
    lab.clean()


def test_a_lost_subject_index_is_rebuilt(lab: Lab) -> None:
    lab.enrol("alice", "bob")
    for path in (lab.path, lab.copy_dir):
        sql(path / "keys.db", "DELETE FROM subject_index WHERE 1")
    with lab.open() as vault:
        assert reason(vault, "alice") == "subject_unknown"
        assert any("subject index" in finding.message for finding in vault.check().findings)
        assert vault.repair_index() == 2
        assert matches(vault, "alice")
    lab.clean()


def test_a_restore_rebuilds_the_index_rows_it_needs(lab: Lab) -> None:
    lab.enrol("alice", "bob")
    lab.do(lambda vault: vault.backup(lab.base / "backup"))
    lab.sql("vault.db", "DELETE FROM grants")
    lab.sql("keys.db", "DELETE FROM subject_index WHERE 1")
    with lab.open() as vault:
        assert vault.restore(lab.base / "backup").merged == 4
        assert matches(vault, "alice")
        assert matches(vault, "bob")


def test_a_backup_is_private_and_overwrites_nothing(lab: Lab) -> None:
    lab.enrol("alice")
    with lab.open() as vault:
        vault.backup(lab.base / "backup")
        assert stat.S_IMODE((lab.base / "backup").stat().st_mode) == 0o600
        with pytest.raises(UsageError):
            vault.backup(lab.base / "backup")
        with pytest.raises(FacekeepError):
            vault.backup(lab.base / "no such directory" / "backup")
        assert [path.name for path in lab.base.iterdir() if path.name.endswith(".new")] == []
    lab.clean()


def test_what_is_no_backup_of_this_vault_is_refused(lab: Lab, tmp_path: Path) -> None:
    other = Lab(tmp_path / "other").create()
    other.enrol("alice")
    other.do(lambda vault: vault.backup(tmp_path / "foreign"))
    (tmp_path / "text").write_text("not a backup")
    lab.enrol("alice")
    lab.do(lambda vault: vault.backup(tmp_path / "good"))
    (tmp_path / "short").write_bytes((tmp_path / "good").read_bytes()[:5000])
    with lab.open() as vault:
        size = core(vault).log.head().size
        with pytest.raises(ForeignFile):
            vault.restore(tmp_path / "foreign")
        for name in ("text", "short"):
            with pytest.raises((IntegrityError, StoreError)):
                vault.restore(tmp_path / name)
        for wrong in (lab.path / "vault.db", lab.path / "keys.db"):
            with pytest.raises(IntegrityError):
                vault.restore(wrong)
        with pytest.raises(UsageError):
            vault.restore(tmp_path / "nothing")
        assert core(vault).log.head().size == size
        assert matches(vault, "alice")
    lab.clean()


def test_rows_of_a_backup_that_were_altered_are_refused(lab: Lab) -> None:
    lab.enrol("alice", "bob")
    lab.do(lambda vault: vault.backup(lab.base / "backup"))
    rows = sql(lab.base / "backup", "SELECT slot FROM grants ORDER BY slot")
    expires = (2**52).to_bytes(8, "big")
    sql(
        lab.base / "backup",
        "UPDATE grants SET terms = CAST(substr(terms, 1, 12) || ? || substr(terms, 21) AS BLOB)"
        " WHERE slot = ?",
        (expires, rows[0][0]),
    )
    sql(
        lab.base / "backup",
        "UPDATE grants SET record = zeroblob(length(record)) WHERE slot = ?",
        (rows[1][0],),
    )
    lab.sql("vault.db", "DELETE FROM grants")
    with lab.open() as vault:
        report = vault.restore(lab.base / "backup")
        assert (report.refused, report.merged, len(report.missing)) == (2, 2, 2)


def test_status_tells_what_a_person_needs(lab: Lab) -> None:
    lab.enrol("alice")
    with lab.open() as vault:
        status = vault.status()
        assert status["warnings"] == []
        assert status["rows"] == 2
        assert status["vault"] == vault.vault_id
        assert status["backup"] is None
        vault.backup(lab.base / "backup")
        vault.withdraw("alice", [VERIFY])
        status = vault.status()
        assert status["epoch"] == 2
        assert isinstance(status["backup"], dict)
        lab.copy_dir.rename(lab.base / "away")
        assert len(vault.status()["warnings"]) == 2  # type: ignore[arg-type]
        assert matches(vault, "alice") is False if slots(vault, "alice").get(VERIFY) else True
        (lab.base / "away").rename(lab.copy_dir)


def test_a_copy_that_was_away_is_brought_up_again(lab: Lab) -> None:
    lab.enrol("alice")
    lab.copy_dir.rename(lab.base / "away")
    lab.enrol("bob")
    (lab.base / "away").rename(lab.copy_dir)
    with lab.open() as vault:
        assert {copy["state"] for copy in vault.status()["copies"]} == {"behind"}  # type: ignore[union-attr, index, call-overload]
        vault.withdraw("alice", [VERIFY])
        assert {copy["state"] for copy in vault.status()["copies"]} == {"current"}  # type: ignore[union-attr, index, call-overload]
    lab.clean()


def test_a_lost_vault_is_put_together_from_the_copies(lab: Lab) -> None:
    lab.enrol("alice", "bob")
    lab.do(lambda vault: vault.backup(lab.base / "backup"))
    lab.do(lambda vault: vault.shred("bob"))
    for name in ("keys.db", "log.db"):
        (lab.path / name).write_bytes((lab.copy_dir / name).read_bytes())
    lab.sql("vault.db", "DELETE FROM grants")
    with lab.open() as vault:
        vault.restore(lab.base / "backup")
        assert matches(vault, "alice")
        assert reason(vault, "bob") == "subject_unknown"
    lab.clean()


def test_expired_grants_survive_backup_and_check(lab: Lab) -> None:
    lab.enrol("alice", days=1)
    lab.clock.ms += 2 * DAY
    with lab.open() as vault:
        vault.backup(lab.base / "backup")
        assert vault.restore(lab.base / "backup").present == 2
        assert len(slots(vault, "alice")) == 2
    lab.clean()


def test_a_vault_is_never_made_over_something(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(VaultExists):
        Vault.create(lab.path, root=f"file:{tmp_path}/other.root")
    with pytest.raises(VaultExists):
        Vault.create(tmp_path / "second", root=f"file:{lab.root}")
    assert not (tmp_path / "second").exists()
    with pytest.raises(VaultExists):
        Vault.create(tmp_path / "second", root=f"file:{tmp_path}/other.root", copies=[lab.copy_dir])
    with pytest.raises(UsageError):
        Vault.create(tmp_path / "second", root=f"file:{tmp_path}/other.root", region="Germany")
    with pytest.raises(UsageError):
        Vault.create(tmp_path / "second", root="cloud:key")
    with pytest.raises(UsageError):
        Vault.create(tmp_path / "second", root=f"file:{tmp_path}/other.root", label="\n")
    assert not (tmp_path / "second").exists()
    assert not (tmp_path / "other.root").exists()
    lab.clean()


def test_files_are_for_their_owner_only(lab: Lab) -> None:
    lab.enrol("alice")
    with lab.open() as vault:
        identify(vault, "alice")
        for path in lab.files():
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path.name
    assert stat.S_IMODE(lab.path.stat().st_mode) == 0o700


def test_without_its_root_a_vault_does_not_open(lab: Lab) -> None:
    lab.enrol("alice")
    raw = lab.root.read_bytes()
    lab.root.unlink()
    with pytest.raises((RootError, StoreError)):
        lab.check()
    lab.root.write_bytes(bytes(len(raw)))
    lab.root.chmod(0o600)
    with pytest.raises(RootError):
        lab.check()
    lab.root.write_bytes(raw)
    lab.root.chmod(0o644)
    with pytest.raises(RootError) as caught:
        lab.check()
    assert "chmod" in f"{caught.value} {caught.value.next}"
    lab.root.chmod(0o600)
    lab.clean()


@pytest.mark.parametrize("name", ["vault.db", "keys.db", "log.db"])
def test_a_file_of_another_vault_is_refused(lab: Lab, tmp_path: Path, name: str) -> None:
    other = Lab(tmp_path / "other").create()
    other.enrol("alice")
    lab.enrol("alice")
    (lab.path / name).write_bytes((other.path / name).read_bytes())
    with pytest.raises(ForeignFile):
        lab.check()


def problems(lab: Lab) -> list[tuple[str, str]]:
    """(message, next step) of everything wrong, whether it stops the opening or the check finds it."""
    try:
        return [(each.message, each.next) for each in lab.check().findings]
    except FacekeepError as error:
        return [(str(error), error.next)]


@pytest.mark.parametrize("name", ["vault.db", "keys.db", "log.db", "vault.toml"])
@pytest.mark.parametrize("cut", ["all", "half", "a page and a bit"])
def test_a_truncated_file_is_named_and_nothing_is_done(lab: Lab, name: str, cut: str) -> None:
    lab.enrol("alice")
    path = lab.path / name
    raw = path.read_bytes()
    kept = {"all": 0, "half": len(raw) // 2, "a page and a bit": max(len(raw) - 4_200, len(raw) // 3)}[cut]
    path.write_bytes(raw[:kept])
    said = problems(lab)
    assert said
    assert all(message and "\n" not in message and then for message, then in said)
    for suffix in ("-wal", "-shm"):
        path.with_name(name + suffix).unlink(missing_ok=True)
    path.write_bytes(raw)
    lab.clean()


def test_grants_with_two_scopes_are_two_rows_of_one_subject(lab: Lab) -> None:
    lab.enrol("alice")
    with lab.open() as vault:
        assert set(slots(vault, "alice")) == {VERIFY, IDENTIFY}
        rows = list(core(vault).data.rows())
        assert len({row.tag for row in rows}) == 1
        assert len({row.commitment for row in rows}) == 2
