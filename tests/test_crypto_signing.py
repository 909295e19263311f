"""Ed25519 and ML-DSA-44: what verifies, and what must not."""

from __future__ import annotations

import hashlib
import itertools

import nacl.exceptions
import nacl.signing
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

import ed25519_points as e
from facekeep.crypto import signing
from facekeep.errors import IntegrityError

MESSAGE = b"facekeep"
SEED = bytes(range(32))
SECRET = 0x1234567890ABCDEF


def refused(public: bytes, signature: bytes, message: bytes = MESSAGE) -> bool:
    with pytest.raises(IntegrityError):
        signing.verify_ed25519(public, signature, message)
    return True


def libsodium_alone_accepts(public: bytes, signature: bytes, message: bytes) -> bool:
    try:
        nacl.signing.VerifyKey(public).verify(message, signature)
    except nacl.exceptions.CryptoError:
        return False
    return True


# --- Ed25519 -------------------------------------------------------------------------------------


def test_rfc_8032_test_1() -> None:
    signer = signing.Ed25519Signer(
        bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    )
    assert signer.public.hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert signer.sign(b"").hex() == (
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
        "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
    )
    signing.verify_ed25519(signer.public, signer.sign(b""), b"")


def test_every_altered_byte_is_refused() -> None:
    signer = signing.Ed25519Signer(SEED)
    signature = signer.sign(MESSAGE)
    for at, bit in itertools.product(range(64), (1, 128)):
        assert refused(signer.public, signature[:at] + bytes([signature[at] ^ bit]) + signature[at + 1 :])
    for at in range(32):
        public = signer.public[:at] + bytes([signer.public[at] ^ 1]) + signer.public[at + 1 :]
        assert refused(public, signature)
    assert refused(signer.public, signature, MESSAGE + b"\0")


@pytest.mark.parametrize("length", [0, 31, 63, 65, 128])
def test_another_length_is_refused(length: int) -> None:
    signer = signing.Ed25519Signer(SEED)
    assert refused(signer.public, (signer.sign(MESSAGE) * 2)[:length])
    assert refused((signer.public * 5)[:length] if length != 32 else b"", signer.sign(MESSAGE))


def test_our_arithmetic_signs_what_libsodium_accepts() -> None:
    public = e.multiply(SECRET, e.base())
    signing.verify_ed25519(e.encode(public), e.sign(SECRET, public, MESSAGE), MESSAGE)


def test_a_key_of_small_order_is_refused_though_its_signature_satisfies_every_equation() -> None:
    """Cases 0 and 1: with a small key some signatures hold for any message (S = 0, R = the neutral point)."""
    for small in e.torsion():
        signature = e.encode(e.NEUTRAL) + bytes(32)
        messages = (b"%d" % counter for counter in itertools.count())
        message = next(each for each in messages if e.satisfied(small, signature, each, cofactor=1))
        assert refused(e.encode(small), signature, message)
        with pytest.raises(IntegrityError):
            signing.check_ed25519_public(e.encode(small))


def test_an_r_of_small_order_is_refused() -> None:
    """Case 2: S = k * secret, R one of the eight points; a key may have torsion or none."""
    public = e.multiply(SECRET, e.base())
    for small in e.torsion():
        r = e.encode(small)
        s = e.challenge(r, e.encode(public), MESSAGE) * SECRET % e.L
        signature = r + s.to_bytes(32, "little")
        assert e.satisfied(public, signature, MESSAGE, cofactor=8)
        assert refused(e.encode(public), signature)


def test_a_key_with_torsion_is_refused_even_where_libsodium_alone_would_not() -> None:
    """Case 3: a mixed-order key and R that satisfy the equation with the cofactor and without it."""
    accepted_by_libsodium = 0
    for small in e.torsion()[1:]:
        public = e.add(e.multiply(SECRET, e.base()), small)
        for counter in range(200):
            message = b"%d" % counter
            signature = e.sign(SECRET, public, message, r_torsion=small, nonce=counter + 9)
            if e.satisfied(public, signature, message, cofactor=1):
                accepted_by_libsodium += libsodium_alone_accepts(e.encode(public), signature, message)
                assert refused(e.encode(public), signature, message)
                break
    assert accepted_by_libsodium


def test_what_holds_only_with_the_cofactor_is_refused() -> None:
    """Cases 4 and 5: R with torsion under a sound key; a verifier with the cofactor accepts."""
    public = e.multiply(SECRET, e.base())
    for small in e.torsion()[1:]:
        signature = e.sign(SECRET, public, MESSAGE, r_torsion=small)
        assert e.satisfied(public, signature, MESSAGE, cofactor=8)
        assert not e.satisfied(public, signature, MESSAGE, cofactor=1)
        assert refused(e.encode(public), signature)


def test_an_s_that_is_not_reduced_is_refused() -> None:
    """Cases 6 and 7: S + L, S + 2L, ...; the equation holds for each, so a signature had many spellings."""
    signer = signing.Ed25519Signer(SEED)
    good = signer.sign(MESSAGE)
    s = int.from_bytes(good[32:], "little")
    point = e.recover(int.from_bytes(signer.public, "little") & (2**255 - 1), signer.public[31] >> 7)
    assert point is not None
    for times in range(1, 16):
        if s + times * e.L < 2**256:
            signature = good[:32] + (s + times * e.L).to_bytes(32, "little")
            assert e.satisfied(point, signature, MESSAGE, cofactor=1)
            assert refused(signer.public, signature)


