"""Whether the subject index leads to everybody who lives by the log (docs/adr/0004).

Rows of the index are authentic one by one, but one can be taken away and put back. A subject without a row
could be enrolled a second time, and an erasure would then reach the second enrolment alone.
"""

from __future__ import annotations

import contextlib
import sqlite3
import weakref
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from facekeep.access.core import Core, View
from facekeep.errors import FacekeepError, IntegrityError
from facekeep.operations.rows import living

Twins = Mapping[bytes, Sequence[bytes]]

_REPAIR = (
    "run 'facekeep check --repair'; if this stays, restore a backup that has the grants, and repair again"
)


@dataclass(slots=True)
class _Verified:
    """An index that was compared with the log: its rows then and since, and where keys.db stood."""

    stand: tuple[sqlite3.Connection, int]
    rows: int


_verified: weakref.WeakKeyDictionary[Core, _Verified] = weakref.WeakKeyDictionary()


def check_indexed(core: Core, view: View, *, exactly: bool = True, lost: bool = False) -> Twins:
    """Check that every living tag of the log has exactly one row; the writer lock must be held.

    Returns tags that have none because another living tag stands under the same subject id, by that id's row
    key: records say whose they are. Raises IntegrityError for every other one; with ``lost`` only for those
    whose records are there, which a repair can mend. Read again is what anybody else wrote to keys.db since
    the last time; without ``exactly`` the number of rows suffices.
    """
    stand = core.keys.stand()
    before = _verified.get(core)
    if before is not None:
        if _same(before.stand, stand):
            return {}
        if not exactly and before.rows == core.keys.index_count():
            return {}
    _verified.pop(core, None)
    owners = core.ledger.owners(lambda slots: view.tree.alive(slots) & ~view.pending.mask(slots))
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


def _same(one: tuple[sqlite3.Connection, int], other: tuple[sqlite3.Connection, int]) -> bool:
    return one[0] is other[0] and one[1] == other[1]
