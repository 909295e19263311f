"""keys.db or log.db is lost or cannot be used: a live copy takes its place (SPEC §8.3).

Works without an open vault. Nothing takes a place before the whole vault has opened with it, under the root
that is held, and the token's principal may restore. What stood there is moved aside, never deleted.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from facekeep.access.core import LOG_KEY_SLOT
from facekeep.access.roles import Action
from facekeep.access.session import Session
from facekeep.auditlog.head import Head
from facekeep.auditlog.keyed import LogKey
from facekeep.auditlog.mending import mend_rows
from facekeep.auditlog.strays import RolledBack, delete_strays, refuse_rolled_back
from facekeep.clock import Clock
from facekeep.errors import FacekeepError, IntegrityError, RootError
from facekeep.files import rename
from facekeep.formats.settings import Settings
from facekeep.keys.holders import held
from facekeep.keys.mend import mend_tree
from facekeep.keys.provider import Candidate
from facekeep.keys.secrets import Secrets
from facekeep.keys.tree import open_tree
from facekeep.keys.verify import verify_nodes
from facekeep.operations.missing import LOST_LOG
from facekeep.operations.opening import holders_of, leaving_of, open_core
from facekeep.operations.scrub import Repair
from facekeep.operations.steps import reached
from facekeep.operations.unlogged import check_log_is_newest
from facekeep.store import logdb, settingsfile
from facekeep.store.aside import SIDECARS, discard, move_aside
from facekeep.store.keysdb import KeysStore
from facekeep.store.keysrows import MIGRATIONS
from facekeep.store.lock import WriterLock
from facekeep.store.sqlite import Database, translated

_NEW: Final = ".new"


@dataclass(frozen=True, slots=True)
class _Place:
    """A vault whose files are looked at one by one."""

    path: Path
    settings: Settings
    roots: Sequence[Candidate]

    def copies(self, name: str) -> list[Path]:
        """Live copies of a file that are there."""
        return [found for each in self.settings.copies if (found := Path(each) / name).is_file()]


def salvage(path: Path, token: str, clock: Clock, secrets: Secrets) -> list[Repair]:
    """Put a live copy in the place of a keys.db or log.db that is lost or unusable, and log entries right.

    Raises IntegrityError where no copy will do, NotAllowed, RootError, with every file as it was.
    """
    settings = settingsfile.read(path)
    vault_id = settings.vault_id
    providers = (*holders_of(settings, path, secrets), *leaving_of(settings, path, secrets))
    with WriterLock(path / "vault.lock").held():
        place = _Place(path, settings, held(providers))
        keys_why = _keys_trouble(place)
        log_why = None
        try:
            keys = path / ("keys.db" + _NEW) if keys_why else path / "keys.db"
            if keys_why:
                _copy(Database(_best_keys(place, keys_why), "keys", vault_id, MIGRATIONS), keys)
            log_key = _log_key(keys, vault_id, place.roots)
            log_why, least = _log_trouble(path / "log.db", vault_id, log_key)
            if log_why:
                best = _best_log(place, log_key, log_why, least)
                _copy(logdb.open_log(best, vault_id), path / ("log.db" + _NEW))
            mended = [] if keys_why else _mend_nodes(place)
            mended += [] if log_why else _mend_log(place, log_key)
            if not keys_why and not log_why:
                return mended
            _try_out(path, token, clock, secrets, keys_new=bool(keys_why), log_new=bool(log_why))
            reached("salvage.tried")
        except BaseException:
            for name in ("keys.db", "log.db"):
                discard(path / (name + _NEW))
            raise
        broken = (("keys.db", keys_why), ("log.db", log_why))
        return [*mended, *(_put(path, name, why) for name, why in broken if why)]


def _keys_trouble(place: _Place) -> str | None:
    """Say why keys.db cannot be used; None where it can: a scrub then mends what is damaged in it.

    Raises RootError where the roots at hand open no live copy either: they may be the wrong ones.
    """
    path, vault_id = place.path / "keys.db", place.settings.vault_id
    if not os.path.lexists(path):
        return "it is missing"
    try:
        with KeysStore.open(path, vault_id) as store:
            open_tree(store, vault_id, place.roots)[0].slot_key(LOG_KEY_SLOT)
            store.integrity()
    except RootError as error:
        if not _opened_keys(place):
            raise
        return str(error)
    except IntegrityError as error:  # not StoreError: a file that cannot be read now may be whole
        return str(error)
    return None


def _log_trouble(path: Path, vault_id: bytes, key: LogKey) -> tuple[str | None, int]:
    """Say why log.db cannot be used, None where it can; and how many entries it shows to have been there."""
    if not os.path.lexists(path):
        return "it is missing", 0
    try:
        _log_size(path, vault_id, key)
    except RolledBack as error:
        return str(error), error.least
    except IntegrityError as error:
        return str(error), 0
    return None, 0


def _log_size(path: Path, vault_id: bytes, key: LogKey) -> int:
    """Size of a log whose head authenticates and whose pages are whole; raises IntegrityError."""
    with contextlib.closing(logdb.open_log(path, vault_id)) as database, translated(path.name):
        connection = database.connection()
        connection.execute("BEGIN")
        head = _head(connection, key)
        refuse_rolled_back(connection, key, head)
        if logdb.last_index(connection) + 1 < head.size:
            raise IntegrityError(f"{path.name} has fewer entries than its head says")
        verdict = " ".join(str(connection.execute("PRAGMA quick_check(1)").fetchone()[0]).split())
        if verdict != "ok":
            raise IntegrityError(f"{path.name} is damaged: {verdict}")
        return head.size


def _mend_nodes(place: _Place) -> list[Repair]:
    """Put damaged nodes right from copies, in place: the token's own key may lie below one."""
    vault_id, copies = place.settings.vault_id, place.copies("keys.db")
    mended: list[Repair] = []
    with contextlib.suppress(FacekeepError), contextlib.ExitStack() as stack:  # the scrub says what is left
        own = stack.enter_context(KeysStore.open(place.path / "keys.db", vault_id, copies))
        others = []
        for path in copies:
            with contextlib.suppress(FacekeepError):
                others.append(stack.enter_context(KeysStore.open(path, vault_id)))
        tree, _ = open_tree(own, vault_id, place.roots)
        for what in mend_tree(tree, own, others):
            mended.append(Repair("keys.db", f"{what} was written anew"))
            reached("scrub.mended")
    return mended


