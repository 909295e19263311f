"""Run somebody's verifier over all cases, as README.md says; exit 0 if it agrees with each."""

from __future__ import annotations

import argparse
import base64
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FILES = ("old", "checkpoint", "opening", "state")


def origin(case: dict[str, Any], root: Path = HERE) -> str:
    """Origin that the caller expects: the name of the first key, where the case does not say."""
    first = (root / case["keys"]).read_text("utf-8").partition("+")[0]
    return str(case.get("origin", first))


def laid_out(case: dict[str, Any], place: Path, root: Path = HERE) -> Path:
    """Write the case's export: its files, each in place of an earlier one."""
    export = place / "export"
    files: dict[str, str | list[str] | None] = {}
    for name in case["export"]:
        files |= json.loads((root / name).read_bytes())
    for path, data in files.items():
        if data is not None:
            (export / path).parent.mkdir(parents=True, exist_ok=True)
            (export / path).write_bytes(unpacked(data))
    return export


def unpacked(data: str | list[str]) -> bytes:
    """Bytes of a file of an export: base64, or a bundle by its entries."""
    if isinstance(data, str):
        return base64.b64decode(data)
    encoded = (entry.encode() for entry in data)
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in encoded)


def whole(case: dict[str, Any], place: Path, root: Path = HERE) -> Path:
    """Join the case's file to the base that it goes on from."""
    joined = place / Path(case["file"]).name
    joined.write_bytes(b"".join((root / case[name]).read_bytes() for name in ("base", "file")))
    return joined


def command(case: dict[str, Any], place: Path) -> list[str]:
    """Return the arguments for one case; what is not a file as it stands is made in ``place``."""
    options = [("--keys", case["keys"]), ("--origin", origin(case))]
    options += [(f"--{name}", case[name]) for name in FILES if name in case]
    if "export" in case:
        options.append(("--export", str(laid_out(case, place))))
    files = [str(whole(case, place)) if "base" in case else case["file"]] if "file" in case else []
    flags = ["--restarted"] if case.get("restarted") else []
    return [case["kind"], *(part for option in options for part in option), *flags, *files]


def judged(verifier: list[str], case: dict[str, Any]) -> int:
    """Exit status of the verifier."""
    with tempfile.TemporaryDirectory() as place:
        arguments = command(case, Path(place))
        return subprocess.run([*verifier, *arguments], cwd=HERE, capture_output=True, check=False).returncode


def main(verifier: list[str], every: int) -> int:
    """Name every disagreement."""
    cases = json.loads((HERE / "manifest.json").read_text("utf-8"))[::every]
    wrong = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for case, code in zip(cases, pool.map(lambda case: judged(verifier, case), cases), strict=True):
            if code != (0 if case["accept"] else 1):
                wrong += 1
                said = {0: "accepted", 1: "refused"}.get(code, f"failed ({code})")
                sys.stdout.write(f"{case['name']}: {said}; {case['why']}\n")
    sys.stdout.write(f"{len(cases) - wrong} of {len(cases)} cases agree\n")
    return int(wrong > 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take one case of N")
    parser.add_argument("verifier", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    sys.exit(main(given.verifier, given.every))
