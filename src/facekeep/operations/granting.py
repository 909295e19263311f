"""Making grants: allocate slots, log the intent, seal, write, complete (DESIGN: sealing, the log).

Every new key a subject gets comes through ``make_grants``, for one grant or for thousands.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Final, NamedTuple, ParamSpec, TypeAlias

from facekeep.access.core import Core, View
from facekeep.auditlog.group import ControlMoved
from facekeep.crypto import primitives as p
from facekeep.crypto.many import cut
from facekeep.errors import Busy, IntegrityError
from facekeep.formats import entries
from facekeep.formats.grantparts import Element, grant_parts
from facekeep.formats.terms import Scope
from facekeep.operations.allocation import allocate
from facekeep.operations.destroy import Destruction, finish, intent
from facekeep.operations.steps import reached
from facekeep.sealing.many import Place, Plain, places, seal_grants
from facekeep.store.vaultdb import GrantRow

ATTEMPTS: Final = 64  # at something that others keep changing
_MANY: Final = 64  # grants from which threads pay
_CHUNK: Final = 256  # grants sealed before the next are written

_P = ParamSpec("_P")
Templates: TypeAlias = Callable[[], memoryview] | memoryview


class NewGrant(NamedTuple):
    """A grant to be made: ``terms`` are packed, ``templates`` little-endian float32.

    The templates of a grant that is sealed again are given by a function: it opens the old one (slot
    ``source``), and is called after the intent is durable.
    """

    handle: bytes
    tag: bytes
    model: str
    scope: Scope
    terms: bytes
    record: bytes
    templates: Templates
    source: int | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """One grant operation: what is made, which index rows go with it, which old grants it replaces."""

    op: str
    grants: Sequence[NewGrant]
    index_rows: Sequence[tuple[bytes, bytes]] = ()
    retire: Sequence[int] = ()
    retire_op: str = "renew"

    @property
    def opens(self) -> bool:
        """Whether living grants are opened for it, which takes keys from the tree in keys.db."""
        return any(grant.source is not None for grant in self.grants)


def make_grants(
    core: Core,
    view: View,
    by: str | None,
    batch: Batch,
    meanwhile: Callable[[Sequence[Place]], None] = lambda _: None,
) -> None:
    """Carry out a grant operation; the writer lock must be held. On return it is durable and complete.

    Raises ControlMoved, with nothing done, where the log has moved since ``view``, in which it was prepared.
    ``meanwhile`` is told the grants' places, in order, while the disk is busy with them.
    """
    slots, control_seq = allocate(core, view, by, [grant.scope for grant in batch.grants])
    view = core.view()
    keys, alive = view.tree.slot_keys(slots)
    if not alive.all():
        raise IntegrityError("a slot that was never given out is dead")
    handles = [grant.handle for grant in batch.grants]
    where = places(core.sealer, slots, cut(keys.tobytes(), p.KEY_LEN), handles)
    run = _Run(core, by, batch, where, control_seq)
    if len(where) < _MANY:
        first = run.few()
        meanwhile(where)
    else:
        first = run.many(meanwhile)
    reached("grant.written")
    complete(core, by, first, batch.retire, batch.retire_op)


class _Run:
    """The way of one batch to the disk: its intent, its index rows, its rows, in this order."""

    def __init__(
        self, core: Core, by: str | None, batch: Batch, where: Sequence[Place], control_seq: int
    ) -> None:
        self._core = core
        self._control_seq = control_seq
        self._by = by
        self._batch = batch
        self._where = where

    def few(self) -> int:
        """Do one after another; returns the index of the intent."""
        first = self._announce()
        self._put_index(lambda: None)
        self._core.data.add(self._seal(0, len(self._where)))
        return first

    def many(self, meanwhile: Callable[[Sequence[Place]], None]) -> int:
        """Do the same with two more threads, in which SQLite works without the interpreter's lock.

        What they write is committed, and so in any file, in the order above.
        """
        announced: Future[int] = Future()
        committing: Future[None] = Future()
        sealed: SimpleQueue[list[GrantRow] | None] = SimpleQueue()
        write = lent(self._core.data.database.lend(), self._write)
        with ThreadPoolExecutor(2, "facekeep-grants") as pool:
            try:
                indexed = pool.submit(self._put_index, announced.result)
                written = pool.submit(write, sealed, indexed, committing)
                announced.set_result(self._announce())
                if self._batch.opens:
                    indexed.result()  # this thread needs keys.db to open what the intent names
                self._seal_all(sealed)
            except BaseException:
                announced.cancel()
                sealed.put(None)
                raise
            sealed.put([])
            wait((committing, written), return_when=FIRST_COMPLETED)
            meanwhile(self._where)
            indexed.result()
            written.result()
        return announced.result()

    def _put_index(self, ready: Callable[[], object]) -> None:
        """Put the index rows; they are committed after ``ready``."""
        if self._batch.index_rows:
            self._core.keys.index_put_many(self._batch.index_rows, ready)
            reached("grant.indexed")

    def _write(
        self,
        sealed: SimpleQueue[list[GrantRow] | None],
        indexed: Future[None],
        committing: Future[None],
    ) -> None:
        """Write rows as they come, and commit them after the index rows; [] is the end, None gives up."""
        with self._core.data.adding() as add:
            while rows := sealed.get():
                add(rows)
            if rows is None:
                raise CancelledError
            indexed.result()
            committing.set_result(None)

    def _announce(self) -> int:
        """Make the intent durable; returns its index."""
        elements = [
            Element(*place[:2], grant.tag, place.commitment, grant.terms, grant.model, grant.source)
            for grant, place in zip(self._batch.grants, self._where, strict=True)
        ]
        parts = grant_parts(self._batch.op, elements, by=self._by, time_ms=self._core.clock.now_ms())
        first = self._core.log.append_parts(parts, self._control_seq)[0]
        reached("grant.announced")
        return first

    def _seal_all(self, sealed: SimpleQueue[list[GrantRow] | None]) -> None:
        """Seal chunk by chunk; between two of them the others may have the interpreter for a statement."""
        for start in range(0, len(self._where), _CHUNK):
            sealed.put(self._seal(start, start + _CHUNK))
            time.sleep(0)  # gives up the interpreter's lock, for which they would wait 5 ms

    def _seal(self, start: int, stop: int) -> list[GrantRow]:
        grants = self._batch.grants[start:stop]
        plain = [Plain(grant.tag, grant.model, grant.terms, grant.record, _own(grant)) for grant in grants]
        return seal_grants(self._core.sealer, self._where[start:stop], plain)


def lent(
    borrowed: Callable[[], contextlib.AbstractContextManager[None]], work: Callable[_P, None]
) -> Callable[_P, None]:
    """Have ``work`` use the connection that the calling thread lends."""

    def done(*args: _P.args, **kwargs: _P.kwargs) -> None:
        with borrowed():
            work(*args, **kwargs)

    return done


def _own(grant: NewGrant) -> memoryview:
    return grant.templates() if callable(grant.templates) else grant.templates


def complete(
    core: Core,
    by: str | None,
    first: int,
    retire: Sequence[int],
    retire_op: str,
    *,
    rows_stay: bool = False,
) -> None:
    """Complete, and in the same transaction announce the end of what is replaced.

    An erasure may have been announced meanwhile: what it names is its own to end (SPEC §11 R15).
    With ``rows_stay`` the caller deletes the rows of what is replaced, later.
    """
    for _ in range(ATTEMPTS):
        view = core.view()
        staying = [slot for slot in retire if not view.pending.destroying(slot)]
        what = Destruction(retire_op, staying, rows_stay=rows_stay)
        closing = [entries.granted(first, by=by, time_ms=core.clock.now_ms())]
        with contextlib.suppress(ControlMoved):
            ending = intent(core, by, what) if staying else []
            indices = core.log.append(closing + ending, view.head.control_seq)
            break
    else:
        raise Busy("the vault is changed all the time; the next command finishes what was begun")
    reached("grant.completed")
    if staying:
        finish(core, by, indices[1], what)