def _head(connection: sqlite3.Connection, key: LogKey) -> Head:
    stored = logdb.read_head(connection)
    if stored is None:
        raise IntegrityError("log.db has no head")
    return key.open_head(stored)


def _delete_strays(database: Database, key: LogKey) -> int:
    with database.transaction() as connection:
        return delete_strays(connection, key, _head(connection, key))


def _mend_log(place: _Place, key: LogKey) -> list[Repair]:
    """Put damaged rows right from copies, in place: what is put back was made under the log key."""
    vault_id = place.settings.vault_id
    with contextlib.ExitStack() as stack:
        own = stack.enter_context(contextlib.closing(logdb.open_log(place.path / "log.db", vault_id)))
        stack.enter_context(translated("log.db"))
        sources = []
        for path in place.copies("log.db"):
            with contextlib.suppress(FacekeepError):
                copy = stack.enter_context(contextlib.closing(logdb.open_log(path, vault_id)))
                sources.append(copy.connection())
        strays = _delete_strays(own, key)
        head = _head(own.connection(), key)
        found = []
        with contextlib.suppress(IntegrityError):  # opening, or the check, says what is wrong
            found = mend_rows(own.connection(), sources, key, head.size, head.chain)
    what = (f"entry {index}" if index >= 0 else "the list of slots" for index in found)
    mended = [Repair("log.db", f"{each} was put back") for each in what]
    if strays:
        message = f"{strays} rows at indices of no entry, which are nobody's, were deleted"
        mended.append(Repair("log.db", message))
    return mended


def _log_key(keys: Path, vault_id: bytes, roots: Sequence[Candidate]) -> LogKey:
    with KeysStore.open(keys, vault_id) as store:
        return LogKey(open_tree(store, vault_id, roots)[0].slot_key(LOG_KEY_SLOT), vault_id)


def _opened_keys(place: _Place) -> list[tuple[int, int, Path]]:
    """(epoch, generation, path) of the copies that a held root opens and that are whole."""
    vault_id = place.settings.vault_id
    found: list[tuple[int, int, Path]] = []
    for path in place.copies("keys.db"):
        with contextlib.suppress(FacekeepError), KeysStore.open(path, vault_id) as store:
            tree, _ = open_tree(store, vault_id, place.roots)
            store.integrity()
            if not any(verify_nodes(tree, store)):
                found.append((tree.epoch, store.generation(), path))
    return found


def _best_keys(place: _Place, why: str) -> Path:
    """Return the copy of the newest epoch, which has seen the most writes."""
    found = _opened_keys(place)
    if not found:
        raise IntegrityError(
            f"keys.db cannot be used ({why}), and the root opens no live copy of it that is whole",
            next="bring back every directory under [copies] in vault.toml; nothing can be had without it",
        )
    return max(found)[2]


def _best_log(place: _Place, key: LogKey, why: str, least: int) -> Path:
    """Return the copy of the most entries, and at least of so many."""
    vault_id = place.settings.vault_id
    found: list[tuple[int, Path]] = []
    for path in place.copies("log.db"):
        with contextlib.suppress(FacekeepError):
            found.append((_log_size(path, vault_id, key), path))
    if not found or max(found)[0] < least:
        raise IntegrityError(
            f"log.db cannot be used ({why}), and no live copy of it is whole",
            next=f"bring back every directory under [copies] in vault.toml; where all are lost: {LOST_LOG}",
        )
    return max(found)[1]


def _copy(source: Database, target: Path) -> None:
    """Write a consistent copy of a database that may have a WAL: a new file, in one transaction."""
    discard(target)
    with (
        translated(target.name),
        contextlib.closing(source),
        contextlib.closing(source.create_like(target)) as made,
    ):
        source.connection().backup(made.connection())


def _try_out(
    path: Path, token: str, clock: Clock, secrets: Secrets, *, keys_new: bool, log_new: bool
) -> None:
    """Open the whole vault with the new files, and verify them."""
    core = open_core(
        path,
        clock,
        secrets,
        keys_file="keys.db" + (_NEW if keys_new else ""),
        log_file="log.db" + (_NEW if log_new else ""),
        finish=False,
    )
    with contextlib.closing(core):
        Session(core, token).require(Action.RESTORE)
        if log_new:
            core.log.verify()
            view = core.view()
            check_log_is_newest(core, view.tree, view.head)


def _put(path: Path, name: str, why: str) -> Repair:
    """Move what is left of the old file aside, and give the new one its name."""
    left = any(os.path.lexists(path / (name + end)) for end in ("", *SIDECARS))
    aside = f"; what was there is {move_aside(path / name).name} now" if left else ""
    with translated(name):
        rename(path / (name + _NEW), path / name)
    reached("salvage.named")
    return Repair(name, f"{why}: a live copy was put in its place{aside}")
