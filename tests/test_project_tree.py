"""Nothing is committed that may not be: machine paths, registries, photographs, models, keys, lock files."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parent.parent
LARGEST = 512 * 1024  # bytes; docs/spec and test vectors stay far below

# Put together from pieces, so that this file does not hold what it looks for.
_HOMES = "|".join(("wo" + "rk", "ro" + "ot", "ho" + "me", "Us" + "ers"))
FORBIDDEN_TEXT = {
    "a path of one machine": re.compile(rf"(?<![\w.>)}}\]-])/(?:{_HOMES})/"),
    "a package registry's address": re.compile(
        "|".join(
            (
                "pypi" + r"\.org",
                "python" + r"hosted\.org",
                "npm" + r"js\.org",
                "(?:deb|security)" + r"\.debian\.org",
                "index" + "-url",
                "find" + "-links",
            )
        )
    ),
    "a private key": re.compile("BEGIN [A-Z ]*" + "PRIVATE KEY"),
}
FORBIDDEN_NAMES = {
    "a photograph": {".jpg", ".jpeg", ".png", ".heic", ".heif", ".webp", ".bmp", ".gif", ".tif", ".tiff"},
    "a model or embeddings": {".onnx", ".dat", ".npz", ".npy", ".pt", ".pb", ".h5"},
    "a vault's file": {".db", ".db-wal", ".db-shm", ".sqlite", ".root", ".fkb"},
    "a build": {".whl", ".gz", ".zip", ".so", ".pyc"},
}
LOCK_FILES = {"uv" + ".lock", "poetry" + ".lock", "pdm" + ".lock", "Pipfile" + ".lock", "pylock" + ".toml"}


def complaints(name: str, content: bytes) -> list[str]:
    """What is wrong with one file: nothing, for a file that may be committed."""
    path = PurePosixPath(name)
    found = [what for what, suffixes in FORBIDDEN_NAMES.items() if path.suffix.lower() in suffixes]
    if path.name in LOCK_FILES:
        found.append("a lock file")
    if len(content) > LARGEST:
        found.append("a large file")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        return [*found, "a binary file"]
    if "\0" in text:
        found.append("a binary file")
    return found + [what for what, pattern in FORBIDDEN_TEXT.items() if pattern.search(text)]


def tracked() -> list[Path]:
    """Return files that git tracks or would (an archive without .git has nothing to commit)."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        return []
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout
    return [ROOT / name for name in listed.decode().split("\0") if name and (ROOT / name).is_file()]


def test_nothing_forbidden_is_tracked() -> None:
    found = {
        name: wrong
        for path in tracked()
        if (wrong := complaints(name := path.relative_to(ROOT).as_posix(), path.read_bytes()))
    }
    assert found == {}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("docs/a.md", b"see /" + b"work/shared"),
        ("docs/a.md", b"in '/" + b"root/.cache'"),
        ("docs/a.md", b"[/" + b"home/ada/x]"),
        ("Makefile", b"https://files.python" + b"hosted.org/x"),
        ("Makefile", b"https://pypi" + b".org/x"),
        ("Makefile", b"pip --extra-index" + b"-url x"),
        ("uv" + ".lock", b""),
        ("a/b/poetry" + ".lock", b""),
        ("tests/ada.JPG", b""),
        ("src/facekeep/sface.onnx", b""),
        ("tests/vectors.npz", b""),
        ("staff.vault/keys.db", b""),
        ("tests/key.txt", b"-----BEGIN EC PRIVATE" + b" KEY-----"),
        ("tests/vectors", b"\xff\xd8\xff\xe0"),
        ("tests/vectors", b"a\0b"),
        ("tests/big.txt", b"a" * (LARGEST + 1)),
    ],
)
def test_a_forbidden_file_is_seen(name: str, content: bytes) -> None:
    assert complaints(name, content)


@pytest.mark.parametrize(
    "content",
    [b"network/home/x", b"{vault}/root/x", b"a/work/b", b"~/photos", b"file:/mnt/keys/staff.root"],
)
def test_an_ordinary_path_is_not(content: bytes) -> None:
    assert complaints("docs/a.md", content) == []
