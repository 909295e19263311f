"""The open vault: its files, its key tree, and one consistent view of both (internal).

Everything above takes a ``Core``; nobody else holds stores, keys or the log.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from facekeep.access.owners import Owners
from facekeep.access.steadyclock import SteadyClock
from facekeep.access.watcher import Watcher
from facekeep.auditlog.head import Head
from facekeep.auditlog.ledger import Ledger
from facekeep.auditlog.log import AuditLog
from facekeep.auditlog.pending import Pending
from facekeep.auditlog.prints import entry_print, grant_prints
from facekeep.errors import FacekeepError, IntegrityError, RootError, SettingsChanged
from facekeep.formats.columns import each_row
from facekeep.formats.ids import LEVEL2_SPAN, SLOT_BITS, slot_id
from facekeep.formats.nodes import Kind
from facekeep.formats.settings import Settings
from facekeep.formats.terms import Terms
from facekeep.keys.holders import ask
from facekeep.keys.index import SubjectIndex
from facekeep.keys.provider import RootProvider
from facekeep.keys.secrets import Secrets
from facekeep.keys.tree import KeyTree, TreeStale, open_tree
from facekeep.limits import LIMITS
from facekeep.sealing.handles import Handles
from facekeep.sealing.permit import Permit
from facekeep.sealing.sealer import Sealer
from facekeep.store.keysdb import KeysStore
from facekeep.store.lock import WriterLock
from facekeep.store.sealedrows import SealedRows
from facekeep.store.vaultdb import GrantRow, VaultStore

T = TypeVar("T")
LOG_KEY_SLOT = slot_id(0, 0)
INDEX_KEY_SLOT = slot_id(0, 1)
HANDLE_KEY_SLOT = slot_id(0, 3)
FIRST_PRINCIPAL_INDEX = LEVEL2_SPAN  # their nodes are not on the way to the vault's own keys
_REMEMBERED = 8_192  # subjects whose sealed rows are kept: about ten megabytes
_SWAPS_FOLLOWED = 8  # times that tree and head are read again while another process swaps


def is_tree_of(tree: KeyTree, head: Head) -> bool:
    """Whether a tree is the one that the log's last completed swap made, or that of a swap still open.

    Each open destruction may have made its swap already, and none other may have.
    """
    if tree.epoch == head.epoch:
        return tree.fingerprint == head.fingerprint
    return 0 < tree.epoch - head.epoch <= sum(each.type == "destroy" for each in head.open)


def _stay() -> None:
    """Leave it to the caller."""


class Proven(NamedTuple):
    """A row that is the one the log gave its slot to, its terms, and the permit while they hold."""

    row: GrantRow
    terms: Terms
    permit: Permit


@dataclass(frozen=True, slots=True)
class View:
    """One state of the vault: the log's head, the tree of that epoch, what is pending."""

    head: Head
    tree: KeyTree
    pending: Pending
    kinds: Mapping[int, int]
    found: dict[bytes, tuple[bytes, list[GrantRow]]] = field(repr=False)  # tag and rows of subjects looked up
    proven: dict[int, Proven] = field(repr=False)  # by slot, of rows in ``found``

    def branches_of(self, kind: int) -> list[int]:
        """Branch numbers of a kind, ascending."""
        return sorted(branch for branch, each in self.kinds.items() if each == kind)

    def kind_of(self, slot: int) -> int:
        """Kind of the branch a slot belongs to, 0 when it has none."""
        return self.kinds.get(slot >> SLOT_BITS, 0)

    def spans(self) -> list[tuple[int, int]]:
        """(first, end) of the slots of each branch of a scope that were given out."""
        alloc = self.head.alloc
        return [
            (branch << SLOT_BITS, (branch << SLOT_BITS) + alloc.get(branch, 0))
            for branch, kind in self.kinds.items()
            if kind != Kind.SYSTEM
        ]

    def principal_slots(self) -> tuple[int, int]:
        """(first, end) of the slots of principals that were given out."""
        return FIRST_PRINCIPAL_INDEX, self.head.alloc.get(0, 0)

    def was_given_out(self, slot: int) -> bool:
        """Whether the log ever gave a slot to a subject: nothing else can have a row."""
        branch, index = slot >> SLOT_BITS, slot & (1 << SLOT_BITS) - 1
        return branch != 0 and index < self.head.alloc.get(branch, 0)

    def given_out(self, slot: int) -> bool:
        """``was_given_out``, in a branch that still stands."""
        return self.was_given_out(slot) and self.kinds.get(slot >> SLOT_BITS, Kind.SYSTEM) != Kind.SYSTEM


