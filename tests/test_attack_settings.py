"""What somebody who writes vault.toml can do to a vault that follows a change of settings by itself."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from facekeep.access.core import Core, View
from facekeep.access.session import Session
from facekeep.clock import Clock
from facekeep.errors import Busy, Denied, IntegrityError, Unavailable
from facekeep.formats.canonical import JsonObject
from facekeep.formats.settings import Settings
from facekeep.keys.secrets import Secrets
from facekeep.matching.members import Members, Progress
from facekeep.operations import opening
from facekeep.store import settingsfile
from facekeep.vault import Role, Vault
from vaultlab import MODEL, THRESHOLD, Lab, core, face, held, log_entries, matches, reason, threshold

NAMES = ("vault.toml", "vault.toml.new")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path).create()
    lab.do(lambda vault: vault.change_settings(regions=["FR"]))
    lab.enrol("alice", "bob", regions=("DE", "FR"))
    return lab


def closed_to_france(vault: Vault) -> None:
    vault.change_settings(regions=[])


def in_france(vault: Vault) -> object:
    return vault.verify("alice", face("alice"), model=MODEL, threshold=THRESHOLD, region="FR")


def answers(vault: Vault) -> list[str]:
    """Reasons of the decisions for France."""
    return [str(each["reason"]) for each in log_entries(vault) if each.get("region") == "FR"]


@pytest.mark.parametrize("name", NAMES)
def test_old_settings_are_put_back_before_they_are_followed(lab: Lab, name: str) -> None:
    """Whoever was open before answers nothing under them, and says so in the log."""
    old = (lab.path / "vault.toml").read_bytes()
    with lab.open() as door:
        assert reason(door, "alice", region="FR") == "ok"
        lab.do(closed_to_france)
        true = (lab.path / "vault.toml").read_bytes()
        (lab.path / name).write_bytes(old)
        if name == "vault.toml.new":
            assert reason(door, "alice", region="FR") == "region"
        else:
            for _ in range(2):
                with pytest.raises(Unavailable, match="edited by hand") as caught:
                    in_france(door)
                assert caught.value.decision is not None
            with pytest.raises(IntegrityError, match="edited by hand"):
                door.enroll_many([lab.enrolment("carol")])
            assert answers(door) == ["ok", "integrity", "integrity"]
            (lab.path / name).write_bytes(true)
        assert reason(door, "alice", region="FR") == "region"
        assert matches(door, "alice")


def test_old_settings_are_put_back_after_they_were_followed(lab: Lab) -> None:
    """They are read at an opening, and so refused then: the vault goes on with those it has."""
    old = (lab.path / "vault.toml").read_bytes()
    with lab.open() as door:
        core(door).watcher.close()
        lab.do(closed_to_france)
        assert reason(door, "alice", region="FR") == "region"
        (lab.path / "vault.toml").write_bytes(old)
        assert reason(door, "alice", region="FR") == "region"
        assert door.settings.regions == ()


def test_other_settings_are_there_at_each_reading_but_the_last(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A race for vault.toml: what is read counts only with the digest that the log names."""
    old = settingsfile.read(lab.path)
    read = settingsfile.read
    with lab.open() as door:
        assert reason(door, "alice", region="FR") == "ok"
        lab.do(closed_to_france)
        reads = [old, old]

        def raced(path: Path) -> Settings:
            return reads.pop() if reads else read(path)

        monkeypatch.setattr(settingsfile, "read", raced)
        assert reason(door, "alice", region="FR") in {"integrity", "unavailable", "region"}
        assert reason(door, "alice", region="FR") == "region"
        assert answers(door).count("ok") == 1


@pytest.mark.parametrize("undone", [False, True], ids=["for good", "and forward again"])
def test_settings_and_log_are_put_back_while_the_change_is_followed(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, undone: bool
) -> None:
    """The log that the vault has seen goes on from what it saw, or the vault answers nothing."""
    with lab.open() as door:
        core(door).watcher.close()
        assert reason(door, "alice", region="FR") == "ok"
        before = lab.save("before")
        lab.do(closed_to_france)
        later = lab.save("later")
        with monkeypatch.context() as racing:
            racing.setattr(opening, "open_core", raced(lab, before, later if undone else before))
            with pytest.raises((Denied, Unavailable, Busy)):
                in_france(door)
        assert door.settings.regions in {(), ("FR",)}
        with pytest.raises((Denied, Unavailable)):
            in_france(door)
    shutil.rmtree(lab.base / "saved")


