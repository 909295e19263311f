"""Old copies of whole files, put back by somebody who kept them: nothing widens, nobody comes back."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from facekeep.errors import FacekeepError, IntegrityError, RootError, UsageError
from facekeep.operations import steps
from facekeep.vault import Role, Vault
from vaultlab import (
    DAY,
    IDENTIFY,
    MODEL,
    THRESHOLD,
    VERIFY,
    Lab,
    core,
    face,
    identify,
    identify_reason,
    matches,
    reason,
)

FILES = ("vault.db", "keys.db", "log.db")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path).create()
    lab.enrol("alice", "bob")
    return lab


def never_alice(lab: Lab) -> list[str]:
    """Open and ask in every way: no answer is Alice's. Returns the codes of the errors on the way."""
    codes: list[str] = []
    try:
        with lab.open() as vault:
            asks: tuple[Callable[[], bool], ...] = (
                lambda: matches(vault, "alice"),
                lambda: "alice" in identify(vault, "alice"),
                lambda: "alice" in {info.subject for info in vault.subjects()},
            )
            for ask in asks:
                try:
                    assert not ask()
                except FacekeepError as error:
                    codes.append(error.code)
    except FacekeepError as error:
        codes.append(error.code)
    return codes


def test_an_old_vault_db_after_a_shred(lab: Lab) -> None:
    old = lab.save("old")
    lab.do(lambda vault: vault.shred("alice"))
    lab.put_back(old, "vault.db")
    with lab.open() as vault:
        assert reason(vault, "alice") == "subject_unknown"
        assert identify(vault, "alice") == []
        assert matches(vault, "bob")
        assert identify(vault, "bob") == ["bob"]
        assert [info.subject for info in vault.subjects()] == ["bob"]
        report = vault.check()
        assert report.ok
        assert len(report.notes) == 2


def test_an_old_vault_db_after_a_renewal_with_narrower_terms(lab: Lab) -> None:
    old = lab.save("old")
    lab.do(lambda vault: vault.renew("alice", lab.consent(VERIFY, IDENTIFY, days=1, regions=("DE",))))
    lab.clock.ms += 2 * DAY
    lab.put_back(old, "vault.db")
    with lab.open() as vault:
        assert reason(vault, "alice") == "destroyed"
        assert identify(vault, "alice") == []
        assert len(vault.check().missing) == 2


@pytest.mark.parametrize("others", [(), ("vault.db",), ("log.db",), ("vault.db", "log.db")])
def test_an_old_keys_db_of_an_older_epoch(lab: Lab, others: tuple[str, ...]) -> None:
    old = lab.save("old")
    lab.do(lambda vault: vault.shred("alice"))
    lab.put_back(old, "keys.db", *others)
    with pytest.raises(RootError):
        lab.check()
    assert never_alice(lab) == ["root"]


def test_an_old_keys_db_of_the_same_epoch(lab: Lab) -> None:
    """Its keys are the same; whom it does not know yet is not found, and the check says so."""
    old = lab.save("old")
    lab.enrol("carol")
    token = lab.add_principal(Role.SERVICE)
    lab.put_back(old, "keys.db")
    with lab.open() as vault:
        assert matches(vault, "alice")
        assert reason(vault, "carol") == "subject_unknown"
        assert not vault.check().ok
        vault.repair_index()
        assert matches(vault, "carol")
        vault.shred("carol")
        assert reason(vault, "carol") == "subject_unknown"
    with lab.open(token) as vault:  # the log knows of the principal whose row went
        assert matches(vault, "alice")
    with lab.open() as vault:
        assert [finding.file for finding in vault.check().findings] == ["keys.db"]
        vault.revoke_principal(token.split(".")[1])
    lab.clean()


def test_an_old_keys_db_of_the_same_epoch_beside_a_live_copy(tmp_path: Path) -> None:
    lab = Lab(tmp_path, copies=True).create()
    lab.enrol("alice")
    old = lab.save("old")
    lab.enrol("bob")
    lab.put_back(old, "keys.db")
    lab.do(lambda vault: vault.enroll_many([lab.enrolment("carol")]))
    with lab.open() as vault:
        with pytest.raises(UsageError, match="already enrolled"):
            vault.enroll_many([lab.enrolment("bob")])
        assert reason(vault, "bob") == "subject_unknown"  # her index row is older than she
        assert any("check --repair" in each.next for each in vault.check().findings)
        vault.repair_index()
    lab.clean()
    lab.do(lambda vault: matches(vault, "bob"))


