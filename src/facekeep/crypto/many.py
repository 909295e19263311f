"""Sealing many small blobs, each under its own slot key: ``slot_kdf`` and ``seal`` as loops.

The same bytes as in ``primitives``. What thousands of grants share is computed once, and random bytes are
drawn together: a call to the operating system for each nonce costs more than the encryption.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterable, Sequence

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from facekeep.crypto.primitives import KEY_LEN, NONCE_LEN, SUITE
from facekeep.errors import IntegrityError

_SUITE = SUITE.to_bytes(2, "big")
_DEAD = bytes(KEY_LEN)


def cut(whole: bytes, width: int) -> list[bytes]:
    """Pieces of ``width`` bytes."""
    return [whole[at : at + width] for at in range(0, len(whole), width)]


def random_many(count: int, width: int) -> list[bytes]:
    """``count`` times ``width`` random bytes, drawn at once."""
    return cut(os.urandom(count * width), width)


def sha256_many(messages: Iterable[bytes]) -> list[bytes]:
    """SHA-256 of each message."""
    sha256 = hashlib.sha256
    return [sha256(message).digest() for message in messages]


def mac_many(key: bytes, messages: Iterable[bytes]) -> list[bytes]:
    """HMAC-SHA256 of each message: the key's state is computed once."""
    keyed = hmac.new(key, digestmod="sha256")
    values = []
    for message in messages:
        mac = keyed.copy()
        mac.update(message)
        values.append(mac.digest())
    return values


def derive_many(keys: Sequence[bytes], prefix: bytes, places: Iterable[bytes]) -> list[bytes]:
    """Encryption key || commitment (64 bytes) of each slot key (SPEC §5.1).

    ``places`` are slot || grant id. Raises IntegrityError for the key of a dead slot.
    """
    if _DEAD in keys:
        raise IntegrityError("a destroyed key was about to be used")
    sha512, start = hashlib.sha512, b"\0\0\0\1"
    return [sha512(start + key + prefix + place).digest() for key, place in zip(keys, places, strict=True)]


def seal_pairs(
    keys: Iterable[bytes],
    blobs: Iterable[tuple[memoryview, bytes]],
    middles: Sequence[bytes],
    prefixes: tuple[bytes, bytes],
) -> list[tuple[bytes, bytes]]:
    """Seal (templates, record) pairs; the record's associated data end with the hash of the sealed templates.

    ``keys`` are the encryption keys; ``prefixes`` are the beginnings of the associated data of
    templates and of records, ``middles`` what follows for each pair (SPEC §5.2).
    """
    aesgcm, sha256 = AESGCM, hashlib.sha256
    first, second = prefixes
    nonces = random_many(2 * len(middles), NONCE_LEN)
    pairs = []
    for key, (templates, record), middle, one, two in zip(
        keys, blobs, middles, nonces[::2], nonces[1::2], strict=True
    ):
        seal = aesgcm(key).encrypt
        sealed = _SUITE + one + seal(one, templates, first + middle)
        pairs.append((sealed, _SUITE + two + seal(two, record, second + middle + sha256(sealed).digest())))
    return pairs


def seal_all(key: bytes, plaintexts: Sequence[bytes], prefix: bytes, ends: Iterable[bytes]) -> list[bytes]:
    """Seal many small blobs under one key; associated data are ``prefix`` and each one's end."""
    seal = AESGCM(key).encrypt
    nonces = random_many(len(plaintexts), NONCE_LEN)
    return [
        _SUITE + nonce + seal(nonce, plain, prefix + end)
        for nonce, plain, end in zip(nonces, plaintexts, ends, strict=True)
    ]
