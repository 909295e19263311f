"""C2SP tlog-checkpoint: the text that a log signs (SPEC §10.3)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from facekeep.errors import FormatError
from facekeep.formats import text as strict
from facekeep.formats.ids import VAULT_ID_LEN, from_hex

ROOT_LEN: Final = 32
ORIGIN_MAX: Final = 255  # bytes: ML-DSA-44 cosignatures write its length in one
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()

_ORIGIN: Final = "facekeep/"


def origin_of(vault_id: bytes) -> str:
    """Return the origin of a vault's log, which is also the name of its keys: ``facekeep/<vault id>``."""
    if len(vault_id) != VAULT_ID_LEN:
        raise FormatError("a vault id is not 16 bytes long")
    return _ORIGIN + vault_id.hex()


def vault_of(origin: str) -> bytes:
    """Return the vault id in an origin; raises FormatError if it is not a facekeep log's."""
    if not origin.startswith(_ORIGIN):
        raise FormatError("an origin is not that of a facekeep log")
    return from_hex(origin[len(_ORIGIN) :], VAULT_ID_LEN, "an origin's vault id")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Which log, how many entries, and the RFC 6962 root hash of them."""

    origin: str
    size: int
    root: bytes

    def __post_init__(self) -> None:
        """Raise FormatError for values that have no canonical text."""
        strict.check_name(self.origin, "a checkpoint's origin")
        if len(self.origin.encode()) > ORIGIN_MAX:
            raise FormatError(f"a checkpoint's origin is longer than {ORIGIN_MAX} bytes")
        strict.check_number(self.size, "a checkpoint's size")
        if len(self.root) != ROOT_LEN:
            raise FormatError("a checkpoint's root is not 32 bytes long")
        if self.size == 0 and self.root != EMPTY_ROOT:
            raise FormatError("a checkpoint of size 0 does not have the root of the empty tree")

    def encode(self) -> str:
        """Return the note text: three lines."""
        return f"{self.origin}\n{self.size}\n{strict.encode_base64(self.root)}\n"

    @staticmethod
    def parse(text: str) -> Checkpoint:
        """Parse a note text of exactly three non-empty lines; extension lines are refused: FormatError."""
        strict.check_text(text, "a checkpoint")
        lines = strict.to_lines(text, "a checkpoint")
        if len(lines) != 3 or not all(lines):  # noqa: PLR2004 - origin, size, root
            raise FormatError("a checkpoint does not have exactly three lines")
        origin, size, root = lines
        return Checkpoint(
            origin,
            strict.parse_decimal(size, "a checkpoint's size"),
            strict.decode_base64(root, "a checkpoint's root", ROOT_LEN),
        )
