"""How long an auditor waits: a whole exported log verified, every entry replayed and judged.

    python benchmarks/bench_replay.py [--entries 1000000] [--grants 1000000] [--folder DIR] [--markdown FILE]

Two logs: one of mostly decisions (a tenth of the entries' number are grants that stand first; one decision in
ten is 1:N), and one of grants only. The target is 60 seconds for a million of either.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from facekeep.audit.logs import verify_log
from synthetic_log import SIGNER, export, granted, mixed

TARGET_S = 60


def progress(what: str, done: int, total: int, begun: float) -> None:
    if sys.stderr.isatty():
        filled = 30 * done // max(total, 1)
        left = (time.perf_counter() - begun) * (total - done) / max(done, 1)
        bar = "#" * filled + "." * (30 - filled)
        end = "\n" if done >= total else ""
        sys.stderr.write(f"\r{what} [{bar}] {done:,} of {total:,} entries, {left:4.0f} s left{end}")


def measure(what: str, bodies: Iterator[bytes], folder: Path) -> tuple[str, str, str]:
    directory = folder / "export"
    checkpoint = export(directory, bodies)
    begun = time.perf_counter()
    report = verify_log(
        directory, SIGNER.keys, progress=lambda done, total: progress(what, done, total, begun)
    )
    took = time.perf_counter() - begun
    shutil.rmtree(directory)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    counts = report.counts
    told = ", ".join(f"{counts.get(key, 0):,} {key}" for key in ("grants", "verify", "identify", "denied"))
    row = (
        f"{what}: {checkpoint.size:,} entries ({told})",
        f"{took:.1f} s (target {TARGET_S} s)",
        f"{memory:,} MiB",
    )
    print(" | ".join(row), flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--grants", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        rows = [
            measure("decisions", mixed(options.entries, options.entries // 10), folder),
            measure("grants", granted(options.grants), folder),
        ]
    finally:
        shutil.rmtree(folder)
    if options.markdown:
        lines = ["| log | verified in | peak memory |", "|---|---|---|"]
        lines += [f"| {' | '.join(row)} |" for row in rows]
        options.markdown.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
