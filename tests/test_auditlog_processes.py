"""Several processes at one log, and processes that die."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing.queues import Queue
from pathlib import Path

from auditlog_help import BRANCH, KEY, NOW, VAULT, FakeClock, Lab, decision, granted, grants
from facekeep.auditlog.log import AuditLog, ControlMoved
from facekeep.store import logdb
from unmeasured import environment

SPAWN = multiprocessing.get_context("spawn")


def opened(path: str) -> AuditLog:
    copies = [copy] if (copy := Path(path).parent / "second" / "log.db").parent.is_dir() else []
    return AuditLog(logdb.open_log(Path(path), VAULT), copies, KEY, VAULT, FakeClock())


def decide_many(path: str, threads: int, count: int, results: Queue[list[tuple[int, int]]]) -> None:
    """Decide from several threads; report (index, control_seq asked with)."""
    log = opened(path)
    found: list[tuple[int, int]] = []

    def work() -> None:
        done = 0
        while done < count:
            seq = log.head().control_seq
            try:
                index = log.decide(decision(), control_seq=seq, valid_until_ms=2**53, allow=True)
            except ControlMoved:
                continue
            found.append((index, seq))
            done += 1

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    results.put(found)
    log.close()


def test_two_processes_append_concurrently_and_keep_one_chain(tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    lab = Lab(tmp_path, tmp_path / "second" / "log.db")
    results = SPAWN.Queue()
    workers = [SPAWN.Process(target=decide_many, args=(str(lab.path), 3, 60, results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    found = [pair for _ in workers for pair in results.get(timeout=120)]
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert sorted(index for index, _ in found) == list(range(1, 361))
    assert lab.log.verify().size == 361
    assert [each.state for each in lab.log.resync_copies()] == ["current"]
    assert [each.size for each in lab.log.copies_state()] == [361]


def test_no_copy_looks_ahead_of_the_log_while_three_processes_append(tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    lab = Lab(tmp_path, tmp_path / "second" / "log.db")
    results = SPAWN.Queue()
    workers = [SPAWN.Process(target=decide_many, args=(str(lab.path), 2, 60, results)) for _ in range(3)]
    for worker in workers:
        worker.start()
    seen: set[str] = set()
    while any(worker.is_alive() for worker in workers) and results.qsize() < len(workers):
        seen.update(each.state for each in lab.log.copies_state())
    assert len([pair for _ in workers for pair in results.get(timeout=120)]) == 360
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert seen <= {"current", "behind"}
    assert lab.log.verify().size == 361


def test_no_decision_lands_after_the_control_entry_it_did_not_see(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    results = SPAWN.Queue()
    worker = SPAWN.Process(target=decide_many, args=(str(lab.path), 4, 100, results))
    worker.start()
    at = 0
    while worker.is_alive() and at < 2_000:
        first = lab.log.append(grants(BRANCH + at))[0]
        lab.log.append([granted(first)])
        at += 1
        time.sleep(0.002)
        if not results.empty():
            break
    found = dict(results.get(timeout=120))
    worker.join(60)
    controls = [index for index, _ in lab.log.control_since()]
    assert len(found) == 400
    for index, seq in found.items():
        assert sum(1 for control in controls if control < index) == seq
    assert len(set(found.values())) > 1
    lab.log.verify()


LEADER = """
import sys, threading
sys.path.insert(0, sys.argv[2])
from auditlog_help import decision
from test_auditlog_processes import opened
log = opened(sys.argv[1])
lock = threading.Lock()
def work():
    while True:
        index = log.decide(decision(), control_seq=1, valid_until_ms=2**53, allow=True)
        with lock:
            sys.stdout.write(f"{index}\\n")
            sys.stdout.flush()
for _ in range(8):
    threading.Thread(target=work).start()
"""


def test_a_leader_killed_in_its_commit_loses_nothing_acknowledged(tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    lab = Lab(tmp_path, tmp_path / "second" / "log.db")
    lab.log.close()
    acknowledged: set[int] = set()
    for pause in (0.05, 0.11, 0.17):
        process = subprocess.Popen(
            [sys.executable, "-c", LEADER, str(lab.path), str(Path(__file__).parent)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        acknowledged.add(int(process.stdout.readline()))
        killer = threading.Timer(pause, os.kill, (process.pid, signal.SIGKILL))
        killer.start()
        acknowledged.update(int(line) for line in process.stdout if line.endswith("\n"))
        process.wait(60)
        assert process.returncode == -signal.SIGKILL
        log = lab.open()
        size = log.verify().size
        assert max(acknowledged) < size
        assert all(log.entry(index)["type"] == "decision" for index in sorted(acknowledged)[-50:])
        assert log.resync_copies()[0].state == "current"
        log.close()
    assert len(acknowledged) > 20


def test_an_offline_auditor_imports_no_store_and_no_sqlite() -> None:
    code = (
        "import sys, facekeep.auditlog.rules, facekeep.auditlog.merkle, facekeep.auditlog.head\n"
        "bad = [name for name in sys.modules if name.startswith(('facekeep.store', 'sqlite'))]\n"
        "sys.exit(str(bad) if bad else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, env=environment()).returncode == 0


def test_a_decision_is_on_disk_when_its_index_is_known(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    index = lab.log.decide(decision(), control_seq=1, valid_until_ms=NOW + 9, allow=True)
    code = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from test_auditlog_processes import opened\n"
        "print(opened(sys.argv[1]).head().size)"
    )
    command = [sys.executable, "-c", code, str(lab.path), str(Path(__file__).parent)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(result.stdout) == index + 1
