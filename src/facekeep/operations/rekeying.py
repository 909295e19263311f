"""Re-keying the tree: everybody's record, from which the subject index is made anew (SPEC.md §5.7)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from facekeep.access.core import INDEX_KEY_SLOT, Core, View
from facekeep.consent.consent import subject_tags
from facekeep.crypto.primitives import KEY_LEN, random_bytes
from facekeep.errors import ErasurePending, IntegrityError, UsageError
from facekeep.formats.canonical import loads_trusted
from facekeep.formats.ids import SALT_LEN, check_subject_id, from_hex
from facekeep.keys.index import SubjectIndex
from facekeep.keys.plan import Rekey
from facekeep.operations.indexed import check_indexed, forget, twice_enrolled
from facekeep.sealing.again import open_sound
from facekeep.sealing.sealer import RECORD_SALT_LEN
from facekeep.store.sealedrows import WholeRows

Progress = Callable[[int, int], None]
_SLOTS: Final = 2**53  # every slot is below
_WIDTH: Final = 4_096  # slots of which the rows are read together


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
    total, done, seen = core.data.count(), 0, set[bytes]()
    for whole in core.data.whole_rows(0, _SLOTS, _WIDTH):
        done += len(whole.rows)
        found = {tag: subject for tag, subject in _subjects(core, view, whole) if tag not in seen}
        seen.update(found)
        yield from index.rows(index.hash_many(found.values()), list(found))
        if progress is not None:
            progress(min(done, total), total)
    if not owners <= seen:
        raise IntegrityError(
            "rows of living grants went missing from vault.db while the subject index was made from them",
            next="restore a backup that has them; the root was not replaced",
        )


def _subjects(core: Core, view: View, whole: WholeRows) -> list[tuple[bytes, bytes]]:
    """Tag and subject id of each living row, from its record; raises IntegrityError if one was altered."""
    whole = whole.only(~view.pending.mask(whole.rows.slots))
    keys, alive = core.slot_keys(view, whole.rows.slots)
    whole, keys = whole.only(alive), keys[alive]
    if not len(whole.rows):
        return []
    models = set(whole.rows.models)
    sound = open_sound(core.sealer, whole, keys) if all(map(bytes.isascii, models)) else None
    if sound is None or len(sound) != len(whole.rows):
        raise IntegrityError("a consent record, or its row, was altered")
    records = [loads_trusted(plain[RECORD_SALT_LEN:]) for plain, _ in sound.opened]
    subjects = [check_subject_id(str(record["subject"])) for record in records]
    salts = [from_hex(record.get("salt"), SALT_LEN, "a salt") for record in records]
    tags = [tag.tobytes() for tag in whole.rows.tags]
    if tags != subject_tags(core.vault_id, salts, subjects):
        raise IntegrityError("a consent record belongs to another subject than its row")
    return list(zip(tags, subjects, strict=True))
