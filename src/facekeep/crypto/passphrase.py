"""Argon2id, for what a person remembers (RFC 9106; SPEC §4.6)."""

from __future__ import annotations

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from facekeep.crypto.primitives import KEY_LEN
from facekeep.errors import MissingDependency


def argon2id(passphrase: bytes, salt: bytes, *, iterations: int, lanes: int, memory_kib: int) -> bytes:
    """Return 32 bytes by Argon2id version 0x13. The caller bounds the parameters, which come from a file.

    Raises MissingDependency where cryptography stands on a library without it, or there is no such memory.
    """
    try:
        kdf = Argon2id(salt=salt, length=KEY_LEN, iterations=iterations, lanes=lanes, memory_cost=memory_kib)
        return kdf.derive(passphrase)
    except UnsupportedAlgorithm:
        raise MissingDependency(
            "this cryptography has no Argon2id", next="pip install --upgrade cryptography, from a wheel"
        ) from None
    except MemoryError:
        raise MissingDependency(
            f"a passphrase layer needs {memory_kib // 1024} MiB of memory for a moment", next="free memory"
        ) from None
