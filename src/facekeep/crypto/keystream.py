"""A keystream for the rows of a table at once: AES-256 in counter mode, from a block that each row has.

It hides and authenticates nothing: for columns that a sealed blob of the same row has as associated data.
A call of an AEAD for every row would cost more than a tenth of what opening the row's templates does.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from facekeep.formats.columns import Table

BLOCK_LEN: Final = 16


class Keystream:
    """Keystreams under one key."""

    __slots__ = ("_cipher",)

    def __init__(self, key: bytes) -> None:
        """Take a 32-byte key."""
        self._cipher = Cipher(AES(key), ECB())  # noqa: S305 - of counters, none of them twice

    def of(self, starts: Table, width: int) -> Table:
        """Return ``width`` bytes for each first block, (n, 16): those of block i are AES(block XOR i)."""
        blocks = -(-width // BLOCK_LEN)
        counters = np.repeat(starts, blocks, axis=0).reshape(-1, blocks, BLOCK_LEN)
        counters[:, :, -1] ^= np.arange(blocks, dtype=np.uint8)
        stream = self._cipher.encryptor().update(counters.tobytes())
        return np.frombuffer(stream, np.uint8).reshape(-1, blocks * BLOCK_LEN)[:, :width]
