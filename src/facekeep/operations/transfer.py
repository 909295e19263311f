"""Data backups: written while the vault is in use, merged back row by row (DESIGN: three files, one root)."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import cast

import numpy as np

from facekeep.access.core import Core, View
from facekeep.access.roles import Action
from facekeep.access.session import Session
from facekeep.errors import FacekeepError, UsageError
from facekeep.formats import entries
from facekeep.formats.canonical import JsonObject
from facekeep.operations.indexed import check_indexed, forget
from facekeep.operations.rows import living
from facekeep.operations.steps import reached
from facekeep.operations.writing import writing
from facekeep.store import vaultdb
from facekeep.store.sqlite import Database, fsync_directory, translated
from facekeep.store.vaultdb import GrantRow, VaultStore

Progress = Callable[[int, int], None]
_CHUNK = 1_000


@dataclass(frozen=True, slots=True)
class BackupReport:
    """What a backup holds: rows, SHA-256 of the file (hex), the log's size it was taken at."""

    rows: int
    sha256: str
    size: int


class Fate(StrEnum):
    """What becomes of a row of a backup."""

    MERGED = "merged"
    PRESENT = "present"
    DEAD = "dead"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """Rows by fate, and the slots of living grants that still have no row."""

    rows: int
    merged: int
    dead: int
    present: int
    refused: int
    missing: tuple[int, ...]


def backup(core: Core, session: Session, target: Path) -> BackupReport:
    """Write a data backup: vault.db alone, one consistent state of it, synced before it gets its name."""
    session.require(Action.BACKUP)
    if target.exists() or target.is_symlink():
        raise UsageError(f"{target.name} already exists", next="choose another name; nothing was overwritten")
    temporary = target.with_name(target.name + ".partial")
    with writing(core, session, Action.BACKUP) as view, translated(target.name):
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        os.close(descriptor)
        try:
            rows = core.data.copy_to(temporary)
            digest = _sync_and_hash(temporary)
            reached("backup.written")
            temporary.rename(target)
            fsync_directory(target.parent)
            reached("backup.named")
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        core.log.append(
            [
                entries.backup(
                    rows=rows,
                    sha256=digest,
                    size=view.head.size,
                    by=session.by,
                    time_ms=core.clock.now_ms(),
                )
            ]
        )
    return BackupReport(rows, digest.hex(), view.head.size)


def restore(
    core: Core,
    session: Session,
    source: Path | None,
    progress: Progress | None = None,
    *,
    dry_run: bool = False,
) -> RestoreReport:
    """Merge a data backup of any age: a row returns only if its slot lives and the log knows it.

    Without a source nothing is merged; the log says how many living grants were given up for lost.
    """
    if source is None:
        return _without_backup(core, session, dry_run=dry_run)
    if not source.is_file():
        raise UsageError(f"there is no backup at {source.name}")
    with writing(core, session, Action.RESTORE) as view, contextlib.ExitStack() as cleanup:
        with translated(source.name):
            digest = _sync_and_hash(source, sync=False)
        database = Database(source, "backup", core.vault_id, vaultdb.MIGRATIONS, read_only=True)
        cleanup.callback(database.close)
        stored = VaultStore(database)
        total = stored.count()
        check_indexed(core, view, lost=True)
        forget(core)
        fates: Counter[Fate] = Counter()
        for chunk in _chunks(stored.rows()):
            _merge(core, view, chunk, fates, dry_run=dry_run)
            if progress is not None:
                progress(fates.total(), total)
        missing = core.missing(view).tolist()
        report = RestoreReport(
            total,
            fates[Fate.MERGED],
            fates[Fate.DEAD],
            fates[Fate.PRESENT],
            fates[Fate.REFUSED],
            tuple(missing),
        )
        if not dry_run:
            core.log.append([_entry(core, session, digest, report)])
        return report


def _without_backup(core: Core, session: Session, *, dry_run: bool) -> RestoreReport:
    with writing(core, session, Action.RESTORE) as view:
        report = RestoreReport(0, 0, 0, 0, 0, tuple(core.missing(view).tolist()))
        if not dry_run:
            core.log.append([_entry(core, session, hashlib.sha256().digest(), report)])
        return report


def _sync_and_hash(path: Path, *, sync: bool = True) -> bytes:
    with path.open("rb") as file:
        if sync:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").digest()


def _merge(core: Core, view: View, chunk: list[GrantRow], fates: Counter[Fate], *, dry_run: bool) -> None:
    have = {row.slot: row for row in core.data.by_slots([row.slot for row in chunk])}
    alive = view.tree.alive(np.array([row.slot for row in chunk], np.int64))
    wanted = []
    index_rows = []
    for row, lives in zip(chunk, alive, strict=True):
        fate, index_row = _fate(core, view, row, have.get(row.slot), lives=bool(lives))
        fates[fate] += 1
        if fate is Fate.MERGED:
            wanted.append(row)
        if index_row is not None:
            index_rows.append(index_row)
    if wanted and not dry_run:
        if index_rows:
            core.keys.index_put_many(index_rows)
            reached("restore.indexed")
        core.data.merge(wanted)
        reached("restore.merged")


def _fate(
    core: Core, view: View, row: GrantRow, present: GrantRow | None, *, lives: bool
) -> tuple[Fate, tuple[bytes, bytes] | None]:
    if not lives or view.pending.destroying(row.slot):
        return Fate.DEAD, None
    if present == row:
        return Fate.PRESENT, None
    if not _logged(core, row):
        return Fate.REFUSED, None
    try:
        grant = living(core, view, row)
    except FacekeepError:
        return Fate.REFUSED, None
    if grant is None:
        return Fate.REFUSED, None
    subject = grant.subject.encode("utf-8")
    tag = core.index.lookup(subject)
    if tag is None:
        return Fate.MERGED, core.index.row(core.index.hash(subject), row.tag)
    # A subject enrolled anew meanwhile has another tag: the older grants are not mixed in.
    return (Fate.MERGED if tag == row.tag else Fate.REFUSED), None


def _logged(core: Core, row: GrantRow) -> bool:
    """Whether the log gave this slot to this grant, commitment and tag."""
    found = core.log.entry_of_slot(row.slot)
    if found is None or found[1]["type"] != "grant":
        return False
    for element in cast("list[JsonObject]", found[1]["grants"]):
        if element["slot"] == row.slot:
            return (
                element["commitment"] == row.commitment.hex()
                and element["grant"] == row.grant_id.hex()
                and element["tag"] == row.tag.hex()
                and element["terms"] == row.terms.hex()
                and element["model"] == row.model
            )
    return False


def _entry(core: Core, session: Session, digest: bytes, report: RestoreReport) -> JsonObject:
    return entries.restore(
        sha256=digest,
        rows=report.rows,
        merged=report.merged,
        dead=report.dead,
        present=report.present,
        refused=report.refused,
        missing=len(report.missing),
        by=session.by,
        time_ms=core.clock.now_ms(),
    )


def _chunks(rows: Iterable[GrantRow]) -> Iterator[list[GrantRow]]:
    iterator = iter(rows)
    while chunk := list(itertools.islice(iterator, _CHUNK)):
        yield chunk