def test_an_old_log_db_from_before_the_last_swap(lab: Lab) -> None:
    old = lab.save("old")
    lab.do(lambda vault: vault.shred("bob"))
    lab.put_back(old, "log.db")
    with pytest.raises(IntegrityError):
        lab.check()
    lab.put_back(old, "vault.db", "log.db")
    with pytest.raises(IntegrityError):
        lab.check()
    assert never_alice(lab) == ["integrity"]


def test_an_old_log_db_within_the_epoch_but_with_newer_grants(lab: Lab) -> None:
    old = lab.save("old")
    lab.enrol("carol")
    lab.put_back(old, "log.db")
    with pytest.raises(IntegrityError) as caught:
        lab.check()
    assert "log.db" in str(caught.value)


def test_an_old_log_db_within_the_epoch_beside_a_live_copy(tmp_path: Path) -> None:
    lab = Lab(tmp_path, copies=True).create()
    lab.enrol("alice")
    old = lab.save("old")
    with lab.open() as vault:
        for _ in range(3):
            assert matches(vault, "alice")
    lab.put_back(old, "log.db")
    with pytest.raises(IntegrityError) as caught:
        lab.do(lambda vault: matches(vault, "alice"))
    assert "copy" in str(caught.value)
    for suffix in ("", "-wal", "-shm"):
        (lab.path / f"log.db{suffix}").unlink(missing_ok=True)
    shutil.copy2(lab.copy_dir / "log.db", lab.path / "log.db")
    lab.clean()


@pytest.mark.parametrize("name", FILES)
def test_an_old_wal_beside_a_newer_file(lab: Lab, name: str) -> None:
    """Old pages over new ones: either an error, or a state that gives nobody more than they have."""
    with lab.open() as vault:  # while it is open, the newest pages stand in the WAL
        vault.enroll_many([lab.enrolment("carol")])
        matches(vault, "alice")
        old = lab.save("old")
    assert (old / "vault" / f"{name}-wal").stat().st_size > 0
    lab.do(lambda vault: vault.shred("alice"))
    lab.enrol("dave")
    for suffix in ("-wal", "-shm"):
        shutil.copy2(old / "vault" / (name + suffix), lab.path / (name + suffix))
    never_alice(lab)
    lab.path.joinpath(f"{name}-shm").unlink(missing_ok=True)
    shutil.copy2(old / "vault" / f"{name}-wal", lab.path / f"{name}-wal")
    never_alice(lab)


@pytest.mark.parametrize("keys", [False, True])
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("data", [False, True])
def test_any_mixture_of_old_and_new_files_after_a_shred(lab: Lab, keys: bool, log: bool, data: bool) -> None:
    old = lab.save("old")
    lab.do(lambda vault: vault.shred("alice"))
    chosen = [name for name, put in zip(FILES, (data, keys, log), strict=True) if put]
    if chosen:
        lab.put_back(old, *chosen)
    codes = never_alice(lab)
    assert codes == (["root"] if keys else ["integrity"] if log else ["denied"])


def test_no_copy_of_any_moment_of_a_shred_opens_under_the_root_afterwards(lab: Lab) -> None:
    """Somebody copies every file, sidecars too, at each step; the root file alone is out of reach."""
    saved = [lab.save("before")]
    with lab.open() as vault:

        def copy(step: str) -> None:
            saved.append(lab.save(f"{len(saved)} {step}"))

        steps.observe(copy)
        try:
            vault.shred("alice")
        finally:
            steps._observers.remove(copy)
    assert len(saved) > 10
    end = lab.save("end")
    for each in saved:
        for names in (("keys.db",), ("keys.db", "vault.db"), FILES, ("vault.db", "log.db"), ("vault.db",)):
            lab.put_back(each, *names)
            assert never_alice(lab), f"{each.name}: {names}"
            lab.put_back(end)
    lab.clean()


def test_a_backup_of_a_forked_vault(lab: Lab) -> None:
    """Under the same keys another life of the vault gave the same slots to others: the log knows better."""
    start = lab.save("start")
    lab.enrol("mallory", "trudy")
    lab.do(lambda vault: vault.backup(lab.base / "forked"))
    lab.put_back(start)
    with lab.open() as vault:
        report = vault.restore(lab.base / "forked")
        assert (report.merged, report.present, report.refused) == (0, 4, 4)
    lab.enrol("carol")
    with lab.open() as vault:
        report = vault.restore(lab.base / "forked")
        assert (report.merged, report.present, report.refused) == (0, 4, 4)
        assert identify(vault, "mallory") == identify(vault, "trudy") == []
        assert reason(vault, "mallory") == "subject_unknown"
        assert matches(vault, "carol")
    lab.clean()


