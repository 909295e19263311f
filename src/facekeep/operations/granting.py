"""Making grants: allocate slots, log the intent, seal, write, complete (DESIGN: sealing, the log).

Every new key a subject gets comes through ``make_grants``, for one grant or for thousands.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from facekeep.access.core import Core, View
from facekeep.crypto import primitives as p
from facekeep.crypto.many import cut
from facekeep.errors import IntegrityError
from facekeep.formats import entries
from facekeep.formats.grantparts import Element, grant_parts
from facekeep.formats.ids import BRANCH_SLOTS, slot_id, split_slot
from facekeep.formats.terms import Scope
from facekeep.operations.destroy import Destruction, destroy, finish, intent
from facekeep.operations.steps import reached
from facekeep.sealing.many import Place, Plain, places, seal_grants
from facekeep.store.vaultdb import GrantRow

_MANY: Final = 64  # grants from which threads pay
_CHUNK: Final = 512  # grants sealed before the next are written

Templates: TypeAlias = Callable[[], memoryview] | memoryview


class NewGrant(NamedTuple):
    """A grant to be made. ``terms`` are packed, ``templates`` little-endian float32.

    The templates of a grant that is sealed again are given by a function: it opens the old one (slot
    ``source``), and is called after the intent is durable.
    """

    tag: bytes
    model: str
    scope: Scope
    terms: bytes
    record: bytes
    templates: Templates
    source: int | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """One grant operation: what is made, which index rows go with it, which old grants it replaces.

    ``opening``, where it is given, opens the templates of some of the grants together, in order, instead of
    each grant's own function; what it returned before may be overwritten then.
    """

    op: str
    grants: Sequence[NewGrant]
    index_rows: Sequence[tuple[bytes, bytes]] = ()
    retire: Sequence[int] = ()
    retire_op: str = "renew"
    opening: Callable[[Sequence[NewGrant]], Sequence[memoryview]] | None = None

    @property
    def opens(self) -> bool:
        """Whether living grants are opened for it: nothing is sealed then before the intent is durable."""
        return self.opening is not None or any(grant.source is not None for grant in self.grants)


def make_grants(core: Core, view: View, by: str | None, batch: Batch) -> list[GrantRow]:
    """Carry out a grant operation; the writer lock must be held. Returns the new rows in order."""
    slots = allocate(core, view, by, [grant.scope for grant in batch.grants])
    view = core.view()
    keys, alive = view.tree.slot_keys(slots)
    if not alive.all():
        raise IntegrityError("a slot that was never given out is dead")
    where = places(core.sealer, slots, cut(keys.tobytes(), p.KEY_LEN))
    run = _Run(core, by, batch, where)
    first, rows = run.few() if len(where) < _MANY else run.many()
    reached("grant.written")
    _complete(core, by, first, batch)
    return rows


class _Run:
    """The way of one batch to the disk: its intent, its index rows, its rows, in this order."""

    def __init__(self, core: Core, by: str | None, batch: Batch, where: Sequence[Place]) -> None:
        self._core = core
        self._by = by
        self._batch = batch
        self._where = where

    def few(self) -> tuple[int, list[GrantRow]]:
        """Do one after another; returns the index of the intent, and the rows."""
        first = self._announce()
        self._put_index()
        rows = self._seal(0, len(self._where))
        self._core.data.add(rows)
        return first, rows

    def many(self) -> tuple[int, list[GrantRow]]:
        """Do the same while other threads have SQLite work on rows and index rows, without the interpreter.

        What they write is committed, and so in any file, in the same order. Fresh photographs are sealed
        before the intent: in memory that is no effect yet. Living grants are opened after it.
        """
        writes: list[Future[None]] = []
        with self._core.data.adding() as add, ThreadPoolExecutor(1, "facekeep-rows") as writer:
            if self._batch.opens:
                first = self._announce()
                self._put_index()
                rows = self._seal_all(lambda some: writes.append(writer.submit(add, some)))
            else:
                with self._indexing() as announced:
                    rows = self._seal_all(lambda some: writes.append(writer.submit(add, some)))
                    first = self._announce()
                    announced.set_result(first)
            for write in writes:
                write.result()
        return first, rows

    @contextlib.contextmanager
    def _indexing(self) -> Iterator[Future[int]]:
        """Have a thread put the index rows; it commits once the result it is given here is set."""
        announced: Future[int] = Future()
        if not self._batch.index_rows:
            yield announced
            return
        borrowed, keys = self._core.keys.lend(), self._core.keys

        def put() -> None:
            with borrowed():
                keys.index_put_many(self._batch.index_rows, announced.result)

        with ThreadPoolExecutor(1, "facekeep-index") as indexer:
            put_index = indexer.submit(put)
            try:
                yield announced
            finally:
                announced.cancel()  # no effect once the result is set; else nothing is put
            put_index.result()
        reached("grant.indexed")

    def _put_index(self) -> None:
        if self._batch.index_rows:
            self._core.keys.index_put_many(self._batch.index_rows)
            reached("grant.indexed")

    def _announce(self) -> int:
        """Make the intent durable; returns its index."""
        elements = [
            Element(*place[:2], grant.tag, place.commitment, grant.terms, grant.model, grant.source)
            for grant, place in zip(self._batch.grants, self._where, strict=True)
        ]
        parts = grant_parts(self._batch.op, elements, by=self._by, time_ms=self._core.clock.now_ms())
        first = self._core.log.append_parts(parts)[0]
        reached("grant.announced")
        return first

    def _seal_all(self, write: Callable[[list[GrantRow]], None]) -> list[GrantRow]:
        """Seal chunk by chunk, and hand each over to be written."""
        rows: list[GrantRow] = []
        for start in range(0, len(self._where), _CHUNK):
            some = self._seal(start, start + _CHUNK)
            write(some)
            rows += some
        return rows

    def _seal(self, start: int, stop: int) -> list[GrantRow]:
        grants = self._batch.grants[start:stop]
        opening = self._batch.opening
        templates = [_own(grant) for grant in grants] if opening is None else opening(grants)
        plain = [
            Plain(grant.tag, grant.model, grant.terms, grant.record, each)
            for grant, each in zip(grants, templates, strict=True)
        ]
        return seal_grants(self._core.sealer, self._where[start:stop], plain)


def _own(grant: NewGrant) -> memoryview:
    return grant.templates() if callable(grant.templates) else grant.templates


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
