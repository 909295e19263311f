"""Opening many small blobs, each under its own slot key: ``slot_kdf`` and ``open_into``, a table at a time.

The same bytes as in ``primitives``, without a function call or an intermediate object that can be spared:
a gallery of a million templates is filled here.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from facekeep.crypto.primitives import BLOB_OVERHEAD, KEY_LEN, NONCE_LEN, SUITE
from facekeep.errors import IntegrityError
from facekeep.formats.columns import Table, each_view, side_by_side

_SUITE = SUITE.to_bytes(2, "big")
_COUNTER = b"\0\0\0\1"
_HEADER = len(_SUITE) + NONCE_LEN

#: Suite, nonce, and ciphertext with tag.
Blob = tuple[bytes, bytes, bytes]


def derive_many(slot_keys: Table, infos: Table) -> tuple[list[bytes], Table]:
    """Return ``slot_kdf`` of each row, as 64 bytes (encryption key, commitment), and the commitments (n, 32).

    ``slot_keys`` are (n, 32), ``infos`` (n, m). Raises IntegrityError for a zero key.
    """
    if not slot_keys.any(axis=1).all():
        raise IntegrityError("a destroyed key was about to be used")
    inputs = side_by_side(len(slot_keys), _COUNTER, slot_keys, infos)
    sha512 = hashlib.sha512
    derived = [sha512(each).digest() for each in each_view(inputs)]
    inputs.fill(0)
    return derived, np.frombuffer(b"".join(derived), np.uint8).reshape(-1, 2 * KEY_LEN)[:, KEY_LEN:]


def mask_many(slot_keys: Table, infos: Table, width: int) -> Table:
    """Return the first ``width`` bytes of ``slot_kdf`` of each row, uint8 (n, width); a zero key gives zeros.

    ``slot_keys`` are (n, 32), ``infos`` (n, m).
    """
    inputs = side_by_side(len(slot_keys), _COUNTER, slot_keys, infos)
    sha512 = hashlib.sha512
    whole = b"".join([sha512(each).digest()[:width] for each in each_view(inputs)])
    inputs.fill(0)
    table = np.frombuffer(whole, np.uint8).reshape(-1, width).copy()
    table[~slot_keys.any(axis=1)] = 0
    return table


def blobs(sealed: bytes, starts: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]) -> Iterator[Blob]:
    """Cut sealed blobs out of one string: ``sizes[at]`` bytes at ``starts[at]``."""
    size = int(sizes[0]) if len(sizes) else 0
    if size >= _HEADER and len(sealed) == size * len(sizes) and (sizes == size).all():
        return struct.iter_unpack(f"{len(_SUITE)}s{NONCE_LEN}s{size - _HEADER}s", sealed)
    return (
        (sealed[at : at + 2], sealed[at + 2 : at + _HEADER], sealed[at + _HEADER : at + size])
        for at, size in zip(starts.tolist(), sizes.tolist(), strict=True)
    )


def open_many(
    keys: Sequence[bytes],
    allowed: Sequence[bool],
    parts: Iterable[Blob],
    aads: Iterable[bytes],
    out: memoryview,
    width: int,
    scratch: memoryview,
) -> list[int]:
    """Open the first ``width`` bytes of each blob into its place in ``out``.

    ``keys`` begin with the 32 bytes of an encryption key; what is not ``allowed`` is not opened. ``scratch``
    takes a longer blob. Returns the positions that failed; their place is zero.
    """
    failed: list[int] = []
    aesgcm, suite, single = AESGCM, _SUITE, width + BLOB_OVERHEAD - _HEADER
    places = range(0, width * len(keys), width)
    for key, may, (header, nonce, sealed), aad, at in zip(keys, allowed, parts, aads, places, strict=True):
        try:
            if may and header == suite:
                if len(sealed) == single:
                    aesgcm(key[:KEY_LEN]).decrypt_into(nonce, sealed, aad, out[at : at + width])
                else:
                    target = scratch[: len(sealed) - single + width]
                    aesgcm(key[:KEY_LEN]).decrypt_into(nonce, sealed, aad, target)
                    out[at : at + width] = target[:width]
                continue
        except (InvalidTag, ValueError):
            pass
        out[at : at + width] = bytes(width)
        failed.append(at // width)
    return failed
