"""The holder file: roots sealed under keys that a token, a TPM or a server keeps (SPEC §4.2)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias, cast

from facekeep.errors import FormatError
from facekeep.formats.canonical import JsonObject, JsonValue, dumps, loads
from facekeep.formats.ids import VAULT_ID_LEN, from_hex
from facekeep.formats.nodes import KEY_LEN

MAX_BYTES: Final = 65_536
MAX_RECORDS: Final = 8
State: TypeAlias = Literal["current", "staged"]

_SCHEME: Final = re.compile(r"[a-z][a-z0-9-]{0,39}\Z")


@dataclass(frozen=True, slots=True)
class HolderRecord:
    """One root: fingerprint (32 bytes), state, and what its holder needs to open it, sealed."""

    fingerprint: bytes
    state: State
    sealed: JsonObject = field(repr=False)


def encode_holder(vault_id: bytes, scheme: str, records: Sequence[HolderRecord]) -> bytes:
    """Return the file's bytes; raises FormatError for what no holder file may hold."""
    items: list[JsonValue] = [
        {"fingerprint": each.fingerprint.hex(), "sealed": each.sealed, "state": each.state}
        for each in records
    ]
    data = dumps({"format": 1, "records": items, "scheme": scheme, "vault": vault_id.hex()}) + b"\n"
    if decode_holder(data) != (vault_id, scheme, tuple(records)):
        raise FormatError("a holder file would not be read as it is written")
    return data


def decode_holder(data: bytes) -> tuple[bytes, str, tuple[HolderRecord, ...]]:
    """(vault id, scheme, records) of a holder file; raises FormatError."""
    if len(data) > MAX_BYTES or not data.endswith(b"\n"):
        raise FormatError("a holder file is too long, or has no end")
    whole = loads(data[:-1])
    items = whole.get("records")
    scheme = whole.get("scheme")
    if (
        set(whole) != {"format", "records", "scheme", "vault"}
        or whole["format"] != 1
        or isinstance(whole["format"], bool)
        or not isinstance(items, list)
        or len(items) > MAX_RECORDS
        or not isinstance(scheme, str)
        or not _SCHEME.match(scheme)
    ):
        raise FormatError("a holder file has not the keys it should")
    records = tuple(_record(item) for item in items)
    if len({each.fingerprint for each in records}) != len(records):
        raise FormatError("a holder file holds a root twice")
    return from_hex(whole["vault"], VAULT_ID_LEN, "the vault id"), scheme, records


def _record(item: JsonValue) -> HolderRecord:
    if not isinstance(item, dict) or set(item) != {"fingerprint", "sealed", "state"}:
        raise FormatError("a holder record has not the keys it should")
    sealed, state = item["sealed"], item["state"]
    if not isinstance(sealed, dict) or state not in {"current", "staged"}:
        raise FormatError("a holder record has a state or content that is unknown")
    mark = from_hex(item["fingerprint"], KEY_LEN, "a root's fingerprint")
    return HolderRecord(mark, cast("State", state), sealed)
