"""``facekeep check``: verify everything that can be verified, open no template, name what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import numpy.typing as npt

from facekeep.access.core import Core, View, is_tree_of
from facekeep.access.roles import Action
from facekeep.access.session import Session
from facekeep.answers import Answer
from facekeep.errors import FacekeepError, IntegrityError
from facekeep.formats.canonical import JsonObject
from facekeep.keys.verify import verify_tree
from facekeep.operations import recovering
from facekeep.operations.people import is_principals_row, living_principals
from facekeep.operations.rows import LivingGrant, living
from facekeep.operations.unlogged import is_true, rolled_back
from facekeep.operations.whose import index_rows, index_tags
from facekeep.sealing.handles import masked, table
from facekeep.store.sqlite import MEND
from facekeep.store.vaultdb import GrantRow, without_records

_NAMED = 16  # slots that a finding lists
_KEYS_NEXT = "run 'facekeep check --scrub': it puts right what a live copy has whole"
_SCRUB = "run 'facekeep check --scrub'"
_COPY_NEXT = {"away": "bring its directory back; the next writing command brings it up to date"}
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: the file, what, the next step, and the error class it counts as."""

    file: str
    message: str
    next: str
    error: type[FacekeepError] = IntegrityError

    def to_json(self) -> JsonObject:
        """Return it as JSON."""
        return {"code": self.error.code, "file": self.file, "message": self.message, "next": self.next}


@dataclass(slots=True, eq=False)
class CheckReport(Answer):
    """What was verified and what is wrong, true where nothing is damaged.

    ``missing`` and ``notes`` are no damage, but need a person.
    """

    rows: int = 0
    entries: int = 0
    findings: list[Finding] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged."""
        return not self.findings

    def __bool__(self) -> bool:
        """Whether nothing is damaged."""
        return self.ok


def check(core: Core, session: Session, progress: Progress | None = None) -> CheckReport:
    """Verify files, tree, log, every sealed blob, and each against the others. Changes nothing."""
    session.require(Action.CHECK)
    say = progress or (lambda _what, _done, _total: None)
    report = CheckReport()
    with core.lock.held():
        core.forget_tree()
        view = core.view()
        _guarded(report, "keys.db", lambda: _check_keys(core, view, report))
        _guarded(report, "keys.db", lambda: _check_dead(core, view, report))
        _guarded(report, "log.db", lambda: _check_principals(core, view, report))
        _guarded(report, "log.db", lambda: _check_log(core, report, say))
        _guarded(report, "vault.db", lambda: _check_rows(core, view, report, say))
        _guarded(report, "keys.db", lambda: _check_index(core, view, report))
        _guarded(report, "log.db", lambda: report.missing.extend(core.missing(view).tolist()))
        _check_copies(core, report)
    return report


def _guarded(report: CheckReport, file: str, work: Callable[[], None]) -> None:
    try:
        work()
    except FacekeepError as error:
        report.findings.append(Finding(file, str(error), error.next.command, type(error)))


def _check_keys(core: Core, view: View, report: CheckReport) -> None:
    core.keys.integrity()
    tree = view.tree.afresh()
    for problem in verify_tree(tree, core.keys):
        report.findings.append(Finding("keys.db", problem, _KEYS_NEXT))
    for damage in sorted({*view.tree.damage, *tree.damage}):
        report.findings.append(
            Finding("keys.db", damage, "its twin is whole; 'facekeep check --scrub' writes both anew")
        )
    for provider in core.providers:
        try:
            provider.candidates()
        except FacekeepError as error:
            report.findings.append(Finding("root", str(error), error.next.command, type(error)))
        report.notes.extend(f"root holder {provider.scheme}: {damage}" for damage in provider.damage)
    report.findings.extend(
        Finding("root", str(problem), problem.next.command, type(problem))
        for problem in recovering.problems(core)
        if str(problem) not in {each.message for each in report.findings}
    )


def _check_dead(core: Core, view: View, report: CheckReport) -> None:
    """Hold the tree against the log: it is the last swap's, and what was destroyed is dead in it."""
    if not is_tree_of(view.tree, view.head):
        raise IntegrityError("the key tree is not the one the log's last swap made", next=_KEYS_NEXT)
    intents: dict[int, list[list[int]]] = {}
    first, finished = 0, set()
    for index, entry in core.log.control_since(0):
        if entry["type"] == "destroy":
            first = index if entry["part"] == 1 else first
            intents.setdefault(first, []).extend(cast("list[list[int]]", entry["slots"]))
        elif entry["type"] == "destroyed":
            finished.add(cast("int", entry["of"]))
    spans = [np.arange(at, at + count) for of in finished for at, count in intents.get(of, [])]
    slots: npt.NDArray[np.int64] = np.unique(np.concatenate([np.empty(0, np.int64), *spans]))
    undead = slots[view.tree.alive(slots)].tolist()
    if undead:
        named = _Strange(len(undead), undead[:_NAMED]).named()
        message = f"{len(undead)} slots live that the log says were destroyed: {named}"
        report.findings.append(Finding("keys.db", message, _KEYS_NEXT))


def _check_principals(core: Core, view: View, report: CheckReport) -> None:
    logged = {each.id: each for each in living_principals(core, view)}
    rows = core.keys.principal_list(view.principal_slots())
    strange = core.keys.principal_count() - len(rows)
    if strange:
        message = f"{strange} more rows of principals stand in slots that the log never gave to anybody"
        report.findings.append(Finding("keys.db", message, _SCRUB))
    at = {row.slot: row for row in rows}
    for each in logged.values():
        if not view.pending.granting(each.slot) and not is_principals_row(
            core, view, each, at.get(each.slot)
        ):
            message = (
                f"the row of principal {each.id.hex()} is missing or was altered: its token works, only its"
                " label is lost"
            )
            report.findings.append(Finding("keys.db", message, _label_next(core)))
    for row in rows:
        own = logged.get(row.principal)
        if own is None:
            message = f"the log knows no living principal {row.principal.hex()}, which has a row"
            report.findings.append(Finding("keys.db", message, _SCRUB))
        elif own.slot != row.slot:
            message = f"the row of principal {row.principal.hex()} is not the one that the log announced"
            report.findings.append(Finding("keys.db", message, _SCRUB))


