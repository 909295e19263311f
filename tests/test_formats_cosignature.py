"""Cosigned messages byte for byte, and the content of their lines."""

from __future__ import annotations

import pytest

from facekeep.errors import FormatError
from facekeep.formats import cosignature
from facekeep.formats.checkpoint import Checkpoint
from facekeep.formats.cosignature import Timestamped
from facekeep.formats.note import KeyType

CHECKPOINT = Checkpoint("example.com/behind-the-sofa", 20_852_163, bytes(range(32)))
ML_DSA, ED25519 = KeyType.COSIGNATURE_ML_DSA_44, KeyType.COSIGNATURE_ED25519


def test_the_ed25519_message() -> None:
    assert cosignature.ed25519_message(1_679_315_147, CHECKPOINT) == (
        b"cosignature/v1\ntime 1679315147\nexample.com/behind-the-sofa\n20852163\n"
        b"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n"
    )


def test_the_ml_dsa_44_message() -> None:
    assert (
        cosignature.ml_dsa_44_message("w.example/1", 1_679_315_147, CHECKPOINT)
        == bytes.fromhex(
            "737562747265652f76310a00"  # subtree/v1, newline, zero
            "0b" + b"w.example/1".hex() + "00000000641850cb"
            "1b" + b"example.com/behind-the-sofa".hex() + "0000000000000000"
            "00000000013e2dc3" + bytes(range(32)).hex()
        )
    )


def test_two_names_never_give_one_message() -> None:
    one = cosignature.ml_dsa_44_message("ab", 7, Checkpoint("c", 1, bytes(32)))
    other = cosignature.ml_dsa_44_message("a", 7, Checkpoint("bc", 1, bytes(32)))
    assert one != other


@pytest.mark.parametrize("kind", [ML_DSA, ED25519])
def test_a_timestamped_signature_round_trips(kind: KeyType) -> None:
    value = Timestamped(2**63 - 1, b"s" * cosignature.SIGNATURE_LEN[kind])
    assert cosignature.decode_timestamped(cosignature.encode_timestamped(value), kind) == value


@pytest.mark.parametrize("kind", [ML_DSA, ED25519])
def test_a_time_from_2_63_on_is_refused(kind: KeyType) -> None:
    body = bytes.fromhex("8000000000000000") + b"s" * cosignature.SIGNATURE_LEN[kind]
    with pytest.raises(FormatError):
        cosignature.decode_timestamped(body, kind)
    with pytest.raises(FormatError):
        cosignature.encode_timestamped(Timestamped(2**63, body[8:]))


@pytest.mark.parametrize("kind", list(KeyType))
@pytest.mark.parametrize("length", [0, 8, 64, 71, 73, 2427, 2429])
def test_another_length_than_the_type_s_is_refused(kind: KeyType, length: int) -> None:
    with pytest.raises(FormatError):
        cosignature.decode_timestamped(bytes(length), kind)


def test_a_plain_signature_has_no_time() -> None:
    with pytest.raises(FormatError):
        cosignature.decode_timestamped(bytes(72), KeyType.ED25519)


@pytest.mark.parametrize("name", ["", "a b", "n" * 256, "\u00e9" * 128])
def test_a_cosigner_s_name_that_does_not_fit_is_refused(name: str) -> None:
    with pytest.raises(FormatError):
        cosignature.ml_dsa_44_message(name, 1, CHECKPOINT)
