"""Backups say what they hold, are read back, and what was altered in them is found."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from facekeep.errors import (
    ErasurePending,
    FacekeepError,
    FormatError,
    IntegrityError,
    NotAllowed,
    StoreError,
    UsageError,
)
from facekeep.formats.manifest import Manifest
from facekeep.operations import backups
from facekeep.store.vaultdb import GrantRow, VaultStore
from facekeep.vault import Role
from vaultlab import DAY, IDENTIFY, VERIFY, Lab, calling, core, slots, sql


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path).create()
    lab.enrol("alice", "bob", "carol")
    return lab


def test_the_manifest_says_what_the_backup_holds(lab: Lab) -> None:
    with lab.open() as vault:
        view = core(vault).view()
        made = vault.backup(lab.base / "backup")
        manifest = made.manifest
        assert (manifest.rows, manifest.size, manifest.epoch) == (6, view.head.size, view.tree.epoch)
        assert manifest.root == view.head.root()
        assert manifest.fingerprint == view.tree.fingerprint
        assert manifest.models == {"raw:lab/1": 6}
        assert manifest.scopes == {"verify": 3, "identify": 3}
        assert made.sha256 == hashlib.sha256((lab.base / "backup").read_bytes()).hexdigest()
        sealed = sql(lab.base / "backup", "SELECT value FROM meta WHERE key = 'manifest'")[0][0]
        assert Manifest.decode(core(vault).log.manifests.open(sealed)) == manifest
    assert b"alice" not in (lab.base / "backup").read_bytes()


def test_the_content_is_the_hash_of_the_specification(lab: Lab) -> None:
    with lab.open() as vault:
        manifest = vault.backup(lab.base / "backup").manifest
        mask = core(vault).data.mask
    assert mask is not None
    expected = hashlib.sha256(b"facekeep/v1/backup-rows\0")
    rows = [GrantRow(*row) for row in sql(lab.base / "backup", "SELECT * FROM grants ORDER BY slot")]
    for slot, *columns in mask.rows(rows):
        expected.update(slot.to_bytes(8, "big"))
        for column in columns:
            raw = column.encode() if isinstance(column, str) else bytes(column)  # type: ignore[arg-type] # a blob
            expected.update(len(raw).to_bytes(4, "big") + raw)
    assert manifest.content == expected.digest()


def test_progress_comes_to_its_end(lab: Lab) -> None:
    seen: list[tuple[int, int]] = []
    with lab.open() as vault:
        vault.backup(lab.base / "backup", lambda done, total: seen.append((done, total)))
    assert seen[-1] == (12, 12)


def test_what_a_backup_is_worth(lab: Lab) -> None:
    with lab.open() as vault:
        vault.backup(lab.base / "backup")
        fresh = vault.check_backup(lab.base / "backup")
        assert (fresh.rows, fresh.living, fresh.dead, fresh.strange) == (6, 6, 0, 0)
        assert (fresh.grants, fresh.covered) == (6, 6)
        assert fresh.entry is not None
        assert core(vault).log.entry(fresh.entry)["sha256"] == fresh.sha256
        vault.shred("carol")
        vault.renew("bob", lab.consent(VERIFY, days=60))
        vault.enroll_many([lab.enrolment("dave")])
        later = vault.check_backup(lab.base / "backup")
        assert (later.rows, later.living, later.dead) == (6, 3, 3)
        assert (later.grants, later.covered) == (6, 3)


ALTERED: dict[str, str] = {
    "a row taken out": "DELETE FROM grants WHERE slot = (SELECT min(slot) FROM grants)",
    "a column changed": "UPDATE grants SET record = templates",
    "the manifest changed": "UPDATE meta"
    " SET value = CAST(substr(value, 1, 40) || x'0102' || substr(value, 43) AS BLOB) WHERE key = 'manifest'",
    "the manifest is empty": "UPDATE meta SET value = x'' WHERE key = 'manifest'",
    "the manifest is a record": "UPDATE meta SET value = (SELECT record FROM grants) WHERE key = 'manifest'",
    "the manifest is text": "UPDATE meta SET value = 'none' WHERE key = 'manifest'",
    "the manifest taken out": "DELETE FROM meta WHERE key = 'manifest'",
}


@pytest.mark.parametrize("what", ALTERED)
def test_an_altered_backup_is_found_out(lab: Lab, what: str) -> None:
    with lab.open() as vault:
        vault.backup(lab.base / "backup")
        sql(lab.base / "backup", ALTERED[what])
        with pytest.raises(IntegrityError):
            vault.check_backup(lab.base / "backup")


def test_a_manifest_of_another_backup_is_found_out(lab: Lab) -> None:
    with lab.open() as vault:
        vault.backup(lab.base / "one")
        vault.enroll_many([lab.enrolment("dave")])
        vault.backup(lab.base / "two")
        value = sql(lab.base / "two", "SELECT value FROM meta WHERE key = 'manifest'")[0]
        sql(lab.base / "one", "UPDATE meta SET value = ? WHERE key = 'manifest'", value)
        with pytest.raises(IntegrityError, match="not those that its manifest names"):
            vault.check_backup(lab.base / "one")


def test_an_earlier_backup_without_a_manifest_is_known_by_the_log(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = VaultStore.copy_to
    monkeypatch.setattr(VaultStore, "copy_to", lambda self, target, _: made(self, target, {}))
    monkeypatch.setattr(backups, "_read_back", lambda *_: None)
    with lab.open() as vault:
        vault.backup(lab.base / "backup")
        found = vault.check_backup(lab.base / "backup")
        assert (found.manifest, found.living) == (None, 6)


def test_a_backup_of_which_the_log_did_not_hear_is_vouched_for_by_its_manifest(lab: Lab) -> None:
    lab.crash(lambda vault: vault.backup(lab.base / "backup"), "backup.named")
    with lab.open() as vault:
        found = vault.check_backup(lab.base / "backup")
        assert (found.entry, found.living) == (None, 6)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a row changed": lambda path: sql(path, "UPDATE grants SET record = templates"),
    "cut": lambda path: os.truncate(path, 20_000),
    "a page lost": lambda path: path.write_bytes(path.read_bytes()[:8192] + bytes(20_000)),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_what_a_disk_does_not_give_back_is_no_backup(lab: Lab, what: str) -> None:
    def damage() -> None:
        (unfinished,) = lab.base.glob(".backup.*.new")
        DAMAGES[what](unfinished)

    with lab.open() as vault, calling("backup.written", damage):
        with pytest.raises((IntegrityError, StoreError)):
            vault.backup(lab.base / "backup")
        assert not (lab.base / "backup").exists()
        assert not list(lab.base.glob(".backup.*"))
        assert vault.status()["backup"] is None


def test_only_an_operator_looks_into_a_backup(lab: Lab) -> None:
    lab.do(lambda vault: vault.backup(lab.base / "backup"))
    token = lab.add_principal(Role.AUDITOR)
    with lab.open(token) as vault, pytest.raises(NotAllowed):
        vault.check_backup(lab.base / "backup")
    with lab.open() as vault:
        with pytest.raises(UsageError):
            vault.check_backup(lab.base / "nothing")
        with pytest.raises(FacekeepError):
            vault.check_backup(lab.path / "vault.db")


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{}", b'{"v":1}', b'{"rows":1.5}'],
)
def test_a_manifest_is_parsed_strictly(data: bytes) -> None:
    with pytest.raises(FormatError):
        Manifest.decode(data)


# A dry run


def test_a_dry_run_says_who_returns_and_who_stays_erased_and_why(lab: Lab) -> None:
    with lab.open() as vault:
        vault.enroll_many([lab.enrolment("dave", consent=lab.consent(VERIFY, days=90))])
        vault.backup(lab.base / "backup")
        held = {name: slots(vault, name) for name in ("alice", "bob", "carol", "dave")}
        vault.shred("carol")
        vault.withdraw("bob", [IDENTIFY])
        vault.renew("bob", lab.consent(VERIFY, days=60))
    lab.sql("vault.db", "DELETE FROM grants WHERE slot = ?", (held["alice"][VERIFY],))
    with lab.open() as vault:
        size = core(vault).log.head().size
        report = vault.restore(lab.base / "backup", dry_run=True)
        assert core(vault).log.head().size == size
        assert [(each.subject, each.scope) for each in report.returning] == [("alice", "verify")]
        assert (report.rows, report.merged, report.present, report.dead) == (7, 1, 2, 4)
        reasons = {each.slot: each.reason for each in report.staying}
        assert reasons == {
            held["carol"][VERIFY]: "shredded",
            held["carol"][IDENTIFY]: "shredded",
            held["bob"][IDENTIFY]: "withdrawn",
            held["bob"][VERIFY]: "renewed",
        }
        for each in report.staying:
            assert each.entry is not None
            assert core(vault).log.entry(each.entry)["type"] == "destroy"
            assert (each.erased is not None) is (each.slot in held["carol"].values())
            assert each.time_ms == lab.clock.ms
            assert "carol" not in repr(each)
        assert report.missing == ()


def test_a_dry_run_says_what_is_pending(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "copied", copies=True).create()
    lab.enrol("carol")
    lab.do(lambda vault: vault.backup(lab.base / "backup"))
    lab.copy_dir.rename(lab.base / "away")
    with lab.open() as vault:
        with pytest.raises(ErasurePending):
            vault.shred("carol")
        report = vault.restore(lab.base / "backup", dry_run=True)
        assert [(each.reason, each.time_ms) for each in report.staying] == [("shredded", None)] * 2
        assert all(each.erased == each.entry for each in report.staying)


def test_a_dry_run_says_why_a_row_is_refused(lab: Lab) -> None:
    with lab.open() as vault:
        vault.backup(lab.base / "backup")
        alice = slots(vault, "alice")
    sql(
        lab.base / "backup",
        "UPDATE grants SET record = zeroblob(length(record)) WHERE slot = ?",
        (alice[VERIFY],),
    )
    sql(
        lab.base / "backup",
        "UPDATE grants SET grant_id = zeroblob(16) WHERE slot = ?",
        (alice[IDENTIFY],),
    )
    lab.sql("vault.db", "DELETE FROM grants")
    with lab.open() as vault:
        report = vault.restore(lab.base / "backup", dry_run=True)
        assert {each.slot: each.reason for each in report.refusals} == {
            alice[VERIFY]: "altered",
            alice[IDENTIFY]: "not_logged",
        }
        assert sorted(report.missing) == sorted(alice.values())


def test_columns_shifted_into_each_other_are_refused(lab: Lab) -> None:
    """Grant id and tag joined are the same bytes, cut at another place."""
    lab.do(lambda vault: vault.backup(lab.base / "backup"))
    sql(
        lab.base / "backup",
        "UPDATE grants SET grant_id = CAST(grant_id || substr(tag, 1, 1) AS BLOB),"
        " tag = CAST(substr(tag, 2) AS BLOB)",
    )
    lab.sql("vault.db", "DELETE FROM grants")
    with lab.open() as vault:
        report = vault.restore(lab.base / "backup", dry_run=True)
        assert {each.reason for each in report.refusals} == {"not_logged"}


def test_expired_grants_return_and_are_used_by_nobody(lab: Lab) -> None:
    lab.do(lambda vault: vault.backup(lab.base / "backup"))
    lab.clock.ms += 31 * DAY
    lab.sql("vault.db", "DELETE FROM grants")
    with lab.open() as vault:
        assert vault.restore(lab.base / "backup", dry_run=True).merged == 6


def test_a_backup_is_a_file_that_sqlite_reads(lab: Lab) -> None:
    lab.do(lambda vault: vault.backup(lab.base / "backup"))
    with sqlite3.connect(lab.base / "backup") as connection:
        meta = dict(connection.execute("SELECT key, value FROM meta"))
    assert set(meta) == {"vault", "file", "manifest"}
