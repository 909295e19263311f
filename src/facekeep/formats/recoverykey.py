"""The recovery key's files, its URI and the records sealed to it (SPEC §4.7). No secret is made here."""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass, field
from typing import Final

from facekeep.errors import FormatError, UsageError
from facekeep.formats.canonical import JsonObject
from facekeep.formats.ids import from_hex

SCHEME: Final = "recovery"
KEY_ID_LEN: Final = 32
PUBLIC_LEN: Final = 1216
SEED_LEN: Final = 32
BOX_LEN: Final = 1168  # encapsulation 1,120, root 32, tag 16
MAX_FILE_BYTES: Final = 4096

_DOMAIN: Final = b"facekeep/v1/recovery-key\0"
_PUBLIC_HEAD: Final = "facekeep recovery key 1, public"
_PRIVATE_HEAD: Final = "facekeep recovery key 1, private: keep it offline, away from every copy of the vault"
_LINES: Final = 4  # three, and nothing after the last newline
_KEY: Final = "?key="


def key_id(public: bytes) -> bytes:
    """Name of a public key (1,216 bytes): ``H(D("recovery-key") || public key)``, 32 bytes."""
    return hashlib.sha256(_DOMAIN + public).digest()


@dataclass(frozen=True, slots=True)
class PublicFile:
    """The public half: 1,216 bytes. Not secret; whoever replaces it before init has the vault's recovery."""

    public: bytes

    def encode(self) -> str:
        """Return the file's text."""
        return f"{_PUBLIC_HEAD}\nkey id: {key_id(self.public).hex()}\nkey: {_base64(self.public)}\n"

    @staticmethod
    def decode(data: bytes) -> PublicFile:
        """Parse; raises FormatError."""
        mark, raw = _parse(data, _PUBLIC_HEAD, "key", PUBLIC_LEN)
        if key_id(raw) != mark:
            raise FormatError("the public key is not the one its key id names")
        return PublicFile(raw)


@dataclass(frozen=True, slots=True)
class PrivateFile:
    """The private half: key id (32 bytes) of the public one, and the seed (32 bytes)."""

    mark: bytes
    seed: bytes = field(repr=False)

    def encode(self) -> str:
        """Return the file's text."""
        return f"{_PRIVATE_HEAD}\nkey id: {self.mark.hex()}\nseed: {_base64(self.seed)}\n"

    @staticmethod
    def decode(data: bytes) -> PrivateFile:
        """Parse; raises FormatError. Whether the seed is that of the key id is for ``keys`` to compare."""
        return PrivateFile(*_parse(data, _PRIVATE_HEAD, "seed", SEED_LEN))


@dataclass(frozen=True, slots=True)
class SealedRoot:
    """What a record keeps of a root: key id (32 bytes), box (1,168), and a check that the root gives (32)."""

    mark: bytes
    box: bytes = field(repr=False)
    check: bytes = field(repr=False)

    def to_json(self) -> JsonObject:
        """Return the ``sealed`` of a holder record."""
        return {"box": _base64(self.box), "check": self.check.hex(), "key": self.mark.hex()}

    @staticmethod
    def from_json(sealed: JsonObject) -> SealedRoot:
        """Parse; raises FormatError."""
        if set(sealed) != {"box", "check", "key"} or not isinstance(sealed["box"], str):
            raise FormatError("a recovery record has not the keys it should")
        found = SealedRoot(
            from_hex(sealed["key"], KEY_ID_LEN, "the key id"),
            _unbase64(sealed["box"], BOX_LEN),
            from_hex(sealed["check"], 32, "the check"),
        )
        if found.to_json() != sealed:
            raise FormatError("a recovery record is not in its one form")
        return found


def recovery_uri(public: bytes, path: str = "") -> str:
    """Return ``recovery:PATH?key=KEY``; without a path the holder file is in the vault's directory."""
    return f"{SCHEME}:{path}{_KEY}{_url64(public)}"


def parse_recovery_rest(rest: str) -> tuple[str, bytes]:
    """(path, public key) of what stands after ``recovery:``; raises UsageError."""
    path, mark, text = rest.rpartition(_KEY)
    try:
        public = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        public = b""
    if not mark or len(public) != PUBLIC_LEN or _url64(public) != text or "\0" in path:
        raise UsageError(
            "the recovery URI has no public key",
            next="name the public key's file with --recovery; the URI is made from it",
        )
    return path, public


def _parse(data: bytes, head: str, name: str, length: int) -> tuple[bytes, bytes]:
    lines = data[: MAX_FILE_BYTES + 1].decode("ascii", "replace").split("\n")
    prefix = f"{name}: "
    if len(lines) != _LINES or lines[0] != head or lines[-1] or len(data) > MAX_FILE_BYTES:
        half = "private" if head == _PRIVATE_HEAD else "public"
        raise FormatError(f"that is no file of a {half} recovery key", next="name the file of the other half")
    if not lines[1].startswith("key id: ") or not lines[2].startswith(prefix):
        raise FormatError("a recovery key's file has other lines than it should")
    mark = from_hex(lines[1].removeprefix("key id: "), KEY_ID_LEN, "the key id")
    return mark, _unbase64(lines[2].removeprefix(prefix), length)


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


def _url64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def _unbase64(text: str, length: int) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != length or _base64(raw) != text:
        raise FormatError(f"base64 of {length} bytes was expected")
    return raw
