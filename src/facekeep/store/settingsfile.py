"""vault.toml on disk: read, and replaced in two steps, so that the log can speak in between (SPEC.md §9).

What is read is authentic only once its digest is that of the log's head.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

from facekeep import files
from facekeep.errors import FacekeepError, FormatError, UsageError, VaultNotFound
from facekeep.formats.settings import Settings
from facekeep.store.sqlite import translated

NAME: Final = "vault.toml"
STAGED: Final = "vault.toml.new"
_MAX_BYTES: Final = 65_536


def read(path: Path) -> Settings:
    """Parse the vault.toml of the vault at ``path``; raises VaultNotFound, FormatError."""
    if not (path / NAME).is_file():
        raise VaultNotFound(f"there is no vault at {path}")
    return _parse(path / NAME)


def stage(path: Path, settings: Settings) -> None:
    """Write vault.toml.new, durable under its name; whatever stood there goes, and no link is followed."""
    data = settings.encode().encode("utf-8")
    if len(data) > _MAX_BYTES:
        raise UsageError("the settings would be too long for vault.toml")
    with translated(STAGED):
        files.stage(path / STAGED, data, files.PRIVATE)


def promote(path: Path) -> None:
    """Give vault.toml.new its name, durably."""
    with translated(NAME):
        files.rename(path / STAGED, path / NAME)


def finish(path: Path, digest: bytes) -> bool:
    """Promote vault.toml.new if its digest is the one given and vault.toml's is not; the writer lock is held.

    Returns whether vault.toml has that digest now.
    """
    if read(path).digest() == digest:
        return True
    with contextlib.suppress(FacekeepError, OSError):  # whatever else stands there counts for nothing
        if (path / STAGED).is_file() and _parse(path / STAGED).digest() == digest:
            promote(path)
            return True
    return False


def _parse(file: Path) -> Settings:
    with translated(file.name), file.open("rb") as opened:
        raw = opened.read(_MAX_BYTES + 1)
    if len(raw) > _MAX_BYTES:
        raise FormatError(f"{file.name} is longer than {_MAX_BYTES} bytes")
    try:
        return Settings.decode(raw.decode("utf-8"))
    except UnicodeDecodeError:
        raise FormatError(f"{file.name} is not UTF-8 text") from None
