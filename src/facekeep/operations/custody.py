"""Who must hold what before a swap, while the root's holders are moved (SPEC.md §4.1, §9)."""

from __future__ import annotations

from typing import cast

from facekeep.access.core import Core, View
from facekeep.errors import ErasurePending, FacekeepError
from facekeep.keys.provider import RootProvider


def open_move(view: View) -> int | None:
    """Log index of the move that is under way; None where there is none."""
    return next((each.first for each in view.head.rotations if each.op == "move"), None)


def swapped_since(core: Core, first: int) -> bool:
    """Whether a root was made after the move began: one that no leaving holder ever had."""
    return any(
        entry["type"] == "destroyed" and cast("int", entry["of"]) > first
        for _, entry in core.log.control_since(first)
    )


def awaiting_swap(core: Core, view: View) -> bool:
    """Whether a move was begun whose new holders have nothing but the placeholder yet."""
    first = open_move(view)
    return first is not None and not swapped_since(core, first)


def still_leaving(core: Core, view: View) -> tuple[RootProvider, ...]:
    """Holders that the next swap has destroy what they have.

    After the swap of the move they have destroyed it, and are asked nothing more: what is left of them may be
    gone. One that was given up as lost since then stands in the next receipts, and so does a root in memory.
    """
    if open_move(view) is None or awaiting_swap(core, view):
        return core.leaving
    named = len(core.settings.leaving)
    return tuple(each for at, each in enumerate(core.leaving) if at >= named or each.scheme == "lost")


def check_leaving(core: Core, view: View) -> None:
    """Raise ErasurePending where a leaving holder lacks the root that it is to destroy.

    An empty file in its place would have it say that it destroyed what is kept elsewhere. Once a swap was
    completed since the move began, they have destroyed theirs.
    """
    first = open_move(view)
    if first is None or any(entry["type"] == "destroyed" for _, entry in core.log.control_since(first)):
        return
    for provider in core.leaving:
        if (
            provider.scheme != "lost"
            and provider.klass != "recovery"
            and not holds(provider, view.tree.fingerprint)
        ):
            raise ErasurePending(
                f"the leaving holder {provider.identity} does not have the root that it is to destroy",
                next="put back the one that has it, then: facekeep keys resume",
            )


def holds(provider: RootProvider, fingerprint: bytes) -> bool:
    """Whether a holder has this root now; one that is away has nothing to show."""
    try:
        return any(each.fingerprint == fingerprint and each.root for each in provider.candidates())
    except FacekeepError:
        return False
