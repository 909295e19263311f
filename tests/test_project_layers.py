"""The import contracts hold, and each of them can fail."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def lint_imports(tree: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree / "src")},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a copy of the package and its contracts, to be spoilt."""
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_contracts_hold() -> None:
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        ("errors.py", "import facekeep.matching", "imports go downwards only BROKEN"),
        ("formats/spoilt.py", "from facekeep.store import sqlite", "imports go downwards only BROKEN"),
        ("sealing/spoilt.py", "import facekeep.auditlog", "imports go downwards only BROKEN"),
        ("stray.py", "", "imports go downwards only BROKEN"),
        ("formats/spoilt.py", "import nacl.signing", "only crypto imports cryptography and nacl BROKEN"),
        ("access/spoilt.py", "import cryptography", "only crypto imports cryptography and nacl BROKEN"),
    ],
)
def test_a_breach_is_seen(tree: Path, module: str, line: str, broken: str) -> None:
    path = tree / "src" / "facekeep" / module
    path.write_text((path.read_text() if path.exists() else "") + "\n" + line + "\n")
    result = lint_imports(tree)
    assert result.returncode == 1
    assert broken in result.stdout
