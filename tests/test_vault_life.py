"""A vault that is closed says that it is closed; one whose settings were changed goes on."""

from __future__ import annotations

import gc
import inspect
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

from facekeep.access.core import Core
from facekeep.access.gate import Verdict
from facekeep.access.life import Life
from facekeep.errors import FacekeepError, VaultClosed
from facekeep.operations import decide
from facekeep.vault import Gallery, Keys, Vault
from vaultlab import (
    IDENTIFY,
    MODEL,
    THRESHOLD,
    Lab,
    core,
    face,
    identify,
    log_entries,
    matches,
)

KINDS = (Vault, Gallery, Keys)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path, copies=True).create()
    lab.enrol("alice", "bob", "carol")
    return lab


def public(kind: type) -> list[str]:
    return [
        name
        for name, member in vars(kind).items()
        if isinstance(member, FunctionType) and not name.startswith("_") and name != "close"
    ]


def wanted(method: Callable[..., object]) -> dict[str, Any]:
    """Something for each argument that has to be given: nobody looks at it."""
    return {
        name: None
        for name, each in inspect.signature(method).parameters.items()
        if each.default is each.empty and each.kind is not each.VAR_POSITIONAL
    }


# -- closed


def test_every_public_method_says_that_the_vault_is_closed(lab: Lab) -> None:
    with lab.open() as vault:
        gallery, keys = vault.gallery(model=MODEL), vault.keys
        size = core(vault).log.head().size
        vault.close()
    of = {Vault: vault, Gallery: gallery, Keys: keys}
    for kind in KINDS:
        assert len(public(kind)) > 1
        for name in public(kind):
            method = getattr(of[kind], name)
            with pytest.raises(VaultClosed, match=r"^the vault is closed$") as caught:
                method(**wanted(method))
            assert (caught.value.code, caught.value.exit_code) == ("closed", 41)
    with pytest.raises(VaultClosed), vault:
        pytest.fail("it was entered")
    for each in (vault, gallery, vault):
        each.close()  # as often as one likes
    assert gallery.closed
    with lab.open() as again:
        assert core(again).log.head().size == size


@pytest.mark.parametrize("listing", ["subjects", "audit_log"])
def test_a_listing_under_way_says_that_the_vault_is_closed(lab: Lab, listing: str) -> None:
    with lab.open() as vault:
        items = iter(getattr(vault, listing)())
        assert next(items)
    with pytest.raises(VaultClosed):
        next(items)


def test_a_listing_that_was_not_begun_says_that_the_vault_is_closed(lab: Lab) -> None:
    with lab.open() as vault:
        items = vault.subjects()
    with pytest.raises(VaultClosed):
        list(items)


