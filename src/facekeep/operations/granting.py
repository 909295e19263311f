"""Making grants: allocate slots, log the intent, seal, write, complete (DESIGN: sealing, the log).

Every new key a subject gets comes through ``make_grants``, for one grant or for thousands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from facekeep.access.core import Core, View
from facekeep.crypto import primitives as p
from facekeep.errors import IntegrityError
from facekeep.formats import entries
from facekeep.formats.canonical import JsonObject
from facekeep.formats.ids import BRANCH_SLOTS, GRANT_ID_LEN, slot_id, split_slot
from facekeep.formats.terms import Scope
from facekeep.operations.destroy import Destruction, destroy, finish, intent
from facekeep.operations.steps import reached
from facekeep.store.vaultdb import GrantRow

_MANY = 64  # grants from which a second thread pays


class NewGrant(NamedTuple):
    """A grant to be made. ``terms`` are packed.

    ``templates`` gives the little-endian float32 bytes when they are needed, after the intent is
    durable: for a re-sealed grant that is when the old one (slot ``source``) is opened.
    """

    tag: bytes
    model: str
    scope: Scope
    terms: bytes
    record: bytes
    templates: Callable[[], memoryview]
    source: int | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """One grant operation: what is made, which index rows go with it, which old grants it replaces."""

    op: str
    grants: Sequence[NewGrant]
    index_rows: Sequence[tuple[bytes, bytes]] = ()
    retire: Sequence[int] = ()
    retire_op: str = "renew"


_Place: TypeAlias = tuple[NewGrant, int, bytes, tuple[bytes, bytes]]


def make_grants(core: Core, view: View, by: str | None, batch: Batch) -> list[GrantRow]:
    """Carry out a grant operation; the writer lock must be held. Returns the new rows in order."""
    slots = allocate(core, view, by, [grant.scope for grant in batch.grants])
    view = core.view()
    keys, alive = view.tree.slot_keys(slots)
    if not alive.all():
        raise IntegrityError("a slot that was never given out is dead")
    raw = keys.tobytes()
    slot_keys = [raw[at : at + p.KEY_LEN] for at in range(0, len(raw), p.KEY_LEN)]
    raw = p.random_bytes(GRANT_ID_LEN * len(slots))
    ids = [raw[at : at + GRANT_ID_LEN] for at in range(0, len(raw), GRANT_ID_LEN)]
    keyed = [
        core.sealer.keys(key, slot, grant_id)
        for slot, key, grant_id in zip(slots, slot_keys, ids, strict=True)
    ]
    places = list(zip(batch.grants, slots, ids, keyed, strict=True))
    items = [_item(*place) for place in places]
    first, rows = _announce_and_seal(core, by, batch, items, places)
    core.data.add(rows)
    reached("grant.written")
    _complete(core, by, first, batch)
    return rows


def _announce_and_seal(
    core: Core, by: str | None, batch: Batch, items: list[JsonObject], places: list[_Place]
) -> tuple[int, list[GrantRow]]:
    """Make the intent and the index rows durable, and seal; returns the intent's index and the rows.

    Many fresh photographs are sealed while the disk is busy: sealing in memory is no effect yet. A grant that
    opens another one is sealed only after the intent that names it.
    """

    def announce() -> int:
        now = core.clock.now_ms()
        first = core.log.append(entries.grant_entries(batch.op, items, by=by, time_ms=now))[0]
        reached("grant.announced")
        if batch.index_rows:
            core.keys.index_put_many(batch.index_rows)
            reached("grant.indexed")
        return first

    def seal() -> list[GrantRow]:
        return [
            core.sealer.seal_grant(
                pair, slot, grant_id, grant.tag, grant.model, grant.terms, grant.templates(), grant.record
            )
            for grant, slot, grant_id, pair in places
        ]

    if len(places) < _MANY or any(grant.source is not None for grant in batch.grants):
        first = announce()
        return first, seal()
    with ThreadPoolExecutor(1, "facekeep-enrol") as pool:
        announced = pool.submit(announce)
        rows = seal()
        return announced.result(), rows


def _item(grant: NewGrant, slot: int, grant_id: bytes, pair: tuple[bytes, bytes]) -> JsonObject:
    return entries.grant_item(
        slot=slot,
        grant=grant_id,
        tag=grant.tag,
        commitment=pair[1],
        terms=grant.terms,
        model=grant.model,
        source=grant.source,
    )


def _complete(core: Core, by: str | None, first: int, batch: Batch) -> None:
    """Complete, and in the same transaction announce the end of what is replaced."""
    closing = [entries.granted(first, by=by, time_ms=core.clock.now_ms())]
    if not batch.retire:
        core.log.append(closing)
        reached("grant.completed")
        return
    what = Destruction(batch.retire_op, batch.retire)
    indices = core.log.append(closing + intent(core, by, what))
    reached("grant.completed")
    finish(core, by, indices[1], what)


def allocate(core: Core, view: View, by: str | None, scopes: Sequence[Scope]) -> list[int]:
    """Return a fresh slot for each scope, above every slot seen; take branches where one is full."""
    free: dict[Scope, list[int]] = {}
    for scope in set(scopes):
        wanted = sum(1 for each in scopes if each is scope)
        newest = max(view.branches_of(scope), default=0)
        found = _free(core, view, scope, wanted, newest)
        while len(found) < wanted:
            destroy(core, by, Destruction("extend", (), take=(int(scope),)))
            view = core.view()
            found = _free(core, view, scope, wanted, newest)
        free[scope] = found[::-1]
    return [free[scope].pop() for scope in scopes]


def _free(core: Core, view: View, scope: int, wanted: int, newest: int) -> list[int]:
    """Free slots of the branches from ``newest`` on: an older one may be known to whoever had an old root."""
    found: list[int] = []
    for branch in view.branches_of(scope):
        if branch < newest:
            continue
        start = next_index(core, view, branch)
        count = min(wanted - len(found), BRANCH_SLOTS - start)
        found.extend(slot_id(branch, index) for index in range(start, start + max(count, 0)))
        if len(found) == wanted:
            break
    return found


def next_index(core: Core, view: View, branch: int) -> int:
    """Lowest index of a branch that the log has not given out.

    Raises IntegrityError when vault.db has a row above it: a forged row must not burn slots.
    """
    free = view.head.alloc.get(branch, 0)
    top = core.data.top_slot(branch)
    if top is not None and split_slot(top)[1] >= free:
        raise IntegrityError(
            "vault.db has grants that log.db does not know: log.db was rolled back, or vault.db forged",
            next="put the live copy of log.db back; 'facekeep check' names the rows",
        )
    return free
