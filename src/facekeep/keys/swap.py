"""The swap carried out: stage, write, verify, promote (SPEC.md §3.5). The caller holds the writer lock."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence

from facekeep.crypto.primitives import compare, random_bytes
from facekeep.errors import (
    ErasurePending,
    IntegrityError,
    MissingDependency,
    RootError,
    StoreError,
    TreeFull,
)
from facekeep.formats.ids import FANOUT, SLOT_BITS
from facekeep.formats.nodes import EMPTY_PIN, KEY_LEN, Kind, Node, Pin, RootNode, root_fingerprint
from facekeep.keys.holders import held
from facekeep.keys.plan import Rekey, plan, seal_top
from facekeep.keys.provider import Candidate, Receipt, RootProvider, placeholder
from facekeep.keys.slots import Slots, distinct
from facekeep.keys.tree import KeyTree, TreeStale, open_tree
from facekeep.keys.verify import verify_tree
from facekeep.store.keysdb import KeysStore, SwapRow, SwapWrites, TopRow

__all__ = ["Swap", "initial", "plan", "settle"]


class Swap:
    """One swap from ``tree`` to the next epoch. Each step may be repeated; none may be left out.

    ``dead_slots``, ``take``, ``principals``, ``index_hashes``: see ``plan``. ``witness`` is a living slot
    that must keep its key (the log key). ``on_step`` is told ``before NAME`` and ``after NAME``. ``guard``
    raises when the writer lock is lost; every step asks it first. ``moving``: see ``settle``.
    Every step raises ErasurePending where a holder or a copy cannot be reached.
    """

    def __init__(
        self,
        store: KeysStore,
        tree: KeyTree,
        providers: Sequence[RootProvider],
        dead_slots: Slots,
        *,
        pin: Pin,
        now_ms: int,
        take: Sequence[int] = (),
        principals: Sequence[int] = (),
        index_hashes: Sequence[bytes] = (),
        witness: int = 0,
        on_step: Callable[[str], None] | None = None,
        guard: Callable[[], None] | None = None,
        leaving: Sequence[RootProvider] = (),
        rekey: Rekey | None = None,
        drop: Sequence[int] = (),
        moving: bool = False,
    ) -> None:
        """Choose the new root; nothing is done yet."""
        self._moving = moving
        self._store, self._tree, self._providers = store, tree, tuple(providers)
        self._leaving, self._rekey, self._drop = tuple(leaving), rekey, tuple(drop)
        self._dead = distinct(dead_slots)
        self._pin, self._now_ms, self._take = pin, now_ms, tuple(take)
        self._principals, self._index_hashes = tuple(principals), tuple(index_hashes)
        self._witness, self._witness_key = witness, tree.slot_key(witness)
        self._on_step = on_step or (lambda _: None)
        self._guard = guard or (lambda: None)
        self._winner = self._fresh_root()
        self._spent = False
        self._made: KeyTree | None = None  # the new epoch, once verified

    @property
    def epoch(self) -> int:
        """The epoch this swap makes."""
        return self._tree.epoch + 1

    @property
    def fingerprint(self) -> bytes:
        """Fingerprint of the root this swap makes current; final once ``write`` has returned."""
        return self._winner.fingerprint

    def run(self) -> tuple[KeyTree, tuple[Receipt, ...]]:
        """All steps in order; returns the new tree and the receipts."""
        self.stage()
        self.write()
        tree = self.verify()
        return tree, self.promote()

    def stage(self) -> None:
        """Have every holder keep the new root beside the current one, and read it back from each."""
        with self._step("stage"):
            self._guard()
            if self._written():
                return
            self._open_afresh()
            self._plan()  # refuses what cannot be planned before anything is staged
            self._mend_top()
            if self._spent:
                self._winner, self._spent = self._fresh_root(), False
            with _holders():
                for provider in self._providers:
                    _hold(
                        self._store,
                        provider,
                        self._winner,
                        keep=self._tree.fingerprint,
                        moving=self._moving,
                    )

    def write(self) -> None:
        """Write the new epoch to keys.db and every copy, in one transaction each."""
        with self._step("write"):
            if self._written():
                return
            if self._spent:
                self.stage()  # a root that was begun with seals nothing else
            self._guard()
            self._spent = True
            self._store.write_swap(self._plan())

    def verify(self) -> KeyTree:
        """Open the new epoch on fresh connections, copies too; returns its tree.

        Every touched path is opened, the dead must be dead and the witness unchanged; else IntegrityError.
        """
        with self._step("verify"):
            self._guard()
            self._store.require_copies()
            for store in self._store.fresh():
                self._made = self._check(store)
            return open_tree(self._store, self._tree.vault_id, [self._winner], self._made)[0]

    def promote(self) -> tuple[Receipt, ...]:
        """Make the new root current with every holder and destroy the old one; returns their receipts."""
        with self._step("promote"):
            self._guard()
            return settle(
                self._store,
                self._winner,
                self._providers,
                previous=self._tree.fingerprint,
                leaving=self._leaving,
                known=self._made,
                moving=self._moving,
            )

    def _open_afresh(self) -> None:
        """Take the tree that a root still held opens; raises TreeStale if it is not the one given."""
        with _holders():
            roots = held(self._providers + self._leaving)
        tree, _ = open_tree(self._store, self._tree.vault_id, roots, self._tree)
        if tree.fingerprint != self._tree.fingerprint:
            raise TreeStale("the key tree was swapped by another process")
        self._tree = tree

    def _mend_top(self) -> None:
        """Have both root-node rows of every file be the row just opened, which the write insists on."""
        row = self._tree.top_row
        if self._store.read_top() != (row, row):
            self._store.mend_top(row)
        self._store.require_copies()
        if any(copy.read_top() != (row, row) for copy in self._store.fresh_copies()):
            self._store.mend_top(row)
            self._store.require_copies()

    def _still_staged(self, rows: Iterator[SwapRow]) -> Iterator[SwapRow]:
        """Pass the rows on; before the root node goes in, every holder must still have its root."""
        for row in rows:
            if isinstance(row, TopRow):
                self._guard()
                with _holders():
                    for provider in self._providers:
                        provider.confirm(self._winner)
            yield row

    def _plan(self) -> SwapWrites:
        writes = plan(
            self._tree,
            self._dead,
            new_root=self._winner.root,
            pin=self._pin,
            now_ms=self._now_ms,
            take=self._take,
            principals=self._principals,
            index_hashes=self._index_hashes,
            rekey=self._rekey,
            drop=self._drop,
        )
        return dataclasses.replace(writes, rows=self._still_staged(writes.rows))

    def _check(self, store: KeysStore) -> KeyTree:
        tree, _ = open_tree(store, self._tree.vault_id, [self._winner])
        if tree.epoch != self.epoch or bool(tree.alive(self._dead).any()):
            raise IntegrityError("the swap did not destroy what it should; the old root was kept")
        if not compare(tree.slot_key(self._witness), self._witness_key):
            raise IntegrityError("the swap changed a living slot; the old root was kept")
        if {branch for _, branch, _ in tree.branches()}.intersection(self._drop):
            raise IntegrityError("the swap left a branch that it should end; the old root was kept")
        if self._rekey is not None:
            self._check_rekeyed(store, tree, self._rekey)
        twins = [store.read_node(branch, 1, 0) for branch in distinct(self._dead >> SLOT_BITS).tolist()]
        if tree.damage or any(first != second for first, second in twins):
            raise IntegrityError("the swap was not written whole; the old root was kept")
        return tree

    @staticmethod
    def _check_rekeyed(store: KeysStore, tree: KeyTree, rekey: Rekey) -> None:
        """Open every stored node; each is of this epoch, and the vault's own slots have their new keys."""
        for problem in verify_tree(tree, store, sealed_in=tree.epoch):
            raise IntegrityError(f"the tree was not re-keyed whole, the old root was kept: {problem}")
        for slot, key in rekey.fresh.items():
            if not compare(tree.slot_key(slot), key):
                raise IntegrityError("a slot did not get its new key; the old root was kept")

    def _written(self) -> bool:
        """Whether the new epoch stands in keys.db: its root, once it has sealed anything, opens it."""
        if not self._spent:
            return False
        try:
            open_tree(self._store, self._tree.vault_id, [self._winner])
        except (RootError, IntegrityError):
            return False
        return True

    def _fresh_root(self) -> Candidate:
        root = random_bytes(KEY_LEN)
        return Candidate(root_fingerprint(self._tree.vault_id, root), "staged", root)

    @contextlib.contextmanager
    def _step(self, name: str) -> Iterator[None]:
        self._on_step(f"before {name}")
        yield
        self._on_step(f"after {name}")


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
    """Make the root that opens keys.db the only one with every holder; for recovery too (SPEC.md §3.5).

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
    with _holders():
        _check_apart(providers, leaving)
        for provider in providers:
            roots = provider.candidates()
            others = {each.fingerprint for each in roots} | ({previous} if previous else set())
            if moving:  # a placeholder's key may be gone, and its record still there
                others.add(root_fingerprint(store.vault_id, placeholder(store.vault_id)))
            _check_droppable(store, roots, winner, keep=None)
            if winner.fingerprint not in others or provider.klass == "recovery":  # which cannot be read back
                _hold(store, provider, winner, keep=previous, moving=moving, adopting=adopting)
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
        if not seen.isdisjoint(provider.places):
            raise RootError(
                f"two of the root holders are one: {provider.identity}",
                next="put the file back that was there; 'facekeep keys show' names the holders",
            )
        seen.update(provider.places)


def _hold(
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
    """Raise RootError for a holder without the root in use; a new one has the placeholder (SPEC.md §4.1).

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
    named = set(store.read_fingerprints())
    dropped = [each for each in roots if each.fingerprint not in (winner.fingerprint, keep)]
    if not any(each.fingerprint in named for each in dropped):
        return
    try:
        _, current = open_tree(store, store.vault_id, [winner, *roots])
    except (RootError, IntegrityError):
        return  # they open nothing
    if current.fingerprint in {each.fingerprint for each in dropped}:
        raise TreeStale("another process has replaced the root; it is kept")


