"""The public bytes of SPEC §4.7, held against published vectors and against HPKE written out by hand."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from facekeep.crypto.hpke import OVERHEAD, PUBLIC_LEN, hpke_open, hpke_public, hpke_seal
from facekeep.errors import FormatError, IntegrityError

SEED = bytes(range(32))

# draft-connolly-cfrg-xwing-kem-08, appendix C: seed, SHA-256 of the public key.
XWING = {
    "7f9c2ba4e88f827d616045507605853ed73b8093f6efbc88eb1a6eacfa66ef26": (
        "e2236b35a8c24b39b10aa1323a96a919",
        "2e816deebcd76c5c80d0cd2d174478871658e8e2ff42bc9d4a6e486372e856bb",
    ),
    "badfd6dfaac359a5efbb7bcc4b59d538df9a04302e10c8bc1cbf1a0b3a5120ea": (
        "0333285fa253661508c9fb444852caa4",
        "c42ba5f8430d7d2c83739338203819f090e8303ce9c8b02107c272bfa5376916",
    ),
}


@pytest.mark.parametrize("seed", XWING)
def test_a_seed_gives_the_public_key_of_x_wing(seed: str) -> None:
    public = hpke_public(bytes.fromhex(seed))
    begins, digest = XWING[seed]
    assert len(public) == PUBLIC_LEN
    assert public.hex().startswith(begins)
    assert hashlib.sha256(public).hexdigest() == digest


def labeled_extract(suite: bytes, salt: bytes, label: bytes, ikm: bytes) -> bytes:
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + ikm, "sha256")


def labeled_expand(suite: bytes, key: bytes, label: bytes, info: bytes, length: int) -> bytes:
    text = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    return hmac.digest(key, text + b"\1", "sha256")[:length]


def opened_by_hand(seed: bytes, sealed: bytes, info: bytes) -> bytes:
    """RFC 9180 §5.1 and §6.1 with the KEM of X-Wing §5.4: nothing of facekeep, nothing of an HPKE library."""
    expanded = hashlib.shake_256(seed).digest(96)
    ml_kem = MLKEM768PrivateKey.from_seed_bytes(expanded[:64])
    x25519 = X25519PrivateKey.from_private_bytes(expanded[64:])
    ml_ct, x_ct, ciphertext = sealed[:1088], sealed[1088:1120], sealed[1120:]
    shared = hashlib.sha3_256(
        ml_kem.decapsulate(ml_ct)
        + x25519.exchange(X25519PublicKey.from_public_bytes(x_ct))
        + x_ct
        + x25519.public_key().public_bytes_raw()
        + bytes.fromhex("5c2e2f2f5e5c")  # the label, a picture of an X-wing
    ).digest()
    suite = b"HPKE" + b"\x64\x7a" + b"\x00\x01" + b"\x00\x02"
    context = (
        b"\0"
        + labeled_extract(suite, b"", b"psk_id_hash", b"")
        + labeled_extract(suite, b"", b"info_hash", info)
    )
    secret = labeled_extract(suite, shared, b"secret", b"")
    key = labeled_expand(suite, secret, b"key", context, 32)
    nonce = labeled_expand(suite, secret, b"base_nonce", context, 12)
    return AESGCM(key).decrypt(nonce, ciphertext, b"")


def test_what_is_sealed_opens_by_the_published_construction() -> None:
    sealed = hpke_seal(hpke_public(SEED), b"r" * 32, b"what it is for")
    assert len(sealed) == OVERHEAD + 32
    assert opened_by_hand(SEED, sealed, b"what it is for") == b"r" * 32


def test_no_two_seals_are_alike() -> None:
    public = hpke_public(SEED)
    assert hpke_seal(public, b"r", b"") != hpke_seal(public, b"r", b"")


def test_another_key_other_info_or_an_altered_byte_opens_nothing() -> None:
    sealed = hpke_seal(hpke_public(SEED), b"r" * 32, b"info")
    assert hpke_open(SEED, sealed, b"info") == b"r" * 32
    for seed, data, info in [
        (bytes(32), sealed, b"info"),
        (SEED, sealed, b"Info"),
        (SEED, sealed + b"\0", b"info"),
        *[
            (SEED, sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :], b"info")
            for at in (0, 1087, 1088, 1119, 1120, 1167)
        ],
    ]:
        with pytest.raises(IntegrityError):
            hpke_open(seed, data, info)
    with pytest.raises(FormatError):
        hpke_open(SEED, sealed[: OVERHEAD - 1], b"info")


@pytest.mark.parametrize("public", [b"", bytes(PUBLIC_LEN), b"\xff" * PUBLIC_LEN, hpke_public(SEED)[:-1]])
def test_what_is_no_public_key_seals_nothing(public: bytes) -> None:
    with pytest.raises(FormatError):
        hpke_seal(public, b"r", b"")


def test_a_seed_of_another_length_is_refused() -> None:
    with pytest.raises(FormatError):
        hpke_public(bytes(31))
