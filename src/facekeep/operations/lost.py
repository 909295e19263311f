"""A new vault.db where the old one is lost: empty, for backups to be merged into."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from facekeep.access.roles import Action
from facekeep.access.session import Session
from facekeep.clock import Clock
from facekeep.errors import IntegrityError
from facekeep.keys.secrets import Secrets
from facekeep.operations.missing import DATA_FILE, SIDECARS, left_of
from facekeep.operations.opening import open_core
from facekeep.operations.steps import reached
from facekeep.store import settingsfile, vaultdb
from facekeep.store.lock import WriterLock
from facekeep.store.sqlite import Database, fsync_directory, translated

_NEW = DATA_FILE + ".new"


def make_data(path: Path, token: str, clock: Clock, secrets: Secrets) -> None:
    """Make an empty vault.db unless there is one; everything else must open, and the token may restore.

    Raises IntegrityError while a -wal is left of the lost file: a process may still be at work.
    """
    vault_id = settingsfile.read(path).vault_id
    with WriterLock(path / "vault.lock").held(), translated(DATA_FILE):
        if os.path.lexists(path / DATA_FILE):
            return
        left = left_of(path, DATA_FILE)
        if left:
            raise IntegrityError(
                f"{DATA_FILE} is missing, and something is left of it: {left}",
                next=f"stop the vault, move {left} aside, then type the command again",
            )
        _discard(path)
        try:
            Database.create(path / _NEW, "vault", vault_id, vaultdb.MIGRATIONS).close()
            with contextlib.closing(open_core(path, clock, secrets, data_file=_NEW)) as core:
                Session(core, token).require(Action.RESTORE)
            reached("lost.made")
            (path / _NEW).rename(path / DATA_FILE)
        except BaseException:
            _discard(path)
            raise
        fsync_directory(path)
        reached("lost.named")


def _discard(path: Path) -> None:
    for end in ("", *SIDECARS):
        (path / (_NEW + end)).unlink(missing_ok=True)
