"""The swap carried out: stage, write, verify, promote (SPEC §3.5). The caller holds the writer lock."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

from facekeep.crypto.primitives import compare, random_bytes
from facekeep.errors import IntegrityError, RootError, TreeFull
from facekeep.formats.ids import FANOUT, SLOT_BITS
from facekeep.formats.nodes import EMPTY_PIN, KEY_LEN, Kind, Node, Pin, RootNode, root_fingerprint
from facekeep.keys.holders import held
from facekeep.keys.plan import Rekey, plan, seal_top
from facekeep.keys.provider import Candidate, Receipt, RootProvider
from facekeep.keys.settle import hold, holders_reached, settle
from facekeep.keys.slots import Slots, distinct
from facekeep.keys.tree import KeyTree, TreeStale, open_tree
from facekeep.keys.verify import bounds, key_of, verify_nodes
from facekeep.store.keysdb import KeysStore, SwapRow, SwapWrites, TopRow


class Swap:
    """One swap from ``tree`` to the next epoch. Each step may be repeated; none may be left out.

    ``dead_slots``, ``alloc``, ``take``, ``principals``, ``index_hashes``: see ``plan``. ``witness`` is a
    living slot that must keep its key (the log key). ``on_step`` is told ``before NAME`` and ``after NAME``.
    ``guard`` raises when the writer lock is lost; every step asks it first. ``moving``: see ``settle``.
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
        alloc: Mapping[int, int],
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
        self._alloc = dict(alloc)
        self._witness, self._witness_key = witness, tree.slot_key(witness)
        self._bounds = [(slot, given, key_of(tree, slot)) for slot, given in bounds(tree, alloc)]
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
            whole = self._open_afresh()
            self._plan()  # refuses what cannot be planned before anything is staged
            self._mend_top(whole=whole)
            if self._spent:
                self._winner, self._spent = self._fresh_root(), False
            with holders_reached():
                for provider in self._providers:
                    hold(
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
            self._made, _ = open_tree(self._store, self._tree.vault_id, [self._winner], self._made)
            return self._made

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

    def _open_afresh(self) -> bool:
        """Take the tree that a root still held opens; raises TreeStale if it is not the one given.

        Says whether it is known that both root-node rows of keys.db are the one it was opened from.
        """
        with holders_reached():
            roots = held(self._providers + self._leaving)
        tree, _ = open_tree(self._store, self._tree.vault_id, roots, self._tree)
        if tree.fingerprint != self._tree.fingerprint:
            raise TreeStale("the key tree was swapped by another process")
        known, self._tree = self._tree, tree
        return tree is known

    def _mend_top(self, *, whole: bool) -> None:
        """Have both root-node rows of every file be the row just opened, which the write insists on."""
        row = self._tree.top_row
        if not whole and self._store.read_top() != (row, row):
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
                with holders_reached():
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
            alloc=self._alloc,
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
        self._check_bounds(tree)
        if tree.damage:  # of the root node and of the touched paths: what stood elsewhere is not the swap's
            raise IntegrityError("the swap was not written whole; the old root was kept")
        if not compare(tree.slot_key(self._witness), self._witness_key):
            raise IntegrityError("the swap changed a living slot; the old root was kept")
        if {branch for _, branch, _ in tree.branches()}.intersection(self._drop):
            raise IntegrityError("the swap left a branch that it should end; the old root was kept")
        if self._rekey is not None:
            self._check_rekeyed(store, tree, self._rekey)
        return tree

    def _check_bounds(self, tree: KeyTree) -> None:
        """Of each branch the last slot given out has its key still, and the first of the others has not."""
        for slot, given, before in self._bounds:
            if before is None or slot in self._dead or slot >> SLOT_BITS in self._drop:
                continue
            after = key_of(tree, slot)
            if given is not (after is not None and compare(after, before)):
                raise IntegrityError(
                    "the swap changed a living slot; the old root was kept"
                    if given
                    else "the swap left the key of a slot that was never given out; the old root was kept"
                )

    @staticmethod
    def _check_rekeyed(store: KeysStore, tree: KeyTree, rekey: Rekey) -> None:
        """Open every stored node; each is of this epoch, and the vault's own slots have their new keys."""
        for problem in verify_nodes(tree, store, sealed_in=tree.epoch):
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
