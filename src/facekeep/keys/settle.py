"""Which root each holder has: staged, promoted, destroyed (SPEC §3.5, §4.1), under the writer lock."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from facekeep.errors import ErasurePending, IntegrityError, MissingDependency, RootError, StoreError
from facekeep.formats.nodes import root_fingerprint
from facekeep.keys.provider import Candidate, Receipt, RootProvider, placeholder
from facekeep.keys.tree import KeyTree, TreeStale, open_tree
from facekeep.store.keysdb import KeysStore


def settle(
    store: KeysStore,
    winner: Candidate,
    providers: Sequence[RootProvider],
    *,
    previous: bytes | None = None,
    leaving: Sequence[RootProvider] = (),
    known: KeyTree | None = None,
    moving: bool = False,
    adopting: bool = False,
) -> tuple[Receipt, ...]:
    """Make the root that opens keys.db the only one with every holder; for recovery too (SPEC §3.5).

    ``previous`` is the fingerprint of the root before, whose destruction is to be receipted again even
    where it is gone already. Copies must be current. Then holders that are ``leaving`` destroy all they have;
    only once another root than theirs opens keys.db. A holder that had neither root was not seen to destroy
    one: ErasurePending, unless it is new while holders are ``moving``, or a person says that it is the one
    (``adopting``). ``known``: see ``open_tree``. Raises ErasurePending, and RootError or IntegrityError with
    nothing done if ``winner`` does not open keys.db.
    """
    open_tree(store, store.vault_id, [winner], known)
    store.require_copies()
    receipts: list[Receipt] = []
    with holders_reached():
        _check_apart(providers, leaving)
        for provider in providers:
            roots = provider.candidates()
            others = {each.fingerprint for each in roots} | ({previous} if previous else set())
            if moving:  # a placeholder's key may be gone, and its record still there
                others.add(root_fingerprint(store.vault_id, placeholder(store.vault_id)))
            _check_droppable(store, roots, winner, keep=None)
            if winner.fingerprint not in others or provider.klass == "recovery":  # which cannot be read back
                hold(store, provider, winner, keep=previous, moving=moving, adopting=adopting)
            receipts.append(provider.promote(winner.fingerprint))
            dropped = [provider.drop(mark) for mark in sorted(others - {winner.fingerprint})]
            receipts += dict.fromkeys(dropped)
        receipts += [provider.abandon() for provider in leaving if previous not in (None, winner.fingerprint)]
    return tuple(receipts)


def _check_apart(providers: Sequence[RootProvider], leaving: Sequence[RootProvider]) -> None:
    """Raise RootError where two holders have come to be one: a link to a file, or one put in its place.

    What one of them destroys would be the root of the other, or what it says it destroyed would be elsewhere.
    """
    seen: set[str] = set()
    for provider in (*providers, *leaving):
        places = provider.places
        if not seen.isdisjoint(places):
            raise RootError(
                f"two of the root holders are one: {provider.identity}",
                next="put the file back that was there; 'facekeep keys show' names the holders",
            )
        seen.update(places)


def hold(
    store: KeysStore,
    provider: RootProvider,
    winner: Candidate,
    *,
    keep: bytes | None,
    moving: bool,
    adopting: bool = False,
) -> None:
    """Have ``winner`` staged and read back; roots that are neither it nor ``keep`` make room.

    A current one that is all a holder has stays until ``settle``: were its dropping cut off, the holder would
    have nothing that opens, which is told from damage by nobody.
    """
    roots = provider.candidates()
    if (
        not adopting and provider.klass != "recovery"
    ):  # which is sealed anew, and named as a limit of every erasure
        _check_known(store.vault_id, provider, roots, {winner.fingerprint, keep}, moving=moving)
    _check_droppable(store, roots, winner, keep=keep)
    strays = [each for each in roots if each.fingerprint not in (winner.fingerprint, keep)]
    if len(strays) == len(roots):
        strays = [each for each in strays if each.state != "current"]
    for each in strays:
        provider.drop(each.fingerprint)
    provider.stage(winner.root)
    provider.confirm(winner)


def _check_known(
    vault_id: bytes,
    provider: RootProvider,
    roots: Sequence[Candidate],
    known: set[bytes | None],
    *,
    moving: bool,
) -> None:
    """Raise RootError for a holder without the root in use; a new one has the placeholder (SPEC §4.1).

    Another stands in its place, or an older copy, and where the root is that it had nobody could say. Beside
    the placeholder a swap that was cut off may have left a staged root.
    """
    marks = {each.fingerprint for each in roots}
    current = {each.fingerprint for each in roots if each.state == "current"}
    new = moving and current == {root_fingerprint(vault_id, placeholder(vault_id))}
    if not new and known.isdisjoint(marks):
        raise RootError(
            f"the {provider.scheme}: holder {provider.identity} does not have the root in use",
            next="put back the one that has it; or accept this one with 'facekeep check --scrub'",
        )


def _check_droppable(
    store: KeysStore, roots: Sequence[Candidate], winner: Candidate, *, keep: bytes | None
) -> None:
    """Raise TreeStale if keys.db stands under a root that would be dropped: another writer has been here."""
    dropped = [each for each in roots if each.fingerprint not in (winner.fingerprint, keep)]
    named = store.read_fingerprints() if dropped else ()
    if not any(each.fingerprint in named for each in dropped):
        return
    try:
        _, current = open_tree(store, store.vault_id, [winner, *roots])
    except (RootError, IntegrityError):
        return  # they open nothing
    if current.fingerprint in {each.fingerprint for each in dropped}:
        raise TreeStale("another process has replaced the root; it is kept")


@contextlib.contextmanager
def holders_reached() -> Iterator[None]:
    """Turn the error of a holder that cannot take part into ErasurePending."""
    try:
        yield
    except (RootError, StoreError, MissingDependency) as error:
        raise ErasurePending(f"a root holder cannot take part: {error}", next=error.next) from error
