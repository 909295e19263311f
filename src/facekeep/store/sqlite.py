"""One way to open a SQLite file: pragmas, identity, migrations, errors (SPEC.md §8).

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
from typing import Final, Literal, TypeAlias

from sqlite_utils import Database as SqliteUtils

from facekeep.errors import ForeignFile, IntegrityError, StoreError
from facekeep.limits import LIMITS

APPLICATION_ID = 0x464B5631
_PAGE = 512  # bytes: SQLite's smallest page. Never read the file by hand: closing it would drop our locks.
Migration = Callable[[SqliteUtils], None]
_ASIDE: Final = "stop the vault, move {0}, {0}-wal and {0}-shm aside, then "
_LIVE_COPY: Final = "stop the vault, then put it right from its live copy: facekeep check --scrub"
#: file of a vault -> what to do when it is damaged
MEND: Final = {
    "vault.db": (_ASIDE + "run 'facekeep restore BACKUP'").format("vault.db"),
    "keys.db": _LIVE_COPY,
    "log.db": _LIVE_COPY,
}


Use: TypeAlias = Literal["write", "look", "keep"]
"""What a file is opened for: to be written; for a look at what proves itself; to be kept as it stands."""


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
        if error is None or not isinstance(error, sqlite3.DatabaseError | OSError):
            return
        what = self._what
        if isinstance(error, sqlite3.OperationalError):
            raise StoreError(f"{what}: {_reason(error)}") from error
        if isinstance(error, sqlite3.DatabaseError):
            raise IntegrityError(f"{what} is damaged: {_reason(error)}", next=MEND.get(what)) from error
        raise StoreError(f"{what}: {error.strerror or error}") from error


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


_META = "CREATE TABLE meta (key TEXT PRIMARY KEY, value ANY) STRICT"


class _Holder:
    """A thread's connection: closed with the thread."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def __del__(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self.connection.close()