class Finished(NamedTuple):
    """What recovery here has brought to its end: log index, what it was, its slots, tags and index rows.

    ``op`` is that of a destruction, ``grant`` or ``principal``; ``void`` for one of these that was undone.
    """

    first: int
    op: str
    slots: frozenset[int]
    tags: frozenset[bytes] = frozenset()
    hashes: frozenset[bytes] = frozenset()


class Core:
    """Open files of one vault. Made by ``operations.opening``; thread-safe."""

    def __init__(
        self,
        path: Path,
        settings: Settings,
        data: VaultStore,
        keys: KeysStore,
        log: AuditLog,
        tree: KeyTree,
        providers: Sequence[RootProvider],
        leaving: Sequence[RootProvider],
        secrets: Secrets,
        clock: SteadyClock,
    ) -> None:
        """Keep what was opened."""
        self.path = path
        self.settings = settings
        self._settings_digest = settings.digest()
        self.vault_id = settings.vault_id
        self.data = data
        self.keys = keys
        self.log = log
        self.providers = tuple(providers)
        self.leaving = tuple(leaving)
        self.readers = self.providers + self.leaving  # a holder that leaves has the root until the next swap
        self.secrets = secrets
        self.clock = clock
        self.sealer = Sealer.of(self.vault_id)
        self.index = SubjectIndex(keys, self.vault_id, tree.slot_key(INDEX_KEY_SLOT))
        self.handles = Handles(self.vault_id, tree.slot_key(HANDLE_KEY_SLOT))
        self.lock = WriterLock(path / "vault.lock")
        self.ledger = Ledger(log)
        self.owners = Owners(self.ledger, self.sealer)
        self._logged: dict[int, bytes] = {}
        self.finished: list[Finished] = []  # since it was opened, or last told; the writer's
        self._tree = tree
        self._tree_is_doubted = False
        self._named = frozenset((tree.fingerprint,))  # roots in keys.db, when the tree in use was read there
        self.is_settled = False  # every holder answered, with the present root and no other, when last asked
        self._state: View | None = None
        self._refresh = threading.Lock()
        self.impaired: FacekeepError | None = None  # why it only denies (``erases_only``, ``admission``)
        self.scratch = contextlib.ExitStack()  # left when it is closed
        self._lost_at = -1  # control entries of the log that the watcher could not follow
        self.watcher: Watcher[Core] = Watcher(self)
        self.reopen: Callable[[], None] = _stay  # under other settings; whoever keeps the vault open sets it
        log.guard(self._unobjected)
        log.limit(settings.matching)

    def erases_only(self, why: FacekeepError) -> None:
        """Have erasures announced and nothing else: the vault does not open as a whole."""
        self.impaired = why
        self._settings_digest = self.log.head().settings

    def require_whole(self) -> None:
        """Raise why nothing can be done but to deny, where that is so: the watcher may change it."""
        why = self.impaired
        if why is not None:
            raise why

    def view(self) -> View:
        """Return the present state; raises when a file was replaced, altered or rolled back."""
        head = self.log.head()
        state = self._state
        if state is None or state.head.control_seq != head.control_seq:
            return self._renew(head)
        if state.head is head:
            return state
        return View(head, state.tree, state.pending, state.kinds, state.found, state.proven)

    @property
    def epoch(self) -> int:
        """Epoch of the tree in use; ``view`` makes sure that it is the present one."""
        return self._tree.epoch

    def recent_view(self) -> View:
        """Return the state last seen, without reading the log: for a decision's first attempt.

        The append compares ``control_seq`` and refuses what was decided on an older state.
        """
        return self._state or self.view()

    def lookup(self, view: View, subject: bytes) -> tuple[bytes | None, list[GrantRow]]:
        """Tag and rows of a subject id's UTF-8; remembered until the vault's state moves.

        What is remembered is no answer yet: the append looks at the files again, for everybody in it.
        """
        known = view.found.get(subject)
        if known is not None:
            return known
        self.check_files()
        handle = self.handles.of(subject)
        tag, tree = self.index.lookup(handle), view.tree
        while tag is None and not tree.is_current():  # the index may have another key since
            self.forget_tree()
            tree, before = self.view().tree, tree
            tag = self.index.lookup(handle)
            if tree.fingerprint == before.fingerprint:
                break
        if tag is None:
            return None, []
        rows = self.rows_of(view, tag)
        if len(view.found) >= _REMEMBERED:
            view.found.clear()
            view.proven.clear()
        view.found[subject] = (tag, rows)
        return tag, rows

    def rows_of(self, view: View, tag: bytes) -> list[GrantRow]:
        """Rows of a subject tag in slots that were given out, by slot; what else stands there costs nothing.

        An index of vault.db may lead to a row of somebody else: that is none of them.

        Of more than ``LIMITS.rows_at_gate`` those that live come first: nobody has as many.
        """
        slots = self.data.slots_of(tag, view.spans(), LIMITS.rows_of_subject)
        if len(slots) > LIMITS.rows_at_gate:
            alive = view.tree.alive(slots) & ~view.pending.mask(np.array(slots, np.int64))
            ranked = sorted(zip(alive.tolist(), slots, strict=True), reverse=True)
            slots = [slot for _, slot in ranked[: LIMITS.rows_at_gate]]
        return [row for row in self.data.by_slots(slots) if row.tag == tag]

    def check_files(self) -> None:
        """Raise IntegrityError if vault.db or keys.db was removed or replaced."""
        self.data.database.check_identity()
        self.keys.check_identity()

    def _unobjected(self) -> None:
        """``check_files``, and doubt the tree if anybody has swapped: for the append of a decision.

        Asks no holder: the writer of the log waits for it. The next view does. Without a state another thread
        has found the tree doubtful, and may have looked away again from what made it so.
        """
        self.check_files()
        if self._state is None or self._is_overtaken():
            self._state, self._tree_is_doubted = None, True
            raise IntegrityError("the key tree was swapped")

    def _is_overtaken(self) -> bool:
        """Whether keys.db, or a holder's file, is not what it was when the tree in use was read.

        The log alone does not tell a swap: its files may have been put back as they were before it.
        """
        return self._names() != self._named or any(each.is_touched() for each in self.readers)

    def is_past(self, view: View) -> bool:
        """Whether somebody has swapped since a view was taken, which then is no reason to refuse anybody."""
        if self._is_overtaken():
            self.forget_tree()
            return True
        return view.tree.fingerprint != self._tree.fingerprint

    def _names(self) -> frozenset[bytes]:
        return frozenset(self.keys.read_fingerprints())

    def logged(self, slot: int) -> bytes | None:
        """Print (``auditlog.ledger``) of the grant or principal that the log gave a slot to, or None.

        What the log says of a slot never changes, so it outlives a view. It is taken from all control
        entries, which lead to the head: an entry by itself may be of a history that was rolled back (SPEC
        §6.3). Where they cannot be read the entry itself will do, for erasures and repairs alone.
        """
        known = self._logged.get(slot)
        if known is not None:
            return known
        try:
            mark = self.ledger.print_of(slot)
        except IntegrityError as error:
            self.impaired = self.impaired or error
            found = self.log.entry_of_slot(slot)
            return None if found is None else entry_print(found[1], slot)
        if mark is not None:
            if len(self._logged) >= _REMEMBERED:
                self._logged.clear()
            self._logged[slot] = mark
        return mark

    def are_logged(self, rows: SealedRows) -> npt.NDArray[np.bool_]:
        """Mask of the rows that are what the log gave their slots to; for many, it reads the whole log once.

        Compared are grant id, subject tag, terms, model and commitment.
        """
        prints = self.ledger.prints(rows.slots)
        own = b"".join(grant_prints(each_row(rows.heads), rows.models))
        return np.asarray((np.frombuffer(own, np.uint8).reshape(prints.shape) == prints).all(axis=1))

    def _renew(self, head: Head) -> View:
        self.data.database.check_identity()
        with self._refresh:
            self._state = None  # nothing is decided by the one before, should this fail
            self._check_settings(head)  # first: the holders that are known here may be gone since
            head = self._head_and_tree(head)
            self._check_settings(head)
            kinds = {branch: int(kind) for _, branch, kind in self._tree.branches()}
            self._state = View(head, self._tree, self.log.pending(head), kinds, {}, {})
            return self._state

    def _check_settings(self, head: Head) -> None:
        if head.settings != self._settings_digest:
            raise SettingsChanged("the vault's settings were changed since it was opened here")

    def missing(self, view: View) -> npt.NDArray[np.int64]:
        """Slots of living, completed grants that have no row in vault.db, ascending."""
        granted = self.ledger.all_slots()
        granted = granted[view.tree.alive(granted) & ~view.pending.mask(granted)]
        return np.setdiff1d(granted, self.data.slot_array(), assume_unique=True)

    def _head_and_tree(self, head: Head) -> Head:
        """Return the log's head, with the tree that belongs to it in ``_tree``; raises IntegrityError.

        The head is authenticated, and so is a tree that a held root has just opened; a column of keys.db that
        names the root is not. Where they differ, another process may be swapping: both are read again.
        """
        lost: RootError | TreeStale | None = None
        for _ in range(_SWAPS_FOLLOWED):
            if not self._tree_is_doubted and is_tree_of(self._tree, head):
                return head
            named = self._names()
            try:
                asked = ask(self.readers)
                roots = asked.roots()
            except FacekeepError:
                known = is_tree_of(self._tree, head) and self._tree.fingerprint in named
                if known and not self._tree.is_forgotten:
                    self._named = named
                    return head  # no holder is within reach: the tree is the vault's all the same
                raise
            try:
                tree = open_tree(self.keys, self.vault_id, roots, self._tree)[0]
                self._check_own(tree)
                self._adopt(tree)
            except RootError as error:  # the roots were fetched before a swap, keys.db read after it
                lost = asked.unopened(error)
            except TreeStale as error:
                lost = error
            else:
                lost, self._tree_is_doubted, self._named = None, False, named
                self.is_settled = asked.settled(self.providers, tree.fingerprint)
                head = self.log.head()
                if is_tree_of(self._tree, head):
                    return head
            head = self.log.head()
        raise lost or IntegrityError(
            "the key tree is not the one the log's last swap made",
            next="stop every process; put the newest copy of log.db back and run 'facekeep check'",
        )

    def _check_own(self, tree: KeyTree) -> None:
        """Raise IntegrityError for a tree with another log key, which somebody made (SPEC §3.5)."""
        if tree is not self._tree and not self.log.is_under(tree.slot_key(LOG_KEY_SLOT)):
            raise IntegrityError(
                "keys.db has a root node that is not this vault's, under a root that a holder was given",
                next="put keys.db and the root holder back as they were, then run 'facekeep check'",
            )

    def _adopt(self, tree: KeyTree) -> None:
        """Use a tree from now on, and the subject index under its key, which a re-keyed tree has replaced."""
        key = tree.slot_key(INDEX_KEY_SLOT)
        self._tree = tree
        if not self.index.is_under(key):
            self.index = SubjectIndex(self.keys, self.vault_id, key)

    def forget_tree(self, newer: KeyTree | None = None) -> None:
        """Have the next view fetch the root and open the tree again.

        ``newer`` was opened meanwhile: if it is the one that the root opens, it need not be decrypted again.
        """
        with self._refresh:
            self._tree = newer or self._tree
            self._tree_is_doubted, self.is_settled = True, False
            self._state = None

    def slot_key(self, view: View, slot: int) -> bytes:
        """Key of a living slot; follows swaps that another process makes meanwhile."""
        return self._followed(view, lambda tree: tree.slot_key(slot))

    def slot_keys(
        self, view: View, slots: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        """Keys of many slots, and whether they live (``KeyTree.slot_keys``); follows swaps, too."""
        return self._followed(view, lambda tree: tree.slot_keys(slots))

    def _followed(self, view: View, read: Callable[[KeyTree], T]) -> T:
        """Read from a view's tree, or from the one that has taken its place; one that did not is damaged."""
        tree = view.tree
        while True:
            try:
                return read(tree)
            except IntegrityError:
                self.forget_tree()
                tree, before = self.view().tree, tree
                if tree.fingerprint == before.fingerprint:
                    raise

    def follow_log(self) -> None:
        """Have nothing in memory that the log has destroyed; for the watcher, raises nothing.

        A writer in this process has a state of its own, and follows by itself.
        """
        try:
            if self.lock.still_held():
                return
            if self._is_overtaken():
                self.forget_tree()
            seq, state = self.log.head().control_seq, self._state
            if seq != self._lost_at and (state is None or state.head.control_seq != seq):
                self.view()
        except Exception:  # noqa: BLE001 - what cannot be followed is forgotten
            self._forget_keys()

    def _forget_keys(self) -> None:
        with contextlib.suppress(Exception), self._refresh:
            self._state, self._tree_is_doubted = None, True
            with contextlib.suppress(FacekeepError):
                head = self.log.head()
                self._lost_at = head.control_seq
                if is_tree_of(self._tree, head) and self._tree.fingerprint in self._names():
                    return
            self._tree = self._tree.forgotten()

    def close(self) -> None:
        """Close every file."""
        self.watcher.close()
        for store in (self.data.database, self.keys, self.log):
            store.close()
        self.scratch.close()
