"""``facekeep check --scrub``: what is damaged is put right from what is whole (SPEC §8.3).

The vault opens: its root opens keys.db, and the log's head authenticates. Everything is judged by these two,
and never by which file is newer. A copy that may know more than the vault is left as it is, and named.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from facekeep.access.core import Core, View
from facekeep.access.roles import Action
from facekeep.access.session import Session
from facekeep.answers import Ambiguous
from facekeep.auditlog.mending import OtherHistory
from facekeep.errors import ErasurePending, FacekeepError, IntegrityError, RootError
from facekeep.formats.canonical import JsonObject, JsonValue
from facekeep.formats.nodes import root_fingerprint
from facekeep.keys.holders import held
from facekeep.keys.mend import mend_tree
from facekeep.keys.provider import placeholder
from facekeep.keys.settle import settle
from facekeep.keys.tree import open_tree
from facekeep.keys.verify import stray_rows, verify_nodes
from facekeep.operations.check import Finding
from facekeep.operations.custody import awaiting_swap, in_use
from facekeep.operations.people import is_principals_row, living_principals
from facekeep.operations.steps import reached
from facekeep.operations.unlogged import rolled_back, true_principals, true_slots
from facekeep.operations.whose import index_rows, index_tags
from facekeep.store.aside import move_aside
from facekeep.store.keyscopies import CopyState
from facekeep.store.keysdb import KeysStore

Say = Callable[[str, int, int], None]
_KEEP: Final = "keep both files; docs/operator.md says how to find out which is the true one"


@dataclass(frozen=True, slots=True)
class Repair:
    """One thing that was put right: the file, and what."""

    file: str
    message: str

    def to_json(self) -> JsonObject:
        """Return it as JSON."""
        return {"file": self.file, "message": self.message}


@dataclass(slots=True)
class ScrubReport(Ambiguous):
    """What was put right, and what could not be."""

    repairs: list[Repair] = field(default_factory=list)
    left: list[Finding] = field(default_factory=list)

    def to_json(self) -> JsonObject:
        """Return it as JSON."""
        repairs: list[JsonValue] = [each.to_json() for each in self.repairs]
        left: list[JsonValue] = [each.to_json() for each in self.left]
        return {"left": left, "repairs": repairs}

    def mended(self, file: str, message: str) -> None:
        """Note a repair."""
        self.repairs.append(Repair(file, message))
        reached("scrub.mended")

    @contextlib.contextmanager
    def trying(self, file: str) -> Iterator[None]:
        """Note an error as something that is left."""
        try:
            yield
        except FacekeepError as error:
            self.left.append(Finding(file, str(error), error.next.command, type(error)))


def scrub(core: Core, session: Session, say: Say | None = None) -> ScrubReport:
    """Put right what can be: keys.db, log.db, their copies, and every root holder. Opens no template.

    What is whole is not written to. Raises NotAllowed, Busy.
    """
    report = ScrubReport()
    say = say or (lambda _what, _done, _total: None)
    session.require(Action.RESTORE)
    with core.lock.held():
        core.forget_tree()
        view = core.view()
        say("key tree", 0, 0)
        with report.trying("keys.db"):
            _keys(core, view, report)
        say("log", 0, 0)
        with report.trying("log.db"):
            _log(core, report)
        with report.trying("vault.db"):
            _strangers(core, report)
        for provider in core.providers:
            with report.trying("root"):
                _holder(core, provider.scheme, core.providers.index(provider), report)
        core.forget_tree()
    return report


def _keys(core: Core, view: View, report: ScrubReport) -> None:
    with contextlib.ExitStack() as stack:
        others = []
        for path in core.keys.copies.paths:
            with contextlib.suppress(FacekeepError):
                others.append(stack.enter_context(KeysStore.open(path, core.vault_id)))
        for what in mend_tree(view.tree, core.keys, others):
            report.mended("keys.db", f"{what} was written anew")
        for what in _mend_rows(core, view, others):
            report.mended("keys.db", f"{what} was written anew")
    core.forget_tree()
    core.keys.integrity()
    for problem in verify_nodes(core.view().tree.afresh(), core.keys):
        raise IntegrityError(f"{problem}, and no live copy has it whole; the copies were left as they are")
    strays = stray_rows(core.view().tree, core.keys)
    if strays:
        core.keys.node_delete(strays)
        report.mended("keys.db", f"{len(strays)} node rows that belong to no node of the tree were deleted")
    _mend_index(core, core.view(), report)
    for state in core.keys.copies_state():
        with report.trying("keys.db"):
            _keys_copy(core, state, report)


def _strangers(core: Core, report: ScrubReport) -> None:
    """Delete rows in slots that a log which was verified whole never gave to anybody: nothing opens them."""
    core.log.verify()
    view = core.view()
    strange = [slot for slot in core.data.slots() if not view.was_given_out(slot)]
    true = set(true_slots(core, view.tree, strange))
    rows = [slot for slot in strange if slot not in true]
    if rows:
        core.data.delete(rows)
        report.mended("vault.db", f"{len(rows)} rows in slots that the log never gave out were deleted")
    outside = core.keys.principals_outside(view.principal_slots())
    kept = true_principals(core, view.tree, outside)
    principals = {row.slot for row in outside}.difference(kept)
    if principals:
        core.keys.principal_delete(principals)
        report.mended("keys.db", f"{len(principals)} rows of principals that never were were deleted")
    for what, slots in (("vault.db has grants", true), ("keys.db has principals", kept)):
        if slots:
            raise rolled_back(what, list(slots))


def _mend_rows(core: Core, view: View, others: Sequence[KeysStore]) -> Iterator[str]:
    """Take principals that the primary lacks, or has altered, from copies; nobody else's row stays."""
    span = view.principal_slots()
    living = {each.slot: each for each in living_principals(core, view)}
    at = {row.slot: row for row in core.keys.principal_list(span)}
    strange = [
        slot
        for slot, row in at.items()
        if span[0] <= slot < span[1] and (slot not in living or living[slot].id != row.principal)
    ]
    if strange:
        core.keys.principal_delete(strange)
        yield f"{len(strange)} rows of principals in slots that are not theirs"
    for slot, logged in living.items():
        if not is_principals_row(core, view, logged, at.get(slot)):
            for row in (other.principal_at(slot) for other in others):
                if row is not None and is_principals_row(core, view, logged, row):
                    core.keys.principal_put(row)
                    yield f"the row of principal {logged.id.hex()}"
                    break


