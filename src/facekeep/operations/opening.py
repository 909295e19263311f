"""Making a vault, and opening one: who may be trusted in which order (SPEC §3, §6.3, §9).

vault.toml names the root's holder; a root opens keys.db; a tree key opens the log; the log's head
authenticates vault.toml, and bounds vault.db.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from facekeep.access.admission import Admission
from facekeep.access.core import LOG_KEY_SLOT, Core, is_tree_of
from facekeep.access.roles import Role
from facekeep.access.steadyclock import SteadyClock
from facekeep.auditlog.log import AuditLog
from facekeep.clock import Clock
from facekeep.crypto import primitives as p
from facekeep.errors import (
    Busy,
    FacekeepError,
    FormatError,
    IntegrityError,
    NextStep,
    RootError,
    UsageError,
    VaultExists,
)
from facekeep.files import user_directory
from facekeep.formats import entries
from facekeep.formats.ids import VAULT_ID_LEN
from facekeep.formats.matching import Matching
from facekeep.formats.settings import Settings
from facekeep.formats.terms import Scope, check_regions
from facekeep.keys.holders import ask, held, provider_from_uri
from facekeep.keys.provider import Place, RootProvider
from facekeep.keys.secrets import Secrets
from facekeep.keys.swap import initial
from facekeep.keys.tree import KeyTree, TreeStale, open_tree
from facekeep.operations.missing import DATA_FILE, LOST_BOTH, LOST_LOG, check_present
from facekeep.operations.people import install_principal
from facekeep.operations.recover import recover
from facekeep.operations.unlogged import check_log_is_newest
from facekeep.store import logdb, settingsfile, vaultdb
from facekeep.store.aside import move_journal_aside
from facekeep.store.keysdb import KeysStore
from facekeep.store.lock import WriterLock
from facekeep.store.maskedterms import TermsMask
from facekeep.store.sqlite import Database, translated
from facekeep.store.vaultdb import VaultStore

_SETTINGS_ATTEMPTS = 3
_OWN_FILES = (DATA_FILE, "keys.db", "log.db")


@dataclass(frozen=True, slots=True)
class Plan:
    """What ``create`` is asked for. ``root_uri`` None: a file in the user's data directory.

    ``mirrors`` and ``recovery`` are URIs of further holders, ``thresholds`` the texts of those to register.
    """

    path: Path
    root_uri: str | None = None
    copies: Sequence[Path] = ()
    region: str = "ZZ"
    label: str = "first principal"
    mirrors: Sequence[str] = ()
    recovery: str | None = None
    thresholds: Sequence[str] = ()


def create(plan: Plan, clock: Clock, secrets: Secrets) -> str:
    """Make a vault and its root; returns the first principal's token. All or nothing."""
    path = plan.path
    if path.exists() or path.is_symlink():
        raise VaultExists(f"{path.name} already exists")
    try:
        check_regions((plan.region,))
        matching = functools.reduce(Matching.with_threshold, plan.thresholds, Matching())
    except FormatError as error:
        raise UsageError(str(error)) from None
    vault_id = p.random_bytes(VAULT_ID_LEN)
    uri = plan.root_uri or default_root_uri(path, vault_id)
    copies = tuple(str(copy.absolute()) for copy in plan.copies)
    recovery = () if plan.recovery is None else (plan.recovery,)
    settings = Settings(
        vault_id, uri, copies, plan.region, tuple(plan.mirrors), (), recovery, matching=matching
    )
    providers = holders_of(settings, path, secrets)
    check_distinct(providers)
    _check_copies(path, plan.copies)
    with contextlib.ExitStack() as undo:
        with translated(path.name):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir(mode=0o700)
            undo.callback(shutil.rmtree, path, ignore_errors=True)
            for copy in plan.copies:
                copy.mkdir(mode=0o700, parents=True, exist_ok=True)
                undo.callback(_remove_copies, copy)
        root = p.random_bytes(p.KEY_LEN)
        for provider in providers:
            provider.provision(root)
            undo.callback(_forget_root, provider)
        token = _fill(path, settings, providers, root, plan.label, clock, secrets)
        undo.pop_all()
    return token