class Database:
    """A SQLite file in WAL mode with ``synchronous=FULL``; one connection a thread.

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
        """Open an existing file, check whose it is, bring its schema up to date if it is to be written.

        For a look it is not checked whose it is: what is read there has to open under a key in any case.
        """
        self._use = use
        self.path = path
        self.kind = kind
        self.name = f"the backup {path.name}" if kind == "backup" else path.name
        self._local = threading.local()
        self._all: weakref.WeakSet[_Holder] = weakref.WeakSet()
        self._guard = threading.Lock()
        self._shared: _Holder | None = None
        self._closed = False
        with translated(self.name):
            if not path.exists():
                raise IntegrityError(
                    f"{self.name} is missing at {path.parent.name}/", next=MEND.get(self.name)
                )
            status = path.stat()
            self._identity = (status.st_dev, status.st_ino)
            if status.st_size < _PAGE:  # SQLite would make a new database of an empty file
                raise IntegrityError(f"{self.name} is not a facekeep file", next=MEND.get(self.name))
            connection = self.connection()
            if use != "look":
                self._check_owner(connection, vault_id)
            self._expected = _schema_after(tuple(migrations[: self._migrated(connection, migrations)]))
            self._schema_version = -1
            self.check_schema(connection)

    @staticmethod
    def create(path: Path, kind: str, vault_id: bytes, migrations: Sequence[Migration]) -> Database:
        """Make a new file (mode 0600) with all migrations applied, and open it."""
        with translated(path.name):
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
            os.close(descriptor)
            connection = _connect(path, "create")
            with contextlib.closing(connection):
                connection.execute("BEGIN IMMEDIATE")
                connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
                connection.execute(_META)
                connection.execute("INSERT INTO meta VALUES ('vault', ?), ('file', ?)", (vault_id, kind))
                connection.execute("COMMIT")
            fsync_directory(path.parent)
        return Database(path, kind, vault_id, migrations)

    def connection(self) -> sqlite3.Connection:
        """Return this thread's connection (autocommit; use ``transaction`` to write)."""
        existing: _Holder | None = getattr(self._local, "holder", None)
        if existing is not None:
            return existing.connection
        if self._closed:
            raise StoreError(f"{self.name} is closed")
        connection = _connect(self.path, self._use)
        holder = _Holder(connection)
        self._local.holder = holder
        with self._guard:
            self._all.add(holder)
        return connection

    def shared(self) -> sqlite3.Connection:
        """Return a connection of no thread, always the same; callers take care of each other."""
        with self._guard:
            if self._shared is None:
                if self._closed:
                    raise StoreError(f"{self.name} is closed")
                self._shared = _Holder(_connect(self.path, self._use))
                self._all.add(self._shared)
            return self._shared.connection

    def lend(self) -> Callable[[], contextlib.AbstractContextManager[None]]:
        """Lend this thread's connection, with the pages it has read, to another thread.

        Inside the context manager that the result makes there, ``connection`` returns it. Meanwhile this
        thread must leave the file alone.
        """
        self.connection()
        local = self._local
        holder: _Holder = local.holder

        @contextlib.contextmanager
        def borrowed() -> Iterator[None]:
            local.holder = holder
            try:
                yield
            finally:
                del local.holder

        return borrowed

    @contextlib.contextmanager
    def transaction(self, shared: sqlite3.Connection | None = None) -> Iterator[sqlite3.Connection]:
        """BEGIN IMMEDIATE .. COMMIT, durable on return; rolled back on any error.

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
        """Raise IntegrityError if the path no longer leads to the file that was opened."""
        try:
            status = os.stat(self.path)  # noqa: PTH116 - the hot path; Path.stat costs twice as much
        except OSError as error:
            raise IntegrityError(f"{self.name} was removed while the vault was open") from error
        if (status.st_dev, status.st_ino) != self._identity:
            raise IntegrityError(f"{self.name} was replaced while the vault was open")

    def close(self) -> None:
        """Close every thread's connection."""
        self._closed = True
        with self._guard:
            for holder in tuple(self._all):
                with contextlib.suppress(sqlite3.Error):
                    holder.connection.close()
        self._local = threading.local()

    def check_schema(self, connection: sqlite3.Connection) -> None:
        """Raise IntegrityError unless the tables are exactly ours: a planted trigger or view is refused.

        Inside a write transaction nobody can change it any more. Cheap while ``schema_version`` stands.
        """
        version = connection.execute("PRAGMA schema_version").fetchone()[0]
        if version == self._schema_version:
            return
        if _schema(connection) != self._expected:
            raise IntegrityError(
                f"{self.name} has tables, triggers or views that are not facekeep's",
                next=MEND.get(self.name),
            )
        self._schema_version = version

    def _check_owner(self, connection: sqlite3.Connection, vault_id: bytes) -> None:
        meta = dict(connection.execute("SELECT key, value FROM meta"))
        if meta.get("file") != self.kind:
            raise IntegrityError(f"{self.name} is a facekeep file of another kind", next=MEND.get(self.name))
        if meta.get("vault") != vault_id:
            raise ForeignFile(f"{self.name} belongs to another vault")

    def _migrated(self, connection: sqlite3.Connection, migrations: Sequence[Migration]) -> int:
        """Return the version of the schema; that of a file to be written is brought up to date first."""
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > len(migrations) or version < 0:
            raise IntegrityError(
                f"{self.name} was written by a newer facekeep", next="install the newer facekeep"
            )
        if version == len(migrations):
            return version
        if self._use != "write":
            if not version:
                raise IntegrityError(f"{self.name} has an unknown schema version", next=MEND.get(self.name))
            return version
        connection.execute("BEGIN IMMEDIATE")
        for step in migrations[version:]:
            step(SqliteUtils(connection))
        connection.execute(f"PRAGMA user_version={len(migrations)}")
        connection.execute("COMMIT")
        return len(migrations)


def _schema(connection: sqlite3.Connection) -> frozenset[tuple[object, ...]]:
    return frozenset(connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema").fetchall())


@cache
def _schema_after(migrations: tuple[Migration, ...]) -> frozenset[tuple[object, ...]]:
    """Return the schema that a file has after these migrations."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute(_META)
        for step in migrations:
            step(SqliteUtils(connection))
        return _schema(connection)


def _connect(path: Path, use: Use | Literal["create"]) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path.absolute().as_uri() + ("?mode=ro&immutable=1" if use == "keep" else "?mode=rw"),
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=LIMITS.busy_timeout_ms / 1000,
        cached_statements=256,
    )
    if use != "create" and connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        connection.close()  # before any pragma that would change somebody else's file
        raise IntegrityError(f"{path.name} is not a facekeep file", next=MEND.get(path.name))
    connection.execute("PRAGMA trusted_schema=OFF")
    connection.execute("PRAGMA cell_size_check=ON")
    if use == "look":
        return connection
    if use != "keep":
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA cache_spill=OFF")  # nothing that is not committed is in any file
        connection.execute("PRAGMA wal_autocheckpoint=8192")  # pages: 32 MiB, one sync less for each 4 MiB
        connection.execute("PRAGMA secure_delete=ON")
    connection.execute("PRAGMA temp_store=MEMORY")
    connection.execute("PRAGMA cache_size=-65536")
    return connection


def fsync_directory(path: Path) -> None:
    """Make a created, renamed or removed name durable: open(O_DIRECTORY), fsync, close."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
