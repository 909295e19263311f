"""What an offline auditor loads: formats, crypto and the pure parts of auditlog, and nothing of the vault."""

from __future__ import annotations

import subprocess
import sys

from unmeasured import environment

LIGHT = ("merkle", "head", "rules", "proofs", "tilehash", "signed", "rotation", "exported")
HEAVY = (
    "sqlite3",
    "sqlite_utils",
    "click",
    "dlib",
    "cv2",
    "PIL",
    "facekeep.store",
    "facekeep.keys",
    "facekeep.vault",
)


def test_the_light_modules_load_without_the_vault() -> None:
    program = (
        "import importlib, sys\n"
        f"[importlib.import_module('facekeep.auditlog.' + name) for name in {LIGHT}]\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment()
    )
    assert done.stdout == "[]\n"
