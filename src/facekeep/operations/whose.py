"""Whose grants are which, by the log and the slot keys (SPEC §5.8); the subject index made from them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from facekeep.access.core import Core, View
from facekeep.access.owners import KeysOf
from facekeep.errors import FacekeepError, IntegrityError
from facekeep.formats.columns import each_row
from facekeep.formats.ids import SLOT_BITS, from_ranges
from facekeep.keys.index import SubjectIndex
from facekeep.operations.rows import living

Progress = Callable[[int, int], None]
_PIECE: Final = 4_096  # rows sealed together
_SCRUB: Final = "run 'facekeep check --scrub', then do this again"


class Held(NamedTuple):
    """What stands under a subject id: slots that live or are about to be destroyed, and their tags.

    ``doubt`` says why there may be more.
    """

    handle: bytes
    slots: tuple[int, ...] = ()
    tags: tuple[bytes, ...] = ()
    doubt: FacekeepError | None = None


def by_tag(core: Core, held: Held, slots: Sequence[int]) -> list[list[int]]:
    """Slots by subject tag: a withdrawal names those of one (SPEC §11 R17)."""
    if len(held.tags) == 1:
        return [list(slots)] if slots else []
    of = {tag: set(core.ledger.slots_of(tag)) for tag in held.tags}
    parts = [[slot for slot in slots if slot in mine] for mine in of.values()]
    return [part for part in parts if part]


def keys_of(core: Core) -> KeysOf:
    """Return the function that gives the keys of slots, of the tree as it is when they are asked for.

    An older tree would call dead what the log has granted since: the log is read up to its end.
    """

    def keys(slots: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        view = core.view()
        if int(slots.max()) >> SLOT_BITS >= view.tree.root_node.next_branch:
            raise IntegrityError("the log has granted slots of a branch that the key tree never had")
        return core.slot_keys(view, slots)

    return keys


def held_by(
    core: Core, view: View, subjects: Sequence[bytes], progress: Progress | None = None, *, dying: bool = True
) -> list[Held]:
    """Find what stands under subject ids (UTF-8); the writer lock must be held. Raises IntegrityError.

    Slots of operations that are open are among it; without ``dying`` not those that are to be destroyed.
    """
    handles = core.handles.of_many(subjects)
    found = core.owners.find(keys_of(core), handles, progress)
    every = np.array([slot for slots in found for slot in slots], np.int64)
    if not len(every):
        return [Held(handle) for handle in handles]
    mask = view.tree.alive(every)
    living = set(every[mask if dying else mask & ~view.pending.destroying_slots.mask(every)].tolist())
    return [
        _held(core, handle, sorted(living.intersection(slots))) if slots else Held(handle)
        for handle, slots in zip(handles, found, strict=True)
    ]


def _held(core: Core, handle: bytes, slots: Sequence[int]) -> Held:
    tags = set(each_row(core.ledger.tags_of(np.array(slots, np.int64)))) if slots else ()
    return Held(handle, tuple(slots), tuple(sorted(tags)))


def for_grants(core: Core, view: View, subjects: Sequence[bytes]) -> list[Held]:
    """``held_by`` without what is about to be destroyed: whom a new grant joins.

    Raises IntegrityError where a subject id has two enrolments, or may have one that nobody can tell.
    """
    told = held_by(core, view, subjects, dying=False)
    if any(len(each.tags) > 1 for each in told):
        raise twice_enrolled()
    if core.owners.unreadable and not all(each.slots for each in told):
        raise unreadable(core)
    return told


def for_erasure(
    core: Core, view: View, subjects: Sequence[bytes], progress: Progress | None = None
) -> list[Held]:
    """Everything that may stand under subject ids, whatever is wrong with the files; it is to be denied.

    Where something cannot be read, what the gate itself would go by is taken in its place, and told.
    """
    doubt: FacekeepError | None = None
    try:
        told = held_by(core, view, subjects, progress)
    except FacekeepError as error:
        told, doubt = [Held(handle) for handle in core.handles.of_many(subjects)], error
    return [_whole(core, view, each, doubt) for each in told]


def _whole(core: Core, view: View, held: Held, doubt: FacekeepError | None) -> Held:
    """Add what its tags, and that of the index, lead to.

    A subject has one tag, and the log names all its slots: with it nothing is in doubt, whatever else is
    damaged. Without one it may be among those whose keys cannot be read.
    """
    tags, slots = set(held.tags), set(held.slots)
    with contextlib.suppress(FacekeepError):
        tag = core.index.lookup(held.handle)
        if tag is not None:
            tags.add(tag)
    for tag in tags:
        try:
            slots.update(core.ledger.slots_of(tag))
        except FacekeepError as error:
            doubt = doubt or error
            slots.update(_found_by_gate(core, held.handle, tag))
    try:
        living = _alive(view, sorted(slots))
    except FacekeepError:  # a damaged node: the log says what was destroyed
        living = sorted(slots - _destroyed(core))
    if not living:
        lost = unreadable(core) if core.owners.unreadable else None
        return Held(held.handle, doubt=doubt or lost)
    known = set(held.tags) | {
        tag for tag in tags if not set(living).isdisjoint(_slots_of(core, held.handle, tag))
    }
    return Held(held.handle, tuple(living), tuple(sorted(known)), doubt)


def _alive(view: View, slots: Sequence[int]) -> list[int]:
    array = np.array(slots, np.int64)
    return cast("list[int]", array[view.tree.alive(array)].tolist())


def _slots_of(core: Core, handle: bytes, tag: bytes) -> list[int]:
    try:
        return core.ledger.slots_of(tag)
    except FacekeepError:
        return _found_by_gate(core, handle, tag)


def _found_by_gate(core: Core, handle: bytes, tag: bytes) -> list[int]:
    """Slots of the rows of a tag that open as this subject's: what a decision may go by."""
    found = []
    view = core.recent_view()
    with contextlib.suppress(FacekeepError):
        for row in core.rows_of(view, tag):
            with contextlib.suppress(FacekeepError):
                grant = living(core, view, row)
                if grant is not None and core.handles.of(grant.subject.encode("utf-8")) == handle:
                    found.append(row.slot)
    return found


