"""Rows of vault.db in slots that the log never gave out (SPEC §6.3, §8).

One that opens under its slot's key was made by the vault: log.db was rolled back since. Any other one is
nobody's, and stops nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from facekeep.access.core import Core
from facekeep.auditlog.head import Head
from facekeep.errors import FacekeepError, IntegrityError
from facekeep.formats.ids import BRANCH_SLOTS, SLOT_BITS
from facekeep.formats.nodes import Kind
from facekeep.keys.tree import KeyTree
from facekeep.limits import LIMITS
from facekeep.operations.missing import LOST_LOG
from facekeep.store.keysdb import PrincipalRow
from facekeep.store.vaultdb import GrantRow
from facekeep.wiping import wipe

_NAMED: Final = 16  # slots that an error lists
_CHUNK: Final = 64  # rows read at a time


def check_log_is_newest(core: Core, tree: KeyTree, head: Head) -> None:
    """Raise IntegrityError where vault.db shows that log.db was rolled back since the tree's swap."""
    for _, branch, kind in tree.branches():
        if kind is not Kind.SYSTEM:
            check_not_rolled_back(core, tree, branch, head.alloc.get(branch, 0))


def check_not_rolled_back(core: Core, tree: KeyTree, branch: int, free: int) -> None:
    """``check_log_is_newest`` for a branch whose slots from index ``free`` on the log has not given out.

    Looks at the highest rows only: whoever puts junk above true ones could as well delete these.
    """
    first = branch << SLOT_BITS
    rows = core.data.top_rows(first + free, first + BRANCH_SLOTS, LIMITS.rows_above)
    true = [row.slot for row in rows if is_true(core, tree, row)]
    if true:
        given_out = core.log.head().alloc.get(branch, 0)  # another process may have given them out meanwhile
        true = [slot for slot in true if slot >= first + given_out]
    if true:
        raise rolled_back("vault.db has grants", true)


def rolled_back(what: str, slots: Sequence[int]) -> IntegrityError:
    """Return the error for true rows that the log does not know; ``what`` says which file has what."""
    return IntegrityError(
        f"{what} that log.db does not know, in slots {names(sorted(slots))}: log.db was rolled back;"
        " they were left as they are",
        next="put the newest copy of log.db back; where there is none, move log.db and its live copies away,"
        f" then: {LOST_LOG}",
    )


def true_principals(core: Core, tree: KeyTree, rows: Sequence[PrincipalRow]) -> list[int]:
    """Return the slots of rows of principals that the vault made."""
    return [row.slot for row in rows if _is_true_principal(core, tree, row)]


def _is_true_principal(core: Core, tree: KeyTree, row: PrincipalRow) -> bool:
    try:
        key = tree.slot_key(row.slot)
        core.sealer.open_principal(key, row.slot, row.grant_id, row.commitment, row.sealed)
    except FacekeepError:
        return False
    return True


def true_slots(core: Core, tree: KeyTree, slots: Sequence[int]) -> Iterator[int]:
    """Yield the slots whose rows are true."""
    for at in range(0, len(slots), _CHUNK):
        for row in core.data.by_slots(slots[at : at + _CHUNK]):
            if is_true(core, tree, row):
                yield row.slot


def is_true(core: Core, tree: KeyTree, row: GrantRow) -> bool:
    """Whether the vault made a row: its slot's key gives its commitment, and opens its record."""
    try:
        key = tree.slot_key(row.slot)
    except FacekeepError:
        return False
    try:
        core.sealer.open_record(key, row)
    except FacekeepError:
        return False
    finally:
        wipe(key)
    return True


def names(slots: Sequence[int]) -> str:
    """Name the first of many slots."""
    return ", ".join(map(str, slots[:_NAMED])) + (", ..." if len(slots) > _NAMED else "")
