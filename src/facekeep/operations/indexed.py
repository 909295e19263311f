"""Whether the subject index leads to everybody who lives by the log (docs/adr/0004).

Rows of the index are authentic one by one, but one can be taken away and put back. A subject without a row
could be enrolled a second time, and an erasure would then reach the second enrolment alone.
"""

from __future__ import annotations

import contextlib
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from facekeep.access.core import Core, View
from facekeep.errors import FacekeepError, IntegrityError
from facekeep.formats.ids import TAG_LEN
from facekeep.operations.rows import living

Progress = Callable[[int, int], None]
Twins = Mapping[bytes, Sequence[bytes]]

_REPAIR = (
    "run 'facekeep check --repair'; if this stays, restore a backup that has the grants, and repair again"
)


@dataclass(slots=True)
class _Verified:
    """An index that was compared with the log: its rows then and since, and where keys.db stood."""

    stand: int
    rows: int


_verified: weakref.WeakKeyDictionary[Core, _Verified] = weakref.WeakKeyDictionary()


def check_indexed(
    core: Core,
    view: View,
    progress: Progress | None = None,
    *,
    exactly: bool = True,
    lost: bool = False,
) -> Twins:
    """Check that every living tag of the log has exactly one row; the writer lock must be held.

    Returns tags that have none because another living tag stands under the same subject id, by that id's row
    key: records say whose they are. Raises IntegrityError for every other one; with ``lost`` only for those
    whose records are there, which a repair can mend. Read again is what anybody else wrote to keys.db since
    the last time; without ``exactly`` the number of rows suffices.
    """
    stand = core.keys.stand()
    before = _verified.get(core)
    if before is not None:
        if before.stand == stand:
            return {}
        if not exactly and before.rows == core.keys.index_count():
            return {}
    _verified.pop(core, None)
    tags = core.ledger.owner_tags(lambda slots: view.tree.alive(slots) & ~view.pending.mask(slots), progress)
    count = _rows_leading_to(core, tags, progress)
    if count is not None:
        _verified[core] = _Verified(stand, count)
        return {}
    return _compare(core, view, {tag.tobytes() for tag in tags}, stand, lost=lost)


def _rows_leading_to(core: Core, owners: npt.NDArray[np.uint8], progress: Progress | None) -> int | None:
    """Count the rows, if all are authentic, no two have one tag, and every owner has one; else None."""
    pieces: list[bytes] = []
    rows = 0
    try:
        for piece in core.index.tags():
            pieces.append(piece)
            rows += len(piece) // TAG_LEN
            if progress is not None:
                progress(min(rows, len(owners)), len(owners))
    except IntegrityError:
        return None
    found = np.frombuffer(b"".join(pieces), np.uint8).reshape(-1, TAG_LEN)
    keys = np.ascontiguousarray(found[:, :8]).view(np.uint64).ravel()
    order = np.argsort(keys)
    keys = keys[order]
    if not rows or bool((keys[1:] == keys[:-1]).any()):
        return 0 if not rows and not len(owners) else None
    wanted = np.ascontiguousarray(owners[:, :8]).view(np.uint64).ravel()
    at = np.minimum(np.searchsorted(keys, wanted), rows - 1)
    return rows if bool((found[order[at]] == owners).all()) else None


def _compare(core: Core, view: View, owners: set[bytes], stand: int, *, lost: bool) -> Twins:
    """Compare row by row, to say what is wrong; who stands under a twin's id is found here."""
    found: set[bytes] = set()
    rows = 0
    for hashed, sealed in core.keys.index_rows():
        rows += 1
        with contextlib.suppress(IntegrityError):  # who stands in an altered row is not indexed
            tag = core.index.open(hashed, sealed)
            if tag in found and tag in owners:
                raise _unindexed()
            found.add(tag)
    twins = _twins(core, view, owners, owners - found, lost=lost)
    if found >= owners:
        _verified[core] = _Verified(stand, rows)
    return twins


@contextlib.contextmanager
def changing(core: Core, rows: int) -> Iterator[None]:
    """Frame a change of this process that leaves ``rows`` more index rows; compared anew if it fails."""
    before = _verified.pop(core, None)
    yield
    if before is not None:
        before.rows += rows
        _verified[core] = before


def forget(core: Core) -> None:
    """Have the next check compare all of it: after an operation that rebuilt the index."""
    _verified.pop(core, None)


def _twins(core: Core, view: View, owners: set[bytes], strays: set[bytes], *, lost: bool) -> Twins:
    twins: dict[bytes, list[bytes]] = defaultdict(list)
    for tag in sorted(strays):
        subject = _subject(core, view, tag)
        if subject is None:
            if lost:
                continue
            raise _unindexed()
        other = None
        with contextlib.suppress(IntegrityError):
            other = core.index.lookup(subject)
        if other not in owners:
            raise _unindexed()
        twins[core.index.hash(subject)].append(tag)
    return dict(twins)


def _subject(core: Core, view: View, tag: bytes) -> bytes | None:
    """Whose tag it is by a record that opens, as UTF-8."""
    for row in core.data.by_tag(tag):
        with contextlib.suppress(FacekeepError):
            grant = living(core, view, row)
            if grant is not None:
                return grant.subject.encode("utf-8")
    return None


def twice_enrolled() -> IntegrityError:
    """Error for a subject id under which two subjects of the log live."""
    return IntegrityError(
        "the subject is enrolled twice: the index leads to one enrolment only; nothing was done",
        next="shred the subject: that destroys both; then enrol again",
    )


def _unindexed() -> IntegrityError:
    return IntegrityError(
        "a subject with living grants is not in the subject index; nothing was done", next=_REPAIR
    )
