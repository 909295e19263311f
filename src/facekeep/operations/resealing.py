"""Thousands of grants sealed again in one operation, as columns: what a rotation of templates is made of.

Rows are read ahead in a thread of their own and believed for nothing: what the log says of their slots, their
keys and their records decide. While SQLite writes one batch, in a second thread, the records of the next are
opened. Templates are opened only when the intent that names them is durable, one grant's at a time, in locked
memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Final

import numpy as np
import numpy.typing as npt

from facekeep.access.core import Core, View
from facekeep.access.gate import permit_reseal
from facekeep.crypto.memory import LockedBuffer
from facekeep.errors import FormatError, IntegrityError
from facekeep.formats.columns import each_row
from facekeep.formats.grantparts import Columns, grant_columns
from facekeep.formats.ids import GRANT_ID_LEN, LEVEL2_SPAN, TAG_LEN
from facekeep.formats.terms import DIGEST_LEN, TERMS_LEN, Scope, Terms
from facekeep.operations.allocation import allocate
from facekeep.operations.granting import complete, lent
from facekeep.operations.steps import reached
from facekeep.sealing.again import Places, Sound, fresh_places, open_sound, packed, seal_again
from facekeep.store.bulk import Column
from facekeep.store.sealedrows import IDENTITY_LEN, SealedRows, WholeRows, ahead, gathered

BATCH: Final = (
    LEVEL2_SPAN  # slots: where all of them die, one node of the tree is dropped, and no leaf opened
)
_CHUNK: Final = 512  # grants sealed before they are written
_CUTS: Final = (
    GRANT_ID_LEN,
    GRANT_ID_LEN + TAG_LEN,
    IDENTITY_LEN,
)  # of a head: grant id, tag, terms, commitment

Selected = Callable[[SealedRows], npt.NDArray[np.bool_]]


class Source:
    """Living rows of some slots, batch by batch, each with its record opened; used under the writer lock."""

    def __init__(self, core: Core, spans: list[tuple[int, int]], selected: Selected) -> None:
        """Read rows of ``spans``, (first, end) slots; ``selected`` says which of them are meant."""
        self._core = core
        self._selected = selected
        self._coming = ahead(gathered(self._rows(spans), BATCH))

    def close(self) -> None:
        """Read no further."""
        self._coming.close()

    def next(self, view: View) -> Sound | None:
        """Return the next batch, which is never empty; None at the end. No template is opened."""
        for whole in self._coming:
            found = self._sound(view, whole)
            if len(found):
                return found
        return None

    def living(self, view: View, found: Sound) -> Sound:
        """Leave out what may not be opened any more: destroyed, announced to be, or lapsed since."""
        return found.only(_usable(view, found.rows, self._core.clock.now_ms()))

    def _rows(self, spans: list[tuple[int, int]]) -> Iterator[WholeRows]:
        for low, high in spans:
            yield from self._core.data.whole_rows(low, high, BATCH)

    def _sound(self, view: View, whole: WholeRows) -> Sound:
        """Open the records of rows that are the log's; an altered row stays as it is."""
        rows = whole.rows
        mask = self._selected(rows) & _usable(view, rows, self._core.clock.now_ms())
        whole = whole.only(mask)
        whole = whole.only(self._core.are_logged(whole.rows))
        keys, _ = view.tree.slot_keys(whole.rows.slots)
        return open_sound(self._core.sealer, whole, keys)


def _usable(view: View, rows: SealedRows, now_ms: int) -> npt.NDArray[np.bool_]:
    """Mask of grants that may be sealed again: living, not pending, their terms in order and not lapsed."""
    living = view.tree.alive(rows.slots) & ~view.pending.mask(rows.slots)
    unexpired = packed(rows)["expires_at_ms"] > now_ms
    shared = (
        list(each_row(np.ascontiguousarray(rows.terms[:, : TERMS_LEN - DIGEST_LEN]))) if len(rows) else []
    )
    wrong = {each for each in set(shared) if not _is_sound(each)}
    orderly = np.array([each not in wrong for each in shared], np.bool_) if wrong else True
    return np.asarray(living & unexpired & orderly)


def _is_sound(shared: bytes) -> bool:
    try:
        Terms.unpack(shared + bytes(DIGEST_LEN))
    except FormatError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Hand:
    """Who re-seals where: the open vault and the principal that the log names."""

    core: Core
    by: str


