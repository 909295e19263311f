"""C2SP signed-note: a text and the lines that sign it, verifier keys (SPEC §10.2).

Nothing is verified here: that takes keys and is ``auditlog.signed``. Parsing is strict and canonical, so
that no altered byte goes by unnoticed, not even in lines whose signer is unknown.
"""

from __future__ import annotations

import enum
import hashlib
import re
from dataclasses import dataclass
from typing import Final

from facekeep.errors import FormatError
from facekeep.formats import text as strict

MAX_BYTES: Final = 1_000_000  # of one note; 100 lines of ML-DSA-44 take a third of it
MAX_SIGNATURES: Final = 100  # lines; C2SP asks for 16 at least
KEY_ID_LEN: Final = 4

_PREFIX: Final = "\N{EM DASH} "
_KEY_ID: Final = re.compile(r"[0-9a-f]{8}\Z", re.ASCII)


class KeyType(enum.IntEnum):
    """Signature type bytes of C2SP signed-note that facekeep knows."""

    ED25519 = 0x01  # over the note text
    COSIGNATURE_ED25519 = 0x04  # timestamped, tlog-cosignature
    COSIGNATURE_ML_DSA_44 = 0x06  # timestamped, tlog-cosignature

    @property
    def label(self) -> str:
        """Return the algorithm's name."""
        return "ML-DSA-44" if self is KeyType.COSIGNATURE_ML_DSA_44 else "Ed25519"


PUBLIC_LEN: Final = {
    KeyType.ED25519: 32,
    KeyType.COSIGNATURE_ED25519: 32,
    KeyType.COSIGNATURE_ML_DSA_44: 1312,
}


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key with the name and type it signs under."""

    name: str
    type: KeyType
    public: bytes

    def __post_init__(self) -> None:
        """Raise FormatError for an illegal name or a key of another length."""
        strict.check_name(self.name, "a key name")
        if len(self.public) != PUBLIC_LEN[self.type]:
            raise FormatError("a verifier key has another length than its type")

    @property
    def key_id(self) -> bytes:
        """Return the first four bytes of ``H(name || newline || type || public key)``."""
        material = self.name.encode() + b"\n" + bytes([self.type]) + self.public
        return hashlib.sha256(material).digest()[:KEY_ID_LEN]

    def fingerprint(self) -> str:
        """Return SHA-256 of the encoded key in sixteen groups of four hex digits, to be read aloud."""
        digits = hashlib.sha256(self.encode().encode()).hexdigest()
        return " ".join(digits[at : at + 4] for at in range(0, len(digits), 4))

    def encode(self) -> str:
        """Return ``name+hex(key id)+base64(type || public key)``."""
        material = strict.encode_base64(bytes([self.type]) + self.public)
        return f"{self.name}+{self.key_id.hex()}+{material}"

    @staticmethod
    def parse(text: str) -> VerifierKey:
        """Parse a vkey; base64 contains ``+``, so only the first two split. Raises FormatError."""
        name, _, rest = text.partition("+")
        key_id, _, material = rest.partition("+")
        raw = strict.decode_base64(material, "a verifier key")
        if not raw or not _KEY_ID.match(key_id):
            raise FormatError("a verifier key is not name+id+key")
        if raw[0] not in PUBLIC_LEN:
            raise FormatError(f"a verifier key has type 0x{raw[0]:02x}, which facekeep does not know")
        key = VerifierKey(name, KeyType(raw[0]), raw[1:])
        if key.encode() != text:
            raise FormatError("a verifier key's id does not belong to its name and key")
        return key


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line: who is said to have signed, and the bytes after the key id."""

    name: str
    key_id: bytes
    body: bytes

    def encode(self) -> str:
        """Return the line with its newline."""
        return f"{_PREFIX}{self.name} {strict.encode_base64(self.key_id + self.body)}\n"

    @staticmethod
    def parse(line: str) -> Signature:
        """Parse one line without its newline; raises FormatError."""
        if not line.startswith(_PREFIX):
            raise FormatError("a signature line does not begin with an em dash and a space")
        name, _, coded = line[len(_PREFIX) :].partition(" ")
        strict.check_name(name, "a signature line's key name")
        raw = strict.decode_base64(coded, "a signature")
        if len(raw) <= KEY_ID_LEN:
            raise FormatError("a signature is too short")
        return Signature(name, raw[:KEY_ID_LEN], raw[KEY_ID_LEN:])


@dataclass(frozen=True, slots=True)
class Note:
    """A text that ends in a newline, and its signature lines; authentic only once verified."""

    text: str
    signatures: tuple[Signature, ...]

    def encode(self) -> bytes:
        """Return the note's bytes; raises FormatError for what ``parse`` would refuse."""
        strict.check_text(self.text, "a note")
        if not self.text.endswith("\n") or not 1 <= len(self.signatures) <= MAX_SIGNATURES:
            raise FormatError(f"a note has no final newline, or not 1 to {MAX_SIGNATURES} signatures")
        data = f"{self.text}\n{''.join(each.encode() for each in self.signatures)}".encode()
        if len(data) > MAX_BYTES:
            raise FormatError(f"a note is longer than {MAX_BYTES} bytes")
        return data

    @staticmethod
    def parse(data: bytes) -> Note:
        """Split at the *last* blank line, parse, re-encode, compare; raises FormatError."""
        if len(data) > MAX_BYTES:
            raise FormatError(f"a note is longer than {MAX_BYTES} bytes")
        whole = strict.decode_text(data, "a note")
        body, blank, block = whole.rpartition("\n\n")
        if not blank or not block:
            raise FormatError("a note has no blank line with signatures after it")
        lines = strict.to_lines(block, "a note")
        if len(lines) > MAX_SIGNATURES:
            raise FormatError(f"a note has more than {MAX_SIGNATURES} signatures")
        note = Note(body + "\n", tuple(map(Signature.parse, lines)))
        if note.encode() != data:
            raise FormatError("a note is not in its canonical form")
        return note
