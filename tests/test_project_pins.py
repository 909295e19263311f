"""What is installed is what was pinned: every distribution by version and hash, whoever serves it."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from test_project_make import make
from test_project_tree import complaints

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS: dict[str, list[str]] = PYPROJECT["project"]["optional-dependencies"]
FILES = sorted((ROOT / "requirements").glob("*.txt"))
PIN = re.compile(
    r"(?P<what>[a-z0-9-]+==[^ ]+(?: ; [^\\]+)?) \\\n(?P<hashes>(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)"
)


def pins(name: str) -> dict[str, Requirement]:
    """Requirements of a file by their names; AssertionError for a line of any other form."""
    text = "".join(
        line
        for line in (ROOT / "requirements" / name).read_text().splitlines(keepends=True)
        if line[0] != "#"
    )
    found = [Requirement(match["what"].strip()) for match in PIN.finditer(text)]
    assert PIN.sub("", text) == ""
    named: dict[str, Requirement] = {canonicalize_name(each.name): each for each in found}
    assert len(named) == len(found)
    return named


def version_of(pin: Requirement) -> Version:
    (only,) = pin.specifier
    assert only.operator == "=="
    return Version(only.version)


def asked(requirements: list[str]) -> list[Requirement]:
    """Requirements, those of our own extras in the place of these."""
    wanted = []
    for each in map(Requirement, requirements):
        if each.name == "facekeep":
            wanted += asked([line for extra in sorted(each.extras) for line in EXTRAS[extra]])
        else:
            wanted.append(each)
    return wanted


@pytest.mark.parametrize(
    ("name", "requirements"),
    [
        ("core.txt", PYPROJECT["project"]["dependencies"] + EXTRAS["audit"]),
        ("demo.txt", PYPROJECT["project"]["dependencies"] + EXTRAS["demo"]),
        ("test.txt", PYPROJECT["project"]["dependencies"] + EXTRAS["test"]),
        ("tools.txt", PYPROJECT["build-system"]["requires"] + ["uv"]),
    ],
)
def test_every_dependency_is_pinned_as_pyproject_allows_it(name: str, requirements: list[str]) -> None:
    found = pins(name)
    for each in asked(requirements):
        assert version_of(found[canonicalize_name(each.name)]) in each.specifier, each


def test_every_extra_but_two_is_in_what_the_tests_install() -> None:
    """The two: a build of dlib from source, and peers of benchmarks."""
    everything = {canonicalize_name(each.name) for extra in EXTRAS for each in asked(EXTRAS[extra])}
    left_out = {"aws-encryption-sdk", "tink", "face-recognition", "setuptools"}
    assert everything - pins("test.txt").keys() == left_out


def test_the_files_agree_with_each_other() -> None:
    whole = pins("test.txt")
    for name in ("core.txt", "demo.txt", "tools.txt"):
        for key, pin in pins(name).items():
            assert key not in whole or version_of(pin) == version_of(whole[key]), key
    assert pins("core.txt").keys() <= pins("demo.txt").keys() <= whole.keys()


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_each_python_and_system_has_the_whole_core(version: str, platform: str) -> None:
    environment: dict[str, str] = {
        **{key: str(value) for key, value in default_environment().items()},
        "python_version": version, "python_full_version": f"{version}.0", "sys_platform": platform,
        "implementation_name": "cpython", "platform_python_implementation": "CPython",
    }  # fmt: skip
    for name in ("core.txt", "demo.txt"):
        named = {
            key for key, pin in pins(name).items() if pin.marker is None or pin.marker.evaluate(environment)
        }
        wanted = PYPROJECT["project"]["dependencies"] + (EXTRAS["demo"] if name == "demo.txt" else [])
        assert {canonicalize_name(each.name) for each in asked(wanted)} <= named


@pytest.mark.parametrize("path", sorted((ROOT / "requirements").iterdir()), ids=lambda path: path.name)
def test_no_file_names_an_address(path: Path) -> None:
    assert complaints(path.name, path.read_bytes()) == []
    assert not re.search(r"//|\bwww\b|\.(org|com|io|net)\b|^ *-[^-]|index|trusted-host| @ ", path.read_text())


def test_nothing_is_installed_past_the_hashes() -> None:
    """Each install of Makefile and CI checks hashes, or is that of facekeep alone, without what it needs."""
    for name in ("Makefile", ".ci/run"):
        lines = (ROOT / name).read_text().replace("\\\n", " ").splitlines()
        installs = [line for line in lines if re.search(r"pip\"? install", line) and not line.startswith("#")]
        assert installs
        for line in installs:
            for each in re.split(r"pip\"? install", line)[1:]:
                assert "--require-hashes" in each or "--no-deps --no-build-isolation" in each, line


# -- an index that serves other bytes


def wheel(folder: Path, name: str) -> str:
    """A distribution that an index might serve; returns its digest."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-1-py3-none-any.whl"
    info = f"{name}-1.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", "")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(
            f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n"
        )
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose tools and demo are one distribution each, served by a folder of ours alone."""
    tree = tmp_path / "checkout"
    (tree / "requirements").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml"):
        (tree / name).write_bytes((ROOT / name).read_bytes())
    for name in ("tools", "demo"):
        digest = wheel(tmp_path / "served", name)
        (tree / f"requirements/{name}.txt").write_text(f"{name}==1 --hash=sha256:{digest}\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "served"))
    return tree


def installed(checkout: Path) -> set[str]:
    """Run ``make demo``, which must fail; returns what of ours is installed then."""
    made = make(checkout, "demo", f"PYTHON={sys.executable}")
    assert made.returncode != 0
    assert not (checkout / ".venv/installed-demo").exists()
    (checkout / "said").write_text(made.stderr)
    pip = [str(checkout / ".venv/bin/pip"), "list", "--format=freeze"]
    listed = subprocess.run(pip, capture_output=True, text=True, check=True).stdout
    return {line.split("==")[0] for line in listed.splitlines()} & {"tools", "demo", "facekeep"}


def test_what_is_pinned_is_taken_from_whoever_serves_it(checkout: Path) -> None:
    """All but facekeep, whose backend is not served here."""
    assert installed(checkout) == {"tools", "demo"}


@pytest.mark.parametrize("name", ["tools", "demo"])
def test_other_bytes_than_those_pinned_end_the_installation(checkout: Path, name: str) -> None:
    path = checkout / f"requirements/{name}.txt"
    path.write_text(f"{name}==1 --hash=sha256:{'0' * 64}\n")
    assert installed(checkout) == ({"tools"} if name == "demo" else set())
    assert "DO NOT MATCH THE HASHES" in (checkout / "said").read_text()


@pytest.mark.parametrize("name", ["tools", "demo"])
def test_a_distribution_without_a_hash_ends_the_installation(checkout: Path, name: str) -> None:
    (checkout / f"requirements/{name}.txt").write_text(f"{name}==1\n")
    assert installed(checkout) == ({"tools"} if name == "demo" else set())
    assert "Hashes are required" in (checkout / "said").read_text()