def test_rows_and_index_are_taken_away_before_a_second_enrolment(lab: Lab) -> None:
    """The log knows who lives: nobody is enrolled beside their own grants, and an erasure finds them."""
    lab.do(lambda vault: vault.backup(lab.base / "old"))
    lab.sql("vault.db", "DELETE FROM grants")
    lab.sql("keys.db", "DELETE FROM subject_index WHERE 1")
    with lab.open() as vault:
        for how in ("refuse", "skip", "add"):
            with pytest.raises(UsageError):
                vault.enroll_many([lab.enrolment("alice")], existing=how)
        assert vault.status()["missing"] == 4
        vault.shred("alice")
        report = vault.restore(lab.base / "old")
        assert (report.merged, report.dead, report.missing) == (2, 2, ())
        assert identify(vault, "alice") == []
        assert identify(vault, "bob") == ["bob"]
        assert matches(vault, "bob")
    lab.clean()


# -- under a running process


def test_log_db_is_deleted_under_a_running_process(lab: Lab) -> None:
    with lab.open() as vault, vault.gallery(model=MODEL) as gallery:
        assert matches(vault, "alice")
        raw = (lab.path / "log.db").read_bytes()
        (lab.path / "log.db").unlink()
        stopped(lab, vault)
        with pytest.raises(FacekeepError):
            gallery.search(face("alice"), THRESHOLD, 1)
        (lab.path / "log.db").write_bytes(raw)  # the content is right, but another file
        stopped(lab, vault)


def test_log_db_is_replaced_under_a_running_process(lab: Lab) -> None:
    old = lab.save("old")
    with lab.open() as vault:
        assert matches(vault, "alice")
        new = lab.path / "log.db.new"
        shutil.copy2(old / "vault" / "log.db", new)
        new.replace(lab.path / "log.db")
        stopped(lab, vault)


@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
def test_a_sidecar_of_the_log_is_deleted_under_a_running_process(lab: Lab, suffix: str) -> None:
    with lab.open() as vault:
        assert matches(vault, "alice")
        (lab.path / f"log.db{suffix}").unlink()
        stopped(lab, vault)


def stopped(lab: Lab, vault: Vault) -> None:
    """No answer leaves, and nothing is changed."""
    acts: tuple[Callable[[], object], ...] = (
        lambda: matches(vault, "alice"),
        lambda: identify(vault, "alice"),
        lambda: vault.enroll_many([lab.enrolment("zoe")]),
        lambda: vault.shred("alice"),
        lambda: vault.add_principal("x", [Role.AUDITOR]),
    )
    for act in acts:
        with pytest.raises(FacekeepError):
            act()


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_rolled_back_in_place_under_a_running_process(lab: Lab, name: str) -> None:
    old = lab.save("old")
    with lab.open() as vault:
        vault.enroll_many([lab.enrolment("carol")])
        vault.shred("alice")
        (lab.path / name).write_bytes((old / "vault" / name).read_bytes())
        asks: tuple[Callable[[], bool], ...] = (
            lambda: matches(vault, "alice"),
            lambda: "alice" in identify(vault, "alice"),
        )
        for ask in asks:
            try:
                assert not ask()
            except FacekeepError:
                continue
    never_alice(lab)


@pytest.mark.parametrize("name", ["vault.db", "keys.db"])
def test_a_file_is_taken_away_under_a_running_process(lab: Lab, name: str) -> None:
    with lab.open() as vault:
        assert matches(vault, "alice")
        (lab.path / name).rename(lab.base / name)
        assert reason(vault, "alice") in {"integrity", "unavailable"}
        with pytest.raises(FacekeepError):
            vault.enroll_many([lab.enrolment("carol")])
        with pytest.raises(FacekeepError):
            vault.shred("alice")
        (lab.base / name).rename(lab.path / name)
        assert core(vault).log.verify().size > 0
    with lab.open() as vault:
        assert identify_reason(vault, "alice") == "ok" or identify(vault, "alice") == []
