"""Opening many grants' reference templates: what a gallery is filled by (SPEC §5)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from facekeep.crypto.bulk import blobs, derive_many, open_many
from facekeep.crypto.memory import LockedBuffer
from facekeep.formats.columns import be64, each_row, side_by_side
from facekeep.limits import LIMITS
from facekeep.sealing.permit import Permit
from facekeep.sealing.sealer import KIND_TEMPLATES, Sealer
from facekeep.store.sealedrows import SealedRows


def open_references(
    sealer: Sealer,
    permit: Permit,
    rows: SealedRows,
    keys: npt.NDArray[np.uint8],
    out: memoryview,
    dimension: int,
) -> list[int]:
    """Open row 0 of each grant's templates into ``out``, which is n x dimension float32.

    ``keys`` are the slot keys, uint8 of shape (n, 32). All rows must be of one model and of this dimension.
    Returns the positions that failed to authenticate; their part of ``out`` is zero. Raises IntegrityError
    for a destroyed key.
    """
    if not len(rows):
        return []
    width = 4 * dimension
    kdf, aad = sealer.prefixes(KIND_TEMPLATES)
    slots = be64(rows.slots)
    derived, commitments = derive_many(keys, side_by_side(len(rows), kdf, slots, rows.grant_ids))
    allowed = (commitments == rows.commitments).all(axis=1) & _covered(permit, rows)
    aads = side_by_side(len(rows), aad, slots, rows.identities, sealer.model_tail(rows.models[0].decode()))
    parts = blobs(rows.sealed, rows.starts, rows.sizes)
    with LockedBuffer(width * LIMITS.templates) as scratch:
        return open_many(derived, allowed.tolist(), parts, each_row(aads), out, width, scratch.view)


def _covered(permit: Permit, rows: SealedRows) -> npt.NDArray[np.bool_]:
    slots = rows.slots.tolist()
    if permit.slots.issuperset(slots):
        return np.ones(len(slots), np.bool_)
    return np.array([slot in permit.slots for slot in slots], np.bool_)
