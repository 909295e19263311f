"""Sealing to an offline key: HPKE (RFC 9180) with the hybrid KEM MLKEM768-X25519 (SPEC §4.7).

KEM 0x647a, HKDF-SHA256 0x0001, AES-256-GCM 0x0002, base mode, one message, empty associated data: what it is
bound to stands in ``info``. The private key is the 32-byte seed of X-Wing (draft-connolly-cfrg-xwing-kem
§5.2), from which both component keys are expanded, so that what is kept offline is short enough for paper.
"""

from __future__ import annotations

import hashlib
from typing import Final

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from facekeep.crypto.primitives import TAG_LEN
from facekeep.errors import FormatError, IntegrityError, MissingDependency

SEED_LEN: Final = 32
_ML_KEM_PUBLIC_LEN: Final = 1184  # FIPS 203, table 3
_ML_KEM_CIPHERTEXT_LEN: Final = 1088
_ML_KEM_SEED_LEN: Final = 64  # d || z
_X25519_LEN: Final = 32
PUBLIC_LEN: Final = _ML_KEM_PUBLIC_LEN + _X25519_LEN
OVERHEAD: Final = _ML_KEM_CIPHERTEXT_LEN + _X25519_LEN + TAG_LEN

_SUITE: Final = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def hpke_public(seed: bytes) -> bytes:
    """Return the public key (1,216 bytes: ML-KEM-768, then X25519) of a seed of 32."""
    ml_kem, x25519 = _expand(seed)
    return ml_kem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()


def hpke_seal(public: bytes, plaintext: bytes, info: bytes) -> bytes:
    """Seal to a public key: encapsulation (1,120 bytes), ciphertext, tag. Raises FormatError for no key."""
    try:
        ml_kem = MLKEM768PublicKey.from_public_bytes(public[:_ML_KEM_PUBLIC_LEN])
        x25519 = X25519PublicKey.from_public_bytes(public[_ML_KEM_PUBLIC_LEN:])
        return _SUITE.encrypt(plaintext, MLKEM768X25519PublicKey(ml_kem, x25519), info)
    except ValueError as error:
        raise FormatError("that is no public key of MLKEM768-X25519") from error
    except UnsupportedAlgorithm as error:
        raise _unsupported() from error


def hpke_open(seed: bytes, sealed: bytes, info: bytes) -> bytes:
    """Open what was sealed to the public key of ``seed``; raises IntegrityError."""
    if len(sealed) < OVERHEAD:
        raise FormatError("what was sealed to a public key is too short")
    try:
        return _SUITE.decrypt(sealed, MLKEM768X25519PrivateKey(*_expand(seed)), info)
    except (InvalidTag, ValueError) as error:
        raise IntegrityError("what was sealed does not open with this private key") from error


def _expand(seed: bytes) -> tuple[MLKEM768PrivateKey, X25519PrivateKey]:
    if len(seed) != SEED_LEN:
        raise FormatError("a private key is a seed of 32 bytes")
    expanded = hashlib.shake_256(seed).digest(_ML_KEM_SEED_LEN + _X25519_LEN)
    try:
        ml_kem = MLKEM768PrivateKey.from_seed_bytes(expanded[:_ML_KEM_SEED_LEN])
    except UnsupportedAlgorithm as error:
        raise _unsupported() from error
    return ml_kem, X25519PrivateKey.from_private_bytes(expanded[_ML_KEM_SEED_LEN:])


def _unsupported() -> MissingDependency:
    return MissingDependency(
        "the cryptography package here has no ML-KEM-768",
        next="install its wheel: pip install --only-binary cryptography 'cryptography>=47'",
    )
