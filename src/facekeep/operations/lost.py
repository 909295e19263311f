"""A new vault.db where the old one is lost: empty, for backups to be merged into; or a backup's rows."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

from facekeep.access.roles import Action
from facekeep.access.session import Session
from facekeep.clock import Clock
from facekeep.errors import IntegrityError, UsageError
from facekeep.files import rename
from facekeep.keys.secrets import Secrets
from facekeep.operations.backups import chunks
from facekeep.operations.missing import DATA_FILE, left_of
from facekeep.operations.opening import open_core
from facekeep.operations.steps import reached
from facekeep.store import settingsfile, vaultdb
from facekeep.store.aside import discard
from facekeep.store.lock import WriterLock
from facekeep.store.sqlite import Database, translated

NEW_DATA: Final = DATA_FILE + ".new"
_BOTH: Final = (
    "put vault.db back, or name the newest backup: facekeep restore BACKUP --lost-log, the rest as before; "
    "without either nobody can be had back: make a new vault"
)


def make_data(path: Path, token: str, clock: Clock, secrets: Secrets) -> None:
    """Make an empty vault.db unless there is one; everything else must open, and the token may restore.

    Raises IntegrityError while a -wal is left of the lost file: a process may still be at work.
    """
    vault_id = settingsfile.read(path).vault_id
    with WriterLock(path / "vault.lock").held(), translated(DATA_FILE):
        if os.path.lexists(path / DATA_FILE):
            return
        _check_nothing_left(path)
        discard(path / NEW_DATA)
        try:
            Database.create(path / NEW_DATA, "vault", vault_id, vaultdb.MIGRATIONS).close()
            with contextlib.closing(open_core(path, clock, secrets, data_file=NEW_DATA)) as core:
                Session(core, token).require(Action.RESTORE)
            reached("lost.made")
            rename(path / NEW_DATA, path / DATA_FILE)
        except BaseException:
            discard(path / NEW_DATA)
            raise
        reached("lost.named")


def data_to_judge(path: Path, vault_id: bytes, backup: Path | None) -> str:
    """Name of the file whose rows a restarted log may adopt: vault.db, or one that is made of a backup.

    The writer lock must be held. Raises UsageError where there are both, IntegrityError where there is
    neither, ForeignFile for another vault's backup.
    """
    if backup is not None:
        _of_backup(path, vault_id, backup)
        return NEW_DATA
    if not os.path.lexists(path / DATA_FILE):
        raise IntegrityError(f"{DATA_FILE} is lost too, and with it who is enrolled", next=_BOTH)
    return DATA_FILE


def _of_backup(path: Path, vault_id: bytes, backup: Path) -> None:
    """Make a file of a backup's rows that can take the place of vault.db; nothing is believed of them."""
    if os.path.lexists(path / DATA_FILE):
        raise UsageError(
            f"{DATA_FILE} is there, and is not made of a backup",
            next="type the command without the backup; old backups bring nobody back afterwards",
        )
    _check_nothing_left(path)
    discard(path / NEW_DATA)
    with translated(DATA_FILE):
        _fill(path / NEW_DATA, backup, vault_id)


def _fill(target: Path, backup: Path, vault_id: bytes) -> None:
    """Copy a backup's rows into a new file of kind ``vault``."""
    migrations = vaultdb.MIGRATIONS
    with (
        contextlib.closing(Database(backup, "backup", vault_id, migrations, use="keep")) as source,
        contextlib.closing(Database.create(target, "vault", vault_id, migrations)) as made,
        vaultdb.VaultStore(made).adding() as add,
    ):
        for rows in chunks(vaultdb.VaultStore(source).rows()):
            add(rows)


def _check_nothing_left(path: Path) -> None:
    left = left_of(path, DATA_FILE)
    if left:
        raise IntegrityError(
            f"{DATA_FILE} is missing, and something is left of it: {left}",
            next=f"stop the vault, move {left} aside, then type the command again",
        )
