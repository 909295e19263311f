"""Re-keying the tree: the subject index is made anew along with it (SPEC §5.7)."""

from __future__ import annotations

from facekeep.access.core import INDEX_KEY_SLOT, Core, View
from facekeep.crypto.primitives import KEY_LEN, random_bytes
from facekeep.errors import ErasurePending
from facekeep.keys.index import SubjectIndex
from facekeep.keys.plan import Rekey
from facekeep.operations.whose import index_rows, index_tags


def check_rekeyable(core: Core, view: View, *, pending: bool = False) -> None:
    """Refuse to re-key the tree where the index could not be made anew; the writer lock must be held.

    ``pending``: this very rotation is what is open. Raises IntegrityError.
    """
    if len(view.head.operations) > pending:
        raise ErasurePending("an operation is pending; the tree is re-keyed after it")
    index_tags(core, view)


def rekey(core: Core, view: View) -> Rekey:
    """Return a fresh index key and the rows under it, made while they are written."""
    key = random_bytes(KEY_LEN)
    index = SubjectIndex(core.keys, core.vault_id, key)
    return Rekey({INDEX_KEY_SLOT: key}, lambda: index_rows(core, view, index))
