"""Which slots the log ever gave to which subject tag or principal: authenticated, complete, in memory.

What is destroyed is taken from here and never from vault.db, keys.db or a projection, so that nobody can
save a grant from its erasure by hiding a row, nor have another slot destroyed by altering one.
Building it reads every control entry once; afterwards only what is new, over processes too (``pages``).
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from facekeep.auditlog.history import History, Keeper, stamp
from facekeep.auditlog.log import AuditLog
from facekeep.auditlog.pages import FIRST_MARK, Page
from facekeep.auditlog.prints import PRINT_LEN, Found, LoggedGrant, LoggedPrincipal
from facekeep.auditlog.reader import Mark
from facekeep.errors import IntegrityError
from facekeep.formats.ids import GRANT_ID_LEN, TAG_LEN

Living: TypeAlias = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.bool_]]

_PAGE: Final = 250_000  # grants of a page: 16 MB
_LEAST: Final = 20_000  # grants that make a page worth its writing: a tenth of a second's reading


class _Cut(NamedTuple):
    """Where a page ends: before this index; the mark there; grants and kept entries found up to it."""

    stop: int
    mark: Mark
    grants: int
    kept: int


class Ledger:
    """Subject tags and their slots, living and dead, in the order of the log."""

    def __init__(self, log: AuditLog) -> None:
        """Start empty; the first use reads the log's pages, and the entries after them."""
        self._log = log
        self._guard = threading.Lock()
        self._begun = False
        self._clear()

    def _clear(self) -> None:
        self._seen = 0
        self._mark = FIRST_MARK  # the control entries before ``_seen``
        self._keys: npt.NDArray[np.uint64] = np.empty(0, np.uint64)
        self._tags: npt.NDArray[np.uint8] = np.empty((0, TAG_LEN), np.uint8)
        self._slots: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self._by_slot: npt.NDArray[np.intp] = np.empty(0, np.intp)  # order of ``_slots``, beside the prints
        self._unread: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]] = []
        self._recent: dict[bytes, list[int]] = {}
        self._print_slots: npt.NDArray[np.int64] = np.empty(0, np.int64)  # ascending
        self._prints: npt.NDArray[np.uint8] = np.empty((0, PRINT_LEN), np.uint8)
        self._expires: npt.NDArray[np.int64] = np.empty(0, np.int64)  # ms; beside the prints
        self._recent_grants: dict[int, LoggedGrant] = {}
        self._principals: dict[int, LoggedPrincipal] = {}
        self._keeper = Keeper()
        self._history = History()

    def slots_of(self, tag: bytes, progress: Callable[[int, int], None] | None = None) -> list[int]:
        """Every slot ever granted to a tag, ascending."""
        with self._guard:
            self._catch_up(progress)
            return sorted({*self._sorted_slots(tag), *self._recent.get(tag, ())})

    def all_slots(self, progress: Callable[[int, int], None] | None = None) -> npt.NDArray[np.int64]:
        """Every slot ever granted to a subject, ascending, int64 of shape (n,)."""
        with self._guard:
            self._catch_up(progress)
            recent = [slot for slots in self._recent.values() for slot in slots]
            return np.union1d(self._print_slots, np.array(recent, np.int64)) if recent else self._print_slots

    def owners(self, living: Living) -> set[bytes]:
        """Tags that own a slot for which ``living`` says True."""
        whole = self.owner_tags(living).tobytes()
        return {whole[at : at + TAG_LEN] for at in range(0, len(whole), TAG_LEN)}

    def owner_tags(
        self, living: Living, progress: Callable[[int, int], None] | None = None
    ) -> npt.NDArray[np.uint8]:
        """``owners`` as uint8 of shape (n, 32), in no order; a tag may stand twice."""
        with self._guard:
            self._catch_up(progress)
            recent = [(slot, tag) for tag, slots in self._recent.items() for slot in slots]
            mask = living(np.array([slot for slot, _ in recent], np.int64))
            tags = b"".join(tag for (_, tag), lives in zip(recent, mask.tolist(), strict=True) if lives)
            fresh = np.frombuffer(tags, np.uint8).reshape(-1, TAG_LEN)
            return np.concatenate((self._tags[living(self._slots)], fresh))

    def take_new(
        self, progress: Callable[[int, int], None] | None = None
    ) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]]:
        """Grants of the log since the last call: slots int64 (n,) and grant ids uint8 (n, 16), in pieces."""
        with self._guard:
            self._catch_up(progress)
            unread, self._unread = self._unread, []
            return unread

    def tags_of(self, slots: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Subject tags of slots, uint8 of shape (n, 32); zero where the log never granted the slot."""
        with self._guard:
            self._catch_up(None)
            out = np.zeros((len(slots), TAG_LEN), np.uint8)
            held = np.zeros(len(slots), np.bool_)
            if len(self._print_slots):
                at = np.minimum(np.searchsorted(self._print_slots, slots), len(self._print_slots) - 1)
                held = self._print_slots[at] == slots
                out[held] = self._tags[self._by_slot[at[held]]]
            for row in np.flatnonzero(~held).tolist() if self._recent_grants else ():
                grant = self._recent_grants.get(int(slots[row]))
                if grant is not None:
                    out[row] = np.frombuffer(grant.tag, np.uint8)
            return out

    def principals(self) -> list[LoggedPrincipal]:
        """Every principal ever announced, living and dead, by slot."""
        with self._guard:
            self._catch_up(None)
            return [each for _, each in sorted(self._principals.items())]

    def prints(self, slots: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Return prints of slots, uint8 of shape (n, 16); zero where the log never granted the slot.

        What the log says of a slot never changes: new entries are read only for slots not known yet.
        """
        with self._guard:
            out, known = self._known_prints(slots)
            if not known:
                self._catch_up(None)
                out, _ = self._known_prints(slots)
            return out

    def print_of(self, slot: int) -> bytes | None:
        """Print of the grant or principal that the log gave a slot to, None where it never did."""
        found: bytes = self.prints(np.array([slot], np.int64))[0].tobytes()
        if found != bytes(PRINT_LEN):
            return found
        with self._guard:
            principal = self._principals.get(slot)
            return None if principal is None else principal.print()

    def _known_prints(self, slots: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.uint8], bool]:
        """Look the prints of slots up in what was read so far; say whether all were there."""
        out = np.zeros((len(slots), PRINT_LEN), np.uint8)
        held = np.zeros(len(slots), np.bool_)
        if len(self._print_slots):
            at = np.minimum(np.searchsorted(self._print_slots, slots), len(self._print_slots) - 1)
            held = self._print_slots[at] == slots
            out[held] = self._prints[at[held]]
        for row in np.flatnonzero(~held).tolist() if self._recent_grants else ():
            grant = self._recent_grants.get(int(slots[row]))
            if grant is not None:
                out[row], held[row] = np.frombuffer(grant.print, np.uint8), True
        return out, bool(held.all())

    def expiries(
        self, progress: Callable[[int, int], None] | None = None
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Every slot ever granted to a subject, ascending, and when its grant expires in ms; int64 (n,) each.

        They are the log's own terms, and so authentic whatever stands in vault.db.
        """
        with self._guard:
            self._catch_up(progress)
            fresh = sorted(self._recent_grants.values(), key=lambda each: each.slot)
            slots = np.concatenate((self._print_slots, np.array([each.slot for each in fresh], np.int64)))
            ends = np.concatenate((self._expires, np.array([each.expires_at_ms for each in fresh], np.int64)))
            order = np.argsort(slots, kind="stable")
            return slots[order], ends[order]

    def history(self) -> History:
        """Return when things were done last; not to be changed."""
        with self._guard:
            self._catch_up(None)
            return self._history

    def _catch_up(self, progress: Callable[[int, int], None] | None) -> None:
        if self._begun:
            self._read(progress)
            return
        pages = self._log.pages.load()
        try:
            self._take(pages)
            self._read(progress)
        except IntegrityError:
            self._clear()
            if not pages:
                raise
            self._log.pages.forget()  # it may be they that do not lead to the head
            self._read(progress)
        self._begun = True

    def _take(self, pages: Sequence[Page]) -> None:
        """Begin with what authentic pages say; the entries after them have still to lead to the head."""
        if not pages:
            return
        found = Found()
        for page in pages:
            for body in page.bodies:
                found.take_kept(body)
        found.keeper = Keeper(stamp(found.kept[-1])[0])  # a page keeps its last entry
        self._note(found)
        self._unread = [(page.slots, page.grant_ids) for page in pages]
        tags = np.concatenate([page.tags for page in pages])
        slots = np.concatenate([page.slots for page in pages])
        prints = np.concatenate([page.prints for page in pages])
        self._merge(tags, slots, prints, np.concatenate([page.expires for page in pages]))
        self._seen, self._mark = pages[-1].stop, pages[-1].after

    def _read(self, progress: Callable[[int, int], None] | None) -> None:
        """Read the entries that are new; what they say counts once they are known to be complete."""
        size = self._log.head().size if progress is not None else 0
        found, cuts = Found(self._keeper.copy()), [_Cut(self._seen, self._mark, 0, 0)]
        seen, count, chain = self._seen, *self._mark
        for index, body, after in self._log.control_after(seen, self._mark):
            found.take(body)
            seen, count, chain = index + 1, count + 1, after
            if len(found.grants) - cuts[-1].grants >= _PAGE:
                found.close()
                cuts.append(_Cut(seen, Mark(count, chain), len(found.grants), len(found.kept)))
            if progress is not None:
                progress(seen, size)
        if len(found.grants) - cuts[-1].grants >= _LEAST:
            found.close()
            cuts.append(_Cut(seen, Mark(count, chain), len(found.grants), len(found.kept)))
        self._seen, self._mark = seen, Mark(count, chain)  # only now is it certain that none was left out
        self._note(found)
        if found.grants:
            self._unread.append(_identities(found.grants))
        if len(cuts) > 1:
            self._log.pages.keep(_pages(found, cuts))
        if len(found.grants) > 10_000:  # noqa: PLR2004 - where sorting beats a dictionary
            self._rebuild(found.grants)
        else:
            for grant in found.grants:
                self._recent.setdefault(grant.tag, []).append(grant.slot)
                self._recent_grants[grant.slot] = grant

    def _note(self, found: Found) -> None:
        self._principals.update((each.slot, each) for each in found.principals)
        self._history.add(found.kept)
        self._keeper = found.keeper
        self._history.seen_ms = found.keeper.seen_ms

    def _rebuild(self, found: list[LoggedGrant]) -> None:
        found = found + list(self._recent_grants.values())
        self._recent.clear()
        self._recent_grants.clear()
        tags, slots, _, prints, expires = _arrays(found)
        self._merge(tags, slots, prints, expires)

    def _merge(
        self,
        tags: npt.NDArray[np.uint8],
        slots: npt.NDArray[np.int64],
        prints: npt.NDArray[np.uint8],
        expires: npt.NDArray[np.int64],
    ) -> None:
        self._tags = np.concatenate((self._tags, tags))
        self._slots = np.concatenate((self._slots, slots))
        keys = np.ascontiguousarray(self._tags[:, :8]).view(np.uint64).ravel()
        order = np.argsort(keys, kind="stable")
        self._keys, self._tags, self._slots = keys[order], self._tags[order], self._slots[order]
        self._by_slot = np.argsort(self._slots)
        known = np.concatenate((self._print_slots, slots))
        order = np.argsort(known, kind="stable")
        self._prints = np.concatenate((self._prints, prints))[order]
        self._expires = np.concatenate((self._expires, expires))[order]
        self._print_slots = known[order]

    def _sorted_slots(self, tag: bytes) -> list[int]:
        key = np.frombuffer(tag[:8], np.uint64)[0]
        low, high = int(self._keys.searchsorted(key, "left")), int(self._keys.searchsorted(key, "right"))
        whole = np.frombuffer(tag, np.uint8)
        return [int(self._slots[at]) for at in range(low, high) if (self._tags[at] == whole).all()]


def _identities(grants: Sequence[LoggedGrant]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """Slots and grant ids of grants."""
    ids = np.frombuffer(b"".join(each.grant_id for each in grants), np.uint8).reshape(-1, GRANT_ID_LEN)
    return np.array([each.slot for each in grants], np.int64), ids


def _arrays(
    grants: Sequence[LoggedGrant],
) -> tuple[
    npt.NDArray[np.uint8],
    npt.NDArray[np.int64],
    npt.NDArray[np.uint8],
    npt.NDArray[np.uint8],
    npt.NDArray[np.int64],
]:
    """Tags, slots, grant ids, prints and ends of grants."""
    tags = np.frombuffer(b"".join(each.tag for each in grants), np.uint8).reshape(-1, TAG_LEN)
    prints = np.frombuffer(b"".join(each.print for each in grants), np.uint8).reshape(-1, PRINT_LEN)
    slots, ids = _identities(grants)
    return tags, slots, ids, prints, np.array([each.expires_at_ms for each in grants], np.int64)


def _pages(found: Found, cuts: Sequence[_Cut]) -> list[Page]:
    """Pages between neighbouring cuts."""
    return [
        Page(
            low.stop,
            low.mark,
            high.stop,
            high.mark,
            *_arrays(found.grants[low.grants : high.grants]),
            found.kept[low.kept : high.kept],
        )
        for low, high in itertools.pairwise(cuts)
    ]
