"""A SQLite file of ours: its identity, its schema, its transactions, and our errors (SPEC §8).

Connections belong to one thread each; a ``Database`` hands every thread its own and notices when the
file at its path is no longer the file it opened.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Final

from sqlite_utils import Database as SqliteUtils

from facekeep.errors import ForeignFile, IntegrityError, StoreError
from facekeep.files import PRIVATE, create
from facekeep.limits import LIMITS
from facekeep.store.connect import (
    SIDECARS,
    Connection,
    Identity,
    Link,
    Use,
    authorize,
    connect,
    open_files,
    refuse_inherited,
)

APPLICATION_ID = 0x464B5631
_PAGE = 512  # bytes: SQLite's smallest page. Never read the file by hand: closing it would drop our locks.
Migration = Callable[[SqliteUtils], None]
_ASIDE: Final = "stop the vault, move {0}, {0}-wal and {0}-shm aside, then "
_LIVE_COPY: Final = "stop the vault, then put it right from its live copy: facekeep check --scrub"
_EFFECTIVE: Final = os.access in os.supports_effective_ids
_ALLOW: Final = "give the vault's user the right to read and write {0}, {0}-wal and {0}-shm"
_BACKUP: Final = "name a file that 'facekeep backup' wrote, and that is whole; the vault is as it was"
#: file of a vault -> what to do when it is damaged
MEND: Final = {
    "vault.db": (_ASIDE + "run 'facekeep restore BACKUP'").format("vault.db"),
    "keys.db": _LIVE_COPY,
    "log.db": _LIVE_COPY,
}


def _mend(name: str) -> str | None:
    return _BACKUP if name.startswith("the backup ") else MEND.get(name)


class translated:  # noqa: N801 - reads as a word of the with statement; a class, for the hot path
    """Turn sqlite3 and OS errors into ours; ``what`` names the file."""

    __slots__ = ("_what",)

    def __init__(self, what: str) -> None:
        """Keep the name."""
        self._what = what

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raise ours in place of theirs."""
        if error is None or not isinstance(error, sqlite3.DatabaseError | OSError | UnicodeDecodeError):
            return
        what = self._what
        if isinstance(error, UnicodeDecodeError):  # a text, or SQLite's own message about one, is no UTF-8
            raise IntegrityError(f"{what} is damaged: it has text that is no UTF-8", next=_mend(what))
        if isinstance(error, sqlite3.OperationalError):
            raise StoreError(f"{what}: {_reason(error)}") from error
        if isinstance(error, sqlite3.DatabaseError):
            raise IntegrityError(f"{what} is damaged: {_reason(error)}", next=_mend(what)) from error
        raise StoreError(f"{what}: {error.strerror or error}") from error


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


_WRITING: Final = (
    "synchronous=FULL",
    "cache_spill=OFF",  # nothing that is not committed is in any file
    "wal_autocheckpoint=8192",  # pages: 32 MiB, one sync less for each 4 MiB
    "secure_delete=ON",
)
_META: Final = "CREATE TABLE meta (key TEXT PRIMARY KEY, value ANY) STRICT"


