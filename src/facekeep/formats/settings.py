"""vault.toml: settings in clear, authenticated through the log's head (SPEC.md §9)."""

from __future__ import annotations

import hashlib
import json
import tomllib
from dataclasses import dataclass

from facekeep.errors import FormatError
from facekeep.formats.canonical import JsonObject, JsonValue, dumps
from facekeep.formats.ids import VAULT_ID_LEN, from_hex
from facekeep.formats.terms import check_regions

_DOMAIN = b"facekeep/v1/settings\0"
_HEADER = "# Written by facekeep; change it with 'facekeep settings', any other edit is refused.\n"


@dataclass(frozen=True, slots=True)
class Settings:
    """Parsed vault.toml. ``region`` is where this vault processes templates."""

    vault_id: bytes
    root_uri: str
    copies: tuple[str, ...]
    region: str

    def document(self) -> JsonObject:
        """Return the document as nested objects."""
        paths: list[JsonValue] = list(self.copies)
        return {
            "copies": {"paths": paths},
            "format": 1,
            "root": {"uri": self.root_uri},
            "settings": {"region": self.region},
            "vault": self.vault_id.hex(),
        }

    def digest(self) -> bytes:
        """Hash that the log's head authenticates, 32 bytes."""
        return hashlib.sha256(_DOMAIN + dumps(self.document())).digest()

    def encode(self) -> str:
        """Return the text of vault.toml."""
        for text in (self.root_uri, *self.copies):
            if not text.isprintable():
                raise FormatError("a path in vault.toml has unprintable characters")
        return (
            f'{_HEADER}format = 1\nvault = "{self.vault_id.hex()}"\n\n'
            f"[root]\nuri = {_quote(self.root_uri)}\n\n"
            f"[copies]\npaths = [{', '.join(_quote(path) for path in self.copies)}]\n\n"
            f"[settings]\nregion = {_quote(self.region)}\n"
        )

    @staticmethod
    def decode(text: str) -> Settings:
        """Parse; raises FormatError for anything but exactly the known keys."""
        try:
            document = tomllib.loads(text)
            settings = Settings(
                from_hex(document["vault"], VAULT_ID_LEN, "the vault id"),
                _text(document["root"]["uri"]),
                tuple(_text(path) for path in document["copies"]["paths"]),
                _text(document["settings"]["region"]),
            )
            check_regions((settings.region,))
            if document != settings.document():
                raise FormatError("vault.toml has keys or values that facekeep does not know")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise FormatError("vault.toml cannot be read as facekeep's settings") from error
        return settings


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise FormatError("vault.toml has a value of the wrong type, or one that cannot be printed")
    return value


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
