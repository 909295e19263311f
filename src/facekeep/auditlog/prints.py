"""What control entries say of slots, in short: prints, principals, and what a stretch of entries holds.

A *print* is what the log says of a slot in 16 bytes: a row with another print is not the one that the log
announced.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final, NamedTuple, cast

from facekeep.auditlog.history import Keeper
from facekeep.crypto import primitives as p
from facekeep.crypto.many import sha256_many
from facekeep.formats import entries
from facekeep.formats.canonical import JsonObject
from facekeep.formats.ids import GRANT_ID_LEN, TAG_LEN

PRINT_LEN: Final = 16
#: An element of ``grants`` in canonical form: its keys ascend, and no string holds a quotation mark. What
#: is in the log was validated: dots for hex digits are five times as fast.
_GRANT = re.compile(
    rb'{"commitment":"(.{64})","from":(?:null|\d{1,16}),"grant":"(.{32})","model":"([^"]{1,40})",'
    rb'"slot":(\d{1,16}),"tag":"(.{64})","terms":"(.{176})"}',
    re.DOTALL,
)
_PRINCIPAL: Final = b',"type":"principal","v":1}'
_EXPIRES: Final = slice(60, 68)  # in grant id || tag || terms: SPEC §5.3, offset 12


def grant_print(identity: bytes, model: str, commitment: bytes) -> bytes:
    """Print of a grant or of its row; ``identity`` is grant id || tag || packed terms."""
    return p.sha256(b"g" + identity + commitment + model.encode("utf-8"))[:PRINT_LEN]


def grant_prints(heads: Iterable[bytes], models: Iterable[bytes]) -> list[bytes]:
    """Return prints of many rows' grants; a head is identity || commitment, a model UTF-8."""
    messages = [b"g" + head + model for head, model in zip(heads, models, strict=True)]
    return [digest[:PRINT_LEN] for digest in sha256_many(messages)]


def principal_print(principal: bytes, grant: bytes, commitment: bytes, roles: Iterable[str]) -> bytes:
    """Print of a principal or of its row."""
    return p.sha256(b"p" + principal + grant + commitment + ",".join(sorted(roles)).encode())[:PRINT_LEN]


def entry_print(entry: JsonObject, slot: int) -> bytes | None:
    """Print of a slot by the authenticated entry that opened it; None if it did not."""
    values = cast("dict[str, Any]", entry)
    if values["type"] == "principal" and values["slot"] == slot:
        return _logged_principal(entry).print()
    for item in values["grants"] if values["type"] == "grant" else ():
        if item["slot"] == slot:
            identity = bytes.fromhex(item["grant"] + item["tag"] + item["terms"])
            return grant_print(identity, item["model"], bytes.fromhex(item["commitment"]))
    return None


class LoggedPrincipal(NamedTuple):
    """A principal as the log announced it."""

    id: bytes
    slot: int
    grant_id: bytes
    commitment: bytes
    roles: tuple[str, ...]

    def print(self) -> bytes:
        """Return its print."""
        return principal_print(self.id, self.grant_id, self.commitment, self.roles)


def _logged_principal(entry: JsonObject) -> LoggedPrincipal:
    values = cast("dict[str, Any]", entry)
    return LoggedPrincipal(
        bytes.fromhex(values["principal"]),
        values["slot"],
        bytes.fromhex(values["grant"]),
        bytes.fromhex(values["commitment"]),
        tuple(values["roles"]),
    )


class LoggedGrant(NamedTuple):
    """A grant as the log announced it, in short: when it expires, in ms."""

    tag: bytes
    slot: int
    grant_id: bytes
    print: bytes
    expires_at_ms: int


class Found:
    """What a stretch of control entries says."""

    def __init__(self, keeper: Keeper | None = None) -> None:
        """Begin with nothing; ``keeper`` goes on from the entries before the stretch."""
        self.grants: list[LoggedGrant] = []
        self.principals: list[LoggedPrincipal] = []
        self.kept: list[bytes] = []  # canonical bytes of what is kept whole (``history``)
        self.keeper = keeper or Keeper()

    def take(self, body: bytes) -> None:
        """Take up the canonical bytes of one authenticated entry."""
        for commitment, grant, model, slot, tag, terms in _GRANT.findall(body):
            raw = bytes.fromhex((grant + tag + terms + commitment).decode())
            mark = grant_print(raw[:-32], model.decode(), raw[-32:])
            expires = int.from_bytes(raw[_EXPIRES], "big")
            identity = raw[GRANT_ID_LEN : GRANT_ID_LEN + TAG_LEN], int(slot), raw[:GRANT_ID_LEN]
            self.grants.append(LoggedGrant(*identity, mark, expires))
        self.kept += self.keeper.pick(body)
        self._principal(body)

    def take_kept(self, body: bytes) -> None:
        """Take up an entry that was kept before: its grants are known."""
        self.kept.append(body)
        self._principal(body)

    def close(self) -> None:
        """Keep the last entry, so that whoever goes on after it need not know it."""
        self.kept += self.keeper.last()

    def _principal(self, body: bytes) -> None:
        if body.endswith(_PRINCIPAL):
            self.principals.append(_logged_principal(entries.parse(body)))
