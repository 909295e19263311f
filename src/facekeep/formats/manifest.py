"""The manifest of a data backup: what it holds and which state of the vault it shows (SPEC §8.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, cast

from facekeep.errors import FormatError
from facekeep.formats import canonical
from facekeep.formats.canonical import JsonObject, JsonValue
from facekeep.formats.ids import VAULT_ID_LEN, check_model_id, from_hex

HASH_LEN: Final = 32
_KEYS: Final = frozenset(
    {
        "content", "epoch", "fingerprint", "made_ms", "models", "root", "rows", "scopes", "size", "suite",
        "v", "vault",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Manifest:
    """What stands in a backup. ``content`` is the hash of its rows (SPEC §8.2), times are ms.

    ``size`` and ``root`` are the log's at that moment, ``epoch`` and ``fingerprint`` the key tree's.
    ``models`` counts rows by model id, ``scopes`` by the scope in their terms (``other``: none).
    """

    vault: bytes
    made_ms: int
    rows: int
    content: bytes
    epoch: int
    fingerprint: bytes
    size: int
    root: bytes
    suite: int = 1
    models: Mapping[str, int] = field(default_factory=dict)
    scopes: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> JsonObject:
        """Return it as JSON."""
        models: dict[str, JsonValue] = dict(self.models)
        scopes: dict[str, JsonValue] = dict(self.scopes)
        return {
            "content": self.content.hex(),
            "epoch": self.epoch,
            "fingerprint": self.fingerprint.hex(),
            "made_ms": self.made_ms,
            "models": models,
            "root": self.root.hex(),
            "rows": self.rows,
            "scopes": scopes,
            "size": self.size,
            "suite": self.suite,
            "v": 1,
            "vault": self.vault.hex(),
        }

    def encode(self) -> bytes:
        """Return its canonical bytes."""
        return canonical.encode_trusted(self.to_json())

    @staticmethod
    def decode(data: bytes) -> Manifest:
        """Parse strictly; raises FormatError."""
        value = canonical.loads(data)
        if value.keys() != _KEYS or type(value["v"]) is not int or value["v"] != 1:
            raise FormatError("a backup's manifest does not have exactly its keys")
        models = _counted(value["models"], "models")
        for model in models:
            if model:  # the empty one counts rows whose model is none
                check_model_id(model)
        return Manifest(
            vault=from_hex(value["vault"], VAULT_ID_LEN, "a manifest's vault"),
            made_ms=_count(value["made_ms"], "made_ms"),
            rows=_count(value["rows"], "rows"),
            content=from_hex(value["content"], HASH_LEN, "a manifest's content"),
            epoch=_count(value["epoch"], "epoch"),
            fingerprint=from_hex(value["fingerprint"], HASH_LEN, "a manifest's fingerprint"),
            size=_count(value["size"], "size"),
            root=from_hex(value["root"], HASH_LEN, "a manifest's root"),
            suite=_count(value["suite"], "suite"),
            models=models,
            scopes=_counted(value["scopes"], "scopes"),
        )


def _count(value: object, key: str) -> int:
    if type(value) is not int or value < 0:
        raise FormatError(f"a manifest's {key} is not a count")
    return value


def _counted(value: object, key: str) -> dict[str, int]:
    if type(value) is not dict:
        raise FormatError(f"a manifest's {key} is not an object")
    return {name: _count(number, key) for name, number in cast("dict[str, object]", value).items()}
