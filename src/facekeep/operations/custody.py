"""Who must hold what before a swap, while the root's holders are moved (SPEC §4.1, §9)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from facekeep.access.core import Core, View
from facekeep.errors import ErasurePending, FacekeepError
from facekeep.formats.nodes import root_fingerprint
from facekeep.keys.provider import Candidate, RootProvider, placeholder


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
    """Whether a move is under way whose new holders have nothing but the placeholder yet.

    Holders are named when it begins, and again where some were lost meanwhile: by a ``settings`` entry.
    """
    first = open_move(view)
    if first is None:
        return False
    named = [at for at, entry in core.log.control_since(first) if entry["type"] == "settings"]
    return not swapped_since(core, max(named, default=first))


def has_unfilled(core: Core, view: View) -> bool:
    """Whether a holder that is new in a move has nothing but the placeholder, and waits for a fresh root."""
    mark = root_fingerprint(core.vault_id, placeholder(core.vault_id))
    return awaiting_swap(core, view) and any(
        marks(each) == {mark} for each in core.providers if each.klass != "recovery"
    )


def marks(provider: RootProvider) -> set[bytes]:
    """Fingerprints of the roots a holder has; one that is away has nothing to show."""
    try:
        return {each.fingerprint for each in provider.candidates()}
    except FacekeepError:
        return set()


def still_leaving(core: Core, view: View) -> tuple[RootProvider, ...]:
    """Holders that the next swap has destroy what they have.

    After the swap of the move they have destroyed it, and are asked nothing more: what is left of them may be
    gone. One that was given up as lost since then stands in the next receipts, and so does a root in memory.
    """
    first = open_move(view)
    if first is None or not swapped_since(core, first):
        return core.leaving
    named = len(core.settings.leaving)
    return tuple(each for at, each in enumerate(core.leaving) if at >= named or each.scheme == "lost")


def check_leaving(core: Core, view: View) -> None:
    """Raise ErasurePending where a leaving holder lacks the root that it is to destroy.

    An empty file in its place would have it say that it destroyed what is kept elsewhere. Once a swap was
    completed since the move began, they have destroyed theirs. Of a move that a restarted log took up nobody
    knows how far it had come: there a leaving holder need only be within reach.
    """
    first = open_move(view)
    if first is None or any(entry["type"] == "destroyed" for _, entry in core.log.control_since(first)):
        return
    taken_up = core.log.head().size == first + 1 or core.log.entry(first + 1)["type"] != "settings"
    roots = {view.tree.fingerprint, view.head.fingerprint}  # a swap that is not completed may stand already
    for provider in core.leaving:
        if provider.scheme == "lost" or provider.klass == "recovery":
            continue
        if not (_answers(provider) if taken_up else any(holds(provider, each) for each in roots)):
            raise ErasurePending(
                f"the leaving holder {provider.identity} does not have the root that it is to destroy",
                next="put back the one that has it, then: facekeep keys resume; "
                "where it is gone for good: facekeep keys move --lost URI, as it stands under leaving",
            )


def _answers(provider: RootProvider) -> bool:
    try:
        provider.candidates()
    except FacekeepError:
        return False
    return True


def holds(provider: RootProvider, fingerprint: bytes) -> bool:
    """Whether a holder has this root now; one that is away has nothing to show."""
    try:
        return any(each.fingerprint == fingerprint and each.root for each in provider.candidates())
    except FacekeepError:
        return False


def in_use(roots: Iterable[Candidate], fingerprint: bytes) -> Candidate:
    """Return the root of the tree in use among those that are held; raises ErasurePending.

    Never simply the one that opens keys.db: a row may stand there that somebody made, under a root of theirs.
    """
    for each in roots:
        if each.fingerprint == fingerprint and each.root:
            return each
    raise ErasurePending("no root holder within reach has the root in use")
