"""Fresh slots: above every slot that the log has given out, in a branch of their scope (docs/adr/0004)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from facekeep.access.core import Core, View
from facekeep.auditlog.group import ControlMoved
from facekeep.formats.ids import BRANCH_SLOTS, slot_id
from facekeep.formats.terms import Scope
from facekeep.operations.destroy import Destruction, destroy
from facekeep.operations.unlogged import check_not_rolled_back


def allocate(core: Core, view: View, by: str | None, scopes: Sequence[Scope]) -> tuple[list[int], int]:
    """Return a fresh slot for each scope, above every slot seen; take branches where one is full.

    And the log's count of control entries, if nobody but this has appended any since ``view``.
    """
    control_seq = view.head.control_seq
    free: dict[Scope, list[int]] = {}
    for scope, wanted in Counter(scopes).items():
        newest = max(view.branches_of(scope), default=0)
        found = _free(core, view, scope, wanted, newest)
        while len(found) < wanted:
            destroy(core, by, Destruction("extend", (), take=(int(scope),)))
            control_seq += 2  # its announcement and its completion
            view = core.view()
            found = _free(core, view, scope, wanted, newest)
        free[scope] = found[::-1]
    return [free[scope].pop() for scope in scopes], control_seq


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

    A forged row above it burns no slot, and gives way to what is written there. Raises IntegrityError where a
    true one shows that the log was rolled back; ControlMoved where it is not the view's any more.
    """
    free = view.head.alloc.get(branch, 0)
    if core.view().head.control_seq != view.head.control_seq:
        raise ControlMoved  # what stands above it may be another process's
    check_not_rolled_back(core, view.tree, branch, free)
    return free
