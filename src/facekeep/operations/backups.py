"""Data backups: written while the vault is in use, read back before they get their name, checked later.

A backup says itself what it holds, in a manifest, sealed under the log key (SPEC §8.2).
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import numpy as np
import numpy.typing as npt

from facekeep.access.core import Core, View
from facekeep.access.roles import Action
from facekeep.access.session import Session
from facekeep.answers import Ambiguous
from facekeep.crypto.primitives import SUITE, domain
from facekeep.errors import FormatError, IntegrityError, StoreError, UsageError
from facekeep.files import remove_leftovers, rename, temporary
from facekeep.formats import entries
from facekeep.formats.canonical import JsonObject
from facekeep.formats.entryrules import SCOPES
from facekeep.formats.ids import GRANT_ID_LEN, TAG_LEN, check_model_id
from facekeep.formats.manifest import Manifest
from facekeep.formats.terms import TERMS_LEN
from facekeep.operations.steps import reached
from facekeep.operations.writing import writing
from facekeep.store import vaultdb
from facekeep.store.sqlite import Database, translated
from facekeep.store.vaultdb import GrantRow, VaultStore, without_records

Progress = Callable[[int, int], None]
CHUNK: Final = 1_000
_FIRST_SCOPE: Final = 2  # number of the first scope in packed terms (SPEC §5.3)
_MANIFEST = "manifest"  # row of a backup's meta table
_BACKUP: Final = b'"type":"backup"'
_ANOTHER: Final = "keep this file apart, and take another backup"


@dataclass(frozen=True, slots=True)
class BackupReport:
    """What a backup holds: rows, SHA-256 of the file (hex), the log's size it was taken at, the manifest."""

    rows: int
    sha256: str
    size: int
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class BackupCheck(Ambiguous):
    """What a backup is worth now.

    ``entry`` is the index of the log entry that knows the file, ``manifest`` what it says of itself; None
    where there is none. Of its ``rows``, ``living`` would return or are here, ``dead`` stay erased,
    ``strange`` are not what the log announced. ``covered`` of the ``grants`` that live now have a row in it.
    """

    rows: int
    sha256: str
    entry: int | None
    manifest: Manifest | None
    living: int
    dead: int
    strange: int
    grants: int
    covered: int

    def to_json(self) -> JsonObject:
        """Return it as JSON."""
        return {
            "covered": self.covered,
            "dead": self.dead,
            "entry": self.entry,
            "grants": self.grants,
            "living": self.living,
            "manifest": None if self.manifest is None else self.manifest.to_json(),
            "rows": self.rows,
            "sha256": self.sha256,
            "strange": self.strange,
        }


def backup(core: Core, session: Session, target: Path, progress: Progress | None = None) -> BackupReport:
    """Write a data backup: vault.db alone, one consistent state of it, synced before it gets its name.

    Before that it is read back: every row must be the vault's own. Raises UsageError, StoreError,
    IntegrityError; there is no file then.
    """
    session.require(Action.BACKUP)
    if target.exists() or target.is_symlink():
        raise UsageError(f"{target.name} already exists", next="choose another name; nothing was overwritten")
    if not target.parent.is_dir():
        raise StoreError(f"{target.name}: no such directory", next="make it, or mount its disk")
    unfinished = target.with_name(temporary(target.name))
    with writing(core, session, Action.BACKUP) as view, translated(target.name):
        remove_leftovers(target)
        try:
            manifest = _describe(core, view, progress)
            core.data.copy_to(unfinished, {_MANIFEST: core.log.manifests.seal(manifest.encode())})
            digest = file_digest(unfinished, sync=True)
            reached("backup.written")
            _read_back(core, unfinished, manifest, digest, progress)
            reached("backup.verified")
            rename(unfinished, target)
            reached("backup.named")
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        core.log.append(
            [
                entries.backup(
                    rows=manifest.rows,
                    sha256=digest,
                    size=view.head.size,
                    by=session.by,
                    time_ms=core.clock.now_ms(),
                )
            ]
        )
    return BackupReport(manifest.rows, digest.hex(), view.head.size, manifest)


def file_digest(path: Path, *, sync: bool = False) -> bytes:
    """SHA-256 of a file; with ``sync`` it is made durable, and dropped from memory to be read from disk."""
    with path.open("rb") as file:
        if sync:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return hashlib.file_digest(file, "sha256").digest()


def open_backup(core: Core, source: Path) -> VaultStore:
    """Open a backup of this vault for reading; close its ``database``. Raises IntegrityError, ForeignFile."""
    return VaultStore(
        Database(source, "backup", core.vault_id, vaultdb.MIGRATIONS, use="keep"), core.data.mask
    )


def chunks(rows: Iterable[GrantRow]) -> Iterator[list[GrantRow]]:
    """Yield rows in lists."""
    iterator = iter(rows)
    while chunk := list(itertools.islice(iterator, CHUNK)):
        yield chunk


def announced(core: Core, rows: Sequence[GrantRow]) -> npt.NDArray[np.bool_]:
    """Mask of the rows that are what the log gave their slots to; nothing is opened."""
    columns = without_records(rows)
    known = set(columns.slots[core.are_logged(columns)].tolist())
    lengths = (GRANT_ID_LEN, TAG_LEN, TERMS_LEN)
    return np.array(
        [row.slot in known and (len(row.grant_id), len(row.tag), len(row.terms)) == lengths for row in rows],
        np.bool_,
    )


