"""Re-keying the tree: everybody's record, from which the subject index is made anew (SPEC.md §5.7)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from facekeep.access.core import INDEX_KEY_SLOT, Core, View
from facekeep.crypto.primitives import KEY_LEN, random_bytes
from facekeep.errors import ErasurePending, IntegrityError, UsageError
from facekeep.keys.index import SubjectIndex
from facekeep.keys.plan import Rekey
from facekeep.operations.indexed import check_indexed, forget, twice_enrolled
from facekeep.operations.rows import living

Progress = Callable[[int, int], None]


def check_rekeyable(core: Core, view: View, *, pending: bool = False) -> None:
    """Refuse to re-key the tree where the index could not be made anew; the writer lock must be held.

    ``pending``: this very rotation is what is open.
    """
    if len(view.head.operations) > pending:
        raise ErasurePending("an operation is pending; the tree is re-keyed after it")
    missing = len(core.missing(view))
    if missing:
        raise UsageError(
            f"{missing} living grants have no row in vault.db, and the subject index is made from the rows",
            next="restore a backup that has them, or shred the subjects; nothing was rotated",
        )
    if check_indexed(core, view):
        raise twice_enrolled()


def rekey(core: Core, view: View) -> Rekey:
    """Return a fresh index key and the rows under it, made while they are written.

    What was known of the old index is forgotten: whoever looks somebody up next compares the new one.
    """
    forget(core)
    key = random_bytes(KEY_LEN)
    return Rekey({INDEX_KEY_SLOT: key}, lambda: index_rows(core, view, key))


def index_rows(
    core: Core, view: View, key: bytes, progress: Progress | None = None
) -> Iterator[tuple[bytes, bytes]]:
    """Return the subject index under a key, a row for each subject, from the sealed records.

    In the end it raises IntegrityError unless everybody is in it who lives by the log: a row that was hidden
    for a moment must not have an erasure miss its subject ever after. Who lives is found out by this call,
    since the tree of ``view`` may be gone by then.
    """
    owners = core.ledger.owners(lambda slots: view.tree.alive(slots) & ~view.pending.mask(slots))
    return _index_rows(core, view, SubjectIndex(core.keys, core.vault_id, key), owners, progress)


def _index_rows(
    core: Core, view: View, index: SubjectIndex, owners: set[bytes], progress: Progress | None
) -> Iterator[tuple[bytes, bytes]]:
    total, seen = core.data.count(), set[bytes]()
    for done, row in enumerate(core.data.rows(), 1):
        if progress is not None and (done % 1_000 == 0 or done == total):
            progress(done, total)
        if row.tag in seen:
            continue
        grant = living(core, view, row)
        if grant is not None:
            seen.add(row.tag)
            yield index.row(index.hash(grant.subject.encode("utf-8")), row.tag)
    if not owners <= seen:
        raise IntegrityError(
            "rows of living grants went missing from vault.db while the subject index was made from them",
            next="restore a backup that has them; the root was not replaced",
        )
