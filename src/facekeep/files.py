"""Writing files: whole, durable, and never by way of what somebody put at their names (SPEC.md §8.5).

A new file is opened with O_CREAT, O_EXCL and O_NOFOLLOW, so nothing that has its name is followed, emptied or
waited for. The directory is opened once, and every name is looked up in it: it cannot be exchanged meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from facekeep.errors import StoreError

PRIVATE: Final = 0o600
PUBLIC: Final = 0o666  # what the umask leaves of it
_SAFE: Final = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_NEW: Final = os.O_CREAT | os.O_EXCL | os.O_WRONLY | _SAFE


def create(path: Path, data: bytes, mode: int) -> None:
    """Write a new file, durably. Raises FileExistsError, OSError; then nothing of it is left."""
    with _directory(path) as parent:
        _write(parent, path.name, data, mode)
        os.fsync(parent)


def replace(path: Path, data: bytes, mode: int, *, sync: bool = True) -> None:
    """Put a file at ``path`` by renaming: readers see the old one or the new one. Raises OSError.

    ``sync`` False leaves the directory, and with it the name, to be made durable by the caller.
    """
    with _directory(path) as parent:
        new = temporary(path.name)
        _write(parent, new, data, mode)
        try:
            os.rename(new, path.name, src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            _unlink(parent, new)
            raise
        if sync:
            os.fsync(parent)


def stage(path: Path, data: bytes, mode: int) -> None:
    """Write a file under a name that others look for; whatever had the name is unlinked. Raises OSError."""
    with _directory(path) as parent:
        _unlink(parent, path.name)
        _write(parent, path.name, data, mode)
        os.fsync(parent)


def begin(path: Path, mode: int) -> int:
    """Make a new, empty file with a durable name; return its descriptor, for writing. Raises OSError."""
    with _directory(path) as parent:
        descriptor = os.open(path.name, _NEW, mode, dir_fd=parent)
        os.fsync(parent)
        return descriptor


def rename(source: Path, target: Path) -> None:
    """Give a file another name in its directory, durably; what has that name goes. Raises OSError."""
    with _directory(target) as parent:
        os.rename(source.name, target.name, src_dir_fd=parent, dst_dir_fd=parent)
        os.fsync(parent)


def open_lock(path: Path) -> int:
    """Open a lock file, made where there is none; raises StoreError for what is no file, OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _SAFE, PRIVATE)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise StoreError(f"{path.name} is not a regular file", next=f"remove {path.name}: it holds nothing")


def sync_directory(path: Path) -> None:
    """Make a created, renamed or removed name durable: open(O_DIRECTORY), fsync, close. Raises OSError."""
    with _directory(path / "any") as descriptor:
        os.fsync(descriptor)


def temporary(name: str) -> str:
    """Name beside ``name`` that nobody can foresee; one that a dead process left may be removed."""
    return f".{name}.{os.urandom(8).hex()}.new"


def remove_leftovers(path: Path) -> None:
    """Remove what processes left of ``path`` under temporary names; the caller knows that they are dead."""
    left = re.compile(re.escape(f".{path.name}.") + r"[0-9a-f]{16}\.new")
    with _directory(path) as parent:
        for name in filter(left.fullmatch, os.listdir(parent)):  # noqa: PTH208 - by descriptor
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=parent)


@contextlib.contextmanager
def _directory(path: Path) -> Iterator[int]:
    """Open the directory of ``path``."""
    descriptor = os.open(path.absolute().parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _write(parent: int, name: str, data: bytes, mode: int) -> None:
    descriptor = os.open(name, _NEW, mode, dir_fd=parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
    except BaseException:
        _unlink(parent, name)
        raise


def _unlink(parent: int, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=parent)
