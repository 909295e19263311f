"""What a long log costs: one of 10,000,000 entries beside one of 10,000, opened and appended to in turns.

    python benchmarks/bench_log.py [--entries 10000000] [--small 10000] [--subjects 1000] [--rounds 5]
                                   [--audit] [--folder DIR] [--markdown FILE]

Two vaults with the same subjects. Their logs are filled with decisions in bulk, each chained and the head
sealed under the vault's own log key, so that the code in use opens them as any other. Every round is a
process of its own, first with the file out of the page cache. With --audit one person is then erased, and the
long log exported and verified by the auditor's command. The folder needs 6 GB for 10,000,000 entries, twice
that with --audit.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from facekeep.auditlog.merkle import leaf_hash
from facekeep.auditlog.rules import State
from facekeep.clock import MS_PER_DAY
from facekeep.formats import decisions, entries
from facekeep.matching.model import Model
from facekeep.matching.threshold import Threshold
from facekeep.store import logdb
from facekeep.vault import Consent, Enrolment, Notice, Scope, Vault

MODEL = Model("raw:bench", "1", 128, "l2")
THRESHOLD = Threshold(MODEL.id, "l2", 0.5, 0.001, 0.001, 0.0, 0.01, 0.1, "synthetic", 2, 1, 1)
CHUNK = 16_384  # entries in one transaction while a log is filled
VERIFIES = 300

#: what a round measures -> (what the table says, unit, factor)
SHOWN = {
    "open_cold": ("open the vault, log.db not in the page cache", "ms", 1e3),
    "open": ("open the vault", "ms", 1e3),
    "first": ("the first verify, which reads what the log says of grants", "ms", 1e3),
    "verify": ("verify, median: one entry appended", "ms", 1e3),
    "enrol": ("enrol one: two entries appended", "ms", 1e3),
    "checkpoint": ("the next checkpoint", "ms", 1e3),
    "memory": ("peak memory of the process", "MiB", 1),
}


def timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def vector(number: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(number).normal(size=128).astype(np.float32)


def consent(notice: Path) -> Consent:
    end = time.time_ns() // 1_000_000 + 300 * MS_PER_DAY
    return Consent((Scope.VERIFY, Scope.IDENTIFY), Notice.from_file(notice), end)


def build(folder: Path, subjects: int, size: int) -> tuple[Path, str]:
    """Make a vault whose log has about so many entries; returns its path and a token."""
    notice = folder / "notice.txt"
    notice.write_text("benchmark")
    path = folder / f"{size}.vault"
    with Vault.create(path, root=f"file:{folder / f'{size}.root'}") as vault:
        given = consent(notice)
        vault.enroll_many([Enrolment(f"s{n}", vector(n)[None], MODEL, given) for n in range(subjects)])
        fill(vault, subjects, size)
        begun = time.perf_counter()
        vault.audit_checkpoint()
        print(f"first checkpoint of {size:,} entries: {time.perf_counter() - begun:.1f} s", flush=True)
        token = vault.token
    return path, str(token)


def fill(vault: Vault, subjects: int, size: int) -> None:
    """Append decisions in bulk, as ``auditlog.writer`` does one commit at a time."""
    core = vault._core  # noqa: SLF001 - the log's key and file, which nobody else is given
    key = core.log._key  # noqa: SLF001
    view, head = core.view(), core.log.head()
    state, by = State(head), vault._session.principal_id  # noqa: SLF001
    found = [core.lookup(view, f"s{n}".encode()) for n in range(subjects)]
    known = [(tag, row.slot) for tag, rows in found for row in rows if view.kind_of(row.slot) == Scope.VERIFY]
    database, begun = logdb.open_log(core.path / "log.db", core.vault_id), time.perf_counter()
    for start in range(head.size, size, CHUNK):
        rows = []
        for index in range(start, min(start + CHUNK, size)):
            tag, slot = known[index % len(known)]
            decision = decisions.decision_verify(
                by=by.hex(), time_ms=head.high_ms, reason="ok", scope="verify", region="ZZ", model=MODEL.id,
                threshold_e6=500_000, tag=tag, slot=slot, match=True,
            )  # fmt: skip
            body = entries.decision_body(decision)
            leaf = leaf_hash(body)
            chain = key.chain(index, state.chain, leaf)
            state.add_decision(head.high_ms, leaf, chain)
            rows.append(key.row(index, 0, body, leaf, chain))
        with database.transaction() as connection:
            logdb.insert_rows(connection, rows)
            logdb.write_head(connection, key.seal_head(state.head()))
        progress(start + len(rows), size, begun)
    database.connection().execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()


def progress(done: int, total: int, begun: float) -> None:
    if sys.stderr.isatty():
        left = (time.perf_counter() - begun) * (total - done) / max(done, 1)
        end = "\n" if done >= total else ""
        sys.stderr.write(f"\rfill: {done:,} of {total:,} entries, {left:4.0f} s left{end}")


def one_round(path: Path, token: str, number: int) -> dict[str, float]:
    """Open, answer, enrol and sign, in this process."""
    found = {}
    for name in ("open_cold", "open"):
        if name == "open_cold":
            out_of_cache(path / "log.db")
        with contextlib.ExitStack() as stack:
            found[name] = timed(lambda: stack.enter_context(Vault.open(path, token=token)))
    with Vault.open(path, token=token) as vault:
        probe = vector(0)

        def verify() -> None:
            if not vault.verify("s0", probe, model=MODEL, threshold=THRESHOLD).match:
                raise SystemExit("s0 does not match")

        found["first"] = timed(verify)
        found["verify"] = statistics.median(timed(verify) for _ in range(VERIFIES))
        fresh = Enrolment(f"new{number}", vector(number)[None], MODEL, consent(path.parent / "notice.txt"))
        found["enrol"] = timed(lambda: vault.enroll_many([fresh]))
        found["checkpoint"] = timed(vault.audit_checkpoint)
    found["memory"] = peak_memory()
    return found


def peak_memory() -> float:
    """MiB of this program; ``getrusage`` would count those of the process that started it."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def out_of_cache(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def compare(vaults: dict[int, tuple[Path, str]], rounds: int) -> list[str]:
    """Measure in turns; returns the table's lines."""
    found: dict[int, list[dict[str, float]]] = {size: [] for size in vaults}
    for number in range(rounds):
        for size, (path, token) in vaults.items():
            command = [sys.executable, __file__, "--round", str(path), "--number", str(number)]
            done = subprocess.run(command, input=token, capture_output=True, text=True, check=True)
            found[size].append(json.loads(done.stdout))
    small, large = sorted(vaults)
    lines = [f"| | {small:,} entries | {large:,} entries | ratio |", "|---|---|---|---|"]
    for name, (what, unit, factor) in SHOWN.items():
        few, many = (
            factor * statistics.median(each[name] for each in found[size]) for size in (small, large)
        )
        lines.append(f"| {what} | {few:.1f} {unit} | {many:.1f} {unit} | {many / few:.2f} |")
    return lines


