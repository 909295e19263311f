"""Run somebody's verifier over all cases, as README.md says; exit 0 if it agrees with each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def command(case: dict[str, Any]) -> list[str]:
    """Return the arguments for one case."""
    options = [("--keys", case["keys"]), ("--origin", case["origin"])]
    options += [(f"--{name}", case[name]) for name in ("entry", "old", "checkpoint") if name in case]
    return [case["kind"], *(part for option in options for part in option), case["file"]]


def main(verifier: list[str]) -> int:
    """Name every disagreement."""
    cases = json.loads((HERE / "manifest.json").read_text("utf-8"))

    def run(case: dict[str, Any]) -> int:
        done = subprocess.run([*verifier, *command(case)], cwd=HERE, capture_output=True, check=False)
        return done.returncode

    wrong = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for case, code in zip(cases, pool.map(run, cases), strict=True):
            if code != (0 if case["accept"] else 1):
                wrong += 1
                said = {0: "accepted", 1: "refused"}.get(code, f"failed ({code})")
                sys.stdout.write(f"{case['file']}: {said}; {case['why']}\n")
    sys.stdout.write(f"{len(cases) - wrong} of {len(cases)} cases agree\n")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
