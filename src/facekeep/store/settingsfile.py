"""vault.toml on disk: read, and replaced in two steps, so that the log can speak in between (SPEC §9).

What is read is authentic only once its digest is that of the log's head.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import Final

from facekeep import files
from facekeep.errors import FacekeepError, FormatError, IntegrityError, UsageError, VaultNotFound
from facekeep.formats.settings import Settings
from facekeep.store.sqlite import translated

NAME: Final = "vault.toml"
STAGED: Final = "vault.toml.new"
_MAX_BYTES: Final = 65_536


def read(path: Path) -> Settings:
    """Parse the vault.toml of the vault at ``path``; raises VaultNotFound, FormatError."""
    with translated(NAME):
        is_there = (path / NAME).is_file()
    if not is_there:
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
    with contextlib.suppress(FacekeepError, OSError):
        if _is_staged(path, digest):
            promote(path)
            return True
    return False


def check(path: Path, digest: bytes) -> None:
    """Raise IntegrityError unless vault.toml has the digest given, or gets it from vault.toml.new."""
    with translated(NAME):
        if read(path).digest() != digest and not _is_staged(path, digest):
            raise IntegrityError(
                "vault.toml was edited by hand: it is not what the log authenticates",
                next="undo the edit; settings are changed with 'facekeep settings'",
            )


def _is_staged(path: Path, digest: bytes) -> bool:
    """Whether vault.toml.new has the digest; whatever else stands there counts for nothing."""
    with contextlib.suppress(FacekeepError, OSError):
        return (path / STAGED).is_file() and _parse(path / STAGED).digest() == digest
    return False


def _parse(file: Path) -> Settings:
    with translated(file.name), open(file, "rb", opener=_open) as opened:
        raw = opened.read(_MAX_BYTES + 1)
    if len(raw) > _MAX_BYTES:
        raise FormatError(f"{file.name} is longer than {_MAX_BYTES} bytes")
    try:
        return Settings.decode(raw.decode("utf-8"))
    except UnicodeDecodeError:
        raise FormatError(f"{file.name} is not UTF-8 text") from None


def _open(file: str, flags: int) -> int:
    """Open what may have been exchanged for a FIFO: nobody waits for it."""
    descriptor = os.open(file, flags | os.O_NONBLOCK | os.O_NOCTTY)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise FormatError(f"{Path(file).name} is no regular file")
