"""Opening many small blobs, each under its own slot key: ``slot_kdf`` and ``open_into`` as one loop.

The same bytes as in ``primitives``, without a function call or an intermediate object that can be spared:
a gallery of a million templates is filled here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from facekeep.crypto.primitives import BLOB_OVERHEAD, KEY_LEN, SUITE, compare
from facekeep.formats.ids import GRANT_ID_LEN

_SUITE = SUITE.to_bytes(2, "big")


def open_many(
    rows: Iterable[tuple[int, bytes, str, bytes, bytes]],
    keys: bytes,
    covered: Container[int],
    prefixes: tuple[bytes, bytes],
    tail: bytes,
    out: memoryview,
    width: int,
    scratch: memoryview,
) -> list[int]:
    """Open the first ``width`` bytes of each row's templates into its place in ``out``.

    ``rows`` are (slot, grant id || tag || terms, model, commitment, sealed); ``keys`` their slot keys, none
    of them zero; ``covered`` the permitted slots; ``prefixes`` and ``tail`` the constant parts of KDF input
    and associated data (SPEC.md §5.1, §5.2). Returns the positions that failed; their place is zero.
    """
    kdf_prefix, aad_prefix = prefixes
    failed: list[int] = []
    sha512, aesgcm, single = hashlib.sha512, AESGCM, width + BLOB_OVERHEAD
    for at, (slot, head, _, commitment, sealed) in enumerate(rows):
        number = slot.to_bytes(8, "big")
        start = at * KEY_LEN
        key = b"\0\0\0\1" + keys[start : start + KEY_LEN]
        derived = sha512(key + kdf_prefix + number + head[:GRANT_ID_LEN]).digest()
        size = len(sealed)
        target = out[at * width : (at + 1) * width] if size == single else scratch[: size - BLOB_OVERHEAD]
        try:
            if compare(derived[KEY_LEN:], commitment) and sealed[:2] == _SUITE and slot in covered:
                aad = aad_prefix + number + head + tail
                aesgcm(derived[:KEY_LEN]).decrypt_into(sealed[2:14], sealed[14:], aad, target)
                if size != single:
                    out[at * width : (at + 1) * width] = target[:width]
                continue
        except (InvalidTag, ValueError):
            pass
        out[at * width : (at + 1) * width] = bytes(width)
        failed.append(at)
    return failed
