"""Finishing what a dead process left open (SPEC §3.5). Destruction is completed, never voided."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import cast

import numpy as np

from facekeep.access.core import Core, Finished, View
from facekeep.errors import ErasurePending, FacekeepError
from facekeep.formats import entries
from facekeep.formats.canonical import JsonObject
from facekeep.formats.ids import from_ranges
from facekeep.keys.holders import held
from facekeep.keys.provider import Candidate, RootProvider
from facekeep.keys.settle import settle
from facekeep.operations.custody import awaiting_swap, has_unfilled, in_use, marks, still_leaving
from facekeep.operations.destroy import Destruction, complete, destroy, finish
from facekeep.operations.granting import complete as complete_grants
from facekeep.operations.rekeying import check_rekeyable
from facekeep.operations.whose import index_tags, left_with_nothing
from facekeep.store.vaultdb import GrantRow, without_records

_Part = tuple[int, JsonObject]


def recover(core: Core, but: Collection[int] = ()) -> bool:
    """Bring every open operation to its end; the writer lock must be held. True when nothing stays open.

    A destruction that waits for a holder or a copy stays open, denied at the gate; others go on. Those that
    begin at the entries ``but`` are their caller's.
    """
    core.keys.resync_copies()
    core.log.resync_copies()
    core.forget_tree()  # the process that left these may have swapped before it ended
    view = core.view()
    waiting = {*but, *view.pending.sought}  # whom nobody can find is asked for again
    open_now = [each for each in view.head.operations if each.first not in waiting]
    if not open_now:
        with contextlib.suppress(ErasurePending):
            _drop_strays(core, view)
        return True
    void: list[int] = []
    slots: list[int] = []
    spans = [range(first, first + parts) for first, parts, _, _ in open_now]
    found = core.log.verified({index for span in spans for index in (span.start - 1, *span)})
    operations = [
        (each.type, [(index, found[index]) for index in span])
        for each, span in zip(open_now, spans, strict=True)
    ]
    # Those whose slots are dead come first: theirs is the swap whose completion the log may lack. What
    # re-keys the tree comes last, when no other's swap can be taken for its own.
    destructions = [operation for kind, operation in operations if kind == "destroy"]
    for operation in sorted(
        destructions, key=lambda each: (_does_more(core, each, found), _lives(core, _named(each)))
    ):
        with contextlib.suppress(ErasurePending):
            _finish_destroy(core, operation, found)
    for kind, operation in operations:
        if kind != "destroy" and _is_written(core, operation):
            with contextlib.suppress(ErasurePending):
                _finish_grant(core, operation)
                core.finished.append(Finished(operation[0][0], kind, frozenset(_given(operation))))
        elif kind != "destroy":
            void.append(operation[0][0])
            slots.extend(_given(operation))
    with contextlib.suppress(ErasurePending):
        _drop_strays(core, core.view())
        if void:
            destroy(core, None, Destruction("void", slots, hashes=_orphans(core, slots), voids=void))
            core.finished += [Finished(first, "void", frozenset(slots)) for first in void]
    view = core.view()
    return len(view.head.operations) == len(view.pending.sought)


def _drop_strays(core: Core, view: View) -> None:
    """Have every holder keep the root that opens keys.db and no other.

    Before the swap of a move only those that have it: it never goes to a new holder then (SPEC §4.1).
    """
    current = view.tree.fingerprint
    if awaiting_swap(core, view):
        _settle_filled(core, current)
    elif not core.is_settled and _have_strays(core.providers, current):
        _settle(core)


def _have_strays(providers: Iterable[RootProvider], current: bytes) -> bool:
    return any(each.fingerprint != current or each.state != "current" for each in _held(providers))


def _settle_filled(core: Core, current: bytes) -> None:
    """Have the holders that hold the root in use hold no other, so that they can take part in a swap."""
    filled = [each for each in core.providers if len(found := marks(each)) > 1 and current in found]
    if filled:
        settle(core.keys, in_use(_held(core.readers), current), filled)


def _held(providers: Iterable[RootProvider]) -> tuple[Candidate, ...]:
    try:
        return held(providers)
    except FacekeepError as error:
        raise ErasurePending(f"no root holder can be reached: {error}", next=error.next) from error


def _settle(core: Core, previous: bytes | None = None) -> list[JsonObject]:
    view = core.view()
    winner = in_use(_held(core.readers), view.tree.fingerprint)
    receipts = settle(
        core.keys,
        winner,
        core.providers,
        previous=previous,
        leaving=still_leaving(core, view),
        moving=awaiting_swap(core, view),
    )
    return [receipt.to_json() for receipt in receipts]


def _finish_destroy(core: Core, operation: list[_Part], found: Mapping[int, JsonObject]) -> None:
    first, entry = operation[0]
    slots = _named(operation)
    tags = [bytes.fromhex(tag) for _, part in operation for tag in cast("list[str]", part["tags"])]
    before = found.get(first - 1, {})
    rekeys = _rekeys(before, entry)
    what = Destruction(
        str(entry["op"]),
        slots,
        tags=tags,
        hashes=_orphans(core, slots),
        rekey=rekeys,
        recycle=_recycles(core, before, first, entry),
    )
    ended = Finished(first, what.op, frozenset(slots), frozenset(tags), frozenset(what.hashes))
    view = core.view()
    if view.tree.epoch == view.head.epoch or _lives(core, slots):
        if rekeys:
            _check_rekeyable(core, view)
        finish(core, None, first, what)
    else:  # The swap stands in keys.db already; only its completion is missing from the log.
        _check_its_own(core, view, what)
        receipts = _settle(core, view.head.fingerprint)
        core.forget_tree()
        complete(core, None, first, what, receipts)
    core.finished.append(ended)


def _check_its_own(core: Core, view: View, what: Destruction) -> None:
    """Raise ErasurePending where the swap that stands in keys.db may not do for this operation.

    It may be another's, which re-keyed nothing and ended no branch: that one is completed first. And a holder
    that became a new one meanwhile gets a fresh root in another swap, never the one in use (SPEC §4.1):
    those that have the one in use make it current, so that they can take part.
    """
    if (what.rekey or what.recycle) and sum(each.type == "destroy" for each in view.head.open) > 1:
        raise ErasurePending("another operation is finished first")
    if has_unfilled(core, view):
        _settle_filled(core, view.tree.fingerprint)
        raise ErasurePending("a new root holder gets a fresh root first", next="run 'facekeep keys resume'")


def _does_more(core: Core, operation: list[_Part], found: Mapping[int, JsonObject]) -> bool:
    """Whether a destruction does more than any swap would: the swap of another cannot stand for its own."""
    first, entry = operation[0]
    before = found.get(first - 1, {})
    return _rekeys(before, entry) or _recycles(core, before, first, entry)


def _rekeys(before: JsonObject, entry: JsonObject) -> bool:
    """Whether an intent of op ``rotate`` re-keys the tree: the entry before it says so (SPEC §11 R31)."""
    return entry["op"] == "rotate" and before.get("type") == "rotation" and before["what"] == "tree"


def _recycles(core: Core, before: JsonObject, first: int, entry: JsonObject) -> bool:
    """Whether an intent of op ``rotate`` ends idle branches: it stands in a rotation of templates."""
    rotations = core.view().head.rotations
    inside = any(each.op == "templates" and each.first < first for each in rotations)
    return entry["op"] == "rotate" and before.get("type") != "rotation" and inside


def _check_rekeyable(core: Core, view: View) -> None:
    """Leave a rotation of the tree pending, and everything else to go on, while the index cannot be made."""
    try:
        check_rekeyable(core, view, pending=True)
        index_tags(core, view)
    except FacekeepError as error:
        raise ErasurePending(f"the tree cannot be re-keyed yet: {error}", next=error.next) from error


def _finish_grant(core: Core, operation: list[_Part]) -> None:
    """Complete, and in the same transaction announce the end of the grants that these replace."""
    first, entry = operation[0]
    replaced = _replaced(core, operation) if entry["type"] == "grant" else []
    op = "renew" if entry.get("op") == "renew" else "reseal"
    complete_grants(core, None, first, replaced, op)


def _replaced(core: Core, operation: list[_Part]) -> list[int]:
    """Living slots of the same subjects and scopes: a subject has one grant of a scope."""
    view = core.view()
    items = [item for _, entry in operation for item in cast("list[JsonObject]", entry["grants"])]
    places = {(str(item["tag"]), view.kind_of(cast("int", item["slot"]))) for item in items}
    new = {item["slot"] for item in items}
    held = {
        slot
        for tag, kind in places
        for slot in core.ledger.slots_of(bytes.fromhex(tag))
        if view.kind_of(slot) == kind and slot not in new and not view.pending.destroying(slot)
    }
    slots = np.array(sorted(held), np.int64)
    return cast("list[int]", slots[view.tree.alive(slots)].tolist())


def _given(operation: list[_Part]) -> list[int]:
    """Slots that a grant or a principal gets."""
    return [slot for _, entry in operation for slot in entries.slots_of(entry)]


def _named(operation: list[_Part]) -> list[int]:
    """Slots that a destruction names."""
    return [slot for _, part in operation for slot in from_ranges(cast("list[list[int]]", part["slots"]))]


def _lives(core: Core, slots: Sequence[int]) -> bool:
    return bool(core.view().tree.alive(slots).any())


def _orphans(core: Core, slots: Sequence[int]) -> list[bytes]:
    """Index rows that lead to nobody once these slots are dead; none of slots that are dead already."""
    return core.index.hash_many(left_with_nothing(core, core.view(), slots))


def _is_written(core: Core, operation: list[_Part]) -> bool:
    return all(_entry_is_written(core, entry) for _, entry in operation)


def _entry_is_written(core: Core, entry: JsonObject) -> bool:
    if entry["type"] == "principal":
        row = core.keys.principal_get(bytes.fromhex(str(entry["principal"])))
        return row is not None and row.commitment.hex() == entry["commitment"]
    grants = {cast("int", each["slot"]): each for each in cast("list[JsonObject]", entry["grants"])}
    rows = core.data.by_slots(sorted(grants))
    if not core.are_logged(without_records(rows)).all():
        return False
    keys, alive = core.slot_keys(core.view(), np.array([row.slot for row in rows], np.int64))
    return (
        len(rows) == len(grants)
        and bool(alive.all())
        and all(_opens(core, row, key.tobytes()) for row, key in zip(rows, keys, strict=True))
    )


def _opens(core: Core, row: GrantRow, key: bytes) -> bool:
    """Whether a row is whole: its record, once it opens, authenticates all of it (SPEC §5.2)."""
    try:
        core.sealer.open_record(key, row)
    except FacekeepError:
        return False
    return True
