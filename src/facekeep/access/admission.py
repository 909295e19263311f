"""What keeps other processes out of a vault stops those that have it open, too (SPEC §7).

Whoever writes files could else keep every command of an operator out, while a service goes on with what it
has open. So the watcher opens the files anew, as another process would.
"""

from __future__ import annotations

import contextlib
import errno
import sqlite3
from time import monotonic
from typing import Final

from facekeep.access.core import LOG_KEY_SLOT, Core, View
from facekeep.errors import Busy, FacekeepError, RootError, SettingsChanged, SlotDead, StoreError
from facekeep.formats.ids import SLOT_BITS
from facekeep.keys.holders import ask, refusal
from facekeep.keys.tree import KeyTree, open_tree
from facekeep.limits import LIMITS
from facekeep.store import settingsfile
from facekeep.store.keysdb import KeysStore
from facekeep.store.vaultdb import VaultStore
from facekeep.wiping import wipe

_CODE: Final = 0xFF  # of an extended result code of SQLite, what is the code itself
#: what a machine lacks for a while, and what somebody else is at: they keep nobody out unless they last
_PASSING: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_SCHEMA,
    }
)
_LACKING: Final = frozenset(
    {
        errno.EAGAIN,
        errno.EBUSY,
        errno.EDQUOT,
        errno.EINTR,
        errno.EIO,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ENOSPC,
    }
)


class Admission:
    """Looks at the files of one open vault; what two looks in a row find impairs it, until one finds none.

    So does what lets no look tell, for ``LIMITS.untold_s``.
    """

    def __init__(self) -> None:
        """Nothing was found yet."""
        self._doubted = False
        self._set: FacekeepError | None = None
        self._untold_since: float | None = None

    def look(self, core: Core) -> None:
        """Have the vault answer nothing while another process could not open it; raises nothing."""
        try:
            found = _obstacle(core)
            core.check_files()
            core.log.check_identity()
        except Exception as error:  # noqa: BLE001 - it answers nothing as it is, or nobody can tell this time
            found = self._untold(error)
            if found is None:
                return
        else:
            self._untold_since = None
        if found is not None and not self._doubted:
            self._doubted = True
        elif core.impaired is self._set:
            core.impaired = self._set = found
            self._doubted = found is not None

    def _untold(self, error: Exception) -> FacekeepError | None:
        """Return what is found after looks that could not tell for so long; None where it may pass yet."""
        if isinstance(error, SlotDead) or not (isinstance(error, MemoryError) or _is_passing(error)):
            return None  # nothing is answered as it is, or a holder is away
        now = monotonic()
        if self._untold_since is None:
            self._untold_since = now
        if now - self._untold_since < LIMITS.untold_s:
            return None
        return StoreError(
            f"nothing is answered: for {LIMITS.untold_s:.0f} s it could not be told whether another process "
            f"could open the vault ({error})",
            next="see what keeps the vault's files busy or unread; what was asked to be erased stays denied",
        )


class _NobodyKnows(Exception):
    """It cannot be told, and that keeps nobody out."""


def _obstacle(core: Core) -> FacekeepError | None:
    """Return what keeps other processes out, None where nothing does; raises where that cannot be told."""
    try:
        _admit(core)
    except (MemoryError, SettingsChanged, _NobodyKnows):
        raise
    except Exception as error:
        if _has_other_settings(core):
            raise _NobodyKnows from error
        if _is_passing(error):
            raise
        known = error if isinstance(error, FacekeepError) else StoreError(type(error).__name__)
        return type(known)(  # without its traceback, whose frames hold what was opened
            f"nothing is answered while no other process could open the vault: {known}", next=known.next
        )
    return None


def _is_passing(error: Exception) -> bool:
    cause = error.__cause__ if isinstance(error, FacekeepError) else error
    if isinstance(cause, sqlite3.Error):
        return getattr(cause, "sqlite_errorcode", 0) & _CODE in _PASSING
    if isinstance(cause, OSError):
        return cause.errno in _LACKING
    return isinstance(error, Busy | SlotDead)  # a tree that was forgotten has no key


def _has_other_settings(core: Core) -> bool:
    """Whether the settings were changed since it was opened here: then it answers nothing as it is."""
    try:
        return core.log.head().settings != core.settings.digest()
    except FacekeepError:  # of this thread's connection
        return False


def _admit(core: Core) -> None:
    """Do as an opening does, but ask no holder for a root that is known."""
    settingsfile.check(core.path, core.settings.digest())
    refused = refusal(core.readers)
    if refused is not None:
        raise refused
    with core.keys.again() as keys, core.log.again() as log_of, core.data.database.again() as data:
        try:
            view = core.recent_view()
        except Exception as error:
            raise _NobodyKnows from error
        tree = _tree(core, view, keys)
        key = tree.slot_key(LOG_KEY_SLOT)
        try:
            with contextlib.closing(log_of(key, core.clock)) as log:
                log.check_pin(tree.pin.size, tree.pin.root, tree.pin.chain)
        finally:
            wipe(key)
        free = [(branch << SLOT_BITS) + view.head.alloc.get(branch, 0) for _, branch, _ in tree.branches()]
        VaultStore(data).by_slots(free)
    if tree.fingerprint != view.tree.fingerprint and not core.lock.still_held():
        core.forget_tree()


def _tree(core: Core, view: View, keys: KeysStore) -> KeyTree:
    """Return the tree of a keys.db: the one in use, or after a swap the one that a held root opens."""
    if view.tree.top_row in keys.read_top():
        return view.tree.afresh(keys)
    try:
        asked = ask(core.readers)
        roots = asked.roots()
    except FacekeepError as error:
        raise _NobodyKnows from error
    try:
        return open_tree(keys, core.vault_id, roots)[0]
    except RootError as error:
        if asked.away:
            raise _NobodyKnows from error
        raise