def _mend_index(core: Core, view: View, report: ScrubReport) -> None:
    """Make the subject index anew from the log where it lacks a row or has an altered one."""
    found = dict(core.index.opened())
    if not (index_tags(core, view).items() <= found.items() and all(found.values())):
        core.keys.index_replace(index_rows(core, view, core.index))
        report.mended("keys.db", "the subject index was written anew")


def _keys_copy(core: Core, state: CopyState, report: ScrubReport) -> None:
    path, copies = state.path, core.keys.copies
    if state.state == "current" and copies.agrees(path):
        return
    if state.state in ("behind", "missing"):
        core.keys.resync_copies()
        report.mended("keys.db", f"the copy at {path}, which was {state.state}, was brought up to date")
    elif state.state == "away":
        raise ErasurePending(f"the copy of keys.db at {path} is away", next="bring its directory back")
    else:
        opened = _fingerprint(core, path)
        if opened != core.view().tree.fingerprint if opened else state.state == "foreign":
            message = f"the copy of keys.db at {path} is {state.state}; it was left as it is"
            raise IntegrityError(message, next=_KEEP)
        _mend_keys_copy(core, state, report)


def _mend_keys_copy(core: Core, state: CopyState, report: ScrubReport) -> None:
    """Write a copy anew; one that no root opens proves nothing by what it says of itself, and goes aside."""
    if state.state == "current":
        with contextlib.suppress(FacekeepError):  # its pages are damaged
            core.keys.copies.overwrite(state.path)
            message = f"the copy at {state.path} had damaged rows: it was written anew from keys.db"
            report.mended("keys.db", message)
            return
    _renew(core.keys.resync_copies, state.path, report, "keys.db")


def _fingerprint(core: Core, path: Path) -> bytes | None:
    """Fingerprint of the root that is held and opens a copy, whosever it says it is; None: none does."""
    try:
        with KeysStore.open(path, core.vault_id, use="look") as store:
            return open_tree(store, core.vault_id, held(core.readers))[0].fingerprint
    except (IntegrityError, RootError):
        return None


def _renew(resync: Callable[[], object], path: Path, report: ScrubReport, file: str) -> None:
    aside = move_aside(path)
    resync()
    report.mended(file, f"the copy at {path} could not be used: it is {aside.name} now, and was made anew")


def _log(core: Core, report: ScrubReport) -> None:
    core.log.verify()  # its rows were mended by ``salvage``
    for state in core.log.copies_state():
        with report.trying("log.db"):
            _log_copy(core, state.path, state.state, report)


def _log_copy(core: Core, path: Path, state: str, report: ScrubReport) -> None:
    if state in ("current", "behind", "diverged"):
        try:
            mended = core.log.mend_copy(path)
        except OtherHistory as error:
            message = f"the copy of log.db at {path}: {error}; it was left as it is"
            raise IntegrityError(message, next=_KEEP) from error
        except IntegrityError:  # its pages are damaged
            _renew(core.log.resync_copies, path, report, "log.db")
            return
        if mended:
            report.mended("log.db", f"the copy at {path} had damaged rows: they were put back from log.db")
        if state == "behind":
            core.log.resync_copies()
            report.mended("log.db", f"the copy at {path}, which was behind, was brought up to date")
    elif state == "missing":
        core.log.resync_copies()
        report.mended("log.db", f"the copy at {path}, which was missing, was made anew")
    elif state == "damaged":
        _renew(core.log.resync_copies, path, report, "log.db")
    elif state == "away":
        raise ErasurePending(f"the copy of log.db at {path} is away", next="bring its directory back")
    else:
        raise IntegrityError(f"the copy of log.db at {path} is {state}; it was left as it is", next=_KEEP)


def _holder(core: Core, scheme: str, number: int, report: ScrubReport) -> None:
    """Have a holder keep the root that opens keys.db, whole and alone."""
    provider = core.providers[number]
    current = core.view().tree.fingerprint
    try:
        roots = provider.candidates()
    except FacekeepError as error:
        raise type(error)(
            f"root holder {scheme}: {error}",
            next="bring it back; where it is lost: facekeep keys move --lost URI, with another in its place",
        ) from error
    if [(each.fingerprint, each.state) for each in roots] == [(current, "current")] and not provider.damage:
        return
    new = root_fingerprint(core.vault_id, placeholder(core.vault_id))
    if awaiting_swap(core, core.view()) and any(each.fingerprint == new for each in roots):
        return  # new, with a placeholder: it gets a fresh root by the swap of its move (SPEC §4.1)
    was = "; ".join(provider.damage) or "it had another root than the one that opens keys.db, or a second one"
    winner = in_use(held(core.readers), current)
    settle(core.keys, winner, [provider], adopting=True)
    report.mended("root", f"holder {scheme} was written anew: {was}")