def check_distinct(providers: Sequence[RootProvider]) -> None:
    """Refuse two URIs of one holder: letting one of them go would destroy the root of the other."""
    seen: set[str] = set()
    for provider in providers:
        if not seen.isdisjoint(provider.places):
            raise UsageError(
                f"two of the root holders are one: {provider.identity}",
                next="name each holder once, and write one that stays as it stands in vault.toml",
            )
        seen.update(provider.places)


def holders_of(settings: Settings, path: Path, secrets: Secrets) -> tuple[RootProvider, ...]:
    """Holders that every swap must reach; raises UsageError where two URIs name one."""
    if any(uri.startswith("lost:") for uri in settings.holders):
        raise UsageError("a holder that was given up as lost holds no root")
    if len(set(settings.holders)) != len(settings.holders):
        raise UsageError("a root holder is named twice", next="name each holder once; nothing was changed")
    found = {uri: provider_from_uri(uri, place_of(settings, path, secrets)) for uri in settings.holders}
    if any(
        len({uri in settings.recovery, provider.klass == "recovery", uri.startswith("recovery:")}) > 1
        for uri, provider in found.items()
    ):
        raise UsageError(
            "a recovery key gives no root back: it is no first holder and no mirror, nor they a recovery key",
            next="name root holders with --root, a recovery key with --recovery",
        )
    return tuple(found.values())


def leaving_of(settings: Settings, path: Path, secrets: Secrets) -> tuple[RootProvider, ...]:
    """Holders that are given up: the next swap destroys what they hold."""
    place = place_of(settings, path, secrets)
    return tuple(provider_from_uri(uri, place) for uri in settings.leaving)


def place_of(settings: Settings, path: Path, secrets: Secrets) -> Place:
    """Return where this vault's holders are used."""
    return Place(settings.vault_id, path.absolute().parent, secrets, path.absolute())


def _fill(
    path: Path,
    settings: Settings,
    providers: Sequence[RootProvider],
    root: bytes,
    label: str,
    clock: Clock,
    secrets: Secrets,
) -> str:
    vault_id = settings.vault_id
    keys = KeysStore.create(path / "keys.db", vault_id, _copies(settings, "keys.db"))
    initial(keys, vault_id, root, clock.now_ms(), [int(scope) for scope in Scope])
    tree, _ = open_tree(keys, vault_id, held(providers))
    Database.create(path / "vault.db", "vault", vault_id, vaultdb.MIGRATIONS).close()
    genesis = entries.genesis(
        vault_id=vault_id,
        epoch=tree.epoch,
        fingerprint=tree.fingerprint,
        provider_class=providers[0].klass,
        scheme=providers[0].scheme,
        settings_digest=settings.digest(),
        time_ms=clock.now_ms(),
        matching=settings.matching.logged(),
        regions=settings.all_regions,
    )
    database = logdb.create_log(path / "log.db", vault_id)
    log = AuditLog.create(
        database, _copies(settings, "log.db"), tree.slot_key(LOG_KEY_SLOT), vault_id, clock, genesis=genesis
    )
    log.close()
    keys.resync_copies()
    keys.close()
    settingsfile.stage(path, settings)
    settingsfile.promote(path)
    with contextlib.closing(open_core(path, clock, secrets)) as core, core.lock.held():
        return install_principal(core, core.view(), None, label, frozenset(Role))


def default_root_uri(path: Path, vault_id: bytes) -> str:
    """Return a root file in the user's data directory, away from the vault's own."""
    base = user_directory("XDG_DATA_HOME", ".local", "share")
    with translated("the data directory for root keys"):
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
    return f"file:{base / f'{path.name}-{vault_id.hex()[:8]}.root'}"


def _check_copies(path: Path, copies: Sequence[Path]) -> None:
    for copy in copies:
        if copy.absolute() == path.absolute():
            raise UsageError("the copy directory is the vault itself", next="name another, on another disk")
        if copy.is_dir() and any((copy / name).exists() for name in ("keys.db", "log.db")):
            raise VaultExists("the copy directory already holds another vault's copies")


def _remove_copies(copy: Path) -> None:
    for file in (*copy.glob("keys.db*"), *copy.glob("log.db*")):
        file.unlink(missing_ok=True)


