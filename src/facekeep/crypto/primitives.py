"""Every raw cryptographic call of facekeep, in one place (SPEC §1, §3, §5, §6).

Nothing here is a primitive of our own: AES-256-GCM is pyca/cryptography's, hashes, SHAKE and HMAC
are OpenSSL's through hashlib or through it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterable
from typing import cast

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

from facekeep.errors import FormatError, IntegrityError
from facekeep.wiping import wipe

SUITE = 1
_SUITE = SUITE.to_bytes(2, "big")
NONCE_LEN = 12
TAG_LEN = 16
BLOB_OVERHEAD = 2 + NONCE_LEN + TAG_LEN
KEY_LEN = 32
_DEAD = bytes(KEY_LEN)

compare = hmac.compare_digest


def domain(label: str) -> bytes:
    """``D(label)`` of SPEC §1: keeps the uses of one hash or key apart."""
    return b"facekeep/v1/" + label.encode("ascii") + b"\0"


def random_bytes(count: int) -> bytes:
    """Return ``count`` bytes from the operating system's generator."""
    return os.urandom(count)


def sha256(*parts: bytes) -> bytes:
    """SHA-256 of the parts, one after another."""
    return hashlib.sha256(parts[0] if len(parts) == 1 else b"".join(parts)).digest()


def mac(key: bytes, *parts: bytes) -> bytes:
    """HMAC-SHA256 (RFC 2104) of the parts, one after another."""
    return hmac.digest(key, b"".join(parts), "sha256")


class Mac:
    """``mac`` under one key, for many messages: ``hmac.digest`` looks SHA-256 up and sets the key each time.

    It also gives up the interpreter lock, and beside busy threads has to wait for it.
    """

    __slots__ = ("_keyed",)

    def __init__(self, key: bytes) -> None:
        """Take the key."""
        self._keyed = HMAC(key, SHA256())

    def __call__(self, *parts: bytes) -> bytes:
        """HMAC-SHA256 of the parts, one after another."""
        started = self._keyed.copy()
        started.update(b"".join(parts))
        return started.finalize()


def expand_node(info: bytes, node_key: bytes) -> bytes:
    """Return the 3,840 bytes of a node's children (SPEC §3.1). A zero key is a dead one: refused."""
    if not any(node_key):
        raise IntegrityError("a destroyed key was about to be used")
    hashed = hashlib.shake_256(info)
    hashed.update(node_key)
    return hashed.digest(3840)


def slot_kdf(slot_key: bytes, info: bytes) -> tuple[bytes, bytes]:
    """Derive (encryption key, commitment) from a slot key: SP 800-56C r2 §4, SHA-512 (SPEC §5.1).

    One SHA-512 block of output is one call with counter 1; equal to ``ConcatKDFHash``, but faster.
    """
    if slot_key == _DEAD:
        raise IntegrityError("a destroyed key was about to be used")
    hashed = hashlib.sha512(b"\0\0\0\1")
    hashed.update(slot_key)
    hashed.update(info)
    out = hashed.digest()
    key, commitment = out[:32], out[32:]
    wipe(out)
    return key, commitment


def seal(key: bytes, plaintext: bytes | bytearray | memoryview, aad: bytes) -> bytes:
    """Seal under a random nonce: ``suite || nonce || ciphertext || tag``.

    A key seals at most two blobs in its life (SPEC §5), so random nonces cannot collide in practice.
    """
    nonce = os.urandom(NONCE_LEN)
    return _SUITE + nonce + AESGCM(key).encrypt(nonce, plaintext, aad)


def open_sealed(key: bytes, blob: bytes, aad: bytes) -> bytes:
    """Open a sealed blob; raises IntegrityError. Not for templates: see ``open_into``."""
    try:
        _check_header(blob)
        return AESGCM(key).decrypt(blob[2:14], blob[14:], aad)
    except InvalidTag:
        raise IntegrityError("a sealed blob does not authenticate") from None


class Aead:
    """A key that seals and opens many small blobs: its schedule is computed once."""

    __slots__ = ("_cipher",)

    def __init__(self, key: bytes) -> None:
        """Take a 32-byte key."""
        self._cipher = AESGCM(key)

    def seal(self, plaintext: bytes, aad: bytes) -> bytes:
        """As ``seal``; at most 2^32 blobs in a key's life (SP 800-38D §8.3)."""
        nonce = os.urandom(NONCE_LEN)
        return _SUITE + nonce + self._cipher.encrypt(nonce, plaintext, aad)

    def open(self, blob: bytes, aad: bytes) -> bytes:
        """As ``open_sealed``."""
        _check_header(blob)
        try:
            return self._cipher.decrypt(blob[2:14], blob[14:], aad)
        except InvalidTag:
            raise IntegrityError("a sealed blob does not authenticate") from None

    def open_many(self, blobs: Iterable[tuple[bytes, bytes]], prefix: bytes) -> bytes:
        """Plaintexts, one after another, of (end of associated data, blob): ``open`` for a million."""
        decrypt = self._cipher.decrypt
        try:
            opened = [
                decrypt(blob[2:14], blob[14:], prefix + end) if blob[:2] == _SUITE else None
                for end, blob in blobs
            ]
            return b"".join(cast("list[bytes]", opened))  # a None is a TypeError
        except (InvalidTag, TypeError, ValueError):
            raise IntegrityError("a sealed blob does not authenticate") from None


def open_into(key: bytes, blob: bytes, aad: bytes, out: memoryview) -> None:
    """Open a sealed blob into ``out`` (exactly the plaintext's length), never into a new object."""
    if blob[:2] != _SUITE or len(blob) != len(out) + BLOB_OVERHEAD:
        raise FormatError("a sealed blob has another suite or length than it should")
    try:
        AESGCM(key).decrypt_into(blob[2:14], memoryview(blob)[14:], aad, out)
    except InvalidTag:
        out[:] = bytes(len(out))  # OpenSSL writes the plaintext before it has seen the tag
        raise IntegrityError("a sealed blob does not authenticate") from None


def _check_header(blob: bytes) -> None:
    if blob[:2] != _SUITE or len(blob) < BLOB_OVERHEAD:
        raise FormatError("a sealed blob has an unknown suite or is too short")
