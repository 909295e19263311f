"""The vault's speed beside its peers, each pair measured in one run, in turns.

    pip install -e '.[bench]'
    python benchmarks/bench_vault.py [--subjects 100000] [--folder DIR] [--markdown FILE]

Figures of shared machines wander: read the ratios. The folder should be on the disk that a vault would be on.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from facekeep.access.gate import permit_gallery
from facekeep.clock import MS_PER_DAY
from facekeep.formats.ids import slot_id
from facekeep.matching.model import Model
from facekeep.matching.threshold import Threshold
from facekeep.sealing.bulk import open_references
from facekeep.vault import Consent, Enrolment, Notice, Scope, Vault
from peers import aws_opener, tink_opener

MODEL = Model("raw:bench", "1", 128, "l2")
THRESHOLD = Threshold(MODEL.id, "l2", 0.5, 0.001, 0.001, 0.0, 0.01, 0.1, "synthetic", 2, 1, 1)
BATCH = 4_000
THREADS = 16


@dataclass
class Row:
    what: str
    figure: str
    peer: str
    ratio: str


def timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def progress(what: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{what}: {100 * done // total} %   {'' if done < total else chr(10)}")


class Bench:
    def __init__(self, folder: Path, subjects: int) -> None:
        notice = folder / "notice.txt"
        notice.write_text("benchmark")
        end = time.time_ns() // 1_000_000 + 300 * MS_PER_DAY
        self.folder, self.subjects = folder, subjects
        self.consents = {
            scope: Consent((scope,), Notice.from_file(notice), end)
            for scope in (Scope.VERIFY, Scope.IDENTIFY)
        }
        self.vault = Vault.create(folder / "bench.vault", root=f"file:{folder / 'bench.root'}")
        self.token = self.vault.token or ""
        self.vectors = np.random.default_rng(7).normal(size=(10_000, 128)).astype(np.float32)
        self.rows: list[Row] = []

    def vector(self, number: int) -> npt.NDArray[np.float32]:
        return np.asarray(self.vectors[number % len(self.vectors)])

    def enrol(self) -> None:
        """Ready embeddings, one a subject; the peer inserts rows of the same size, as durably."""
        peer = sqlite3.connect(self.folder / "peer.db", isolation_level=None)
        peer.execute("PRAGMA journal_mode=WAL")
        peer.execute("PRAGMA synchronous=FULL")
        peer.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, tag BLOB, a BLOB, b BLOB)")
        peer.execute("CREATE INDEX tag ON t (tag)")
        ours = theirs = 0.0
        for start in range(0, self.subjects, BATCH):
            batch = [
                Enrolment(f"s{n}", self.vector(n)[None], MODEL, self.consents[Scope.IDENTIFY])
                for n in range(start, min(start + BATCH, self.subjects))
            ]
            ours += timed(lambda batch=batch: self.vault.enroll_many(batch))  # type: ignore[misc] # bound at once
            blobs = [(os.urandom(32), bytes(542), bytes(700)) for _ in batch]
            theirs += timed(lambda blobs=blobs: insert(peer, blobs))  # type: ignore[misc] # bound at once
            progress("enrol", start + len(batch), self.subjects)
        peer.close()
        rate = self.subjects / ours
        self.add(
            f"bulk enrolment, durable, {self.subjects:,} templates",
            f"{rate:,.0f} templates/s",
            f"SQLite rows of that size {self.subjects / theirs:,.0f}/s",
            f"{theirs / ours:.2f}",
        )

    def open_all(self) -> None:
        """Row from the disk to plaintext in locked memory, for every grant of the scope."""
        core = self.vault._core  # noqa: SLF001 - what a gallery does, without its set digest
        view = core.view()
        out = memoryview(bytearray(4_096 * 512))
        peers = {"Tink KmsEnvelopeAead": tink_opener(), "AWS Encryption SDK": aws_opener()}
        spent, opened = 0.0, 0
        theirs = dict.fromkeys(peers, 0.0)
        counts = dict.fromkeys(peers, 0)
        begun = time.perf_counter()
        for branch in view.branches_of(Scope.IDENTIFY):
            for chunk in core.data.branch_rows(branch, 4_096):
                keys, _ = view.tree.slot_keys(chunk.slots)
                permit = permit_gallery(frozenset(chunk.slots.tolist()))
                if open_references(core.sealer, permit, chunk, keys, out[: len(chunk) * 512], 128):
                    raise SystemExit("a template did not open")
                opened += len(chunk)
                spent += time.perf_counter() - begun
                for name, opener in peers.items():
                    rounds = 20 if name.startswith("AWS") else 400
                    theirs[name] += timed(lambda o=opener, r=rounds: [o() for _ in range(r)])  # type: ignore[misc] # bound at once
                    counts[name] += rounds
                progress("open", opened, self.subjects)
                begun = time.perf_counter()
        ours = 1e6 * spent / opened
        each = {name: 1e6 * theirs[name] / counts[name] for name in peers}
        self.add(
            f"open every template of a scope, {opened:,}",
            f"{ours:.1f} us each",
            ", ".join(f"{name} {value:.0f} us" for name, value in each.items()),
            ", ".join(f"{value / ours:.1f}" for value in each.values()),
        )

    def slot_keys(self) -> None:
        """Keys of a million neighbouring slots, whoever has them."""
        core = self.vault._core  # noqa: SLF001 - the tree alone
        view = core.view()
        slots = np.arange(1_000_000) + slot_id(view.branches_of(Scope.IDENTIFY)[0], 0)
        self.add(
            "1,000,000 neighbouring slot keys", f"{timed(lambda: view.tree.slot_keys(slots)):.2f} s", "", ""
        )

    def gallery(self) -> None:
        begun = time.perf_counter()
        with self.vault.gallery(model=MODEL) as gallery:
            spent = time.perf_counter() - begun
            size = gallery.search(self.vector(0), THRESHOLD, 1).compared
            self.add(
                f"gallery with its set digest, {size:,}",
                f"{1e6 * spent / max(size, 1):.1f} us each",
                "",
                "",
            )
            times = [timed(lambda n=n: gallery.search(self.vector(n), THRESHOLD, 5)) for n in range(20)]  # type: ignore[misc]
        self.add("identify, exact scan", f"{1e3 * statistics.median(times):.1f} ms", "", "")

    def verify(self) -> None:
        """One at a time beside one durable commit of the same bytes; then sixteen threads."""
        people = 2_000
        self.vault.enroll_many(
            [
                Enrolment(f"v{n}", self.vector(n)[None], MODEL, self.consents[Scope.VERIFY])
                for n in range(people)
            ]
        )
        peer = sqlite3.connect(self.folder / "commit.db", isolation_level=None)
        peer.execute("PRAGMA journal_mode=WAL")
        peer.execute("PRAGMA synchronous=FULL")
        peer.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, tag BLOB, a BLOB, b BLOB)")

        def ask(number: int) -> None:
            self.vault.verify(f"v{number % people}", self.vector(number), model=MODEL, threshold=THRESHOLD)

        def many(count: int, offset: int) -> None:
            for number in range(count):
                ask(offset + 7 * number)

        many(people, 0)
        ours, theirs = [], []
        for number in range(1_500):
            ours.append(timed(lambda n=number: ask(n)))  # type: ignore[misc] # bound at once
            theirs.append(timed(lambda: insert(peer, [(b"", bytes(400), bytes(200))])))
        one, commit = statistics.median(ours), statistics.median(theirs)
        self.add(
            "verify without extraction, median",
            f"{1e3 * one:.2f} ms",
            f"one durable commit {1e3 * commit:.2f} ms",
            f"{1e3 * (one - commit):.2f} ms more",
        )
        rates = []
        for _ in range(5):
            alone = 400 / timed(lambda: many(400, 3))
            threads = [threading.Thread(target=many, args=(250, 31 * n)) for n in range(THREADS)]

            def all_of_them(threads: list[threading.Thread] = threads) -> None:
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()

            rates.append((250 * THREADS / timed(all_of_them), alone))
        together, alone = (statistics.median(each) for each in zip(*rates, strict=True))
        ratio = statistics.median(a / b for a, b in rates)
        self.add(
            f"verify by {THREADS} threads", f"{together:,.0f}/s", f"one thread {alone:,.0f}/s", f"{ratio:.1f}"
        )

    def reopen(self) -> None:
        """What a new process finds: nothing in memory."""
        self.vault.close()
        self.vault = Vault.open(self.folder / "bench.vault", token=self.token)

    def status(self) -> None:
        """Opening included: the first time after the enrolment, when the log is read; then any process."""
        for when in ("first after an enrolment", "later"):
            spent = timed(self.reopen) + timed(self.vault.status)
            self.add(f"open, and status, {when}, {self.subjects:,}", f"{spent:.2f} s", "", "")

    def shred(self) -> None:
        """One subject among all, and a thousand together; the peer is five fsyncs."""
        self.reopen()
        spent = timed(lambda: self.vault.shred("s0"))
        self.add(f"first shred of a process, of {self.subjects:,}", f"{spent:.2f} s", "", "")
        ours, theirs = [], []
        few = min(200, self.subjects // 10)
        for number in range(1, 1 + few):
            ours.append(timed(lambda n=number: self.vault.shred(f"s{n}")))  # type: ignore[misc] # bound at once
            theirs.append(timed(self.five_fsyncs))
        one, five = statistics.median(ours), statistics.median(theirs)
        self.add(
            f"shred one of {self.subjects:,}",
            f"{1e3 * one:.1f} ms",
            f"five fsyncs {1e3 * five:.1f} ms",
            f"{1e3 * (one - five):.1f} ms more",
        )
        step = max(1, (self.subjects - few) // 1_001)
        names = [f"s{number}" for number in range(1 + few, self.subjects, step)][:1_000]
        spent = timed(lambda: self.vault.shred(*names))
        self.add(f"shred {len(names):,} together", f"{spent:.2f} s", "", "")

    def five_fsyncs(self) -> None:
        with (self.folder / "fsync.bin").open("wb") as file:
            for _ in range(5):
                file.write(bytes(4_096))
                file.flush()
                os.fsync(file.fileno())

    def add(self, *cells: str) -> None:
        self.rows.append(Row(*cells))
        print(" | ".join(cells), flush=True)


def insert(connection: sqlite3.Connection, blobs: list[tuple[bytes, bytes, bytes]]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany("INSERT INTO t (tag, a, b) VALUES (?, ?, ?)", blobs)
    connection.execute("COMMIT")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--subjects", type=int, default=100_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        bench = Bench(folder, options.subjects)
        for part in (bench.enrol, bench.slot_keys, bench.open_all, bench.gallery, bench.verify):
            part()
        bench.status()
        bench.shred()
        bench.vault.close()
    finally:
        shutil.rmtree(folder)
    if options.markdown:
        lines = ["| what | figure | peer in the same run | ratio |", "|---|---|---|---|"]
        lines += [f"| {row.what} | {row.figure} | {row.peer} | {row.ratio} |" for row in bench.rows]
        options.markdown.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