def test_settings_and_log_are_put_back_again_once_the_change_was_followed(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old files at the opening, the true ones for what was open before, and the old ones from then on."""

    with lab.open() as door:
        core(door).watcher.close()
        assert reason(door, "alice", region="FR") == "ok"
        before = lab.save("before")
        lab.do(closed_to_france)
        later = lab.save("later")

        def on(self: Session, core: Core) -> Session:
            write(lab, before)
            return follow(self, core)

        follow = Session.on
        monkeypatch.setattr(opening, "open_core", raced(lab, before, later))
        monkeypatch.setattr(Session, "on", on)
        for _ in range(2):
            with pytest.raises((Denied, Unavailable)):
                in_france(door)
    shutil.rmtree(lab.base / "saved")


def raced(lab: Lab, at_opening: Path, afterwards: Path) -> Callable[[Path, Clock, Secrets], Core]:
    """Opening of a core under other files than those that stand there afterwards."""
    opened = opening.open_core

    def race(path: Path, clock: Clock, secrets: Secrets) -> Core:
        write(lab, at_opening)
        try:
            return opened(path, clock, secrets)
        finally:
            write(lab, afterwards)

    return race


def write(lab: Lab, saved: Path) -> None:
    """Put saved files back in place, under whoever has them open."""
    (lab.path / "vault.toml").write_bytes((saved / "vault" / "vault.toml").read_bytes())
    with contextlib.closing(sqlite3.connect(lab.path / "log.db", isolation_level=None)) as log:
        log.execute("ATTACH ? AS saved", [str(saved / "vault" / "log.db")])
        log.execute("BEGIN IMMEDIATE")
        tables = log.execute("SELECT name FROM main.sqlite_schema WHERE type = 'table'").fetchall()
        for (table,) in tables:
            if not table.startswith("sqlite_"):
                log.execute(f"DELETE FROM main.{table}")
                log.execute(f"INSERT INTO main.{table} SELECT * FROM saved.{table}")
        log.execute("COMMIT")


def test_nobody_decides_under_two_settings_at_once(lab: Lab) -> None:
    """Threads ask for France while it is opened and closed again and again: the log has one or the other."""
    wrong: list[object] = []
    stop = threading.Event()

    def ask(vault: Vault) -> None:
        while not stop.is_set():
            try:
                found = reason(vault, "alice", region="FR")
            except BaseException as error:  # noqa: BLE001 - told at the end
                wrong.append(error)
                return
            else:
                if found not in {"ok", "region"}:
                    wrong.append(found)

    with lab.open() as door, lab.open() as operator:
        threads = [threading.Thread(target=ask, args=(door,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for turn in range(8):
            operator.change_settings(regions=["FR"] if turn % 2 else [])
            assert matches(door, "bob")
        stop.set()
        for thread in threads:
            thread.join()
        assert_in_force(log_entries(operator))
    assert not wrong
    lab.clean()


def assert_in_force(entries: list[JsonObject]) -> None:
    """Each decision for France was made under the settings that the log had come to."""
    allowed = True
    for entry in entries:
        if entry["type"] in {"settings", "genesis"}:
            allowed = "FR" in str(entry["regions"])
        elif entry["type"] == "decision" and entry["region"] == "FR":
            assert entry["allow"] is allowed


def test_a_gallery_fills_while_the_vault_is_opened_again(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on, and so does who empties it of whoever is withdrawn while nobody calls."""
    follow, filled = Members.follow, threading.Event()

    def slow(self: Members, progress: Progress | None = None) -> View:
        view = follow(self, progress)
        if not filled.is_set():
            filled.set()
            lab.do(lambda vault: vault.change_settings(regions=["FR", "IT"]))
            asking = threading.Thread(target=matches, args=(door, "bob"))  # which opens the vault again
            asking.start()
            asking.join()
        return view

    with lab.open() as door:
        core(door).watcher.close()
        before = core(door)
        monkeypatch.setattr(Members, "follow", slow)
        gallery = door.gallery(model=MODEL)
        assert core(door) is not before
        assert not gallery.closed
        assert gallery in core(door).watcher._followers
        assert gallery.search(face("alice"), THRESHOLD)
        lab.do(lambda vault: vault.shred("alice"))
        while held(gallery) > 1:
            time.sleep(0.1)


@pytest.mark.parametrize("role", [Role.SERVICE, Role.OPERATOR])
@pytest.mark.parametrize("is_followed", [False, True], ids=["by the search", "before"])
@pytest.mark.parametrize("is_whole", [False, True], ids=["gallery", "vault"])
def test_a_search_goes_by_the_threshold_of_now(
    lab: Lab, role: Role, is_followed: bool, is_whole: bool
) -> None:
    """Nobody is found, and nobody refused, by the threshold that was registered before."""
    near = face("alice") + 0.3 * face("mallory")
    near /= np.linalg.norm(near)
    token = lab.add_principal(role, Role.SERVICE)
    with lab.open(token) as door:
        gallery = door.gallery(model=MODEL)
        assert gallery.search(near)
        assert door.identify(near, model=MODEL)
        lab.do(lambda vault: vault.change_settings(thresholds=[threshold(value=0.1)]))
        if is_followed:
            assert door.verify("alice", face("alice"), model=MODEL)
        found = door.identify(near, model=MODEL) if is_whole else gallery.search(near)
        assert not found
        assert found.threshold.value == 0.1
