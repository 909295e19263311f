"""Opening many small blobs to seal them again under other keys: ``open_sealed`` and ``seal`` as loops.

The same bytes as in ``primitives``. Templates are in the clear in one scratch buffer, one grant's at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from facekeep.crypto.many import random_many
from facekeep.crypto.primitives import BLOB_OVERHEAD, KEY_LEN, NONCE_LEN, SUITE
from facekeep.errors import IntegrityError

_SUITE = SUITE.to_bytes(2, "big")
_HEADER = len(_SUITE) + NONCE_LEN
Cipher: TypeAlias = AESGCM


#: A record that opened: its plaintext, and the cipher under whose key its templates stand.
Opened: TypeAlias = tuple[bytes, Cipher]


def open_records(
    keys: Iterable[bytes],
    templates: Iterable[bytes],
    records: Iterable[bytes],
    aads: Iterable[bytes],
    digests: Iterable[bytes],
) -> list[Opened | None]:
    """Open each sealed record, and with it authenticate its sealed templates; None where one does not.

    ``keys`` begin with an encryption key; ``aads`` lack the hash of the sealed templates, which ends them
    (SPEC §5.2); ``digests`` are SHA-256 of the plaintexts.
    """
    aesgcm, sha256, suite, at = AESGCM, hashlib.sha256, _SUITE, _HEADER
    opened: list[Opened | None] = []
    for key, sealed, record, aad, digest in zip(keys, templates, records, aads, digests, strict=True):
        cipher = aesgcm(key[:KEY_LEN])
        try:
            plain = cipher.decrypt(record[2:at], record[at:], aad + sha256(sealed).digest())
        except (InvalidTag, ValueError):
            opened.append(None)
            continue
        sound = record[:2] == suite == sealed[:2] and sha256(plain).digest() == digest
        opened.append((plain, cipher) if sound else None)
    return opened


def seal_again(
    opened: Sequence[Opened],
    templates: Iterable[bytes],
    aads: Iterable[bytes],
    keys: Iterable[bytes],
    middles: Iterable[bytes],
    prefixes: tuple[bytes, bytes],
    scratch: memoryview,
) -> tuple[list[bytes], list[bytes]]:
    """Open sealed templates and seal them, and their record, under other keys: (templates, records).

    ``aads`` belong to the old templates. ``keys``, ``middles`` and ``prefixes``: see ``many.seal_pairs``.
    ``scratch`` has room for the longest templates; the caller zeroes it. Raises IntegrityError.
    """
    aesgcm, sha256, suite, at = AESGCM, hashlib.sha256, _SUITE, _HEADER
    first, second = prefixes
    nonces = random_many(2 * len(opened), NONCE_LEN)
    arrays, records = [], []
    rows = zip(opened, templates, aads, keys, middles, nonces[::2], nonces[1::2], strict=True)
    try:
        for (plain, cipher), old, aad, key, middle, one, two in rows:
            clear = scratch[: len(old) - BLOB_OVERHEAD]
            cipher.decrypt_into(old[2:at], old[at:], aad, clear)
            seal = aesgcm(key[:KEY_LEN]).encrypt
            sealed = suite + one + seal(one, clear, first + middle)
            arrays.append(sealed)
            records.append(suite + two + seal(two, plain, second + middle + sha256(sealed).digest()))
    except (InvalidTag, ValueError):
        raise IntegrityError("templates do not open, though their record does") from None
    return arrays, records