def test_a_decision_under_way_is_answered_and_then_the_vault_is_closed(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = decide._compare
    begun, go = threading.Event(), threading.Event()
    answers: list[object] = []

    def slow(inside: Core, verdict: Verdict, question: decide.Question) -> float:
        begun.set()
        assert go.wait(60)
        return compare(inside, verdict, question)

    with lab.open() as vault:
        size = core(vault).log.head().size
        monkeypatch.setattr(decide, "_compare", slow)
        asking = threading.Thread(target=lambda: answers.append(matches(vault, "alice")))
        asking.start()
        assert begun.wait(60)
        closing = threading.Thread(target=vault.close)
        closing.start()
        while not vault._life._ended:
            time.sleep(0.001)
        with pytest.raises(VaultClosed):
            matches(vault, "bob")
        assert closing.is_alive()
        go.set()
        asking.join()
        closing.join()
    assert answers == [True]
    with lab.open() as again:
        entries = log_entries(again)[size:]
        assert [each["reason"] for each in entries if each["type"] == "decision"] == ["ok"]


def test_threads_that_ask_while_it_is_closed_have_their_answer_or_that_error(lab: Lab) -> None:
    questions: list[Callable[[Vault], object]] = [
        lambda vault: matches(vault, "alice"),
        lambda vault: identify(vault, "bob") == ["bob"],
        lambda vault: len(list(vault.subjects())) == 3,
        lambda vault: bool(vault.status()),
        lambda vault: vault.keys.rotate_root().epoch > 0,
        lambda vault: vault.gallery(model=MODEL).locked in {True, False},
    ]
    wrong: list[object] = []
    for _ in range(3):
        answered = threading.Semaphore(0)

        def ask(vault: Vault, question: Callable[[Vault], object], told: threading.Semaphore) -> None:
            try:
                while question(vault):
                    told.release()
                wrong.append(question)
            except VaultClosed:
                pass
            except Exception as error:  # noqa: BLE001 - told at the end
                wrong.append(error)
            told.release()

        with lab.open() as vault:
            threads = [threading.Thread(target=ask, args=(vault, each, answered)) for each in questions]
            for thread in threads:
                thread.start()
            for _ in range(12):
                answered.acquire()
        for thread in threads:
            thread.join()
    assert not wrong
    with lab.open() as again:
        reasons = {str(each["reason"]) for each in log_entries(again) if each["type"] == "decision"}
        assert reasons == {"ok"}
    lab.clean()


def test_a_call_that_closes_its_own_vault_says_that_it_is_closed(lab: Lab) -> None:
    """In a progress function, on the thread of the call: nobody waits for oneself."""
    with lab.open() as vault, pytest.raises(VaultClosed):
        vault.backup(lab.base / "backup", progress=lambda *_: vault.close())


def test_a_search_that_closes_its_own_vault_leaves_no_false_reason(lab: Lab) -> None:
    with lab.open() as vault, pytest.raises(VaultClosed):
        vault.identify(face("alice"), model=MODEL, threshold=THRESHOLD, progress=lambda *_: vault.close())
    with lab.open() as again:
        assert all(each["type"] != "decision" for each in log_entries(again))


def test_closing_zeroes_the_galleries_that_others_keep(lab: Lab) -> None:
    with lab.open() as vault:
        gallery = vault.gallery(model=MODEL)
        rows = gallery._rows
        assert rows.matrix.any()
    assert gallery.closed
    assert rows.count == 0


def test_a_gallery_that_its_user_closed_says_so(lab: Lab) -> None:
    with lab.open() as vault:
        with vault.gallery(model=MODEL) as gallery:
            pass
        with pytest.raises(FacekeepError, match="gallery is closed"):
            gallery.search(face("alice"), THRESHOLD, 1)


def test_a_child_neither_waits_for_the_calls_of_its_parent_nor_ends_them(lab: Lab) -> None:
    with lab.open() as vault:
        with vault._life.call():
            if not (child := os.fork()):
                try:
                    vault.close()
                finally:
                    os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        assert matches(vault, "alice")


# -- other settings


def change(lab: Lab, days: int) -> None:
    lab.do(lambda vault: vault.change_settings(schedule=[f"root_days={days}"]))


def test_a_schedule_that_another_process_sets_stops_nobody(lab: Lab) -> None:
    with lab.open() as door:
        gallery = door.gallery(model=MODEL)
        assert gallery.search(face("alice"), THRESHOLD, 1).candidates
        assert identify(door, "bob") == ["bob"]
        calls: list[Callable[[], object]] = [
            lambda: matches(door, "alice"),
            lambda: identify(door, "bob") == ["bob"],
            lambda: gallery.search(face("alice"), THRESHOLD, 1).compared == 3,
            lambda: len(list(door.subjects())) == 3,
            lambda: door.is_enrolled("alice", [IDENTIFY]),
            lambda: door.status()["vault"],
            lambda: door.whoami()[0],
            lambda: door.keys.rotate_root().epoch > 0,
            lambda: door.maintain().exit_code == 0,
            lambda: door.withdraw("carol", [IDENTIFY]) is not None,
        ]
        for days, call in enumerate(calls, 10):
            change(lab, days)
            assert call()
            assert door.settings.schedule.root_days == days
        reasons = {str(each["reason"]) for each in log_entries(door) if each["type"] == "decision"}
        assert reasons == {"ok"}
        assert door._life._left == []
    lab.clean()


def test_a_listing_goes_on_over_a_change_of_settings(lab: Lab) -> None:
    with lab.open() as door:
        names = iter(door.subjects())
        found = [next(names).subject]
        change(lab, 10)
        assert matches(door, "alice")
        found += [each.subject for each in names]
        assert sorted(found) == ["alice", "bob", "carol"]
        entries = iter(door.audit_log())
        first = next(entries)[0]
        change(lab, 11)
        assert matches(door, "bob")
        assert [first, *(index for index, _ in entries)] == list(range(len(log_entries(door)) - 2))
        del names, entries
        assert matches(door, "bob")
        assert door._life._left == []


def test_no_earlier_opening_is_kept(lab: Lab) -> None:
    """A service that runs for months has one set of open files."""
    with lab.open() as door, lab.open() as operator:
        operator.change_settings(schedule=["root_days=9"])
        assert matches(door, "alice")
        files, threads = len(list(Path("/proc/self/fd").iterdir())), threading.active_count()
        for days in range(10, 20):
            operator.change_settings(schedule=[f"root_days={days}"])
            assert matches(door, "alice")
        assert len(list(Path("/proc/self/fd").iterdir())) <= files + 2
        assert threading.active_count() == threads


def test_an_idle_service_follows_by_itself(lab: Lab) -> None:
    """Its galleries are those of the new settings before anybody asks."""
    with lab.open() as door, door.gallery(model=MODEL) as gallery:
        first = core(door)
        change(lab, 10)
        while core(door) is first or not gallery._rows.count:
            time.sleep(0.01)
        assert door.settings.schedule.root_days == 10


def test_files_stay_open_for_a_call_that_began_before_the_change() -> None:
    life = Life(lambda _: None)
    closed: list[str] = []
    with life.call():
        life.leave(lambda: closed.append("first"))
        with life.call():
            pass
        assert not closed
        items = life.each(iter("ab"))
        life.leave(lambda: closed.append("second"))
    assert closed == ["first"]
    assert list(items) == ["a", "b"]
    del items
    with life.call():
        pass
    assert closed == ["first", "second"]


# -- whose connections are whose


def test_a_vault_outlives_the_thread_that_opened_it(lab: Lab) -> None:
    vaults: list[Vault] = []
    opening = threading.Thread(
        target=lambda: vaults.append(Vault.open(lab.path, token=lab.token, clock=lab.clock))
    )
    opening.start()
    opening.join()
    del opening
    with vaults[0] as vault:
        core(vault).watcher.close()  # whose connections would keep the files' WAL
        gc.collect()
        assert matches(vault, "alice")
        vault.keys.rotate_root()
        assert identify(vault, "bob") == ["bob"]
    lab.clean()


def test_a_vault_outlives_the_thread_that_followed_the_settings(lab: Lab) -> None:
    with lab.open() as door:
        change(lab, 10)
        following = threading.Thread(target=lambda: matches(door, "alice"))
        following.start()
        following.join()
        assert door.settings.schedule.root_days == 10
        assert matches(door, "alice")


def test_two_calls_that_close_the_vault_do_not_wait_for_one_another() -> None:
    life, both = Life(lambda _: None), threading.Barrier(2)

    def close() -> None:
        both.wait()
        life.end()

    threads = [threading.Thread(target=life.run, args=(close,), daemon=True) for _ in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    with pytest.raises(VaultClosed):
        life.run(lambda: None)
