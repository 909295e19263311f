"""Principals: sealed records in system slots; tokens are shown once and stored hashed (SPEC §5.6)."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass

from facekeep.access.roles import Role
from facekeep.crypto import primitives as p
from facekeep.errors import FormatError, NotAllowed, UsageError
from facekeep.formats.canonical import JsonObject, JsonValue
from facekeep.formats.ids import GRANT_ID_LEN, from_hex
from facekeep.limits import LIMITS

ID_LEN = 8
_TOKEN_MARK = p.domain("principal-token")
_TOKEN = re.compile(r"fkt1\.([0-9a-f]{16})\.([A-Za-z0-9_-]{43})\Z")


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks. ``id`` is 8 bytes, ``token_hash`` the SHA-256 of the token's secret."""

    id: bytes
    label: str
    roles: frozenset[Role]
    token_hash: bytes
    created_at_ms: int

    def to_record(self) -> JsonObject:
        """Return the record that is sealed."""
        roles: list[JsonValue] = [role.value for role in sorted(self.roles)]
        return {
            "created_at_ms": self.created_at_ms,
            "id": self.id.hex(),
            "label": self.label,
            "roles": roles,
            "token": self.token_hash.hex(),
            "v": 1,
        }

    @staticmethod
    def from_record(record: JsonObject) -> Principal:
        """Read a sealed record; raises FormatError."""
        roles, created, label = record.get("roles"), record.get("created_at_ms"), record.get("label")
        if not isinstance(roles, list) or not isinstance(created, int) or not isinstance(label, str):
            raise FormatError("a principal's record lacks a field")
        try:
            parsed = frozenset(Role(str(role)) for role in roles)
        except ValueError:
            raise FormatError("a principal's record names an unknown role") from None
        return Principal(
            from_hex(record.get("id"), ID_LEN, "a principal id"),
            label,
            parsed,
            from_hex(record.get("token"), 32, "a token hash"),
            created,
        )


def token_mark(vault_id: bytes, slot: int, token_hash: bytes) -> bytes:
    """Grant id of a principal, by which the log knows the token whose secret has this hash (SPEC §5.6)."""
    return p.sha256(_TOKEN_MARK, vault_id, slot.to_bytes(8, "big"), token_hash)[:GRANT_ID_LEN]


def new_principal(label: str, roles: frozenset[Role], now_ms: int) -> tuple[Principal, str]:
    """Return (principal, token). The token exists nowhere else."""
    if not label.strip() or not label.isprintable() or len(label.encode()) > LIMITS.text_bytes:
        raise UsageError("a principal needs a printable label")
    if not roles:
        raise UsageError("a principal needs at least one role")
    identity, secret = p.random_bytes(ID_LEN), p.random_bytes(32)
    text = base64.urlsafe_b64encode(secret).rstrip(b"=").decode("ascii")
    return Principal(identity, label, roles, p.sha256(secret), now_ms), f"fkt1.{identity.hex()}.{text}"


def read_token(token: str) -> tuple[bytes, bytes]:
    """(principal id, SHA-256 of the secret) of a token; raises NotAllowed when it has another form."""
    match = _TOKEN.match(token.strip())
    if match is None:
        raise NotAllowed("that is not a facekeep token")
    secret = base64.urlsafe_b64decode(match[2] + "=")
    if base64.urlsafe_b64encode(secret).rstrip(b"=").decode("ascii") != match[2]:
        raise NotAllowed("that is not a facekeep token")
    return bytes.fromhex(match[1]), p.sha256(secret)
