"""Withdrawal and shredding: what a subject can ask for at any time.

An erasure denies before it can fail (DESIGN, promise 10): it is announced first, whatever is wrong with
files, copies or holders. From then on the gate denies the slots; whatever comes in the way leaves it pending.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from facekeep.access.core import Core, Finished, View
from facekeep.access.roles import Action
from facekeep.access.session import Session
from facekeep.auditlog.group import ControlMoved
from facekeep.crypto.primitives import compare
from facekeep.errors import (
    Busy,
    ErasurePending,
    FacekeepError,
    IntegrityError,
    SubjectUnknown,
    UsageError,
)
from facekeep.formats.canonical import JsonObject
from facekeep.formats.ids import check_subject_id
from facekeep.formats.opening import Opening
from facekeep.formats.terms import Scope
from facekeep.operations.destroy import DENIED, Destruction, finish, intent
from facekeep.operations.granting import ATTEMPTS
from facekeep.operations.recover import recover
from facekeep.operations.rows import living_of
from facekeep.operations.steps import reached
from facekeep.operations.whose import Held, by_tag, for_erasure

Progress = Callable[[int, int], None]
_ERASURES: Final = frozenset({"shred", "withdraw", "expire"})  # what a pending operation was, in words of ops


@dataclass(frozen=True, slots=True)
class Erasure:
    """What was destroyed: index of the log's intent, number of slots, epoch after it.

    ``begun_before`` says that the erasure, or one of them, was pending and that this call finished it.
    ``openings`` (only where they were asked for) show each subject whose tag was erased: theirs alone.
    """

    erasure: int
    subjects: int
    slots: int
    epoch: int
    openings: tuple[Opening, ...] = ()
    begun_before: bool = False

    def to_json(self) -> JsonObject:
        """Return it as JSON, without the openings."""
        return {
            "begun_before": self.begun_before,
            "epoch": self.epoch,
            "erasure": self.erasure,
            "slots": self.slots,
            "subjects": self.subjects,
        }


class Asked(NamedTuple):
    """What somebody asked to be destroyed, in the state in which it was found."""

    view: View
    found: Sequence[Held]
    whats: Sequence[Destruction]


def announced(
    core: Core, session: Session, action: Action, find: Callable[[View], Asked]
) -> tuple[Asked, list[int]]:
    """Find what is to be destroyed and announce it in the same state of the log; return its indices.

    The writer lock is not asked for: whoever holds it holds up no denial. Where ``find`` has nothing to be
    destroyed there are no indices.
    """
    for _ in range(ATTEMPTS):
        view = core.view()
        session.require(action, view)
        asked = find(view)
        items: list[JsonObject] = []
        places = []
        for what in asked.whats:
            places.append(len(items))
            items += intent(core, session.by, what)
        with contextlib.suppress(ControlMoved):
            appended = core.log.append(items, asked.view.head.control_seq)
            reached("destroy.announced")
            return asked, [appended[place] for place in places]
    raise Busy("the vault is changed all the time; what was asked for was not begun")


def carry_out(core: Core, by: str | None, whats: Sequence[Destruction], indices: Sequence[int]) -> None:
    """Finish what was open before, then what was announced.

    Raises ErasurePending where that cannot be begun now; whatever comes in the way says that it is announced,
    and so denied.
    """
    with contextlib.ExitStack() as held:
        try:
            core.require_whole()
            held.enter_context(core.lock.held())
            recover(core, indices)
        except ErasurePending:
            raise
        except FacekeepError as error:
            raise ErasurePending(f"{DENIED}: {error}", next=error.next) from error
        for index, what in zip(indices, whats, strict=True):
            is_open = any(each.first == index for each in core.view().head.open)  # else another has ended it
            if is_open and what.sought is None:
                finish(core, by, index, what)


def shred(
    core: Core,
    session: Session,
    subjects: Sequence[str],
    progress: Progress | None = None,
    *,
    openings: bool = False,
) -> Erasure:
    """Destroy every key these subjects ever had, in one batch; raises SubjectUnknown before anything is done.

    The slots come from the log. When this returns, no copy or backup opens the subjects' templates.
    With ``openings`` the openings of their tags are read from the records first.
    """
    raw = [check_subject_id(subject) for subject in dict.fromkeys(subjects)]
    if not raw:
        raise UsageError("no subject was named")
    session.require(Action.SHRED)
    opened: list[Opening] = []
    finished: list[Finished] = []
    before: list[Finished] = []  # erasures that were pending

    def find(view: View) -> Asked:
        found, view = _found(core, view, raw, progress)
        before.extend(_just_finished(core))
        hashes = {core.index.hash(each.handle): each for each in found}
        gone = {hashed for hashed, each in hashes.items() if not each.slots}
        finished[:] = [each for each in before if each.hashes & gone]
        gone -= {hashed for each in finished for hashed in each.hashes}
        sought = [hashes[hashed] for hashed in gone if hashes[hashed].doubt is not None]
        if len(gone) > len(sought):
            _end_sought(core, found)
            raise _unknown(len(gone) - len(sought), len(raw), finished=bool(before))
        slots = [slot for each in found for slot in each.slots]
        tags = [tag for each in found for tag in each.tags]
        opened[:] = _openings(core, view, tags) if openings else ()
        whats = [Destruction("shred", slots, tags=tags, hashes=list(hashes))] if slots else []
        return Asked(view, found, [*whats, *_seek("shred", found)])

    asked, indices = announced(core, session, Action.SHRED, find)
    carry_out(core, session.by, asked.whats, indices)
    _certain(core, asked.found)
    slots = asked.whats[0].slots if asked.whats else ()
    if not slots:
        people = sum(len(each.tags) or 1 for each in finished)
        return _of_before(core, finished, people)
    people = sum(bool(each.slots) for each in asked.found)
    return Erasure(indices[0], people, len(slots), core.epoch, tuple(opened), begun_before=bool(finished))


def _just_finished(core: Core) -> list[Finished]:
    """Erasures that were pending and that this opening has finished; each is told once."""
    ended = [each for each in core.finished if each.op in _ERASURES]
    core.finished = [each for each in core.finished if each.op not in _ERASURES]
    return ended


def _of_before(core: Core, finished: Sequence[Finished], people: int) -> Erasure:
    slots = sum(len(each.slots) for each in finished)
    return Erasure(finished[-1].first, people, slots, core.view().tree.epoch, begun_before=True)


def _seek(op: str, found: Sequence[Held]) -> list[Destruction]:
    """Erasures of those of whom nobody can tell what they have, or what more."""
    return [Destruction(op, (), sought=each.handle) for each in found if each.doubt is not None]


def _end_sought(core: Core, found: Sequence[Held]) -> None:
    """End what was announced of these people while nobody could find them: now all of theirs is known."""
    named = core.view().pending.sought
    mine = [
        index
        for index, (nonce, sought_as) in named.items()
        if any(compare(core.handles.sought(each.handle, nonce), sought_as) for each in found)
    ]
    if mine and core.impaired is None:
        with core.lock.held():
            for index in mine:
                finish(core, None, index, Destruction("shred", ()))


def _found(
    core: Core,
    view: View,
    raw: Sequence[bytes],
    progress: Progress | None = None,
    scopes: Sequence[Scope] = tuple(Scope),
) -> tuple[list[Held], View]:
    """Find who is to be erased. What is open is finished first where all of theirs is denied already."""
    found = for_erasure(core, view, raw, progress)
    slots = [slot for each in found for slot in each.slots if view.kind_of(slot) in scopes]
    if core.impaired is None and view.head.operations and all(map(view.pending.destroying, slots)):
        with contextlib.suppress(FacekeepError), core.lock.held():
            recover(core)
        view = core.view()
        found = for_erasure(core, view, raw)
    return found, view


def _certain(core: Core, found: Sequence[Held]) -> None:
    """Raise IntegrityError where what was destroyed may not have been everything."""
    doubt = next((each.doubt for each in found if each.doubt is not None), None)
    if doubt is None:
        _end_sought(core, found)
        return
    raise IntegrityError(
        f"what was found of it is destroyed, but there may be more, so that nobody is answered now: {doubt}",
        next="run 'facekeep check --scrub', then ask for the same again: that ends it",
    ) from doubt


def _unknown(unknown: int, named: int, *, finished: bool) -> SubjectUnknown:
    """Error for ids that lead to nobody: nor does that of somebody whose erasure has just been finished."""
    are = "is" if unknown == 1 else "are"
    message = f"{unknown} of the {named} subject ids {are} unknown; nothing was shredded"
    return SubjectUnknown(message + ", but a pending erasure was finished just now" if finished else message)


def _openings(core: Core, view: View, tags: Sequence[bytes]) -> Iterator[Opening]:
    """Yield openings of the tags that have a row left; an altered record does not stop an erasure."""
    for tag in tags:
        with contextlib.suppress(FacekeepError):
            for grant in living_of(core, view, tag)[:1]:
                yield Opening(tag, grant.salt, grant.subject)


def withdraw(core: Core, session: Session, subject: str, scopes: Sequence[Scope]) -> Erasure:
    """Destroy the keys of one subject's scopes; with the last scope the subject's index row goes too."""
    raw = check_subject_id(subject)
    if not scopes:
        raise UsageError("no scope was named")
    session.require(Action.WITHDRAW)
    before: list[Finished] = []
    finished: list[Finished] = []

    def find(view: View) -> Asked:
        (held,), view = _found(core, view, [raw], None, scopes)
        before.extend(_just_finished(core))
        finished[:] = [each for each in before if _was_theirs(core, view, held, each, scopes)]
        mine = [slot for slot in held.slots if view.kind_of(slot) in scopes]
        if not mine and held.doubt is not None:
            return Asked(view, [held], _seek("withdraw", [held]))
        if not mine and not finished:
            _end_sought(core, [held])
            raise SubjectUnknown("no living grant of that scope stands under that subject id")
        hashes = [core.index.hash(held.handle)] if len(mine) == len(held.slots) else []
        whats = [Destruction("withdraw", each, hashes=hashes) for each in by_tag(core, held, mine)]
        return Asked(view, [held], [*whats, *_seek("withdraw", [held])])

    asked, indices = announced(core, session, Action.WITHDRAW, find)
    carry_out(core, session.by, asked.whats, indices)
    _certain(core, asked.found)
    slots = sum(len(each.slots) for each in asked.whats)
    if not slots:
        return _of_before(core, finished, 1)
    return Erasure(indices[0], 1, slots, core.epoch, begun_before=bool(finished))


def _was_theirs(core: Core, view: View, held: Held, ended: Finished, scopes: Sequence[Scope]) -> bool:
    """Whether an erasure that was pending has ended grants of a subject in these scopes."""
    slots = [slot for slot in ended.slots if view.kind_of(slot) in scopes]
    theirs = {slot for tag in held.tags for slot in core.ledger.slots_of(tag)}
    return bool(slots) and (core.index.hash(held.handle) in ended.hashes or not theirs.isdisjoint(slots))