class _Content:
    """Hash of rows as they are fed, by slot (SPEC §8.2)."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256(domain("backup-rows"))

    def add(self, chunk: Iterable[GrantRow]) -> None:
        parts: list[bytes] = []
        for row in chunk:
            parts.append(row.slot.to_bytes(8, "big", signed=True))
            for value in (row.grant_id, row.tag, row.model.encode("ascii"), *row[4:]):
                parts += (len(value).to_bytes(4, "big"), value)
        self._hash.update(b"".join(parts))

    def digest(self) -> bytes:
        return self._hash.digest()


def _describe(core: Core, view: View, progress: Progress | None) -> Manifest:
    content, models, scopes = _Content(), Counter[str](), Counter[str]()
    done, total = 0, core.data.count()
    for chunk in chunks(core.data.rows()):
        content.add(chunk)
        models.update(row.model for row in chunk)
        scopes.update(_scope(row) for row in chunk)
        done += len(chunk)
        if progress is not None:
            progress(done, 2 * total)
    return Manifest(
        vault=core.vault_id,
        made_ms=core.clock.now_ms(),
        rows=done,
        content=content.digest(),
        epoch=view.tree.epoch,
        fingerprint=view.tree.fingerprint,
        size=view.head.size,
        root=view.head.root(),
        suite=SUITE,
        models=_known_models(models),
        scopes=dict(scopes),
    )


def _scope(row: GrantRow) -> str:
    number = row.terms[1] - _FIRST_SCOPE if len(row.terms) > 1 else -1
    return SCOPES[number] if 0 <= number < len(SCOPES) else "other"


def _known_models(counted: Counter[str]) -> dict[str, int]:
    """Count under the empty id what is no model id: a damaged row is copied as it is."""
    found: Counter[str] = Counter()
    for model, count in counted.items():
        try:
            found[check_model_id(model)] += count
        except FormatError:
            found[""] += count
    return dict(found)


def _read_back(core: Core, path: Path, manifest: Manifest, digest: bytes, progress: Progress | None) -> None:
    """Open what was written as a restore would, and hold it row by row against the living vault."""
    stored = open_backup(core, path)
    with closing(stored.database):
        verdict = stored.quick_check()
        if verdict != "ok":
            raise IntegrityError(f"the backup was written damaged: {verdict}", next=_ANOTHER)
        content, done = _Content(), 0
        for written, own in itertools.zip_longest(chunks(stored.rows()), chunks(core.data.rows())):
            if written != own:
                raise IntegrityError("the backup has other rows than the vault", next=_ANOTHER)
            content.add(cast("list[GrantRow]", written))
            done += len(written)
            if progress is not None:
                progress(manifest.rows + done, 2 * manifest.rows)
        if _authentic(core, stored) != manifest or content.digest() != manifest.content:
            raise IntegrityError("the backup's manifest was not written as it should", next=_ANOTHER)
    if file_digest(path, sync=True) != digest:
        raise StoreError("the disk does not give back the backup that was written", next="use another disk")


def _authentic(core: Core, stored: VaultStore) -> Manifest | None:
    """Return the manifest of a backup, None where it has none; raises IntegrityError for an altered one."""
    sealed = stored.meta(_MANIFEST)
    if sealed is None:
        return None
    try:
        return Manifest.decode(core.log.manifests.open(sealed))
    except IntegrityError as error:
        raise IntegrityError("the backup's manifest was altered", next=_ANOTHER) from error


def check_backup(core: Core, session: Session, source: Path, progress: Progress | None = None) -> BackupCheck:
    """Verify a backup that was made earlier, and say what it is worth now. Changes nothing.

    Raises UsageError where there is none, ForeignFile, IntegrityError for one that was altered or that
    neither the log knows nor a manifest vouches for.
    """
    session.require(Action.BACKUP)
    if not source.is_file():
        raise UsageError(f"there is no backup at {source.name}")
    view = core.view()
    with translated(source.name):
        digest = file_digest(source)
    stored = open_backup(core, source)
    with closing(stored.database):
        entry = _entry_of(core, digest)
        manifest = _authentic(core, stored)
        if entry is None and manifest is None:
            raise IntegrityError("the log knows no such backup, and it has no manifest", next=_ANOTHER)
        verdict = stored.quick_check()
        if verdict != "ok":
            raise IntegrityError(f"the backup is damaged: {verdict}", next=_ANOTHER)
        content, counts, covered = _Content(), Counter[str](), 0
        present = _present(core, view)
        total = stored.count()
        for chunk in chunks(stored.rows()):
            content.add(chunk)
            slots = np.array([row.slot for row in chunk], np.int64)
            alive = view.tree.alive(slots) & ~view.pending.mask(slots)
            known = announced(core, chunk)
            counts.update(dead=int((~alive).sum()), living=int((alive & known).sum()), rows=len(chunk))
            covered += int(np.isin(slots[alive & known], present, assume_unique=True).sum())
            if progress is not None:
                progress(counts["rows"], total)
    if manifest is not None and (manifest.rows, manifest.content) != (counts["rows"], content.digest()):
        raise IntegrityError("the backup's rows are not those that its manifest names", next=_ANOTHER)
    rows, living, dead = counts["rows"], counts["living"], counts["dead"]
    return BackupCheck(
        rows, digest.hex(), entry, manifest, living, dead, rows - living - dead, len(present), covered
    )


def _present(core: Core, view: View) -> npt.NDArray[np.int64]:
    """Slots of the grants that are complete and live, ascending."""
    slots = core.ledger.all_slots()
    return slots[view.tree.alive(slots) & ~view.pending.mask(slots)]


def _entry_of(core: Core, digest: bytes) -> int | None:
    found = None
    wanted = digest.hex().encode()
    for index, body in core.log.control_bodies(0):
        if wanted in body and _BACKUP in body[-64:]:
            found = index
    return found
