"""A process is stopped, somebody is erased meanwhile, and files are put back in place under it.

The process has seen none of it: no file was replaced, and the log goes on from where it was.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from facekeep.access.core import Core
from facekeep.access.gate import Verdict
from facekeep.auditlog import copies
from facekeep.errors import FacekeepError
from facekeep.operations import decide
from facekeep.vault import Vault
from vaultlab import IDENTIFY, MODEL, THRESHOLD, VERIFY, Lab, core, face, held, identify, matches

Answers = list[tuple[bool | str, list[str] | str]]


def files_of(lab: Lab, *names: str) -> list[Path]:
    return [lab.path / (name + end) for name in names for end in ("", "-wal", "-shm")]


def ask(vault: Vault) -> tuple[bool | str, list[str] | str]:
    """What a service is told of Alice, in both ways."""

    def told(question: Callable[[], object]) -> object:
        try:
            return question()
        except FacekeepError as error:
            return str(error)

    return told(lambda: matches(vault, "alice")), told(lambda: identify(vault, "alice"))  # type: ignore[return-value]


def after(
    lab: Lab,
    put_back: Callable[[], list[Path]],
    between: Callable[[Vault], object],
    then: Callable[[], object] = lambda: None,
) -> Answers:
    """Answers of a service before it is stopped, after it goes on, and once more."""

    def service() -> Answers:
        with lab.open() as vault:
            answers = [ask(vault)]
            os.kill(os.getpid(), signal.SIGSTOP)
            then()
            return [*answers, ask(vault), ask(vault)]

    return during(lab, service, put_back, between)


def during(
    lab: Lab,
    service: Callable[[], Answers],
    put_back: Callable[[], list[Path]],
    between: Callable[[Vault], object],
) -> Answers:
    """Answers of a service that stops itself once; meanwhile ``between`` is done, and files put back."""
    process = lab.fork(service)
    process.wait_stopped()
    try:
        saved = [(path, path.read_bytes()) for path in put_back()]
        lab.do(between)
        for path, data in saved:
            with path.open("r+b") as file:  # in place: the same inode
                file.write(data)
                file.truncate(len(data))
        process.resume()
        return process.wait()
    finally:
        process.kill()


def shred(vault: Vault) -> None:
    vault.shred("alice")
    assert vault.check().ok


@pytest.fixture(params=[False, True], ids=["alone", "with a live copy"])
def lab(tmp_path: Path, request: pytest.FixtureRequest) -> Lab:
    lab = Lab(tmp_path, copies=request.param).create()
    lab.enrol("alice", "bob")
    return lab


def never_again(answers: Answers) -> None:
    before, *later = answers
    assert before == (True, ["alice"])
    for verified, found in later:
        assert verified is not True
        assert "alice" not in found or isinstance(found, str)


def test_the_log_is_put_back(lab: Lab) -> None:
    never_again(after(lab, lambda: files_of(lab, "log.db"), shred))


def test_the_watcher_looks_between_an_evaluation_and_its_append(lab: Lab) -> None:
    """What it finds, and reads anew, does not make a decision true that was taken before."""

    def service() -> Answers:
        with lab.open() as vault:
            answers = [ask(vault)]
            core(vault).watcher.close()
            compare = decide._compare

            def looked(own: Core, verdict: Verdict, question: decide.Question) -> float:
                found = compare(own, verdict, question)
                core(vault).follow_log()
                return found

            os.kill(os.getpid(), signal.SIGSTOP)
            pytest.MonkeyPatch().setattr(decide, "_compare", looked)
            return [*answers, ask(vault), ask(vault)]

    never_again(during(lab, service, lambda: files_of(lab, "log.db"), shred))


def test_the_log_and_the_rows_are_put_back(lab: Lab) -> None:
    never_again(after(lab, lambda: files_of(lab, "log.db", "vault.db"), shred))


def test_the_log_is_put_back_after_a_withdrawal(lab: Lab) -> None:
    answers = after(
        lab, lambda: files_of(lab, "log.db"), lambda vault: vault.withdraw("alice", [VERIFY, IDENTIFY])
    )
    never_again(answers)


def test_all_of_the_vault_is_put_back_but_the_root(lab: Lab) -> None:
    """The holder has destroyed what opened that tree, and its file is not what it was."""
    never_again(after(lab, lambda: files_of(lab, "log.db", "vault.db", "keys.db"), shred))


def test_all_is_put_back_but_a_live_copy(tmp_path: Path) -> None:
    lab = Lab(tmp_path, copies=True).create()
    lab.enrol("alice")
    answers = after(lab, lambda: [*files_of(lab, "log.db", "vault.db", "keys.db"), lab.root], shred)
    assert ["has entries that log.db lacks" in str(found) for _, found in answers] == [False, True, True]
    never_again(answers)


def test_the_live_copy_is_away_when_the_process_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "_LOOK_S", 0.0)
    lab = Lab(tmp_path, copies=True).create()
    lab.enrol("alice")
    aside = tmp_path / "aside"

    def everything() -> list[Path]:
        return [*files_of(lab, "log.db", "vault.db", "keys.db"), lab.root]

    def service() -> list[str]:
        with lab.open() as vault:
            matches(vault, "alice")
            os.kill(os.getpid(), signal.SIGSTOP)
            matches(vault, "alice")  # while it is away nobody can tell
            aside.rename(lab.copy_dir)
            return [str(each) for each in (ask(vault), ask(vault))]

    process = lab.fork(service)
    process.wait_stopped()
    saved = [(path, path.read_bytes()) for path in everything()]
    lab.do(shred)
    lab.copy_dir.rename(aside)
    for path, data in saved:
        with path.open("r+b") as file:
            file.write(data)
            file.truncate(len(data))
    process.resume()
    for each in process.wait():
        assert "has another history than log.db" in each


def test_an_idle_process_lets_go_of_whom_another_process_erased(tmp_path: Path) -> None:
    """Its watcher sees by keys.db what the log does not tell any more."""
    lab = Lab(tmp_path).create()
    lab.enrol("alice", "bob")

    def service() -> int:
        with lab.open() as vault, vault.gallery(model=MODEL) as gallery:
            gallery.search(face("alice"), THRESHOLD, 5)
            os.kill(os.getpid(), signal.SIGSTOP)
            core(vault).follow_log()
            for _ in range(1_000):
                if not held(gallery):
                    break
                signal.sigtimedwait([], 0.01)
            return held(gallery)

    process = lab.fork(service)
    process.wait_stopped()
    saved = [(path, path.read_bytes()) for path in files_of(lab, "log.db")]
    lab.do(shred)
    for path, data in saved:
        with path.open("r+b") as file:
            file.write(data)
            file.truncate(len(data))
    process.resume()
    assert process.wait() == 0


def test_a_swap_by_another_process_stops_nobody(lab: Lab) -> None:
    """Nothing is put back: whoever was stopped during an erasure follows it."""
    before, *later = after(lab, list, lambda vault: vault.shred("bob"))
    assert [before, *later] == [(True, ["alice"])] * 3


def test_a_holder_that_is_away_stops_nobody(lab: Lab) -> None:
    """Whose file was touched is asked, and who does not answer is passed over while keys.db stands still."""
    with lab.open() as vault:
        assert ask(vault) == (True, ["alice"])
        aside = lab.root.rename(lab.base / "aside")
        assert ask(vault) == (True, ["alice"])
        aside.rename(lab.root)
        assert ask(vault) == (True, ["alice"])
