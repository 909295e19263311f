"""Opening many grants' reference templates: the loop a gallery is filled by (SPEC.md §5).

The same rules as ``Sealer.open_templates``, with everything that does not change per row taken out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from facekeep.crypto import primitives as p
from facekeep.crypto.memory import LockedBuffer
from facekeep.errors import IntegrityError
from facekeep.limits import LIMITS
from facekeep.sealing.permit import Permit
from facekeep.sealing.sealer import KIND_TEMPLATES, Sealer
from facekeep.store.vaultdb import GrantRow

_COUNT = slice(52, 54)  # template count in packed terms


def open_references(
    sealer: Sealer,
    permit: Permit,
    rows: Sequence[GrantRow],
    keys: npt.NDArray[np.uint8],
    out: memoryview,
    dimension: int,
) -> list[int]:
    """Open row 0 of each grant's templates into ``out``, which is n x dimension float32.

    ``keys`` are the slot keys, uint8 of shape (n, 32). All rows must be of one model. Returns the positions
    that failed to authenticate; their part of ``out`` is zero.
    """
    width = 4 * dimension
    kdf_prefix, aad_prefix = sealer.prefixes(KIND_TEMPLATES)
    tail = sealer.model_tail(rows[0].model) if rows else b""
    raw = keys.tobytes()
    slots, compare, slot_kdf, open_into = permit.slots, p.compare, p.slot_kdf, p.open_into
    failed: list[int] = []
    with LockedBuffer(width * LIMITS.templates) as scratch:
        for at, (slot, grant_id, tag, _, terms, commitment, sealed, _) in enumerate(rows):
            where = slot.to_bytes(8, "big") + grant_id
            target = out[at * width : (at + 1) * width]
            try:
                key, expected = slot_kdf(raw[at * 32 : at * 32 + 32], kdf_prefix + where)
                if slot not in slots or not compare(expected, commitment):
                    failed.append(at)
                    continue
                aad = aad_prefix + where + tag + terms + tail
                if terms[_COUNT] == b"\0\1":
                    open_into(key, sealed, aad, target)
                else:
                    whole = scratch.view[: width * int.from_bytes(terms[_COUNT], "big")]
                    open_into(key, sealed, aad, whole)
                    target[:] = whole[:width]
            except IntegrityError:
                target[:] = bytes(width)
                failed.append(at)
    return failed
