"""Handles of subject ids, and the grant ids that carry them under their slot's key (SPEC §5.8)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from facekeep.crypto import primitives as p
from facekeep.crypto.bulk import mask_many
from facekeep.crypto.many import mac_many
from facekeep.formats.columns import Table, be64, side_by_side
from facekeep.formats.ids import GRANT_ID_LEN
from facekeep.sealing.sealer import Sealer

HANDLE_LEN: Final = GRANT_ID_LEN
_HANDLE: Final = p.domain("handle")
_SOUGHT: Final = p.domain("sought")


class Handles:
    """Handles of one vault. ``key`` is the slot key of system slot 3."""

    def __init__(self, vault_id: bytes, key: bytes) -> None:
        """Keep the key."""
        self._prefix = _HANDLE + vault_id
        self._key = key

    def of(self, subject: bytes) -> bytes:
        """Handle of a subject id's UTF-8, 16 bytes."""
        return self.of_many((subject,))[0]

    def of_many(self, subjects: Iterable[bytes]) -> list[bytes]:
        """Return the handles of many subject ids, in order."""
        whole = mac_many(self._key, [self._prefix + subject for subject in subjects])
        return [each[:HANDLE_LEN] for each in whole]

    def sought(self, handle: bytes, nonce: bytes) -> bytes:
        """Return how an entry of that nonce (16 bytes) names somebody who cannot be found, 16 bytes."""
        return p.mac(self._key, _SOUGHT, nonce, handle)[:HANDLE_LEN]


def masked(sealer: Sealer, slots: Sequence[int] | npt.NDArray[np.int64], keys: Table, values: Table) -> Table:
    """Mask handles into the grant ids of slots, or grant ids back into handles; uint8 (n, 16).

    ``keys`` are the slots' keys, uint8 (n, 32).
    """
    infos = side_by_side(len(keys), sealer.mask_prefix, be64(slots))
    return values ^ mask_many(keys, infos, HANDLE_LEN)


def table(values: Sequence[bytes]) -> Table:
    """Return handles or grant ids as uint8 (n, 16)."""
    return np.frombuffer(b"".join(values), np.uint8).reshape(len(values), HANDLE_LEN)
