"""Changing region and live copies: logged, in two steps, noticed by everybody who has the vault open."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from facekeep.errors import Denied, IntegrityError, NotAllowed, StoreError, UsageError
from facekeep.vault import Role, Vault
from vaultlab import (
    MODEL,
    THRESHOLD,
    VERIFY,
    Lab,
    calling,
    core,
    face,
    held,
    identify,
    log_entries,
    matches,
    reason,
)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    made = Lab(tmp_path, copies=True).create()
    made.enrol("alice", "bob")
    return made


def new_directory(lab: Lab, name: str = "third") -> Path:
    (lab.base / name).mkdir(exist_ok=True)
    return lab.base / name


def states(vault: Vault) -> set[tuple[str, str]]:
    return {
        (state.path.parent.name, state.state)
        for states in (core(vault).keys.copies_state(), core(vault).log.copies_state())
        for state in states
    }


def test_the_region_is_changed_and_the_log_says_so(lab: Lab) -> None:
    with lab.open() as vault:
        old = vault.settings
        done = vault.change_settings(region="FR")
        assert (done.settings.region, vault.region, vault.status()["region"]) == ("FR", "FR", "FR")
        entry = log_entries(vault)[-1]
        assert done.entry == len(log_entries(vault)) - 1
        assert (entry["type"], entry["previous"], entry["digest"]) == (
            "settings",
            old.digest().hex(),
            vault.settings.digest().hex(),
        )
        assert entry["by"] == vault.whoami()[0]
        assert reason(vault, "alice") == "region"  # her consent was for DE
        vault.enroll_many([lab.enrolment("carol", VERIFY)])
        assert matches(vault, "carol")
        vault.shred("bob")
    assert lab.do(lambda vault: vault.region) == "FR"
    lab.clean()


def test_a_new_copy_directory_gets_its_copies_at_once(lab: Lab) -> None:
    third = new_directory(lab)
    with lab.open() as vault:
        done = vault.change_settings(copies=[lab.copy_dir, third])
        assert (done.added, done.removed) == ((str(third),), ())
        assert states(vault) == {("copy", "current"), ("third", "current")}
        vault.shred("bob")
        assert states(vault) == {("copy", "current"), ("third", "current")}
    assert {path.name for path in third.iterdir() if path.suffix == ".db"} == {"keys.db", "log.db"}
    for name in ("keys.db", "log.db"):
        assert (third / name).stat().st_mode & 0o077 == 0
        for suffix in ("", "-wal", "-shm"):
            (lab.path / (name + suffix)).unlink(missing_ok=True)
        shutil.copy2(third / name, lab.path / name)
    lab.clean()
    assert lab.do(lambda vault: matches(vault, "alice"))


def test_a_removed_directory_is_left_as_it_is_and_can_come_back(lab: Lab) -> None:
    with lab.open() as vault:
        done = vault.change_settings(copies=[])
        assert (done.added, done.removed) == ((), (str(lab.copy_dir),))
        left = {path.name: path.read_bytes() for path in lab.copy_dir.glob("*.db")}
        vault.shred("bob")
        assert {path.name: path.read_bytes() for path in lab.copy_dir.glob("*.db")} == left
        vault.change_settings(copies=[lab.copy_dir])
        assert states(vault) == {("copy", "current")}
    lab.clean()


def test_an_erasure_no_longer_waits_for_a_copy_that_was_removed(lab: Lab) -> None:
    shutil.rmtree(lab.copy_dir)
    with lab.open() as vault:
        vault.change_settings(copies=[])
        vault.shred("bob")
        assert reason(vault, "bob") == "subject_unknown"


def not_there(lab: Lab) -> Path:
    return lab.base / "nowhere"


def a_file(lab: Lab) -> Path:
    (lab.base / "file").write_text("text")
    return lab.base / "file"


def not_empty(lab: Lab) -> Path:
    (new_directory(lab) / "holiday.jpg").write_text("a photograph")
    return new_directory(lab)


def of_another_vault(lab: Lab) -> Path:
    other = Lab(lab.base / "other", copies=True).create()
    return other.copy_dir


def damaged(lab: Lab) -> Path:
    (new_directory(lab) / "keys.db").write_bytes(b"noise" * 1000)
    return new_directory(lab)


@pytest.mark.parametrize(
    "spoil", [not_there, a_file, not_empty, of_another_vault, damaged, lambda lab: lab.path]
)
def test_a_directory_that_will_not_do_is_refused_before_anything_is_changed(
    lab: Lab, spoil: Callable[[Lab], Path]
) -> None:
    wrong, good = spoil(lab), new_directory(lab, "good")
    toml = (lab.path / "vault.toml").read_bytes()
    with lab.open() as vault:
        size = len(log_entries(vault))
        with pytest.raises(UsageError):
            vault.change_settings(region="FR", copies=[lab.copy_dir, good, wrong])
        assert len(log_entries(vault)) == size
        assert matches(vault, "alice")
    assert list(good.iterdir()) == []
    assert (lab.path / "vault.toml").read_bytes() == toml
    lab.clean()


def test_other_words_that_are_refused(lab: Lab) -> None:
    with lab.open() as vault:
        for region in ("Germany", "de", ""):
            with pytest.raises(UsageError):
                vault.change_settings(region=region)
        third = new_directory(lab)
        for copies in ([third, third], [lab.base / "new\nline"], [lab.base / ("x" * 70_000)]):
            with pytest.raises(UsageError):
                vault.change_settings(copies=copies)
        assert vault.change_settings(region="DE", copies=[lab.copy_dir]).entry is None
        assert matches(vault, "alice")
    lab.clean()


@pytest.mark.parametrize("role", [Role.SERVICE, Role.AUDITOR, Role.DPO])
def test_only_an_operator_changes_settings(lab: Lab, role: Role) -> None:
    token = lab.add_principal(role)
    with lab.open(token) as vault, pytest.raises(NotAllowed):
        vault.change_settings(region="FR")
    assert lab.do(lambda vault: vault.region) == "DE"


def test_a_disk_that_fails_leaves_no_copies_behind(lab: Lab) -> None:
    third = new_directory(lab)

    def fail() -> None:
        raise StoreError("the disk is full")

    with lab.open() as vault:
        with calling("settings.copied", fail), pytest.raises(StoreError):
            vault.change_settings(copies=[lab.copy_dir, third])
        assert list(third.iterdir()) == []
        assert matches(vault, "alice")
        vault.change_settings(copies=[lab.copy_dir, third])
    lab.clean()


def test_whoever_has_the_vault_open_notices(lab: Lab) -> None:
    third = new_directory(lab)
    with lab.open() as door:
        gallery = door.gallery(model=MODEL)
        assert matches(door, "alice")
        assert identify(door, "alice") == ["alice"]
        with lab.open() as vault:
            vault.change_settings(region="FR", copies=[lab.copy_dir, third])
            with pytest.raises(Denied):
                gallery.search(face("alice"), THRESHOLD, 1)
            assert held(gallery) == 0
            assert reason(door, "alice") == "region"
            assert identify(door, "alice") == []
            assert door.region == "FR"
            door.enroll_many([lab.enrolment("carol")])
            assert states(door) == {("copy", "current"), ("third", "current")}
            assert reason(vault, "alice") == "region"
    lab.clean()


def test_a_gallery_follows_the_vault_that_changes(lab: Lab) -> None:
    with lab.open() as vault:
        gallery = vault.gallery(model=MODEL)
        assert identify(vault, "alice") == ["alice"]
        vault.change_settings(region="FR")
        assert identify(vault, "alice") == []
        with pytest.raises(Denied):
            gallery.search(face("alice"), THRESHOLD, 1)
        vault.change_settings(region="DE")
        assert gallery.search(face("alice"), THRESHOLD, 1).candidates
        gallery.close()


def test_a_process_in_another_program_notices(lab: Lab) -> None:
    """Killed after the entry, before the new name: who was open stops, who opens repairs."""
    lab.crash(lambda vault: vault.change_settings(region="FR"), "settings.announced")
    assert 'region = "DE"' in (lab.path / "vault.toml").read_text()
    assert 'region = "FR"' in (lab.path / "vault.toml.new").read_text()
    assert lab.do(lambda vault: vault.region) == "FR"
    assert 'region = "FR"' in (lab.path / "vault.toml").read_text()
    lab.clean()


@pytest.mark.parametrize("copies", [False, True], ids=["alone", "with copies"])
def test_kill_at_every_step(tmp_path: Path, copies: bool) -> None:
    lab = Lab(tmp_path, copies=copies).create()
    lab.enrol("alice")
    third = new_directory(lab)
    wanted = [third, lab.copy_dir] if copies else [third]

    def act(vault: Vault) -> object:
        return vault.change_settings(region="FR", copies=wanted)

    def empty() -> None:
        for path in third.iterdir():
            path.unlink()

    start = lab.save("start")
    steps = lab.steps_of(act)
    assert [step for step, _ in steps] == [
        "settings.copied", "settings.staged", "settings.announced", "settings.renamed", "settings.current",
    ]  # fmt: skip
    announced = steps.index(("settings.announced", 1))
    for at, (step, occurrence) in enumerate(steps):
        empty()
        lab.put_back(start)
        lab.crash(act, step, occurrence)
        with lab.open() as vault:
            assert vault.region == ("FR" if at >= announced else "DE"), step
            assert vault.settings.copies == (
                tuple(map(str, wanted)) if at >= announced else vault.settings.copies
            )
        lab.do(act)
        with lab.open() as vault:
            assert vault.region == "FR"
            vault.shred("alice")
            assert ("third", "current") in states(vault)
            assert {state for _, state in states(vault)} == {"current"}
        lab.clean()


def test_only_what_the_log_names_is_given_the_name(lab: Lab) -> None:
    toml, staged = lab.path / "vault.toml", lab.path / "vault.toml.new"
    old = toml.read_bytes()
    for planted in (old.replace(b'"DE"', b'"FR"'), b"", b"\xff", b"x" * 70_000):
        staged.write_bytes(planted)
        assert lab.do(lambda vault: vault.region) == "DE"
    toml.write_bytes(old.replace(b'"DE"', b'"FR"'))
    with pytest.raises(IntegrityError, match="edited by hand"):
        lab.do(lambda vault: vault.region)
    toml.write_bytes(old)
    lab.do(lambda vault: vault.change_settings(region="FR"))
    new = toml.read_bytes()
    staged.write_bytes(old)
    assert lab.do(lambda vault: vault.region) == "FR"
    toml.write_bytes(old)  # an old vault.toml put back, and its like beside it
    with pytest.raises(IntegrityError, match="edited by hand"):
        lab.do(lambda vault: vault.region)
    toml.write_bytes(new)
    lab.clean()


def test_a_lost_vault_db_after_a_change_that_was_cut_off(lab: Lab) -> None:
    lab.do(lambda vault: vault.backup(lab.base / "backup"))
    lab.crash(lambda vault: vault.change_settings(region="FR"), "settings.announced")
    for path in lab.path.glob("vault.db*"):
        path.unlink()
    with Vault.open(lab.path, token=lab.token, clock=lab.clock, lost_data=True) as vault:
        assert vault.region == "FR"
        assert vault.restore(lab.base / "backup").missing == ()
    lab.clean()