def audit(folder: Path, path: Path, token: str) -> list[str]:
    """Erase one, and be an auditor; returns the table's lines."""
    export, proof, keys = folder / "export", folder / "s1.proof", folder / "log.vkey"
    with Vault.open(path, token=token) as vault:
        shred = timed(lambda: vault.shred("s1"))
        at = next(index for index, entry in vault.audit_log(limit=5) if entry["type"] == "destroy")
        exporting = timed(lambda: vault.audit_export(export))
        proving = timed(lambda: proof.write_bytes(vault.audit_proof(str(at)).data))
        keys.write_text("".join(f"{key.encode()}\n" for key in vault.audit_keys()))
    command = [str(Path(sys.executable).with_name("facekeep-audit"))]
    verify_log = [*command, "verify-log", str(export), "--key", str(keys)]
    replaying = timed(lambda: subprocess.run(verify_log, stdout=subprocess.DEVNULL, check=True))
    verify_proof = [*command, "verify-proof", str(proof), "--key", str(keys)]
    reading = timed(lambda: subprocess.run(verify_proof, stdout=subprocess.DEVNULL, check=True))
    return [
        "", "| the auditor of the longer log | |", "|---|---|",
        f"| shred one | {1e3 * shred:.0f} ms |",
        f"| the whole export | {exporting:.1f} s |",
        f"| `facekeep-audit verify-log` | {replaying:.1f} s |",
        f"| bundle of the erasure | {proof.stat().st_size:,} bytes, made in {1e3 * proving:.0f} ms |",
        f"| `facekeep-audit verify-proof` | {1e3 * reading:.0f} ms |",
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--entries", type=int, default=10_000_000)
    parser.add_argument("--small", type=int, default=10_000)
    parser.add_argument("--subjects", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--audit", action="store_true")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--round", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--number", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.round is not None:
        print(json.dumps(one_round(options.round, sys.stdin.read(), options.number)))
        return
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        sizes = (options.small, options.entries)
        vaults = {size: build(folder, options.subjects, size) for size in sizes}
        lines = compare(vaults, options.rounds)
        if options.audit:
            lines += audit(folder, *vaults[options.entries])
    finally:
        shutil.rmtree(folder)
    print("\n".join(lines))
    if options.markdown:
        options.markdown.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