def _label_next(core: Core) -> str:
    if core.settings.copies:
        return (
            f"{_SCRUB}: it takes the row from a live copy; where none has it, add another and revoke this one"
        )
    return "revoke the principal, if it is to have a label again, and add another in its place"


def _check_log(core: Core, report: CheckReport, say: Progress) -> None:
    head = core.log.verify(lambda done, total: say("log", done, total))
    report.entries = head.size
    strays = core.log.strays()
    if strays:
        message = f"{strays} rows of log.db stand at indices of no entry: they are nobody's"
        report.findings.append(Finding("log.db", message, _SCRUB))


def _check_rows(core: Core, view: View, report: CheckReport, say: Progress) -> None:
    verdict = core.data.quick_check()
    if verdict != "ok":
        raise IntegrityError(f"vault.db is damaged: {verdict}", next=MEND["vault.db"])
    total = core.data.count()
    dead = 0
    strange, true = _Strange(), _Strange()
    for row in core.data.rows():
        report.rows += 1
        if report.rows % 1_000 == 0:
            say("rows", report.rows, total)
        if not view.was_given_out(row.slot):
            (true if is_true(core, view.tree, row) else strange).add(row.slot)
            continue
        problem = _row_problem(core, view, row)
        if problem == "dead":
            dead += 1
        elif problem is not None:
            report.findings.append(
                Finding(
                    "vault.db",
                    f"row of slot {row.slot}: {problem}",
                    "restore a backup that has the row; access to it is denied meanwhile",
                )
            )
    if strange.count:
        message = f"{strange.count} rows stand in slots that the log never gave to anybody: {strange.named()}"
        report.findings.append(
            Finding("vault.db", message, "run 'facekeep check --scrub': it deletes them; nothing opens them")
        )
    if true.count:
        error = rolled_back("vault.db has grants", true.first)
        report.findings.append(Finding("log.db", str(error), error.next.command))
    if dead:
        report.notes.append(f"{dead} rows of destroyed slots stand in vault.db; nothing opens them")


@dataclass(slots=True)
class _Strange:
    """Slots of rows that the log knows nothing of: how many, and the first ones by name."""

    count: int = 0
    first: list[int] = field(default_factory=list)

    def add(self, slot: int) -> None:
        """Count one more."""
        self.count += 1
        if len(self.first) < _NAMED:
            self.first.append(slot)

    def named(self) -> str:
        """Name the first ones."""
        return ", ".join(map(str, self.first)) + (", ..." if self.count > len(self.first) else "")


def _row_problem(core: Core, view: View, row: GrantRow) -> str | None:
    if not view.tree.alive(np.array([row.slot], np.int64))[0]:
        return "dead"
    if not core.are_logged(without_records((row,))).all():
        return "the log knows no such grant"
    if row.terms[1:2] != bytes((view.kind_of(row.slot),)):
        return "its scope is not that of its branch"
    try:
        grant = living(core, view, row)
    except FacekeepError as error:
        return str(error)
    if grant is not None and not _carries_its_handle(core, view, grant):
        return "its grant id is that of another subject id than its record"
    return None


def _carries_its_handle(core: Core, view: View, grant: LivingGrant) -> bool:
    key = np.frombuffer(core.slot_key(view, grant.row.slot), np.uint8)[None]
    handle = masked(core.sealer, [grant.row.slot], key, table([grant.row.grant_id]))
    return handle.tobytes() == core.handles.of(grant.subject.encode("utf-8"))


def _check_index(core: Core, view: View, report: CheckReport) -> None:
    wanted = index_tags(core, view)
    altered = stale = 0
    for hashed, tag in core.index.opened():
        altered += not tag
        if tag and wanted.get(hashed) != tag:
            stale += 1
        elif tag:
            del wanted[hashed]
    for count, what in (
        (altered, "rows of the subject index were altered: who stands there is denied"),
        (stale, "rows of the subject index lead to nobody who lives"),
        (len(wanted), "subjects with living grants are not in the subject index, and denied"),
    ):
        if count:
            report.findings.append(
                Finding(
                    "keys.db",
                    f"{count} {what}; no erasure goes by it",
                    "run 'facekeep check --repair': it makes the index anew from the log",
                )
            )


def repair_index(core: Core, session: Session) -> int:
    """Make the subject index anew from the log and the slot keys; returns how many rows it has then.

    Raises IntegrityError where a key cannot be read, or a subject id has two enrolments.
    """
    session.require(Action.RESTORE)
    with core.lock.held():
        rows = list(index_rows(core, core.view(), core.index))
        core.keys.index_replace(rows)
    return len(rows)


def _check_copies(core: Core, report: CheckReport) -> None:
    if not core.settings.copies:
        report.notes.append("keys.db and log.db have no live second copy; one lost file would lose the vault")
    for name, states in (("keys.db", core.keys.copies_state()), ("log.db", core.log.copies_state())):
        for state in states:
            if state.state != "current":
                report.findings.append(
                    Finding(
                        name,
                        f"the copy at {state.path} is {state.state}",
                        _COPY_NEXT.get(state.state, _SCRUB),
                    )
                )
