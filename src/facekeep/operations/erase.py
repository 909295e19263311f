"""Withdrawal and shredding: what a subject can ask for at any time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from facekeep.access.core import Core, View
from facekeep.access.roles import Action
from facekeep.access.session import Session
from facekeep.errors import IntegrityError, SubjectUnknown, UsageError
from facekeep.formats.canonical import JsonObject
from facekeep.formats.ids import check_subject_id
from facekeep.formats.opening import Opening
from facekeep.formats.terms import Scope
from facekeep.operations.destroy import Destruction, destroy
from facekeep.operations.indexed import changing, check_indexed, twice_enrolled
from facekeep.operations.rows import living_of
from facekeep.operations.writing import writing

Progress = Callable[[int, int], None]


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
    with writing(core, session, Action.SHRED) as view:
        twins = check_indexed(core, view, progress)
        tags = [core.index.lookup(each) for each in raw]
        hashes = [core.index.hash(each) for each in raw]
        gone = {hashed for hashed, tag in zip(hashes, tags, strict=True) if tag is None}
        before, core.finished = core.finished, []
        finished = [each for each in before if each.hashes & gone]
        unknown = gone - {hashed for each in finished for hashed in each.hashes}
        if unknown:
            raise _unknown(len(unknown), len(raw), finished=bool(before))
        known = [tag for tag in tags if tag is not None]
        if not known:
            people, slots = sum(each.subjects for each in finished), sum(each.slots for each in finished)
            return Erasure(finished[-1].first, people, slots, core.view().tree.epoch, begun_before=True)
        known.extend(twin for hashed in hashes for twin in twins.get(hashed, ()))
        living = [slot for tag in known for slot in living_slots(core, view, tag, progress)]
        opened = tuple(_openings(core, view, known)) if openings else ()
        with changing(core, len(gone) - len(hashes)):
            index = destroy(core, session.by, Destruction("shred", living, tags=known, hashes=hashes))
        people = len(hashes) - len(gone)
        return Erasure(index, people, len(living), core.epoch, opened, begun_before=bool(finished))


def _unknown(unknown: int, named: int, *, finished: bool) -> SubjectUnknown:
    """Error for ids that lead to nobody: nor does that of somebody whose erasure has just been finished."""
    are = "is" if unknown == 1 else "are"
    message = f"{unknown} of the {named} subject ids {are} unknown; nothing was shredded"
    return SubjectUnknown(message + ", but a pending erasure was finished just now" if finished else message)


def _openings(core: Core, view: View, tags: Sequence[bytes]) -> Iterator[Opening]:
    """Yield openings of the tags that have a row left; an altered record does not stop an erasure."""
    for tag in tags:
        with contextlib.suppress(IntegrityError):
            for grant in living_of(core, view, tag)[:1]:
                yield Opening(tag, grant.salt, grant.subject)


def withdraw(core: Core, session: Session, subject: str, scopes: Sequence[Scope]) -> Erasure:
    """Destroy the keys of one subject's scopes; with the last scope the subject's index row goes too."""
    raw = check_subject_id(subject)
    if not scopes:
        raise UsageError("no scope was named")
    with writing(core, session, Action.WITHDRAW) as view:
        if core.index.hash(raw) in check_indexed(core, view):
            raise twice_enrolled()
        tag = core.index.lookup(raw)
        slots = [] if tag is None else living_slots(core, view, tag)
        mine = [slot for slot in slots if view.kind_of(slot) in scopes]
        if not mine:
            raise SubjectUnknown(
                "no living grant of that scope stands under that subject id; nothing was withdrawn"
            )
        hashes = [core.index.hash(raw)] if len(mine) == len(slots) else []
        with changing(core, -len(hashes)):
            index = destroy(core, session.by, Destruction("withdraw", mine, hashes=hashes))
        return Erasure(index, 1, len(mine), core.epoch)


def living_slots(core: Core, view: View, tag: bytes, progress: Progress | None = None) -> list[int]:
    """Slots to destroy; IntegrityError when there are none: an older row of the index was put back.

    The subject may have other grants, which the row hides. Nothing is called erased then.
    """
    slots = alive_of(view, core.ledger.slots_of(tag, progress))
    if not slots:
        raise IntegrityError(
            "the subject index leads to grants that were destroyed before; nothing was destroyed",
            next="run 'facekeep check --repair', then try again",
        )
    return slots


def alive_of(view: View, slots: Sequence[int]) -> list[int]:
    """Those of the slots that are not dead."""
    if not slots:
        return []
    array = np.array(slots, np.int64)
    return [int(slot) for slot in array[view.tree.alive(array)]]