class Database:
    """A SQLite file in WAL mode with ``synchronous=FULL``; one connection a thread, and none after a fork.

    ``kind`` is the word in its meta table (vault, keys, log, backup); ``vault_id`` 16 bytes.
    """

    def __init__(
        self,
        path: Path,
        kind: str,
        vault_id: bytes,
        migrations: Sequence[Migration],
        *,
        use: Use = "write",
    ) -> None:
        """Open an existing file, and check whose it is and that its schema is ours.

        For a look it is not checked whose it is: what is read there has to open under a key in any case.
        """
        self._use = use
        self.path = path.absolute()
        self.kind = kind
        self.name = f"the backup {path.name}" if kind == "backup" else path.name
        self.vault_id = vault_id
        self._migrations = tuple(migrations)
        self._local = threading.local()
        self._all: weakref.WeakSet[Link] = weakref.WeakSet()
        self._guard = threading.Lock()
        self._shared: Link | None = None
        self._closed = False
        self._pid = os.getpid()
        self._sidecars: tuple[Identity | None, ...] = ()
        with translated(self.name):
            if not path.exists():
                raise IntegrityError(f"{self.name} is missing at {path.parent.name}/", next=_mend(self.name))
            status = path.stat()
            self._identity = (status.st_dev, status.st_ino)
            if status.st_size < _PAGE:  # SQLite would make a new database of an empty file
                raise IntegrityError(f"{self.name} is not a facekeep file", next=_mend(self.name))
            self.connection()
            self._first: Link | None = (
                self._local.link
            )  # outlives its thread: the last one takes the WAL away
            self.check_identity()
            if use == "write":
                self._sidecars = self._opened_sidecars()

    @staticmethod
    def create(path: Path, kind: str, vault_id: bytes, migrations: Sequence[Migration]) -> Database:
        """Make a new file (mode 0600), and open it. Its first bytes are made in memory, not by SQLite."""
        with translated(path.name):
            create(path, _image(kind, vault_id, tuple(migrations), wal=True), PRIVATE)
        return Database(path, kind, vault_id, migrations)

    def create_like(self, path: Path) -> Database:
        """Make a new, empty file of the same kind and vault."""
        return Database.create(path, self.kind, self.vault_id, self._migrations)

    @contextlib.contextmanager
    def again(self) -> Iterator[Database]:
        """Open the file anew, as another process would, to read and to write; raises what is in the way."""
        self.check_sidecars()
        for end in ("", *SIDECARS):
            if not os.access(f"{self.path}{end}", os.R_OK | os.W_OK, effective_ids=_EFFECTIVE):
                raise StoreError(
                    f"{self.name}{end} may not be read and written", next=_ALLOW.format(self.path)
                )
        with contextlib.closing(Database(self.path, self.kind, self.vault_id, self._migrations)) as opened:
            with translated(self.name):
                _check_writable(opened.connection())
            yield opened

    def connection(self) -> Connection:
        """Return this thread's connection (autocommit; use ``transaction`` to write)."""
        refuse_inherited(self._pid, self.name)
        existing: Link | None = getattr(self._local, "link", None)
        if existing is not None:
            return existing.connection
        if self._closed:
            raise StoreError(f"{self.name} is closed")
        link = self._link()
        self._local.link = link
        with self._guard:
            self._all.add(link)
        return link.connection

    def shared(self) -> Connection:
        """Return a connection of no thread, always the same; callers take care of each other."""
        refuse_inherited(self._pid, self.name)
        with self._guard:
            if self._shared is None:
                if self._closed:
                    raise StoreError(f"{self.name} is closed")
                self._shared = self._link()
                self._all.add(self._shared)
            return self._shared.connection

    def lend(self) -> Callable[[], contextlib.AbstractContextManager[None]]:
        """Lend this thread's connection, with the pages it has read, to another thread.

        Inside the context manager that the result makes there, ``connection`` returns it. Meanwhile this
        thread must leave the file alone.
        """
        self.connection()
        local = self._local
        link: Link = local.link

        @contextlib.contextmanager
        def borrowed() -> Iterator[None]:
            local.link = link
            try:
                yield
            finally:
                del local.link

        return borrowed

    @contextlib.contextmanager
    def transaction(self, shared: sqlite3.Connection | None = None) -> Iterator[sqlite3.Connection]:
        """BEGIN IMMEDIATE .. COMMIT, durable on return where others see it; rolled back on any error.

        On the thread's connection, or on the ``shared`` one.
        """
        self.check_identity()
        with translated(self.name):
            connection = shared or self.connection()
            connection.execute("BEGIN IMMEDIATE")
            try:
                self.check_schema(connection)
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    with contextlib.suppress(sqlite3.Error):
                        connection.execute("ROLLBACK")
                raise
        self.check_identity()
        self.check_sidecars()

    @contextlib.contextmanager
    def unhurried(self) -> Iterator[sqlite3.Connection]:
        """``transaction``, but durable only with the next one: the WAL is not synced for it."""
        connection = self.connection()
        with translated(self.name):
            connection.execute("PRAGMA synchronous=NORMAL")
        try:
            with self.transaction():
                yield connection
        finally:
            with translated(self.name):
                connection.execute("PRAGMA synchronous=FULL")

    def check_identity(self) -> None:
        """Raise IntegrityError if the path leads to another file than was opened, StoreError in a child."""
        refuse_inherited(self._pid, self.name)
        try:
            status = os.lstat(self.path)
        except OSError as error:
            raise IntegrityError(f"{self.name} was removed while the vault was open") from error
        if (status.st_dev, status.st_ino) != self._identity:
            raise IntegrityError(f"{self.name} was replaced while the vault was open")

    def close(self) -> None:
        """Close every thread's connection; those that a child has inherited are not its own to close."""
        self._closed = True
        if self.is_inherited:
            return
        with self._guard:
            for link in tuple(self._all):
                link.close()
        self._local, self._first = threading.local(), None

    @property
    def is_inherited(self) -> bool:
        """Whether another process opened it, of which this one is a child."""
        return self._pid != os.getpid()

    def check_sidecars(self) -> None:
        """Raise IntegrityError if the WAL or its index was removed or replaced.

        SQLite goes on writing into a deleted one, which nobody will ever read.
        """
        for end, identity in zip(SIDECARS, self._sidecars, strict=False):
            if _inode(f"{self.path}{end}") != identity:
                raise IntegrityError(f"{self.name}{end} was removed or replaced while the vault was open")

    def _opened_sidecars(self) -> tuple[Identity | None, ...]:
        """Return what stands at their names, if that is what SQLite has open."""
        found = tuple(_inode(f"{self.path}{end}") for end in SIDECARS)
        opened = open_files()
        if opened is not None and not {each[1:] for each in opened}.issuperset(found):
            raise IntegrityError(f"{self.name}-wal was removed or replaced while the vault was opened")
        return found

    def check_schema(self, connection: sqlite3.Connection) -> None:
        """Raise IntegrityError unless the schema is the one that the connection began with.

        Inside a write transaction nobody can change it.
        """
        version = connection.execute("PRAGMA schema_version").fetchone()[0]
        if version != getattr(connection, "cookie", None):
            raise self._strange()

    def _link(self) -> Link:
        """Make a connection; what it goes by is looked at in the transaction in which it was read."""
        with translated(self.name):
            link = connect(self.path, self._use)
            connection = link.connection
            try:
                connection.execute("BEGIN")
                self._admit(connection)
                connection.execute("COMMIT")
                for pragma in _WRITING if self._use == "write" else ():
                    connection.execute(f"PRAGMA {pragma}")
            except BaseException:
                link.close()
                raise
        return link

    def _admit(self, connection: Connection) -> None:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        if application != APPLICATION_ID:
            raise IntegrityError(f"{self.name} is not a facekeep file", next=_mend(self.name))
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version != len(self._migrations):
            raise IntegrityError(
                f"{self.name} was written by another version of facekeep", next="install that version"
            )
        if _schema(connection) != _expected(self._migrations):
            raise self._strange()
        connection.cookie = connection.execute("PRAGMA schema_version").fetchone()[0]
        authorize(connection)
        if self._use != "keep" and connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            raise IntegrityError(f"{self.name} is not in WAL mode", next=_mend(self.name))
        if self._use != "look":
            self._check_owner(connection)

    def _strange(self) -> IntegrityError:
        return IntegrityError(
            f"{self.name} has tables, triggers or views that are not facekeep's", next=_mend(self.name)
        )

    def _check_owner(self, connection: sqlite3.Connection) -> None:
        meta = dict(connection.execute("SELECT key, value FROM meta"))
        if meta.get("file") != self.kind:
            raise IntegrityError(f"{self.name} is a facekeep file of another kind", next=_mend(self.name))
        if meta.get("vault") != self.vault_id:
            raise ForeignFile(f"{self.name} belongs to another vault")


