"""Merging data backups back, row by row (DESIGN: three files, one root). Making them is ``backups``."""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import numpy as np

from facekeep.access.core import Core, View
from facekeep.access.roles import Action
from facekeep.access.session import Session
from facekeep.answers import Ambiguous
from facekeep.errors import FacekeepError, UsageError
from facekeep.formats import entries
from facekeep.formats.canonical import JsonObject
from facekeep.operations.backups import announced, chunks, file_digest, open_backup
from facekeep.operations.fates import Refusal, Returning, Staying, staying
from facekeep.operations.rows import LivingGrant, living
from facekeep.operations.steps import reached
from facekeep.operations.whose import held_by
from facekeep.operations.writing import writing
from facekeep.store.sqlite import translated
from facekeep.store.vaultdb import GrantRow

Progress = Callable[[int, int], None]


class Fate(StrEnum):
    """What becomes of a row of a backup."""

    MERGED = "merged"
    PRESENT = "present"
    DEAD = "dead"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class RestoreReport(Ambiguous):
    """Rows by fate, and the slots of living grants that still have no row.

    The lists are those of a dry run: who would return, who stays erased and why, which rows are refused.
    """

    rows: int
    merged: int
    dead: int
    present: int
    refused: int
    missing: tuple[int, ...]
    returning: tuple[Returning, ...] = ()
    staying: tuple[Staying, ...] = ()
    refusals: tuple[Refusal, ...] = ()


class _Verdict(NamedTuple):
    """A row's fate; why it is refused; its grant and index row where it is merged."""

    fate: Fate
    reason: str = ""
    grant: LivingGrant | None = None
    index_row: tuple[bytes, bytes] | None = None


@dataclass(slots=True)
class _Told:
    """Fates so far, and in a dry run whose they are."""

    fates: Counter[Fate] = field(default_factory=Counter)
    returning: list[Returning] = field(default_factory=list)
    dead: list[tuple[int, bytes]] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)

    def take(self, row: GrantRow, verdict: _Verdict) -> None:
        if verdict.grant is not None:
            grant = verdict.grant
            self.returning.append(Returning(row.slot, row.tag, grant.subject, grant.scope.word))
        elif verdict.fate is Fate.DEAD:
            self.dead.append((row.slot, row.tag))
        elif verdict.fate is Fate.REFUSED:
            self.refusals.append(Refusal(row.slot, verdict.reason))


def restore(
    core: Core,
    session: Session,
    source: Path | None,
    progress: Progress | None = None,
    *,
    dry_run: bool = False,
) -> RestoreReport:
    """Merge a data backup of any age: a row returns only if its slot lives and the log knows it.

    A dry run changes nothing and names every row. Without a source nothing is merged; the log says how many
    living grants were given up for lost.
    """
    if source is None:
        return _without_backup(core, session, dry_run=dry_run)
    if not source.is_file():
        raise UsageError(f"there is no backup at {source.name}")
    with writing(core, session, Action.RESTORE) as view, contextlib.ExitStack() as cleanup:
        with translated(source.name):
            digest = file_digest(source)
        stored = open_backup(core, source)
        cleanup.callback(stored.database.close)
        total = stored.count()
        told = _Told()
        for chunk in chunks(stored.rows()):
            _merge(core, view, chunk, told, dry_run=dry_run)
            if progress is not None:
                progress(told.fates.total(), total)
        report = _report(core, view, told, dry_run=dry_run)
        if not dry_run:
            core.log.append([_entry(core, session, digest, report)])
        return report


def _report(core: Core, view: View, told: _Told, *, dry_run: bool) -> RestoreReport:
    missing = core.missing(view)
    if dry_run:  # those that would return are not missing then
        missing = np.setdiff1d(missing, np.array([each.slot for each in told.returning], np.int64))
    fates = told.fates
    return RestoreReport(
        fates.total(),
        fates[Fate.MERGED],
        fates[Fate.DEAD],
        fates[Fate.PRESENT],
        fates[Fate.REFUSED],
        tuple(missing.tolist()),
        tuple(told.returning),
        tuple(staying(core, told.dead)) if dry_run else (),
        tuple(told.refusals),
    )


def _without_backup(core: Core, session: Session, *, dry_run: bool) -> RestoreReport:
    with writing(core, session, Action.RESTORE) as view:
        report = RestoreReport(0, 0, 0, 0, 0, tuple(core.missing(view).tolist()))
        if not dry_run:
            core.log.append([_entry(core, session, hashlib.sha256().digest(), report)])
        return report


def _merge(core: Core, view: View, chunk: list[GrantRow], told: _Told, *, dry_run: bool) -> None:
    have = {row.slot: row for row in core.data.by_slots([row.slot for row in chunk])}
    alive = view.tree.alive(np.array([row.slot for row in chunk], np.int64)).tolist()
    logged = announced(core, chunk).tolist()
    verdicts = [
        _judge(core, view, row, have.get(row.slot), lives=lives, known=known)
        for row, lives, known in zip(chunk, alive, logged, strict=True)
    ]
    _place(core, view, chunk, verdicts)
    told.fates.update(verdict.fate for verdict in verdicts)
    if dry_run:
        for row, verdict in zip(chunk, verdicts, strict=True):
            told.take(row, verdict)
    wanted = [row for row, verdict in zip(chunk, verdicts, strict=True) if verdict.fate is Fate.MERGED]
    index_rows = [verdict.index_row for verdict in verdicts if verdict.index_row is not None]
    if wanted and not dry_run:
        if index_rows:
            core.keys.index_put_many(index_rows)
            reached("restore.indexed")
        core.data.merge(wanted)
        reached("restore.merged")


def _judge(
    core: Core, view: View, row: GrantRow, present: GrantRow | None, *, lives: bool, known: bool
) -> _Verdict:
    """Judge a row by itself; what is to be merged must find its place in the index yet."""
    if not lives or view.pending.destroying(row.slot):
        return _Verdict(Fate.DEAD)
    if present == row:
        return _Verdict(Fate.PRESENT)
    if not known:
        return _Verdict(Fate.REFUSED, "not_logged")
    try:
        grant = living(core, view, row)
    except FacekeepError:
        return _Verdict(Fate.REFUSED, "altered")
    return _Verdict(Fate.REFUSED, "not_logged") if grant is None else _Verdict(Fate.MERGED, "", grant)


def _place(core: Core, view: View, chunk: Sequence[GrantRow], verdicts: list[_Verdict]) -> None:
    """Refuse rows of a subject id that has two enrolments; have an index row lead to each of the others."""
    found = [(at, verdict.grant) for at, verdict in enumerate(verdicts) if verdict.grant is not None]
    held = held_by(core, view, [grant.subject.encode("utf-8") for _, grant in found])
    hashes = core.index.hash_many(each.handle for each in held)
    for (at, grant), who, hashed in zip(found, held, hashes, strict=True):
        if len(who.tags) > 1:
            verdicts[at] = _Verdict(Fate.REFUSED, "other_enrolment")
        else:
            verdicts[at] = _Verdict(Fate.MERGED, "", grant, core.index.row(hashed, chunk[at].tag))


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
