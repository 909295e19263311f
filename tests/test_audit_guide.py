"""docs/auditor.md, followed word for word.

FACEKEEP_AUDITOR names the ``bin`` of an environment with only ``facekeep[audit]``: then its facekeep-audit
is the one that is typed. Otherwise it is the one of this environment.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cli_help import Cli

GUIDE = Path(__file__).resolve().parent.parent / "docs/auditor.md"
BLOCK = re.compile(r"^```(sh|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands(folder: Path) -> str:
    """PATH of the guide's commands."""
    own = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    auditor = os.environ.get("FACEKEEP_AUDITOR")
    if auditor is None:
        return own
    folder.mkdir()
    (folder / "facekeep-audit").write_text(
        f'#!/bin/sh\nexec env -u PYTHONPATH {auditor}/facekeep-audit "$@"\n'
    )
    (folder / "facekeep-audit").chmod(0o755)
    return f"{folder}:{own}"


def test_the_guide_works_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cli = Cli(tmp_path, monkeypatch)
    receipt = cli.enroll("ada", "ada", "verify", "identify")
    Path("ada.receipt").write_text(json.dumps(receipt))
    cli.enroll("bob", "bob")
    cli.verify("bob", "bob")
    cli.ok("backup", "before.backup")
    cli.ok("shred", "ada", "--yes")
    environment = os.environ | {"PATH": commands(tmp_path / "auditor"), "LC_ALL": "C.UTF-8"}
    shown, blocks = "", 0
    for kind, body in BLOCK.findall(GUIDE.read_text()):
        if kind == "text":
            for line in body.splitlines():
                assert line in shown.splitlines(), shown
            continue
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", body],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, body + done.stderr
        shown, blocks = done.stdout, blocks + 1
    assert blocks > 10
    assert "Certificate of erasure" in Path("ada.html").read_text()


def test_every_command_of_the_auditor_is_in_the_guide() -> None:
    text = GUIDE.read_text()
    for name in (
        "verify-proof",
        "verify-log",
        "verify-consistency",
        "watch",
        "witness-key",
        "probe",
        "fingerprint",
    ):
        assert f"\nfacekeep-audit {name} " in text
    for name in ("key", "checkpoint", "export", "proof", "show"):
        assert f"\nfacekeep audit {name}" in text