def _destroyed(core: Core) -> set[int]:
    """Slots whose destruction is complete by the log: an intent does not name them again."""
    named: dict[int, list[list[int]]] = {}
    done: set[int] = set()
    first = 0
    with contextlib.suppress(FacekeepError):
        for index, entry in core.log.control_since(0):
            if entry["type"] == "destroy":
                first = index if entry["part"] == 1 else first
                named.setdefault(first, []).extend(cast("list[list[int]]", entry["slots"]))
            elif entry["type"] == "destroyed":
                done.update(from_ranges(named.pop(cast("int", entry["of"]), [])))
    return done


def left_with_nothing(core: Core, view: View, dying: Sequence[int]) -> list[bytes]:
    """Return the handles of the subjects who live in none but these slots; none where that cannot be told."""
    array = np.array(sorted(dying), np.int64)
    with contextlib.suppress(FacekeepError):
        handles = sorted({handle for _, handle in core.owners.of(keys_of(core), array)})
        found = core.owners.find(keys_of(core), handles)
        others = np.array([slot for slots in found for slot in slots], np.int64)
        stay = set(others[view.tree.alive(others) & ~np.isin(others, array)].tolist())
        return [each for each, slots in zip(handles, found, strict=True) if stay.isdisjoint(slots)]
    return []


def index_rows(
    core: Core, view: View, index: SubjectIndex, progress: Progress | None = None
) -> Iterator[tuple[bytes, bytes]]:
    """Yield the subject index: a row for every subject with a living, complete grant by the log.

    Raises IntegrityError where a key cannot be read, or a subject id has two enrolments.
    """
    handles, tags = _everybody(core, view, progress)
    for start in range(0, len(handles), _PIECE):
        part = slice(start, start + _PIECE)
        hashes = index.hash_many(each_row(handles[part]))
        yield from index.rows(hashes, list(each_row(tags[part])))


def index_tags(core: Core, view: View) -> dict[bytes, bytes]:
    """Row key -> tag of everything that belongs into the subject index. Raises IntegrityError."""
    handles, tags = _everybody(core, view, None)
    hashes = core.index.hash_many(each_row(handles)) if len(handles) else []
    return dict(zip(hashes, each_row(tags), strict=True)) if hashes else {}


def _everybody(
    core: Core, view: View, progress: Progress | None
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Return handles uint8 (n, 16) and tags (n, 32) of all subjects, each once."""
    slots, handles = core.owners.everybody(keys_of(core), progress)
    if core.owners.unreadable:
        raise unreadable(core)
    living = view.tree.alive(slots) & ~view.pending.mask(slots)
    handles, tags = handles[living], core.ledger.tags_of(slots[living])
    order = np.lexsort(np.ascontiguousarray(handles).view(np.uint64).T)
    handles, tags = handles[order], tags[order]
    again = (handles[1:] == handles[:-1]).all(axis=1)
    if bool((tags[1:][again] != tags[:-1][again]).any()):
        raise twice_enrolled()
    first = np.concatenate((np.ones(min(len(handles), 1), np.bool_), ~again))
    return handles[first], tags[first]


def unreadable(core: Core) -> IntegrityError:
    """Error for living grants whose key cannot be read."""
    return IntegrityError(
        f"keys.db is damaged: the keys of {core.owners.unreadable} grants cannot be read, so that nobody can "
        "tell whose they are",
        next=_SCRUB,
    )


def twice_enrolled() -> IntegrityError:
    """Error for a subject id under which two subjects of the log live."""
    return IntegrityError(
        "the subject is enrolled twice",
        next="shred the subject: that destroys both; then enrol again",
    )
