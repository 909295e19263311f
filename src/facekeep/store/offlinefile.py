"""Files that people carry away: written once, never over another, and read whole (SPEC §4.7)."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from facekeep.errors import StoreError, UsageError, VaultExists
from facekeep.files import create
from facekeep.store.sqlite import translated


def write_new(path: Path, text: str, mode: int) -> None:
    """Write a new file, durably.

    Raises VaultExists where something has its name, StoreError; then nothing is left.
    """
    with translated(str(path)):
        try:
            create(path, text.encode("ascii"), mode)
        except FileExistsError:
            raise VaultExists(f"there is already a file at {path}") from None


def read_whole(path: Path, limit: int, *, private: bool) -> bytes:
    """Return a file's bytes, at most ``limit``; ``private``: refuse one that others can read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise UsageError(f"{path} is not a regular file", next="name a file")
            if private and status.st_mode & 0o077:
                raise UsageError(
                    f"others can read {path}",
                    next=f"chmod 600 '{path}', or copy it to where that has an effect",
                )
            data = file.read(limit + 1)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}", next="check the name of the file") from error
    if len(data) > limit:
        raise UsageError(f"{path} is longer than {limit} bytes", next="name another file")
    return data
