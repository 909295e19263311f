"""log.db is lost, and every copy of it: a new one that says so, and names what is adopted (SPEC §6.6).

The key tree says what is destroyed: that stays so. It does not say what was granted. So the new log takes up
what proves itself (``adoption``): rows of vault.db that open under a living slot key, principals whose record
opens. Whatever else could still be opened is ended afterwards: what was adopted is sealed again under keys of
new branches.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from facekeep.access.core import LOG_KEY_SLOT, Core
from facekeep.access.roles import Action
from facekeep.access.session import Session
from facekeep.auditlog.log import AuditLog
from facekeep.auditlog.restarting import restart_entry
from facekeep.auditlog.rotation import signing_entry
from facekeep.auditlog.signed import open_checkpoint
from facekeep.clock import Clock
from facekeep.errors import FacekeepError, IntegrityError, UsageError
from facekeep.files import rename
from facekeep.formats import entries
from facekeep.formats.canonical import JsonObject
from facekeep.formats.settings import Settings
from facekeep.formats.terms import Scope
from facekeep.keys.memory_holder import MemoryHolder
from facekeep.keys.secrets import Secrets
from facekeep.operations import lost, move
from facekeep.operations.adoption import (
    Adopted,
    Member,
    Remains,
    closed_branches,
    judge,
    members_of,
    next_principal,
    open_remains,
    restorer,
)
from facekeep.operations.check import repair_index
from facekeep.operations.destroy import Destruction, destroy
from facekeep.operations.missing import DATA_FILE, left_of
from facekeep.operations.recovering import check_lost
from facekeep.operations.rotate_templates import Selection, rotate_templates
from facekeep.operations.rotation import Why
from facekeep.operations.steps import reached
from facekeep.operations.writing import writing
from facekeep.store import logdb, settingsfile
from facekeep.store.aside import discard
from facekeep.store.lock import WriterLock

Progress = Callable[[int, int], None]
LOG_FILE: Final = "log.db"
_NEW: Final = LOG_FILE + ".new"
_TOGETHER: Final = 4_096  # grants adopted by one operation
_GENERATIONS: Final = 1_000  # of signing keys that a checkpoint is tried with
_SCRUB: Final = "facekeep check --scrub"


@dataclass(frozen=True, slots=True)
class Restarted:
    """What a restarted log adopted.

    ``left`` rows have a living slot and were not adopted: altered, or older than another of that subject and
    scope. ``dead`` rows stay erased. ``size`` is how many entries the lost log had at least.
    """

    principals: int
    grants: int
    left: int
    dead: int
    size: int
    epoch: int

    def to_json(self) -> JsonObject:
        """Return it as JSON."""
        return {
            "dead": self.dead,
            "epoch": self.epoch,
            "grants": self.grants,
            "left": self.left,
            "principals": self.principals,
            "size": self.size,
        }


@dataclass(frozen=True, slots=True)
class Recovered:
    """The root from the recovery key, and who is to hold the next (None: a file by default)."""

    holder: MemoryHolder
    root_uri: str | None


def restart(
    path: Path,
    token: str,
    clock: Clock,
    secrets: Secrets,
    checkpoint: bytes | None,
    progress: Progress | None = None,
    *,
    backup: Path | None = None,
    recovered: Recovered | None = None,
) -> Restarted:
    """Make a new log.db where it is lost with every copy; ``checkpoint`` is the newest that was published.

    Without one the log's first signing keys are in force again. With ``backup`` vault.db is lost too, and
    made of its rows; with ``recovered`` every root holder is.
    Raises UsageError where there is a log.db, a vault.db beside a backup, a root holder beside ``recovered``,
    IntegrityError where a copy is there, or may be; NotAllowed, ClockError, RootError: nothing is done then.
    """
    settings = settingsfile.read(path)
    with WriterLock(path / "vault.lock").held(), contextlib.ExitStack() as stack:
        _check_lost(path, settings)
        stack.callback(discard, path / lost.NEW_DATA)
        data_file = lost.data_to_judge(path, settings.vault_id, backup)
        standing = None if recovered is None else recovered.holder
        remains = open_remains(stack, path, settings, clock, secrets, data_file, standing)
        if recovered is not None:
            check_lost(settings, path, secrets, remains.tree.fingerprint, recovered.root_uri)
        members = list(members_of(remains))
        by = restorer(members, token, keys=recovered is not None)
        generation, seen = _seen(remains, checkpoint)
        adopted = judge(remains, progress)
        discard(path / _NEW)
        try:
            with contextlib.closing(_begin(path, remains, by, generation, seen)) as log:
                _adopt_principals(log, remains, members)
                _adopt_signing(log, remains, by, generation)
                _adopt_grants(log, remains, by, adopted)
                done = Restarted(
                    len(members),
                    len(adopted.newest),
                    adopted.left,
                    adopted.dead,
                    remains.tree.pin.size,
                    remains.tree.epoch,
                )
                log.append([_end(remains, by, members, done)])
                log.verify()
            reached("restart.made")
            if backup is not None:
                remains.data.database.close()
                rename(path / data_file, path / DATA_FILE)
                reached("restart.data")
            rename(path / _NEW, path / LOG_FILE)
        except BaseException:
            discard(path / _NEW)
            raise
        reached("restart.named")
    return done


def check_restarted(core: Core, session: Session) -> None:
    """Raise UsageError unless the log begins with a restart."""
    session.require(Action.RESTORE)
    if core.log.entry(0)["type"] != "restart":
        raise UsageError(f"{LOG_FILE} is there", next=f"where it is damaged: {_SCRUB}")


def end_the_rest(core: Core, session: Session, progress: Progress | None = None) -> int:
    """End every key that the lost log may have given out and that was not adopted; may be done again.

    New branches are taken, what was adopted is sealed again in them, and the old ones are dropped with all
    their keys. Returns how many adopted grants could not be sealed again: their branch lasts as long as they.
    A move that vault.toml is in the middle of is ended.
    """
    left = _end_branches(core, session, progress)
    move.finish(core, session)
    return left


def _end_branches(core: Core, session: Session, progress: Progress | None) -> int:
    with writing(core, session, Action.RESTORE):
        move.take_up(core, session)
        view = core.view()
        old = _closed(core)
        take = sorted(
            int(scope) for scope in Scope if max(view.branches_of(int(scope)), default=-1) in {-1, *old}
        )
        if not take and not old & set(view.kinds):
            return 0
        if take:
            destroy(core, session.by, Destruction("extend", (), take=take))
            reached("restart.extended")
    resealed = rotate_templates(core, session, Why.OTHER, Selection(), progress)
    repair_index(core, session)
    return resealed.left


def _closed(core: Core) -> set[int]:
    for _, entry in core.log.control_since(0):
        if entry["type"] == "restarted":
            return set(cast("list[int]", entry["closed"]))
    raise IntegrityError("the log was not restarted to the end")


def _check_lost(path: Path, settings: Settings) -> None:
    if os.path.lexists(path / LOG_FILE):
        raise UsageError(f"{LOG_FILE} is there", next=f"where it is damaged: {_SCRUB}")
    left = left_of(path, LOG_FILE)
    if left:
        raise IntegrityError(
            f"something is left of {LOG_FILE}: {left}",
            next=f"stop the vault, move {left} aside, then type the command again",
        )
    for each in settings.copies:
        if not Path(each).is_dir():
            raise IntegrityError(
                f"the live copies in {each} are away: {LOG_FILE} may not be lost",
                next=f"bring the directory back and run '{_SCRUB}'; where it is lost: make it anew, empty",
            )
        if os.path.lexists(Path(each) / LOG_FILE):
            raise IntegrityError(
                f"there is a live copy of {LOG_FILE} in {each}",
                next=f"run '{_SCRUB}'; where that says that the copy is of no use, move it aside first",
            )


def _seen(remains: Remains, data: bytes | None) -> tuple[int, tuple[int, bytes] | None]:
    """Return the generation of the keys that signed a checkpoint, and its size and root; 1 without one."""
    if data is None:
        return 1, None
    for generation in range(1, _GENERATIONS + 1):
        signer = remains.signer(generation)
        with contextlib.suppress(FacekeepError):
            found = open_checkpoint(data, signer.keys, origin=signer.origin).checkpoint
            return generation, (found.size, found.root)
    raise IntegrityError(
        "that is no checkpoint of this vault's log", next="give the newest one that was published"
    )


def _begin(
    path: Path, remains: Remains, by: str, generation: int, seen: tuple[int, bytes] | None
) -> AuditLog:
    tree, settings = remains.tree, remains.settings
    first = restart_entry(
        remains.signer(generation),
        vault_id=settings.vault_id,
        epoch=tree.epoch,
        fingerprint=tree.fingerprint,
        provider_class=remains.provider.klass,
        scheme=remains.provider.scheme,
        settings_digest=settings.digest(),
        pin=(tree.pin.size, tree.pin.root),
        seen=seen,
        by=by,
        time_ms=remains.clock.now_ms(),
        matching=settings.matching.logged(),
        regions=settings.all_regions,
    )
    database = logdb.create_log(path / _NEW, settings.vault_id)
    key = tree.slot_key(LOG_KEY_SLOT)
    return AuditLog.create(database, (), key, settings.vault_id, remains.clock, genesis=first)


def _adopt_principals(log: AuditLog, remains: Remains, members: list[Member]) -> None:
    """Take up everybody by their slot, in the order in which slots are given out."""
    for member in sorted(members, key=lambda each: each.row.slot):
        row, now = member.row, remains.clock.now_ms()
        entry = entries.principal(
            principal=row.principal.hex(),
            slot=row.slot,
            grant=row.grant_id,
            commitment=row.commitment,
            roles=[role.value for role in member.principal.roles],
            by=None,
            time_ms=now,
        )
        index = log.append([entry])[0]
        log.append([entries.granted(index, by=None, time_ms=now)])


def _adopt_signing(log: AuditLog, remains: Remains, by: str, generation: int) -> None:
    for number in range(2, generation + 1):
        old, new = remains.signer(number - 1), remains.signer(number)
        log.append([signing_entry(old, new, by=by, time_ms=remains.clock.now_ms())])


def _adopt_grants(log: AuditLog, remains: Remains, by: str, adopted: Adopted) -> None:
    wanted = adopted.slots()
    items: list[JsonObject] = []
    for row in remains.data.rows():
        if row.slot in wanted:
            items.append(
                entries.grant_item(
                    slot=row.slot,
                    grant=row.grant_id,
                    tag=row.tag,
                    commitment=row.commitment,
                    terms=row.terms,
                    model=row.model,
                )
            )
        if len(items) == _TOGETHER:
            _adopt(log, remains, by, items)
            items = []
    _adopt(log, remains, by, items)


def _adopt(log: AuditLog, remains: Remains, by: str, items: list[JsonObject]) -> None:
    if items:
        now = remains.clock.now_ms()
        first = log.append(entries.grant_entries("adopt", items, by=by, time_ms=now))[0]
        log.append([entries.granted(first, by=by, time_ms=now)])


def _end(remains: Remains, by: str, members: list[Member], done: Restarted) -> JsonObject:
    return entries.restarted(
        closed=closed_branches(remains.tree),
        next_principal=next_principal(remains.tree, members),
        left=done.left,
        by=by,
        time_ms=remains.clock.now_ms(),
    )