@contextlib.contextmanager
def _holders() -> Iterator[None]:
    try:
        yield
    except (RootError, StoreError, MissingDependency) as error:
        raise ErasurePending(f"a root holder cannot take part: {error}", next=error.next) from error


def initial(
    store: KeysStore, vault_id: bytes, root: bytes, now_ms: int, kinds: Sequence[int], pin: Pin = EMPTY_PIN
) -> KeyTree:
    """Write epoch 1: branch 0 for the system, then one branch for each of ``kinds``; make the copies.

    Raises IntegrityError if keys.db has an epoch already, TreeFull for more than 119 kinds.
    """
    taken = [(branch, Kind(kind)) for branch, kind in enumerate((Kind.SYSTEM, *kinds))]
    if len(taken) > FANOUT:
        raise TreeFull("the key tree has no free branch position")
    positions = (*taken, *[(0, Kind.FREE)] * (FANOUT - len(taken)))
    node = RootNode(Node(random_bytes(FANOUT * KEY_LEN)), positions, len(taken), 1, pin, now_ms)
    store.resync_copies()
    store.write_swap(SwapWrites(None, iter([seal_top(vault_id, root, node)])))
    return open_tree(store, vault_id, [Candidate(root_fingerprint(vault_id, root), "current", root)])[0]
