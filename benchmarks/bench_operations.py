"""What an operator does to a large vault, beside a small one and beside SQLite alone, measured in turns.

    pip install -e '.[bench]'
    python benchmarks/bench_operations.py [--subjects 1000000] [--photographs 1] [--folder DIR]

Commands are whole processes: Python's start, opening, and what the command does. Figures of shared machines
wander: read the ratios, and the processor seconds beside the seconds. The folder should be on the disk that a
vault would be on; a million subjects take 5 GB there.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from facekeep.clock import MS_PER_DAY
from facekeep.matching.model import Model
from facekeep.vault import Consent, Enrolment, Notice, Scope, Threshold, Vault

MODEL = Model("raw:bench", "1", 128, "l2")
ENROLLED_TOGETHER = 8_000
SMALL = 1_000
ROUNDS = 5
ROW_OVERHEAD = 700  # bytes of a peer's row beside the templates: a sealed record


@dataclass
class Spent:
    """Seconds, and processor seconds, of several runs of the same."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        wall, cpu = statistics.median(self.wall), statistics.median(self.cpu)
        return f"{wall:.2f} s, {cpu:.2f} s of one core"

    def brief(self) -> str:
        """In milliseconds."""
        wall, cpu = statistics.median(self.wall), statistics.median(self.cpu)
        return f"{1e3 * wall:.0f} ms, {1e3 * cpu:.1f} ms of one core"


class Subject:
    """A vault of many people, one grant each, and the command line as its operator."""

    def __init__(self, folder: Path, people: int, photographs: int) -> None:
        folder.mkdir()
        self.folder, self.people = folder, people
        self.path = folder / "bench.vault"
        notice = folder / "notice.txt"
        notice.write_text("benchmark")
        end = time.time_ns() // 1_000_000 + 300 * MS_PER_DAY
        consent = Consent((Scope.IDENTIFY,), Notice.from_file(notice), end)
        vectors = (
            np.random.default_rng(7).normal(size=(10_000, photographs, MODEL.dimension)).astype(np.float32)
        )
        wide = Threshold(MODEL.id, "l2", 100.0, 0.001, 0.001, 0.0, 0.01, 0.1, "synthetic", 2, 1, 1)
        with Vault.create(self.path, root=f"file:{folder / 'bench.root'}", thresholds=[wide]) as vault:
            self.token = vault.token or ""
            for start in range(0, people, ENROLLED_TOGETHER):
                numbers = range(start, min(start + ENROLLED_TOGETHER, people))
                vault.enroll_many(
                    [Enrolment(f"s{n}", vectors[n % len(vectors)], MODEL, consent) for n in numbers]
                )
                progress("enrol", numbers.stop, people)

    def run(self, spent: Spent, *words: str) -> None:
        """Run a command as a process of its own."""
        command = [
            sys.executable,
            "-c",
            "from facekeep.cli import main; main()",
            *words,
            "--vault",
            str(self.path),
        ]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        begun = time.perf_counter()
        subprocess.run(
            command,
            env=os.environ | {"FACEKEEP_TOKEN": self.token},
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        spent.wall.append(time.perf_counter() - begun)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


class Peer:
    """SQLite alone: rows of that size inserted while as many are deleted, as durably."""

    def __init__(self, path: Path, size: int, rows: int) -> None:
        self._size, self._next, self._oldest = size, 0, 0
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("PRAGMA cache_size=-65536")
        self._db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, tag BLOB, a BLOB, b BLOB)")
        self._db.execute("CREATE INDEX tag ON t (tag)")
        self._insert(rows)
        self.spent = self.cpu = 0.0
        self.rows = 0

    def _insert(self, count: int) -> None:
        made = [
            (self._next + at, os.urandom(32), bytes(self._size), bytes(ROW_OVERHEAD)) for at in range(count)
        ]
        self._next += count
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany("INSERT INTO t VALUES (?, ?, ?, ?)", made)
        self._db.execute("COMMIT")

    def exchange(self, count: int) -> None:
        """Insert and delete so many rows, in a transaction each."""
        begun, before = time.perf_counter(), time.process_time()
        self._insert(count)
        self._db.execute("DELETE FROM t WHERE id >= ? AND id < ?", (self._oldest, self._oldest + count))
        self.spent += time.perf_counter() - begun
        self.cpu += time.process_time() - before
        self._oldest += count
        self.rows += count


