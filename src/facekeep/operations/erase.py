"""Withdrawal and shredding: what a subject can ask for at any time.

An erasure denies before it can fail (DESIGN, promise 10): it is announced first, whatever is wrong with
files, copies or holders. From then on the gate denies the slots; whatever comes in the way leaves it pending.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from facekeep.access.core import Core, View
from facekeep.access.roles import Action
from facekeep.access.session import Session
from facekeep.errors import ErasurePending, FacekeepError, IntegrityError, SubjectUnknown, UsageError
from facekeep.formats.canonical import JsonObject
from facekeep.formats.ids import check_subject_id
from facekeep.formats.opening import Opening
from facekeep.formats.terms import Scope
from facekeep.operations.destroy import Destruction, finish, intent
from facekeep.operations.recover import recover
from facekeep.operations.rows import living_of
from facekeep.operations.steps import reached
from facekeep.operations.whose import Held, for_erasure

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


@contextlib.contextmanager
def erasing(core: Core, session: Session, action: Action) -> Iterator[None]:
    """Hold the vault for an erasure. What a dead process left open is finished after the announcement."""
    session.require(action)
    with core.lock.held():
        session.require(action, core.view())
        yield


def announce(core: Core, by: str | None, whats: Sequence[Destruction]) -> list[int]:
    """Announce destructions, then finish what was open before, then these; returns their indices in the log.

    Raises ErasurePending where the first of that fails: they are announced, and so denied.
    """
    items: list[JsonObject] = []
    places = []
    for what in whats:
        places.append(len(items))
        items += intent(core, by, what)
    appended = core.log.append(items)
    indices = [appended[place] for place in places]
    reached("destroy.announced")
    try:
        if core.impaired is not None:
            raise core.impaired
        recover(core, indices)
    except ErasurePending:
        raise
    except FacekeepError as error:
        raise ErasurePending(
            f"what was asked for is denied to everybody from now on, but not destroyed yet: {error}",
            next=error.next,
        ) from error
    for index, what in zip(indices, whats, strict=True):
        finish(core, by, index, what)
    return indices


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
    with erasing(core, session, Action.SHRED):
        found, view = _found(core, raw, progress)
        before, core.finished = core.finished, []
        hashes = {core.index.hash(each.handle): each for each in found}
        gone = {hashed for hashed, each in hashes.items() if not each.slots}
        finished = [each for each in before if each.hashes & gone]
        unknown = gone - {hashed for each in finished for hashed in each.hashes}
        if unknown:
            raise _unknown(found, len(unknown), len(raw), finished=bool(before))
        tags = [tag for each in found for tag in each.tags]
        slots = [slot for each in found for slot in each.slots]
        if not slots:
            people, count = sum(each.subjects for each in finished), sum(each.slots for each in finished)
            return Erasure(finished[-1].first, people, count, core.view().tree.epoch, begun_before=True)
        opened = tuple(_openings(core, view, tags)) if openings else ()
        what = Destruction("shred", slots, tags=tags, hashes=list(hashes))
        index = announce(core, session.by, [what])[0]
        _certain(found)
        return Erasure(
            index, len(raw) - len(gone), len(slots), core.epoch, opened, begun_before=bool(finished)
        )


def _found(core: Core, raw: Sequence[bytes], progress: Progress | None) -> tuple[list[Held], View]:
    """Find who is to be erased. What is open is finished first where all of it is denied already."""
    view = core.view()
    found = for_erasure(core, view, raw, progress)
    slots = [slot for each in found for slot in each.slots]
    if core.impaired is None and view.head.operations and all(map(view.pending.destroying, slots)):
        recover(core)
        view = core.view()
        found = for_erasure(core, view, raw)
    return found, view


def _certain(found: Sequence[Held]) -> None:
    """Raise IntegrityError where what was destroyed may not have been everything."""
    doubt = next((each.doubt for each in found if each.doubt is not None), None)
    if doubt is not None:
        raise IntegrityError(
            f"what was found of it is destroyed, but there may be more: {doubt}",
            next="run 'facekeep check --scrub', then ask again; an id that is unknown then has nothing left",
        ) from doubt


def _unknown(found: Sequence[Held], unknown: int, named: int, *, finished: bool) -> FacekeepError:
    """Error for ids that lead to nobody: nor does that of somebody whose erasure has just been finished."""
    doubt = next((each.doubt for each in found if each.doubt is not None and not each.slots), None)
    if doubt is not None:
        return IntegrityError(
            f"{unknown} of the {named} subject ids lead to nobody that can be found: {doubt}", next=doubt.next
        )
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
    with erasing(core, session, Action.WITHDRAW):
        (held,), view = _found(core, [raw], None)
        mine = [slot for slot in held.slots if view.kind_of(slot) in scopes]
        if not mine:
            raise held.doubt or SubjectUnknown(
                "no living grant of that scope stands under that subject id; nothing was withdrawn"
            )
        hashes = [core.index.hash(held.handle)] if len(mine) == len(held.slots) else []
        whats = [Destruction("withdraw", each, hashes=hashes) for each in _by_tag(core, held, mine)]
        index = announce(core, session.by, whats)[0]
        _certain([held])
        return Erasure(index, 1, len(mine), core.epoch)


def _by_tag(core: Core, held: Held, slots: Sequence[int]) -> list[list[int]]:
    """Slots by subject tag: a withdrawal names those of one (SPEC.md §11 R17)."""
    if len(held.tags) == 1:
        return [list(slots)]
    of = {tag: set(core.ledger.slots_of(tag)) for tag in held.tags}
    parts = [[slot for slot in slots if slot in mine] for mine in of.values()]
    return [part for part in parts if part]