def reseal(
    hand: Hand, view: View, sound: Sound, dead: npt.NDArray[np.int64], meanwhile: Callable[[View], object]
) -> None:
    """Seal grants again under new slots and destroy the old ones; the writer lock must be held.

    On return it is durable and complete, but for the rows of the old slots: they go with the next batch, as
    those of ``dead`` go with this one. ``meanwhile`` is called while the disk is busy. Raises ControlMoved,
    with nothing done, where the log has moved since ``view``.
    """
    core = hand.core
    fresh, control_seq = allocate(core, view, hand.by, _scopes(sound.rows))
    slots = np.array(fresh, np.int64)
    view = core.view()
    keys, alive = view.tree.slot_keys(slots)
    if not alive.all():
        raise IntegrityError("a slot that was never given out is dead")
    old_keys, _ = view.tree.slot_keys(sound.rows.slots)
    where = fresh_places(core.sealer, sound.rows, old_keys, slots, keys)
    run = _Run(hand, sound, where, control_seq)
    first = run.through(dead.tolist(), lambda: meanwhile(view))
    reached("grant.written")
    complete(core, hand.by, first, sound.rows.slots.tolist(), "reseal", rows_stay=True)


def _scopes(rows: SealedRows) -> list[Scope]:
    kinds = {scope: Scope(scope) for scope in np.unique(packed(rows)["scope"]).tolist()}
    if len(kinds) == 1:
        return [*kinds.values()] * len(rows)
    return [kinds[each] for each in packed(rows)["scope"].tolist()]


class _Run:
    """The way of one batch to the disk: its intent, then its rows, sealed chunk by chunk."""

    def __init__(self, hand: Hand, sound: Sound, where: Places, control_seq: int) -> None:
        self._control_seq = control_seq
        self._core = hand.core
        self._by = hand.by
        self._sound = sound
        self._where = where
        self._models = [model.decode("ascii") for model in sound.rows.models]

    def through(self, dead: list[int], meanwhile: Callable[[], object]) -> int:
        """Do it, with a second thread in which SQLite works; returns the index of the intent.

        Its transaction begins by deleting ``dead`` rows. What it inserts was announced before it was sealed.
        """
        sealed: SimpleQueue[list[Column] | None] = SimpleQueue()
        write = lent(self._core.data.database.lend(), self._write)
        with ThreadPoolExecutor(1, "facekeep-grants") as pool:
            try:
                written: Future[None] = pool.submit(write, dead, sealed)
                first = self._announce()
                self._seal_all(sealed)
                sealed.put([])
                meanwhile()
            except BaseException:
                sealed.put(None)
                raise
            written.result()
        return first

    def _write(self, dead: list[int], sealed: SimpleQueue[list[Column] | None]) -> None:
        """Write rows as they come; [] is the end, None gives up."""
        with self._core.data.exchanging(dead) as add:
            while columns := sealed.get():
                add(columns)
            if columns is None:
                raise CancelledError

    def _announce(self) -> int:
        """Make the intent durable; returns its index."""
        columns = Columns(self._where.slots, self._sound.rows.slots, self._where.heads, self._models)
        parts = grant_columns("reseal", columns, by=self._by, time_ms=self._core.clock.now_ms())
        first = self._core.log.append_parts(parts, self._control_seq)[0]
        reached("grant.announced")
        return first

    def _seal_all(self, sealed: SimpleQueue[list[Column] | None]) -> None:
        rows = self._sound.rows
        permit = permit_reseal(rows.slots.tolist())
        with LockedBuffer(int(rows.sizes.max())) as scratch:
            for start in range(0, len(self._sound), _CHUNK):
                part = slice(start, start + _CHUNK)
                pairs = seal_again(self._core.sealer, permit, self._sound, self._where, part, scratch.view)
                sealed.put(self._columns(part, *pairs))
                time.sleep(0)  # gives up the interpreter's lock, for which the writer would wait 5 ms

    def _columns(self, part: slice, templates: list[bytes], records: list[bytes]) -> list[Column]:
        """Columns of rows in the order of ``GrantRow``."""
        grant_ids, tags, terms, commitments = np.split(self._where.heads[part], _CUTS, axis=1)
        slots, models = self._where.slots[part], self._models[part]
        return [slots, grant_ids, tags, models, terms, commitments, templates, records]
