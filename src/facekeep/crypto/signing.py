"""Signatures of the log: Ed25519 through libsodium only, ML-DSA-44 through pyca/cryptography (SPEC §10.5).

Verification raises and never returns a bool. libsodium refuses a non-canonical S, R or public key and
points of small order; a key outside the prime-order subgroup is refused here as well, so that no two
verifiers can disagree about a signature. Other libraries accept some of these.
"""

from __future__ import annotations

import hashlib
from typing import Final, Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey, MLDSA44PublicKey
from nacl.bindings import crypto_core_ed25519_is_valid_point
from nacl.exceptions import CryptoError
from nacl.signing import SigningKey, VerifyKey

from facekeep.crypto.primitives import KEY_LEN, SUITE, domain
from facekeep.errors import IntegrityError, MissingDependency

ED25519_PUBLIC_LEN: Final = 32
ED25519_SIGNATURE_LEN: Final = 64
ML_DSA_44_PUBLIC_LEN: Final = 1312
ML_DSA_44_SIGNATURE_LEN: Final = 2420
FIRST_GENERATION: Final = 1

_KDF: Final = domain("signing-kdf")


class Signer(Protocol):
    """A private key: its public key's bytes, and signing."""

    @property
    def public(self) -> bytes:
        """Return the encoded public key."""
        ...

    def sign(self, message: bytes) -> bytes:
        """Return the signature's bytes."""
        ...


class Ed25519Signer:
    """Ed25519 (RFC 8032) from a 32-byte seed; deterministic."""

    __slots__ = ("_key", "public")

    def __init__(self, seed: bytes) -> None:
        """Take the seed."""
        self._key = SigningKey(_alive(seed))
        self.public = bytes(self._key.verify_key)

    def sign(self, message: bytes) -> bytes:
        """Return the 64 bytes of R and S."""
        return self._key.sign(message).signature


class MlDsa44Signer:
    """ML-DSA-44 (FIPS 204) from a 32-byte seed, with an empty context; hedged: no two signatures alike."""

    __slots__ = ("_key", "public")

    def __init__(self, seed: bytes) -> None:
        """Take the seed."""
        try:
            self._key = MLDSA44PrivateKey.from_seed_bytes(_alive(seed))
        except UnsupportedAlgorithm as error:
            raise _unsupported() from error
        self.public = self._key.public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """Return the 2,420 bytes of the signature."""
        return self._key.sign(message)


def signing_seeds(key: bytes, vault_id: bytes, generation: int) -> tuple[bytes, bytes]:
    """Seeds (Ed25519, ML-DSA-44) of one generation of the log's keys, from system slot 2's key.

    The one-step KDF of SP 800-56C r2 §4 with SHA-512, as everywhere (SPEC §5.1, §10.5).
    """
    info = _KDF + SUITE.to_bytes(2, "big") + vault_id + generation.to_bytes(4, "big")
    out = hashlib.sha512(b"\0\0\0\1" + _alive(key) + info).digest()
    return out[:KEY_LEN], out[KEY_LEN:]


def check_ed25519_public(public: bytes) -> None:
    """Raise IntegrityError unless the key is a canonical point of the prime-order subgroup."""
    if len(public) != ED25519_PUBLIC_LEN or not crypto_core_ed25519_is_valid_point(public):
        raise IntegrityError("an Ed25519 public key is not a canonical point of full order")


def verify_ed25519(public: bytes, signature: bytes, message: bytes) -> None:
    """Verify strictly; raises IntegrityError."""
    check_ed25519_public(public)
    if len(signature) != ED25519_SIGNATURE_LEN:
        raise IntegrityError("an Ed25519 signature is not 64 bytes long")
    try:
        VerifyKey(public).verify(message, signature)
    except CryptoError:
        raise IntegrityError("an Ed25519 signature does not verify") from None


def verify_ml_dsa_44(public: bytes, signature: bytes, message: bytes) -> None:
    """Verify with an empty context; raises IntegrityError."""
    if len(public) != ML_DSA_44_PUBLIC_LEN or len(signature) != ML_DSA_44_SIGNATURE_LEN:
        raise IntegrityError("an ML-DSA-44 key or signature has another length than it should")
    try:
        MLDSA44PublicKey.from_public_bytes(public).verify(signature, message)
    except UnsupportedAlgorithm as error:
        raise _unsupported() from error
    except (InvalidSignature, ValueError):
        raise IntegrityError("an ML-DSA-44 signature does not verify") from None


def _alive(key: bytes) -> bytes:
    if len(key) != KEY_LEN or not any(key):
        raise IntegrityError("a destroyed key was about to be used")
    return key


def _unsupported() -> MissingDependency:
    return MissingDependency(
        "the installed cryptography package has no ML-DSA-44",
        next="install cryptography 47 or later from a wheel: pip install --upgrade cryptography",
    )