def _forget_root(provider: RootProvider) -> None:
    """Undo ``provision``: what was made a moment ago has protected nothing yet."""
    with contextlib.suppress(FacekeepError):
        provider.unprovision()


def _copies(settings: Settings, name: str) -> list[Path]:
    return [Path(copy) / name for copy in settings.copies]


def open_core(
    path: Path,
    clock: Clock,
    secrets: Secrets,
    *,
    data_file: str = DATA_FILE,
    keys_file: str = "keys.db",
    log_file: str = "log.db",
    stand_in: RootProvider | None = None,
    finish: bool = True,
) -> Core:
    """Open a vault's files and check them against each other; finishes what a dead process left open.

    With another file than the vault's own, which is lost then, the caller holds the writer lock and nothing
    is finished: what the other one lacks says nothing. ``finish`` False is for a scrub.
    ``stand_in`` gives the root where no holder in vault.toml does, and leaves with the next swap; nothing is
    finished then either.
    """
    files = (data_file, keys_file, log_file)
    steady = SteadyClock.of(clock)
    for _ in range(_SETTINGS_ATTEMPTS):
        settings = settingsfile.read(path)
        remedy = LOST_LOG if stand_in is None else LOST_BOTH
        check_present(path, settings, data_file, (keys_file, log_file), remedy)
        try:
            return _open(path, settings, steady, secrets, files, stand_in, finish=finish)
        except _OtherSettings as error:
            # A change of settings is at work, or was cut off between its log entry and its renaming.
            ours = files != _OWN_FILES  # then the lock is held by us
            with contextlib.nullcontext() if ours else WriterLock(path / "vault.lock").held():
                finished = settingsfile.finish(path, error.digest)
            if not finished and settingsfile.read(path) == settings:
                raise
        except RootError:
            if settingsfile.read(path) == settings:
                raise  # else the holders that were named have just been moved from
        except TreeStale:
            continue  # swapped after its root node was read, and before what is below it
    raise Busy("the vault's settings or its root are being changed all the time; nothing was done")


def open_to_erase(path: Path, clock: Clock, secrets: Secrets, why: FacekeepError) -> Core:
    """Open what is left of a vault that does not open because of ``why``: to deny what is asked to be erased.

    Needed are vault.toml, a root, the log, and keys.db or a live copy of it. Nothing is answered, finished or
    destroyed with it. Raises what keeps that from being done.
    """
    try:
        return _open_to_erase(path, clock, secrets, why)
    except FacekeepError as error:
        error.args = (f"{error}; nothing was denied, and what has the vault open may go on",)
        error.next = NextStep(f"stop every process that has the vault open, then {error.next.command}")
        raise


def _open_to_erase(path: Path, clock: Clock, secrets: Secrets, why: FacekeepError) -> Core:
    settings = settingsfile.read(path)
    vault_id = settings.vault_id
    readers = holders_of(settings, path, secrets) + leaving_of(settings, path, secrets)
    for name in ("keys.db", "log.db"):
        move_journal_aside(path / name)
    with contextlib.ExitStack() as undo:
        keys, tree = _any_keys(undo, [path / "keys.db", *_copies(settings, "keys.db")], vault_id, readers)
        log_key = tree.slot_key(LOG_KEY_SLOT)
        log_copies = _copies(settings, "log.db")
        log = AuditLog(logdb.open_log(path / "log.db", vault_id), log_copies, log_key, vault_id, clock)
        undo.callback(log.close)
        data = VaultStore(_any_data(undo, path / DATA_FILE, vault_id))
        undo.callback(data.database.close)
        core = Core(path, settings, data, keys, log, tree, readers, (), secrets, SteadyClock.of(clock))
        core.erases_only(why)
        core.view()
        core.scratch = undo.pop_all()
    return core


