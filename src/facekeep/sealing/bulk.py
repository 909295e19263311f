"""Opening many grants' reference templates: what a gallery is filled by (SPEC.md §5)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from facekeep.crypto.bulk import open_many
from facekeep.crypto.memory import LockedBuffer
from facekeep.errors import IntegrityError
from facekeep.limits import LIMITS
from facekeep.sealing.permit import Permit
from facekeep.sealing.sealer import KIND_TEMPLATES, Sealer
from facekeep.store.vaultdb import SealedRow


def open_references(
    sealer: Sealer,
    permit: Permit,
    rows: Sequence[SealedRow],
    keys: npt.NDArray[np.uint8],
    out: memoryview,
    dimension: int,
) -> list[int]:
    """Open row 0 of each grant's templates into ``out``, which is n x dimension float32.

    ``keys`` are the slot keys, uint8 of shape (n, 32). All rows must be of one model and of this dimension.
    Returns the positions that failed to authenticate; their part of ``out`` is zero. Raises IntegrityError
    for a destroyed key.
    """
    if not rows:
        return []
    if not keys.any(axis=1).all():
        raise IntegrityError("a destroyed key was about to be used")
    width = 4 * dimension
    tail = sealer.model_tail(rows[0][2])
    with LockedBuffer(width * LIMITS.templates) as scratch:
        prefixes = sealer.prefixes(KIND_TEMPLATES)
        return open_many(rows, keys.tobytes(), permit.slots, prefixes, tail, out, width, scratch.view)