def _check_writable(connection: Connection) -> None:
    """Begin to write, and leave it. Whoever writes at this moment shows as well that it can be done."""
    connection.execute("PRAGMA busy_timeout=0")
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("DELETE FROM meta WHERE 0")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
            raise
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    connection.execute(f"PRAGMA busy_timeout={LIMITS.busy_timeout_ms}")


def _inode(path: str) -> Identity | None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _schema(connection: sqlite3.Connection) -> frozenset[tuple[object, ...]]:
    return frozenset(connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema").fetchall())


@cache
def _expected(migrations: tuple[Migration, ...]) -> frozenset[tuple[object, ...]]:
    with _memory("", b"", migrations) as connection:
        return _schema(connection)


@contextlib.contextmanager
def _memory(kind: str, vault_id: bytes, migrations: tuple[Migration, ...]) -> Iterator[sqlite3.Connection]:
    """Give an empty database of a kind, in memory."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute(_META)
        connection.execute("INSERT INTO meta VALUES ('vault', ?), ('file', ?)", (vault_id, kind))
        for step in migrations:
            step(SqliteUtils(connection))
        connection.execute(f"PRAGMA user_version={len(migrations)}")
        yield connection


def _image(kind: str, vault_id: bytes, migrations: tuple[Migration, ...], *, wal: bool) -> bytes:
    """Bytes of an empty database file; with ``wal`` its header says that it is in WAL mode."""
    with _memory(kind, vault_id, migrations) as connection:
        image = bytearray(connection.serialize())
    if wal:
        image[18:20] = b"\2\2"  # the file format's write and read version
    return bytes(image)


@contextlib.contextmanager
def filled(path: Path, kind: str, vault_id: bytes, migrations: Sequence[Migration]) -> Iterator[Connection]:
    """Make a new file (mode 0600) and give the only connection to it; the caller makes it durable.

    For what is written once and read afterwards: it has no journal and no WAL.
    """
    create(path, _image(kind, vault_id, tuple(migrations), wal=False), PRIVATE)
    with contextlib.closing(connect(path, "fill")) as link:
        yield link.connection