def _any_keys(
    undo: contextlib.ExitStack, paths: Sequence[Path], vault_id: bytes, readers: Sequence[RootProvider]
) -> tuple[KeysStore, KeyTree]:
    """Return the first keys.db that a held root opens."""
    failed: FacekeepError | None = None
    for path in paths:
        try:
            keys = KeysStore.open(path, vault_id)
        except FacekeepError as error:
            failed = failed or error
            continue
        undo.callback(keys.close)
        try:
            return keys, _tree(keys, vault_id, readers)
        except FacekeepError as error:
            failed = failed or error
    raise failed or IntegrityError("keys.db is missing")


def _any_data(undo: contextlib.ExitStack, path: Path, vault_id: bytes) -> Database:
    """Return vault.db, or an empty one in its place."""
    with contextlib.suppress(FacekeepError):
        return Database(path, "vault", vault_id, vaultdb.MIGRATIONS)
    scratch = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="facekeep-")))
    return Database.create(scratch / DATA_FILE, "vault", vault_id, vaultdb.MIGRATIONS)


class _OtherSettings(IntegrityError):
    """vault.toml has another digest than the log's head, which is ``digest``."""

    def __init__(self, message: str, *, next: str | None = None, digest: bytes) -> None:  # noqa: A002 - errors.py
        super().__init__(message, next=next)
        self.digest = digest


def _open(
    path: Path,
    settings: Settings,
    clock: SteadyClock,
    secrets: Secrets,
    files: tuple[str, str, str],
    stand_in: RootProvider | None,
    *,
    finish: bool,
) -> Core:
    data_file, keys_file, log_file = files
    vault_id = settings.vault_id
    providers = holders_of(settings, path, secrets)
    with contextlib.ExitStack() as undo:
        keys = KeysStore.open(path / keys_file, vault_id, _copies(settings, "keys.db"))
        undo.callback(keys.close)
        leaving = leaving_of(settings, path, secrets) + (() if stand_in is None else (stand_in,))
        tree = _tree(keys, vault_id, providers + leaving)
        log = AuditLog(
            logdb.open_log(path / log_file, vault_id),
            _copies(settings, "log.db"),
            tree.slot_key(LOG_KEY_SLOT),
            vault_id,
            clock,
        )
        undo.callback(log.close)
        _check_settings(log, settings)
        data = VaultStore(
            Database(path / data_file, "vault", vault_id, vaultdb.MIGRATIONS),
            TermsMask(tree.slot_key(LOG_KEY_SLOT), vault_id),
        )
        undo.callback(data.database.close)
        core = Core(path, settings, data, keys, log, tree, providers, leaving, secrets, clock)
        _check_together(core, tree, finish=finish)
        whole = finish and files == _OWN_FILES and stand_in is None
        if whole:
            _recover_if_alone(core)
        undo.pop_all()
    core.watcher.start(Admission().look if whole else None)
    return core


def _tree(keys: KeysStore, vault_id: bytes, readers: Sequence[RootProvider]) -> KeyTree:
    asked = ask(readers)
    roots = asked.roots()
    try:
        return open_tree(keys, vault_id, roots)[0]
    except RootError as error:
        raise asked.unopened(error) from error


def _check_settings(log: AuditLog, settings: Settings) -> None:
    digest = log.head().settings
    if digest != settings.digest():
        raise _OtherSettings(
            "vault.toml was edited by hand: it is not what the log authenticates",
            next="undo the edit; settings are changed with 'facekeep settings'",
            digest=digest,
        )


def _check_together(core: Core, tree: KeyTree, *, finish: bool) -> None:
    pin = tree.pin
    core.log.check_pin(pin.size, pin.root, pin.chain)
    if finish and any(state.state in {"ahead", "diverged"} for state in core.log.copies_state()):
        core.log.resync_copies(create=False)  # says which copy, and how to restore the log from it
    head = core.log.head()
    if not is_tree_of(tree, head):
        core.forget_tree()  # another process may have swapped between the reading of the two
        view = core.view()
        head, tree = view.head, view.tree
    if finish:
        check_log_is_newest(core, tree, head)


def _recover_if_alone(core: Core) -> None:
    """Finish open operations, unless their process is still at work (it holds the lock) or a thing is wrong.

    Their slots stay denied. The next command that writes says what is in the way; erasures can be asked for.
    """
    if core.log.head().operations:
        with contextlib.suppress(FacekeepError), core.lock.held(0):
            recover(core)