def non_canonical() -> list[bytes]:
    """Encodings with y >= p, or of x = 0 with the sign bit set."""
    high = [e.P + small for small in range(19)]
    return [
        *((y | sign << 255).to_bytes(32, "little") for y in high for sign in (0, 1)),
        *((y | 1 << 255).to_bytes(32, "little") for y in (1, e.P - 1)),
    ]


def test_a_non_canonical_key_is_refused() -> None:
    """Cases 10 and 11, over every encoding that is not canonical."""
    for public in non_canonical():
        for r in (e.encode(e.NEUTRAL), e.encode(e.multiply(7, e.base()))):
            assert refused(public, r + bytes(32))
        with pytest.raises(IntegrityError):
            signing.check_ed25519_public(public)


def test_a_non_canonical_r_is_refused() -> None:
    """Cases 8 and 9: R reduced before it is hashed, or not."""
    public = e.multiply(SECRET, e.base())
    for r in non_canonical():
        reduced = int.from_bytes(r, "little") & (2**255 - 1)
        for hashed in (r, (reduced % e.P).to_bytes(32, "little")):
            s = e.challenge(hashed, e.encode(public), MESSAGE) * SECRET % e.L
            assert refused(e.encode(public), r + s.to_bytes(32, "little"))


def test_another_library_does_accept_a_corner_case() -> None:
    """Why libsodium alone is used: OpenSSL takes a key of small order."""
    small = e.encode(e.torsion()[0])
    Ed25519PublicKey.from_public_bytes(small).verify(small + bytes(32), b"anything")
    assert refused(small, small + bytes(32), b"anything")


# --- ML-DSA-44 -----------------------------------------------------------------------------------


def test_ml_dsa_44_verifies_and_its_key_follows_from_the_seed() -> None:
    signer = signing.MlDsa44Signer(SEED)
    assert signer.public == signing.MlDsa44Signer(SEED).public
    assert len(signer.public) == signing.ML_DSA_44_PUBLIC_LEN
    one, other = signer.sign(MESSAGE), signer.sign(MESSAGE)
    assert one != other
    for signature in (one, other):
        assert len(signature) == signing.ML_DSA_44_SIGNATURE_LEN
        signing.verify_ml_dsa_44(signer.public, signature, MESSAGE)


def test_every_altered_byte_of_an_ml_dsa_44_signature_is_refused() -> None:
    signer = signing.MlDsa44Signer(SEED)
    signature = signer.sign(MESSAGE)
    for at in range(len(signature)):
        wrong = signature[:at] + bytes([signature[at] ^ 1]) + signature[at + 1 :]
        with pytest.raises(IntegrityError):
            signing.verify_ml_dsa_44(signer.public, wrong, MESSAGE)


def test_another_key_message_or_length_is_refused_by_ml_dsa_44() -> None:
    signer, other = signing.MlDsa44Signer(SEED), signing.MlDsa44Signer(b"o" * 32)
    signature = signer.sign(MESSAGE)
    for public, body, message in (
        (other.public, signature, MESSAGE),
        (signer.public, signature, MESSAGE + b"\0"),
        (signer.public, signature[:-1], MESSAGE),
        (signer.public, signature + b"\0", MESSAGE),
        (signer.public[:-1], signature, MESSAGE),
        (bytes(1312), signature, MESSAGE),
        (b"\xff" * 1312, signature, MESSAGE),
    ):
        with pytest.raises(IntegrityError):
            signing.verify_ml_dsa_44(public, body, message)


# --- keys ----------------------------------------------------------------------------------------


def test_seeds_are_those_of_the_specification() -> None:
    ed25519, ml_dsa = signing.signing_seeds(b"k" * 32, b"v" * 16, 3)
    material = b"\0\0\0\1" + b"k" * 32 + b"facekeep/v1/signing-kdf\0" + b"\0\1" + b"v" * 16 + b"\0\0\0\3"
    assert ed25519 + ml_dsa == hashlib.sha512(material).digest()


def test_no_two_vaults_keys_or_generations_share_a_seed() -> None:
    seeds = [
        seed
        for key, vault, generation in itertools.product(
            (b"k" * 32, b"l" * 32), (b"v" * 16, b"w" * 16), (1, 2, 256)
        )
        for seed in signing.signing_seeds(key, vault, generation)
    ]
    assert len(set(seeds)) == len(seeds) == 24


@pytest.mark.parametrize("key", [bytes(32), b"", b"k" * 31])
def test_a_destroyed_key_signs_nothing(key: bytes) -> None:
    for call in (signing.Ed25519Signer, signing.MlDsa44Signer):
        with pytest.raises(IntegrityError):
            call(key)
    with pytest.raises(IntegrityError):
        signing.signing_seeds(key, b"v" * 16, 1)
