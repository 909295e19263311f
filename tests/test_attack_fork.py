"""Attacks by fork: SQLite's locks do not cross it, so nothing that was opened before may be used after."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from facekeep.auditlog.writer import Writer
from facekeep.errors import FacekeepError, IntegrityError, Unavailable
from facekeep.store.lock import WriterLock
from facekeep.store.sqlite import Database
from facekeep.vault import Vault
from vaultlab import MODEL, THRESHOLD, Lab, core, face

TOLD = "forked off"


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path, copies=True).create()
    lab.enrol("alice")
    return lab


def ask(vault: Vault) -> str:
    return vault.verify("alice", face("alice"), model=MODEL, threshold=THRESHOLD).decision


def in_child(function: Callable[[], object]) -> str:
    """Return what a function comes to in a forked child: ``repr`` of its result, or its error's words."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            told = repr(function())
        except BaseException as error:  # noqa: BLE001 - whatever it is, the parent says it
            told = f"{type(error).__name__}: {error} / {getattr(error, 'next', '')}"
        with contextlib.suppress(OSError):
            os.write(write, told.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        told = pipe.read()
    os.waitpid(pid, 0)
    return told


USES: dict[str, Callable[[Vault, Lab], object]] = {
    "verify": lambda vault, _: ask(vault),
    "identify": lambda vault, _: vault.identify(face("alice"), model=MODEL, threshold=THRESHOLD),
    "enrol": lambda vault, lab: vault.enroll_many([lab.enrolment("bob")]),
    "shred": lambda vault, _: vault.shred("alice"),
    "backup": lambda vault, lab: vault.backup(lab.base / "backup"),
    "subjects": lambda vault, _: list(vault.subjects()),
    "check": lambda vault, _: vault.check(),
}


@pytest.mark.parametrize("use", USES)
def test_a_child_is_told_why_a_vault_opened_before_answers_nothing(lab: Lab, use: str) -> None:
    with lab.open() as vault:
        ask(vault)
        size = core(vault).log.head().size
        told = in_child(lambda: USES[use](vault, lab))
        assert told.startswith("Unavailable" if use in {"verify", "identify"} else "StoreError")
        assert TOLD in told
        assert "open the vault after forking" in told
        assert core(vault).log.head().size == size
        ask(vault)
        assert vault.check().ok


def test_answers_of_a_daemon_whose_parent_let_go_are_not_lost_since_there_are_none(lab: Lab) -> None:
    vault = Vault.open(lab.path, token=lab.token, clock=lab.clock)
    ask(vault)
    ready, go = os.pipe()
    read, write = os.pipe()
    if not os.fork():
        if os.fork():  # as a daemon does
            os._exit(0)
        os.read(ready, 1)
        try:
            told = ask(vault)
        except FacekeepError as error:
            told = str(error)
        os.write(write, told.encode())
        os._exit(0)
    vault.close()
    os.write(go, b"x")
    os.close(write)
    with os.fdopen(read) as pipe:
        assert TOLD in pipe.read()
    os.wait()
    assert lab.do(lambda vault: vault.check().ok)


def test_a_gallery_that_was_warm_before_a_fork_names_nobody_after_it(lab: Lab) -> None:
    with lab.open() as vault, vault.gallery(model=MODEL) as gallery:
        gallery.search(face("alice"), top=1, threshold=THRESHOLD)
        told = in_child(lambda: gallery.search(face("alice"), top=1, threshold=THRESHOLD))
        assert TOLD in told


def test_a_child_that_closes_and_forgets_an_inherited_vault_takes_nothing_from_the_parent(lab: Lab) -> None:
    with lab.open() as vault:
        ask(vault)

        def leave() -> str:
            vault.close()
            vault.__dict__.clear() if hasattr(vault, "__dict__") else None
            gc.collect()
            return "left"

        assert in_child(leave) == "'left'"
        decision = ask(vault)
        wal = lab.path / "log.db-wal"
        assert wal.exists()
    with lab.open() as vault:
        index, nonce = decision.split("-")
        assert str(core(vault).log.entry(int(index))["nonce"]).startswith(nonce)


def test_a_child_cannot_open_what_its_parent_had_open(lab: Lab) -> None:
    with lab.open() as vault:
        ask(vault)
        told = in_child(lambda: ask(Vault.open(lab.path, token=lab.token, clock=lab.clock)))
        assert "was open when this process was forked off" in told


def test_a_child_opens_what_its_parent_had_closed(lab: Lab) -> None:
    lab.do(ask)
    told = in_child(lambda: ask(Vault.open(lab.path, token=lab.token, clock=lab.clock)))
    index, nonce = told.strip("'").split("-")
    with lab.open() as vault:
        assert str(core(vault).log.entry(int(index))["nonce"]).startswith(nonce)


def _pooled(vault: Vault) -> str:
    try:
        return ask(vault)
    except FacekeepError as error:
        return str(error)


def test_a_pool_of_forked_workers_is_told(lab: Lab) -> None:
    context = multiprocessing.get_context("fork")
    with lab.open() as vault:
        ask(vault)
        queue = context.SimpleQueue()
        workers = [context.Process(target=lambda: queue.put(_pooled(vault))) for _ in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
            assert TOLD in queue.get()
        ask(vault)


def test_a_child_does_not_hold_the_writer_lock_that_its_parent_held(lab: Lab) -> None:
    read, write = os.pipe()
    begun, begin = os.pipe()
    lock = WriterLock(lab.path / "vault.lock")
    with lock.held():
        pid = os.fork()
        if not pid:
            os.close(write)
            os.write(begin, b"x")
            os.read(read, 1)  # lives on
            os._exit(0)
        os.read(begun, 1)
    with WriterLock(lab.path / "vault.lock").held(0):
        pass
    os.close(write)
    os.waitpid(pid, 0)


def test_an_inherited_writer_lock_is_refused(lab: Lab) -> None:
    lock = WriterLock(lab.path / "vault.lock")

    def take() -> None:
        with lock.held(0):
            pass

    assert TOLD in in_child(take)


@pytest.mark.parametrize("end", ["-wal", "-shm"])
def test_no_answer_leaves_when_the_wal_goes_between_the_check_and_the_commit(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    write = Writer._write

    def removing(*arguments: object) -> object:
        seen = write(*arguments)  # type: ignore[arg-type]
        (lab.path / f"log.db{end}").unlink()
        return seen

    with lab.open() as vault:
        ask(vault)
        monkeypatch.setattr(Writer, "_write", removing)
        with pytest.raises(Unavailable, match="removed or replaced"):
            ask(vault)
        monkeypatch.undo()
        with pytest.raises(Unavailable, match="stopped answering"):
            ask(vault)


def test_a_wal_that_is_exchanged_while_the_log_is_opened_is_refused(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Database._opened_sidecars

    def exchanged(database: Database) -> object:
        if database.name == "log.db":
            wal = lab.path / "log.db-wal"
            data = wal.read_bytes()
            wal.unlink()
            wal.write_bytes(data)
        return opened(database)

    monkeypatch.setattr(Database, "_opened_sidecars", exchanged)
    with pytest.raises(IntegrityError, match="removed or replaced"):
        lab.do(ask)


def test_a_child_of_a_process_at_work_is_told_and_does_not_hang(lab: Lab) -> None:
    """Other threads hold locks at the moment of the fork, which nobody releases in the child."""
    with lab.open() as vault:
        over = threading.Event()

        def work() -> None:
            while not over.is_set():
                ask(vault)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for each in threads:
            each.start()
        told = [in_child(lambda: ask(vault)) for _ in range(20)]
        over.set()
        for each in threads:
            each.join()
        assert all(TOLD in each for each in told)
        assert vault.check().ok


def test_a_child_that_ends_as_programs_do_takes_nothing_from_the_parent(lab: Lab) -> None:
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from vaultlab import Lab, MODEL, THRESHOLD, FakeClock, face\n"
        "from facekeep.vault import Vault\n"
        "vault = Vault.open(sys.argv[1], token=sys.argv[2], clock=FakeClock())\n"
        "ask = lambda: vault.verify('alice', face('alice'), model=MODEL, threshold=THRESHOLD).decision\n"
        "ask()\n"
        "if not os.fork():\n"
        "    sys.exit(0)\n"  # with all that the interpreter does at its end
        "os.wait()\n"
        "print(ask(), Path(sys.argv[1], 'log.db-wal').exists())\n"
    )
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    ran = subprocess.run(
        [sys.executable, "-c", program, str(lab.path), lab.token],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    decision, wal = ran.stdout.split()
    assert wal == "True"
    with lab.open() as vault:
        index, nonce = decision.split("-")
        assert str(core(vault).log.entry(int(index))["nonce"]).startswith(nonce)
