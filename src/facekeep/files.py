"""Writing files: whole, durable, and never by way of what somebody put at their names (SPEC §8.5).

A new file is opened with O_CREAT, O_EXCL and O_NOFOLLOW, so nothing that has its name is followed, emptied or
waited for. The directory is opened once, and every name is looked up in it: it cannot be exchanged meanwhile.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from facekeep.errors import StoreError, UsageError

PRIVATE: Final = 0o600
PUBLIC: Final = 0o666  # what the umask leaves of it
_SAFE: Final = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_TEMPORARY: Final = re.compile(r"\..+\.[0-9a-f]{16}\.new", re.DOTALL)
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NEW: Final = os.O_CREAT | os.O_EXCL | os.O_WRONLY | _SAFE


def user_directory(variable: str, *below_home: str) -> Path:
    """Return facekeep's directory of the user's, of the XDG base directory in ``variable`` or below the home.

    Raises UsageError for a user without a home directory, as a container may have.
    """
    base = os.environ.get(variable)
    try:
        return Path(base or Path.home().joinpath(*below_home)) / "facekeep"
    except RuntimeError:
        raise UsageError(
            "this user has no home directory, so there is no place that is facekeep's by default",
            next=f"name the file itself, or set {variable}",
        ) from None


def create(path: Path, data: bytes, mode: int) -> None:
    """Write a new file, durably. Raises FileExistsError, OSError; then nothing of it is left."""
    with _directory(path) as parent:
        _write(parent, path.name, data, mode)
        _sync_name(parent, path.name)


def replace(path: Path, data: bytes, mode: int) -> None:
    """Put a file at ``path`` by renaming: readers see the old one or the new one. Raises OSError."""
    with _directory(path) as parent:
        put(parent, path.name, data, mode, parent)
        os.fsync(parent)


def put(parent: int, name: str, data: bytes, mode: int, aside: int) -> None:
    """``replace`` in a directory that is open, by way of another one; its name is not durable yet."""
    new = temporary(name)
    _write(aside, new, data, mode)
    try:
        os.rename(new, name, src_dir_fd=aside, dst_dir_fd=parent)
    except BaseException:
        _unlink(aside, new)
        raise


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
        try:
            _sync_name(parent, path.name)
        except BaseException:
            os.close(descriptor)
            raise
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


def unlock(descriptor: int) -> None:
    """Close a file that was locked by flock: a child that inherited the descriptor does not keep the lock."""
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Make a created, renamed or removed name durable: open(O_DIRECTORY), fsync, close. Raises OSError."""
    with _directory(path / "any") as descriptor:
        os.fsync(descriptor)


def temporary(name: str) -> str:
    """Name beside ``name`` that nobody can foresee; one that a dead process left may be removed."""
    return f".{name}.{os.urandom(8).hex()}.new"


def is_temporary(name: str) -> bool:
    """Whether ``temporary`` makes such names."""
    return _TEMPORARY.fullmatch(name) is not None


def remove_leftovers(path: Path) -> None:
    """Remove what processes left of ``path`` under temporary names; the caller knows that they are dead."""
    with _directory(path) as parent:
        for name in os.listdir(parent):  # noqa: PTH208 - by descriptor
            if not is_temporary(name) or not name.startswith(f".{path.name}."):
                continue
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=parent)


@contextlib.contextmanager
def below(top: Path, names: Sequence[str]) -> Iterator[int]:
    """Open a directory in a directory in ``top``, made where there is none; no link is followed below it."""
    descriptor = os.open(top, _FOLDER)
    try:
        for name in names:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, dir_fd=descriptor)
            inner = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def read_in(parent: int, name: str, limit: int) -> bytes | None:
    """Return a file's bytes, at most ``limit``, from an open directory; None for no file. Raises OSError."""
    try:
        descriptor = os.open(name, os.O_RDONLY | _SAFE, dir_fd=parent)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        return file.read(limit)


@contextlib.contextmanager
def _directory(path: Path) -> Iterator[int]:
    """Open the directory of ``path``."""
    descriptor = os.open(path.absolute().parent, _FOLDER)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _write(parent: int, name: str, data: bytes, mode: int) -> None:
    descriptor = os.open(name, _NEW, mode, dir_fd=parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if mode != PUBLIC:
                with contextlib.suppress(PermissionError):  # a file system without modes
                    os.fchmod(descriptor, mode)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
    except BaseException:
        _unlink(parent, name)
        raise


def _sync_name(parent: int, name: str) -> None:
    """Make a new name durable, or remove it."""
    try:
        os.fsync(parent)
    except BaseException:
        _unlink(parent, name)
        raise


def _unlink(parent: int, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=parent)
