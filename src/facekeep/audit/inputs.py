"""Files an auditor names: read whole, bounded, only regular ones; written only where there is none."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from facekeep.errors import FormatError, StoreError, UsageError
from facekeep.files import PUBLIC, create
from facekeep.formats.note import VerifierKey

_KEYS_MAX: Final = 65_536  # bytes of a file of verifier keys


def read_file(path: Path, limit: int) -> bytes:
    """Return a file's bytes; raises StoreError, also for what is longer than ``limit`` or no file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise StoreError(f"{path.name} is not a regular file", next="name a file")
            data = file.read(limit + 1)
    except OSError as error:
        raise StoreError(f"{path.name}: {error.strerror}", next="check the name of the file") from error
    if len(data) > limit:
        raise StoreError(f"{path.name} is longer than {limit} bytes", next="name another file")
    return data


def read_keys(text: str) -> list[VerifierKey]:
    """Return the verifier keys of a C2SP vkey, or of a file with one on each line; raises UsageError.

    Empty lines of a file, and those that begin with ``#``, are left out.
    """
    path = Path(text)
    lines = [text]
    try:
        if path.is_file():
            raw = read_file(path, _KEYS_MAX).decode("utf-8").split("\n")
            lines = [line.strip() for line in raw if line.strip() and not line.startswith("#")]
        keys = [VerifierKey.parse(line) for line in lines]
    except (FormatError, UnicodeDecodeError, OSError, ValueError) as error:
        raise UsageError(
            f"that is no verifier key, and no file of them: {error}",
            next="ask the operator for the output of 'facekeep audit key'",
        ) from error
    if not keys:
        raise UsageError("the file holds no verifier key")
    return keys


def write_new(path: Path, data: bytes) -> None:
    """Write a new file and wait for the disk; raises UsageError for one that is there, StoreError."""
    try:
        create(path, data, PUBLIC)
    except FileExistsError:
        raise UsageError(
            f"{path.name} already exists", next="choose another name; nothing was overwritten"
        ) from None
    except OSError as error:
        raise StoreError(f"{path.name} cannot be written: {error.strerror}") from error