class Bench:
    def __init__(self, folder: Path, subjects: int, photographs: int) -> None:
        self.folder, self.photographs = folder, photographs
        self.templates = photographs + 1 if photographs > 1 else 1
        self.lines: list[tuple[str, str, str, str]] = []
        self.small = Subject(folder / "small", SMALL, photographs)
        self.large = Subject(folder / "large", subjects, photographs)

    def compare(self, what: str, *words: str, rounds: int = ROUNDS) -> None:
        """Run a command on both vaults in turns."""
        small, large = Spent(), Spent()
        for _ in range(rounds):
            self.small.run(small, *words)
            self.large.run(large, *words)
        ratio = statistics.median(large.cpu) / statistics.median(small.cpu)
        self.add(what, str(large), f"{SMALL:,} subjects: {small}", f"{ratio:.2f}")

    def first(self) -> None:
        """After the enrolment the log's new entries are read, and kept in pages."""
        spent = Spent()
        self.large.run(spent, "status")
        self.small.run(Spent(), "status")
        self.add("facekeep status, the first after the enrolment", str(spent), "", "")

    def shreds(self) -> None:
        small, large = Spent(), Spent()
        for number in range(ROUNDS):
            self.small.run(small, "shred", f"s{number}", "--yes")
            self.large.run(large, "shred", f"s{number}", "--yes")
        ratio = statistics.median(large.cpu) / statistics.median(small.cpu)
        self.add("facekeep shred of one", str(large), f"{SMALL:,} subjects: {small}", f"{ratio:.2f}")

    def inside(self) -> None:
        """The rotation of the root alone, in processes that have just opened the vault."""
        spent = {self.small: Spent(), self.large: Spent()}
        for _ in range(ROUNDS):
            for subject, each in spent.items():
                with Vault.open(subject.path, token=subject.token) as vault:
                    cpu = time.process_time()
                    each.wall.append(timed(vault.keys.rotate_root))
                    each.cpu.append(time.process_time() - cpu)
        small, large = spent.values()
        ratio = statistics.median(large.cpu) / statistics.median(small.cpu)
        self.add(
            "rotate root, vault open", large.brief(), f"{SMALL:,} subjects: {small.brief()}", f"{ratio:.2f}"
        )

    def whole(self, what: str, *words: str) -> None:
        """Run a command on the large vault alone."""
        spent = Spent()
        self.large.run(spent, *words)
        rate = self.large.people / spent.wall[0]
        self.add(what, str(spent), f"{rate:,.0f} subjects/s", "")

    def reseal(self) -> None:
        """Every grant under a new slot; between two batches the peer moves as many rows."""
        size = 4 * MODEL.dimension * self.templates + 30
        peer = Peer(self.folder / "peer.db", size, min(self.large.people, 200_000))
        done = 0

        def between(now: int, total: int) -> None:
            nonlocal done
            peer.exchange(now - done)
            done = now
            progress("re-seal", now, total)

        with Vault.open(self.large.path, token=self.large.token) as vault:
            cpu = time.process_time()
            begun = time.perf_counter()
            resealed = vault.keys.rotate_templates(progress=between).resealed
            spent = time.perf_counter() - begun - peer.spent
            cpu = time.process_time() - cpu - peer.cpu
        grants, rows = resealed / spent, peer.rows / peer.spent
        self.add(
            f"rotate templates, {self.templates} a grant",
            f"{grants * self.templates:,.0f} templates/s, {grants:,.0f} grants/s",
            f"SQLite inserting and deleting rows of that size: {rows:,.0f}/s",
            f"{grants / rows:.2f}",
        )
        self.add(
            "the same in processor time",
            f"{1e6 * cpu / resealed:.0f} us a grant",
            f"{1e6 * peer.cpu / peer.rows:.0f} us a row",
            f"{peer.cpu / peer.rows / cpu * resealed:.2f}",
        )

    def add(self, what: str, figure: str, peer: str, ratio: str) -> None:
        self.lines.append((what, figure, peer, ratio))
        print(f"{what} | {figure} | {peer} | {ratio}", flush=True)


def timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def progress(what: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{what}: {100 * done // total} %   {'' if done < total else chr(10)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--subjects", type=int, default=1_000_000)
    parser.add_argument("--photographs", type=int, default=1)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--only-templates", action="store_true")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        bench = Bench(folder, options.subjects, options.photographs)
        if not options.only_templates:
            bench.first()
            bench.compare("facekeep status", "status")
            bench.inside()
            bench.compare("facekeep keys rotate root", "keys", "rotate", "root", "--reason", "drill")
            bench.shreds()
            bench.whole("facekeep keys rotate tree", "keys", "rotate", "tree", "--reason", "drill")
            bench.whole("facekeep check", "check")
            bench.whole("facekeep backup", "backup", str(folder / "backup.db"))
        bench.reseal()
    finally:
        shutil.rmtree(folder)
    if options.markdown:
        lines = ["| what | figure | beside it, in the same run | ratio |", "|---|---|---|---|"]
        lines += [f"| {' | '.join(line)} |" for line in bench.lines]
        options.markdown.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
