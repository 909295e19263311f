"""The two commands of the README do the set-up, or say in one line what is missing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def script(path: Path, body: str) -> None:
    path.write_text("#!/bin/sh\n" + body + "\n")
    path.chmod(0o755)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    tree = tmp_path / "a checkout"
    tree.mkdir()
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tree)
    shutil.copytree(ROOT / "requirements", tree / "requirements")
    return tree


def make(
    checkout: Path, *arguments: str, path: Path | None = None, dry: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run make with PATH holding `path` and the tools a recipe needs, but no Python."""
    tools = checkout.parent / "tools"
    tools.mkdir(exist_ok=True)
    for name in ("make", "sh", "rm", "touch", "grep", "sed"):
        where = shutil.which(name)
        assert where, name
        (tools / name).unlink(missing_ok=True)
        (tools / name).symlink_to(where)
    ours = {"MAKEFLAGS", "MAKELEVEL", "PYTHON"}
    inherited = {key: value for key, value in os.environ.items() if key not in ours}
    return subprocess.run(
        [str(tools / "make"), *(["--dry-run"] if dry else []), *arguments],
        cwd=checkout,
        env={**inherited, "PATH": f"{path}:{tools}" if path else str(tools)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("target", ["demo", "test"])
@pytest.mark.parametrize("python", ["missing", "too old", "without venv", "a shim with nothing behind it"])
def test_an_unsuitable_python_is_one_clear_line(checkout: Path, target: str, python: str) -> None:
    bin_dir = checkout.parent / "bin"
    bin_dir.mkdir()
    if python == "too old":
        script(bin_dir / "python3", "echo 10")
    elif python != "missing":
        script(bin_dir / "python3", "echo 'No module named ensurepip' >&2; exit 1")
    result = make(checkout, target, path=bin_dir)
    assert result.returncode == 2
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1
    assert "needs Python 3.11, 3.12 or 3.13 with venv" in lines[0]
    assert "apt install python3 python3-venv" in lines[0]
    assert not (checkout / ".venv").exists()


def test_the_newest_suitable_python_is_taken(checkout: Path) -> None:
    bin_dir = checkout.parent / "bin"
    bin_dir.mkdir()
    for name, answer in (("python3", 14), ("python3.13", 10), ("python3.12", 12), ("python3.11", 11)):
        script(bin_dir / name, f"echo {answer}")
    shown = make(checkout, "demo", path=bin_dir, dry=True).stdout
    assert f"making .venv with {bin_dir}/python3.12" in shown


def test_a_named_python_is_taken(checkout: Path) -> None:
    shown = make(checkout, "demo", f"PYTHON={sys.executable}", dry=True).stdout
    assert f"making .venv with {sys.executable}" in shown


def installed(checkout: Path) -> None:
    """Pretend that everything is installed."""
    (checkout / ".venv" / "bin").mkdir(parents=True)
    script(checkout / ".venv/bin/pip", "echo pip 1")
    script(checkout / ".venv/bin/facekeep", 'for argument; do echo "<$argument>"; done')
    for stamp in ("installed-demo", "installed-test"):
        (checkout / ".venv" / stamp).touch()


def test_the_second_time_nothing_is_installed(checkout: Path) -> None:
    installed(checkout)
    result = make(checkout, "demo")
    assert (result.returncode, result.stdout) == (0, "<demo>\n")


def test_a_changed_pyproject_installs_again(checkout: Path) -> None:
    installed(checkout)
    later = (checkout / ".venv/installed-demo").stat().st_mtime + 10
    os.utime(checkout / "pyproject.toml", (later, later))
    assert "installing facekeep[demo]" in make(checkout, "demo", f"PYTHON={sys.executable}", dry=True).stdout


def test_a_moved_checkout_installs_again(checkout: Path) -> None:
    installed(checkout)
    (checkout / ".venv/bin/pip").write_text("#!" + str(checkout / "gone") + "\n")
    assert "installing facekeep[demo]" in make(checkout, "demo", f"PYTHON={sys.executable}", dry=True).stdout


def test_the_demo_is_told_of_photographs_and_of_what_to_keep(checkout: Path) -> None:
    installed(checkout)
    result = make(checkout, "demo", "PHOTOS=my photos", "KEEP=kept")
    assert result.stdout.split("\n")[:-1] == ["<demo>", "<--photos>", "<my photos>", "<--keep>", "<kept>"]


def test_the_readme_names_targets_that_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:`|^ {4})make ([a-z]+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert {"demo", "test"} <= named <= targets
