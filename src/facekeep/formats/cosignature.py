"""C2SP tlog-cosignature: what is signed, and the bytes of a signature line (SPEC §10.4).

An Ed25519 cosignature (0x04) does not commit to its cosigner's name: a key must not serve two names.
An ML-DSA-44 cosignature (0x06) covers no extension lines: a checkpoint here has none.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from facekeep.errors import FormatError
from facekeep.formats.checkpoint import ORIGIN_MAX, Checkpoint
from facekeep.formats.note import KeyType
from facekeep.formats.text import check_name, check_number

SIGNATURE_LEN: Final = {
    KeyType.ED25519: 64,
    KeyType.COSIGNATURE_ED25519: 64,
    KeyType.COSIGNATURE_ML_DSA_44: 2420,
}
_TIME_LEN: Final = 8
_LABEL: Final = b"subtree/v1\n\0"


class Timestamped(NamedTuple):
    """A cosignature line's content: POSIX seconds and the raw signature."""

    timestamp: int
    signature: bytes


def encode_timestamped(value: Timestamped) -> bytes:
    """Return ``u64 seconds || signature``."""
    return check_number(value.timestamp, "a cosignature's time").to_bytes(_TIME_LEN, "big") + value.signature


def decode_timestamped(body: bytes, kind: KeyType) -> Timestamped:
    """Split a signature line's content; raises FormatError for another length or a time from 2^63 on."""
    if kind is KeyType.ED25519 or len(body) != _TIME_LEN + SIGNATURE_LEN[kind]:
        raise FormatError("a cosignature has another length than its type")
    seconds = int.from_bytes(body[:_TIME_LEN], "big")
    return Timestamped(check_number(seconds, "a cosignature's time"), body[_TIME_LEN:])


def ed25519_message(timestamp: int, checkpoint: Checkpoint) -> bytes:
    """Return what a type 0x04 key signs."""
    check_number(timestamp, "a cosignature's time")
    return f"cosignature/v1\ntime {timestamp}\n{checkpoint.encode()}".encode()


def ml_dsa_44_message(name: str, timestamp: int, checkpoint: Checkpoint) -> bytes:
    """Return what a type 0x06 key called ``name`` signs: ``cosigned_message`` with start 0."""
    return b"".join(
        (
            _LABEL,
            _opaque(check_name(name, "a cosigner's name")),
            check_number(timestamp, "a cosignature's time").to_bytes(8, "big"),
            _opaque(checkpoint.origin),
            bytes(8),
            checkpoint.size.to_bytes(8, "big"),
            checkpoint.root,
        )
    )


def _opaque(text: str) -> bytes:
    raw = text.encode()
    if not 1 <= len(raw) <= ORIGIN_MAX:
        raise FormatError(f"a name in a cosignature is not 1 to {ORIGIN_MAX} bytes long")
    return bytes([len(raw)]) + raw
