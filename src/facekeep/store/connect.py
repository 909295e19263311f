"""The only way to a SQLite file: every connection of the project is made here (SPEC §8.6).

SQLite plays a *hot journal* back at a connection's first statement: a ``NAME-journal`` beside a file in
which nobody has the RESERVED lock. It then deletes whatever file that journal names. Our files are in WAL
mode and have no journal, so one that is there was planted. While a connection is open this process holds a
read lock on the RESERVED byte, through a descriptor of its own: then no journal is hot. Nobody waits for it,
since in WAL mode SQLite never takes that byte.

SQLite's POSIX locks go when any descriptor of the file is closed, and do not cross a fork. So our descriptors
are closed with the last connection, and a child leaves inherited connections alone, even their closing.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import sqlite3
import stat
import struct
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, TypeAlias

from facekeep.errors import IntegrityError, StoreError
from facekeep.limits import LIMITS
from facekeep.store.bulk import COUNTED

Use: TypeAlias = Literal["write", "look", "keep", "fill"]
"""What a file is opened for: to be written; for a look at what proves itself; to be kept as it stands; to be
filled, once, by its maker."""
Identity: TypeAlias = tuple[int, int]
"""Device and inode."""

FORKED: Final = "open the vault after forking; or start the other process by spawn or exec"
SIDECARS: Final = ("-wal", "-shm")
_RESERVED: Final = 0x40000001  # sqlite3's PENDING_BYTE + 1
_LOCK: Final[int | None] = getattr(fcntl, "F_OFD_SETLK", None)  # a lock of a descriptor: Linux
_DESCRIPTORS: Final = "/dev/fd"
_TRIES: Final = 10
_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


class Connection(sqlite3.Connection):
    """A connection that knows with which schema it began."""

    cookie = -1


@dataclass(slots=True)
class _File:
    """A file that connections of this process are open to, and our own descriptors of it."""

    descriptors: list[int] = field(default_factory=list)
    connections: list[Connection] = field(default_factory=list)


_mutex = threading.Lock()
_holder = 0  # the thread that has it, while it opens a file
_files: dict[Identity, _File] = {}
_closing: deque[tuple[Identity, Connection]] = deque()
_inherited: set[Identity] = set()


class Link:
    """A connection; closed with this object, but never by another process than made it."""

    __slots__ = ("__weakref__", "_identity", "_pid", "connection")

    def __init__(self, connection: Connection, identity: Identity | None) -> None:
        """Keep the connection; ``identity`` None: to a file that nothing is locked in."""
        self.connection = connection
        self._identity = identity
        self._pid = os.getpid()

    def close(self) -> None:
        """Close the connection; again, it is no error."""
        self._give_back()
        _close_all(wait=True)

    def __del__(self) -> None:
        """Close the connection, soon where another thread is at it: this may run at any point of a thread."""
        self._give_back()
        _close_all(wait=False)

    def _give_back(self) -> None:
        if self._pid != os.getpid():
            return
        identity, self._identity = self._identity, None
        if identity is None:
            with contextlib.suppress(sqlite3.Error):
                self.connection.close()
        else:
            _closing.append((identity, self.connection))


def connect(path: Path, use: Use) -> Link:
    """Open an existing file; raises IntegrityError, StoreError, OSError, sqlite3.Error."""
    if use == "keep":
        return Link(_open(path.absolute(), "mode=ro&immutable=1"), None)
    place = path.absolute().parent.resolve() / path.name
    with _busy():
        for each in [each for each, file in _files.items() if not file.connections]:
            _let_go(each)
        _refuse_companions(place)
        identity = _guard(place)
        file = _files[identity]
        try:
            connection = _same_file(place, identity)
            file.connections.append(connection)
        finally:
            _let_go(identity)
    link = Link(connection, identity)
    _same_place(connection, place)
    connection.execute("PRAGMA trusted_schema=OFF")
    connection.execute("PRAGMA cell_size_check=ON")
    connection.execute("PRAGMA temp_store=MEMORY")
    connection.execute("PRAGMA cache_size=-65536")
    if use == "fill":
        _own(connection, file)
    return link


@contextlib.contextmanager
def _busy() -> Iterator[None]:
    """Hold the table of files. What the garbage collector gives back meanwhile is closed afterwards."""
    global _holder  # noqa: PLW0603 - of the mutex
    with _mutex:
        _holder = threading.get_ident()
        try:
            yield
        finally:
            _holder = 0
    _close_all(wait=False)


def refuse_inherited(pid: int, name: str) -> None:
    """Raise StoreError in another process than the one of ``pid``, which opened the file."""
    if pid != os.getpid():
        raise StoreError(
            f"{name} was opened before this process was forked off: nothing was answered", next=FORKED
        )


def open_files() -> set[tuple[int, int, int]] | None:
    """(descriptor, device, inode) of every regular file open in this process; None: it cannot be told."""
    found = set()
    try:
        names = os.listdir(_DESCRIPTORS)  # noqa: PTH208 - names are all that is wanted
    except OSError:
        return None
    for name in names:
        with contextlib.suppress(OSError):  # the listing's own, and those of other threads
            status = os.fstat(int(name))
            if stat.S_ISREG(status.st_mode):
                found.add((int(name), status.st_dev, status.st_ino))
    return found


def _refuse_companions(place: Path) -> None:
    """Raise where a journal is there already, an early word: one that is put there later is not hot.

    So, too, where the WAL or its index is something else than a file of its own: SQLite would write to it.
    """
    for end in SIDECARS:
        with contextlib.suppress(FileNotFoundError):
            status = os.lstat(f"{place}{end}")
            if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                raise IntegrityError(
                    f"{place.name}{end} is a link, or no file: nothing was opened",
                    next=f"find out who put it at {place}{end}, and move it away",
                )
    journal = place.with_name(place.name + "-journal")
    if os.path.lexists(journal):
        raise IntegrityError(
            f"{journal.name} stands beside {place.name}, and is not facekeep's: nothing was opened",
            next=f"find out who put it at {journal}, and move it away; {place.name} lacks nothing",
        )


def _guard(place: Path) -> Identity:
    """Hold the RESERVED byte of the file at ``place``."""
    status = os.lstat(place)
    identity = _own_file(place, status)
    if identity in _files:
        return identity  # opening it again, and closing that, would drop SQLite's locks
    descriptor = os.open(place, _FLAGS)
    status = os.fstat(descriptor)
    identity = _identity(status)
    _files.setdefault(identity, _File()).descriptors.append(descriptor)
    try:
        _own_file(place, status)
        _lock(descriptor, fcntl.F_RDLCK)
    except BaseException:
        _let_go(identity)
        raise
    return identity


def _own_file(place: Path, status: os.stat_result) -> Identity:
    """Return its identity; raises where what stands there cannot be opened safely."""
    if not stat.S_ISREG(status.st_mode):
        raise IntegrityError(
            f"{place.name} is a link, or no file", next=f"put the file itself at {place}, and no link to it"
        )
    if status.st_nlink > 1:  # under its other name it has another WAL
        raise IntegrityError(
            f"{place.name} is a hard link: the same file stands somewhere else, too",
            next=f"put a copy (cp) in the place of the other, or of {place}; both must be closed meanwhile",
        )
    identity = _identity(status)
    if identity in _inherited:
        raise StoreError(
            f"{place.name} was open when this process was forked off, and its locks cannot be had here",
            next=FORKED,
        )
    return identity


def _identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino


def _lock(descriptor: int, kind: int) -> None:
    if _LOCK is None:
        return
    try:
        fcntl.fcntl(descriptor, _LOCK, struct.pack("hhqqi", kind, os.SEEK_SET, _RESERVED, 1, 0))
    except BlockingIOError:
        raise StoreError("a program that is not facekeep is writing to the file") from None


def _same_file(place: Path, identity: Identity) -> Connection:
    """Connect to ``place``, and see that SQLite opened the file that is guarded, before any statement.

    It opens none where it has a descriptor left from an earlier connection to the file at ``place``: that is
    then one that is guarded, since all are that SQLite has open.
    """
    others: list[Connection] = []
    try:
        for _ in range(_TRIES):
            before = open_files()
            connection = _open(place, "mode=rw")
            after = open_files()
            if before is None or after is None:
                if _identity(os.lstat(place)) == identity:
                    return connection
            else:
                new = {each[1:] for each in after - before}
                if identity in new or (
                    not new and _count(before, identity) > len(_files[identity].descriptors)
                ):
                    return connection
            others.append(connection)  # replaced, or another thread opened a file at this moment
    finally:
        for each in others:
            each.close()
    raise IntegrityError(f"{place.name} was replaced while it was being opened")


def _same_place(connection: Connection, place: Path) -> None:
    """See that no link led elsewhere: the WAL is beside the file that SQLite found."""
    connection.text_factory = bytes
    found = connection.execute("PRAGMA database_list").fetchone()[2]
    connection.text_factory = _text
    if found != os.fsencode(place):
        raise IntegrityError(f"{place.name} was replaced by a link while it was being opened")


def _text(raw: bytes) -> str:
    """Return text as it stands; what is no UTF-8 is no text of ours, and must not stop a statement."""
    return raw.decode("utf-8", "replace")


def _open(place: Path, how: str) -> Connection:
    connection: Connection = sqlite3.connect(
        f"{place.as_uri()}?{how}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=LIMITS.busy_timeout_ms / 1000,
        cached_statements=256,
        factory=Connection,
    )
    return connection


def _own(connection: Connection, file: _File) -> None:
    """Take the file for this connection alone: after its first read it never looks for a journal again."""
    connection.execute("PRAGMA main.locking_mode=EXCLUSIVE")
    connection.execute("PRAGMA main.journal_mode=OFF")
    connection.execute("PRAGMA main.synchronous=OFF")
    connection.execute("PRAGMA user_version").fetchone()
    for descriptor in file.descriptors:
        _lock(descriptor, fcntl.F_UNLCK)


def _let_go(identity: Identity) -> None:
    """Close our descriptors of a file that SQLite has not open: a statement may outlive its connection."""
    file = _files[identity]
    if file.connections or _count(open_files() or set(), identity) > len(file.descriptors):
        return
    del _files[identity]
    for descriptor in file.descriptors:
        os.close(descriptor)


def _count(files: set[tuple[int, int, int]], identity: Identity) -> int:
    return sum(each[1:] == identity for each in files)


def _close_all(*, wait: bool) -> None:
    while _closing and _holder != threading.get_ident() and _mutex.acquire(blocking=wait):
        try:
            while _closing:
                _close(*_closing.popleft())
        finally:
            _mutex.release()


def _close(identity: Identity, connection: Connection) -> None:
    with contextlib.suppress(sqlite3.Error):
        connection.close()
    file = _files.get(identity)
    if file is not None and connection in file.connections:
        file.connections.remove(connection)
        _let_go(identity)


def authorize(connection: Connection) -> None:
    """Refuse, when a statement is compiled, what a trigger or a view would do, and other files."""
    connection.set_authorizer(_authorized)


def _authorized(action: int, _one: str | None, _two: str | None, _base: str | None, by: str | None) -> int:
    planted = by is not None and by != COUNTED
    return sqlite3.SQLITE_DENY if planted or action == sqlite3.SQLITE_ATTACH else sqlite3.SQLITE_OK


def _leave_to_parent() -> None:
    """In a child: never touch what the parent has open, not even at the end of the process."""
    global _mutex, _holder, _files, _closing
    for identity, file in _files.items():
        _inherited.add(identity)
        for connection in file.connections:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
        for descriptor in file.descriptors:
            os.close(descriptor)
    _mutex, _holder, _files, _closing = threading.Lock(), 0, {}, deque()


os.register_at_fork(after_in_child=_leave_to_parent)
