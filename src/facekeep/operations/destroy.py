"""Destroying slots: intent, swap, completion, rows (DESIGN: the swap). The only way anything is erased."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from facekeep.access.core import LOG_KEY_SLOT, Core, View
from facekeep.errors import ErasurePending, FacekeepError, IntegrityError
from facekeep.formats import entries
from facekeep.formats.canonical import JsonObject
from facekeep.formats.ids import BRANCH_SLOTS, slot_id
from facekeep.formats.nodes import Pin
from facekeep.keys.slots import Int64
from facekeep.keys.swap import Swap
from facekeep.operations.custody import awaiting_swap, check_leaving, still_leaving
from facekeep.operations.rekeying import rekey
from facekeep.operations.steps import reached

#: How things stand once a destruction is announced, and until it is known to be completed.
DENIED: Final = "what was asked for is denied to everybody from now on, but not known to be destroyed yet"
_REPLACED: Final = "the new grants stand, and the old ones are denied, but not known to be destroyed yet"
_STANDS: Final = {
    "extend": "room for further grants is announced in the key tree, but not made yet",
    "renew": _REPLACED,
    "reseal": _REPLACED,
    "rotate": "a new root is announced, but the old one is not known to be destroyed yet",
    "void": "what was begun before and is undone now is denied, but not known to be destroyed yet",
}


@dataclass(frozen=True, slots=True)
class Destruction:
    """What is to be destroyed and why. ``tags`` are erased subjects; ``hashes`` their index rows.

    With ``rekey`` nothing is destroyed but the keys of the tree's nodes and of the subject index; ``recycle``
    ends branches in which nobody lives and no slot is given out any more. With ``rows_stay`` the
    caller deletes the dead rows, together with something else. ``sought`` is the handle of somebody who
    cannot be found: nobody is answered until they are.
    """

    op: str
    slots: Sequence[int]
    tags: Sequence[bytes] = ()
    hashes: Sequence[bytes] = ()
    voids: Sequence[int] = ()
    take: Sequence[int] = ()
    rekey: bool = False
    recycle: bool = False
    rows_stay: bool = False
    sought: bytes | None = None


def intent(core: Core, by: str | None, what: Destruction) -> list[JsonObject]:
    """Log entries that announce a destruction; from their append on the gate denies the slots."""
    if what.sought is not None:
        nonce = entries.nonce_hex()
        named = core.handles.sought(what.sought, bytes.fromhex(nonce))
        return [entries.sought(what.op, named, nonce, by=by, time_ms=_time_ms(core))]
    return entries.destroy_entries(
        what.op, what.slots, tags=what.tags, voids=what.voids, by=by, time_ms=_time_ms(core)
    )


def _time_ms(core: Core) -> int:
    """Return the time, never before the log's: a clock that stands behind holds up no erasure."""
    return max(core.clock.now_ms(), core.log.head().high_ms)


def destroy(core: Core, by: str | None, what: Destruction) -> int:
    """Announce and finish; returns the index of the intent. The writer lock must be held."""
    index = core.log.append(intent(core, by, what))[0]
    reached("destroy.announced")
    finish(core, by, index, what)
    return index


def finish(core: Core, by: str | None, index: int, what: Destruction) -> None:
    """Swap the root, log the completion, delete the dead rows. Idempotent. ``by`` is None in recovery.

    The swap opens the tree anew from the roots now held: another than the one that belongs to the log's head
    may be an older one, in which the dead still live, and is refused.
    """
    how = f"the operation of log entry {index}, begun before, is not finished"
    with _standing(how if by is None else _STANDS.get(what.op, DENIED)):
        _finish(core, by, index, what)


@contextlib.contextmanager
def _standing(how: str) -> Iterator[None]:
    """Have an error say how things stand, whatever came in the way."""
    try:
        yield
    except FacekeepError as error:
        error.args = (f"{how}: {error}",)
        raise


def _finish(core: Core, by: str | None, index: int, what: Destruction) -> None:
    view = core.view()
    check_leaving(core, view)
    swap = Swap(
        core.keys,
        view.tree,
        core.providers,
        what.slots,
        pin=Pin(*view.head.pin()),
        now_ms=core.clock.now_ms(),
        alloc=view.head.alloc,
        take=what.take,
        principals=what.slots if what.op in {"revoke", "void"} else (),
        index_hashes=what.hashes,
        witness=LOG_KEY_SLOT,
        on_step=reached,
        guard=lambda: _check_lock(core),
        leaving=still_leaving(core, view),
        rekey=rekey(core, view) if what.rekey else None,
        drop=idle_branches(core, view) if what.recycle else (),
        moving=awaiting_swap(core, view),
    )
    made = None
    try:
        made, receipts = swap.run()
    finally:
        core.forget_tree(made)  # the swap may stand in keys.db, whatever stopped it
    complete(core, by, index, what, [receipt.to_json() for receipt in receipts])


def idle_branches(core: Core, view: View) -> list[int]:
    """Return the branches in which nobody lives and that give out no slot: not the newest of a scope."""
    newest = {max(view.branches_of(kind)) for kind in set(view.kinds.values())}
    old = [branch for branch in view.kinds if branch not in newest]
    return [branch for branch in old if not len(living_slots(core, view, branch))]


def living_slots(core: Core, view: View, branch: int, below: int | None = None) -> Int64:
    """Slots of a branch that the log gave out, up to the index ``below``, and that live, ascending.

    The log gives a branch's slots out one after another (docs/adr/0004), and its head says how many. A branch
    that gives out none any more may have been closed by the restart of a lost log (SPEC §6.6), with slots
    that nobody was ever given: there the log's grants are asked one by one.
    """
    count = view.head.alloc.get(branch, 0)
    first = slot_id(branch, 0)
    end = first + min(count, count if below is None else below)
    if count < BRANCH_SLOTS:
        slots = np.arange(first, end, dtype=np.int64)
    else:
        granted = core.ledger.all_slots()
        low, high = np.searchsorted(granted, (first, end)).tolist()
        slots = granted[low:high]
    return slots[view.tree.alive(slots)]


def _check_lock(core: Core) -> None:
    """Stop before the next step if ``vault.lock`` was replaced: another writer may be at work."""
    if not core.lock.still_held():
        raise ErasurePending(
            "vault.lock was removed or replaced meanwhile",
            next="leave vault.lock alone; any writing command finishes what was begun",
        )


def complete(
    core: Core, by: str | None, index: int, what: Destruction, receipts: Iterable[JsonObject]
) -> None:
    """Say "destroyed" in the log, of the swap that stands in keys.db, then delete the dead rows.

    Nothing opens them: where vault.db is too damaged to be written to they stay, and the erasure is done.
    """
    view = core.view()
    core.log.append(
        [
            entries.destroyed(
                index,
                epoch=view.tree.epoch,
                fingerprint=view.tree.fingerprint,
                previous=view.head.fingerprint,
                receipts=list(receipts),
                by=by,
                time_ms=_time_ms(core),
            )
        ]
    )
    reached("destroy.completed")
    if not what.rows_stay:
        with contextlib.suppress(IntegrityError):
            core.data.delete(what.slots)
    reached("destroy.rows-deleted")
