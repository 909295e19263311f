"""Checkpoints signed, cosigned and opened under known keys (SPEC §10.4, §10.5). No I/O.

``open_checkpoint`` is the only way from bytes to a ``Checkpoint`` that may be believed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from facekeep.crypto import signing
from facekeep.crypto.primitives import domain
from facekeep.errors import FormatError, IntegrityError, UsageError
from facekeep.formats import cosignature
from facekeep.formats.checkpoint import Checkpoint, origin_of
from facekeep.formats.cosignature import Timestamped
from facekeep.formats.note import KeyType, Note, Signature, VerifierKey

LOG_TYPES: Final = (KeyType.ED25519, KeyType.COSIGNATURE_ML_DSA_44)
#: What to do where the given keys are those of another generation.
ASK_FOR_KEYS: Final = (
    "where the log's keys were rotated give its export as well, or the keys of every generation "
    "('facekeep audit key --all'); otherwise keep the files as evidence"
)
_OTHER_LOG: Final = "check that the checkpoint and the keys are those of the same vault"


class LogSigner:
    """Both private keys of a vault's log in one generation; they never leave the process."""

    __slots__ = ("_ed25519", "_ml_dsa_44", "generation", "keys", "origin")

    def __init__(self, key: bytes, vault_id: bytes, generation: int = signing.FIRST_GENERATION) -> None:
        """Derive them from the 32-byte key of system slot 2."""
        ed25519, ml_dsa_44 = signing.signing_seeds(key, vault_id, generation)
        self._ed25519 = signing.Ed25519Signer(ed25519)
        self._ml_dsa_44 = signing.MlDsa44Signer(ml_dsa_44)
        self.generation = generation
        self.origin = origin_of(vault_id)
        self.keys = (
            VerifierKey(self.origin, KeyType.ED25519, self._ed25519.public),
            VerifierKey(self.origin, KeyType.COSIGNATURE_ML_DSA_44, self._ml_dsa_44.public),
        )

    def sign(self, checkpoint: Checkpoint, time_ms: int) -> bytes:
        """Return the signed note: an Ed25519 line, then an ML-DSA-44 line.

        Whoever calls this answers for it that the checkpoint continues every one signed before.
        """
        if checkpoint.origin != self.origin:
            raise IntegrityError("a checkpoint of another log was about to be signed")
        ed25519, ml_dsa_44 = self.keys
        message = _message(ml_dsa_44, checkpoint, time_ms // 1000)
        stamped = Timestamped(time_ms // 1000, self._ml_dsa_44.sign(message))
        lines = (
            Signature(ed25519.name, ed25519.key_id, self._ed25519.sign(checkpoint.encode().encode())),
            Signature(ml_dsa_44.name, ml_dsa_44.key_id, cosignature.encode_timestamped(stamped)),
        )
        return Note(checkpoint.encode(), lines).encode()

    def sign_raw(self, message: bytes) -> tuple[bytes, bytes]:
        """Sign what begins with a domain of SPEC §1, whose zero byte no note can have; (0x01, 0x06)."""
        if not message.startswith(domain("")[:-1]):
            raise IntegrityError("a message without a domain was about to be signed")
        return self._ed25519.sign(message), self._ml_dsa_44.sign(message)


class Cosigner:
    """A witness's key: states that a checkpoint was the largest consistent one it saw until then."""

    __slots__ = ("_signer", "key")

    def __init__(self, name: str, seed: bytes, kind: KeyType = KeyType.COSIGNATURE_ED25519) -> None:
        """Take the 32-byte seed of a timestamped type; an Ed25519 seed must not serve two names."""
        if kind is KeyType.ED25519:
            raise UsageError("a cosigner's key is of a timestamped type")
        ml_dsa = kind is KeyType.COSIGNATURE_ML_DSA_44
        self._signer: signing.Signer = (signing.MlDsa44Signer if ml_dsa else signing.Ed25519Signer)(seed)
        self.key = VerifierKey(name, kind, self._signer.public)

    def sign(self, checkpoint: Checkpoint, time_ms: int) -> Signature:
        """Return the signature line's content for a checkpoint that the caller has verified."""
        seconds = time_ms // 1000
        raw = self._signer.sign(_message(self.key, checkpoint, seconds))
        body = cosignature.encode_timestamped(Timestamped(seconds, raw))
        return Signature(self.key.name, self.key.key_id, body)


@dataclass(frozen=True, slots=True)
class Verified:
    """A signature that was verified: whose, and at what POSIX time if it says so."""

    key: VerifierKey
    timestamp: int | None


@dataclass(frozen=True, slots=True)
class Opened:
    """A checkpoint that its log signed, and every signature of a known key on it."""

    checkpoint: Checkpoint
    note: Note
    signatures: tuple[Verified, ...]

    @property
    def cosigners(self) -> tuple[Verified, ...]:
        """Signatures of known witnesses."""
        return tuple(each for each in self.signatures if each.key.name != self.checkpoint.origin)


def open_checkpoint(data: bytes, keys: Iterable[VerifierKey], *, origin: str | None = None) -> Opened:
    """Open a checkpoint of the log called ``origin`` (None: of any log whose key is given).

    Steps of SPEC §10.5, in order: [1] the note parses, [2] it is a checkpoint, [3] of this origin,
    [4] whose keys are known, [5] every signature by a known key verifies, [6] there is one for each
    type of log key given. Raises FormatError or IntegrityError.
    """
    note = Note.parse(data)  # [1]
    return open_note(note, keys, origin=origin)


def open_note(note: Note, keys: Iterable[VerifierKey], *, origin: str | None = None) -> Opened:
    """Do steps [2] to [6] for a note that is already parsed, as inside a proof."""
    checkpoint = Checkpoint.parse(note.text)  # [2]
    if origin is not None and checkpoint.origin != origin:  # [3]
        raise IntegrityError("the checkpoint is of another log", next=_OTHER_LOG)
    known = _known(keys)
    wanted = {key.type for key in known.values() if key.name == checkpoint.origin and key.type in LOG_TYPES}
    if not wanted:  # [4]
        raise IntegrityError("no key is known for the log that the checkpoint names", next=_OTHER_LOG)
    found = [  # [5]
        _verify(known[line.name, line.key_id], line, checkpoint)
        for line in note.signatures
        if (line.name, line.key_id) in known
    ]
    signed = {each.key.type for each in found if each.key.name == checkpoint.origin}
    for kind in sorted(wanted - signed):  # [6]
        raise IntegrityError(
            f"the checkpoint has no signature of type 0x{kind:02x} by a given key: it is of another "
            "generation of the log's keys, or forged; the given keys alone cannot tell which",
            next=ASK_FOR_KEYS,
        )
    return Opened(checkpoint, note, tuple(found))


def verify_raw(keys: Sequence[VerifierKey], signatures: Sequence[bytes], message: bytes) -> None:
    """Verify what ``sign_raw`` made, one signature a key; raises IntegrityError."""
    if len(keys) != len(signatures) or not keys:
        raise IntegrityError("there is not one signature for each key")
    for key, signature in zip(keys, signatures, strict=True):
        _verify_bytes(key, signature, message)


def _known(keys: Iterable[VerifierKey]) -> dict[tuple[str, bytes], VerifierKey]:
    """Index the keys by what a line shows of them; two different keys that look alike are refused."""
    known: dict[tuple[str, bytes], VerifierKey] = {}
    for key in keys:
        if known.setdefault((key.name, key.key_id), key) != key:
            raise UsageError("two of the given keys have the same name and key id")
    return known


def _verify(key: VerifierKey, line: Signature, checkpoint: Checkpoint) -> Verified:
    if key.type is KeyType.ED25519:
        _verify_bytes(key, line.body, checkpoint.encode().encode())
        return Verified(key, None)
    try:
        stamped = cosignature.decode_timestamped(line.body, key.type)
    except FormatError as error:
        raise IntegrityError(f"the signature of a known key is malformed: {error}") from error
    _verify_bytes(key, stamped.signature, _message(key, checkpoint, stamped.timestamp))
    return Verified(key, stamped.timestamp)


def _message(key: VerifierKey, checkpoint: Checkpoint, seconds: int) -> bytes:
    if key.type is KeyType.COSIGNATURE_ML_DSA_44:
        return cosignature.ml_dsa_44_message(key.name, seconds, checkpoint)
    return cosignature.ed25519_message(seconds, checkpoint)


def _verify_bytes(key: VerifierKey, signature: bytes, message: bytes) -> None:
    if key.type is KeyType.COSIGNATURE_ML_DSA_44:
        signing.verify_ml_dsa_44(key.public, signature, message)
    else:
        signing.verify_ed25519(key.public, signature, message)
