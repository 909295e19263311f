"""vault.toml: settings in clear, authenticated through the log's head (SPEC §9)."""

from __future__ import annotations

import hashlib
import json
import tomllib
from dataclasses import dataclass, field
from typing import Final

from facekeep.errors import FormatError
from facekeep.formats.canonical import JsonObject, JsonValue, dumps
from facekeep.formats.ids import VAULT_ID_LEN, from_hex
from facekeep.formats.matching import Matching
from facekeep.formats.schedule import Schedule
from facekeep.formats.terms import check_regions

_DOMAIN = b"facekeep/v1/settings\0"
MAX_MIRRORS: Final = 3
MAX_LEAVING: Final = 4
_LISTS = ("mirrors", "leaving", "recovery")
_HEADER = "# Written by facekeep; change it with 'facekeep settings', any other edit is refused.\n"


@dataclass(frozen=True, slots=True)
class Settings:
    """Parsed vault.toml. ``region`` is where this vault processes templates, ``regions`` where else it may.

    Root holders are URIs: ``root_uri`` and its ``mirrors`` hold every root; ``leaving`` are given up and hold
    none once the next swap is done; ``recovery`` (at most one) seals each root to an offline key.
    """

    vault_id: bytes
    root_uri: str
    copies: tuple[str, ...]
    region: str
    mirrors: tuple[str, ...] = ()
    leaving: tuple[str, ...] = ()
    recovery: tuple[str, ...] = ()
    schedule: Schedule = field(default_factory=Schedule)
    regions: tuple[str, ...] = ()
    matching: Matching = field(default_factory=Matching)

    @property
    def all_regions(self) -> tuple[str, ...]:
        """Where templates may be processed, whatever a caller says of itself; sorted."""
        return tuple(sorted((self.region, *self.regions)))

    @property
    def holders(self) -> tuple[str, ...]:
        """URIs of the holders that every swap must reach, the first one first."""
        return (self.root_uri, *self.mirrors, *self.recovery)

    def check(self) -> None:
        """Raise FormatError where there are more holders than a log entry has room for receipts of."""
        if len(self.recovery) > 1 or len(self.mirrors) > MAX_MIRRORS or len(self.leaving) > MAX_LEAVING:
            raise FormatError(
                f"a vault has at most {MAX_MIRRORS} mirrors, one recovery key, {MAX_LEAVING} leaving holders"
            )
        check_regions((self.region,))
        if self.regions:
            check_regions(self.regions)
        if self.region in self.regions:
            raise FormatError("the vault's own region stands among the further ones, too")

    def document(self) -> JsonObject:
        """Return the document as nested objects; what is empty does not stand in it."""
        paths: list[JsonValue] = list(self.copies)
        root: JsonObject = {"uri": self.root_uri}
        for key in _LISTS:
            if found := getattr(self, key):
                root[key] = list(found)
        document: JsonObject = {
            "copies": {"paths": paths},
            "format": 1,
            "root": root,
            "settings": {"region": self.region} | ({"regions": list(self.regions)} if self.regions else {}),
            "vault": self.vault_id.hex(),
        }
        sections = {"schedule": self.schedule.document(), "matching": self.matching.document()}
        return document | {name: section for name, section in sections.items() if section}

    def digest(self) -> bytes:
        """Hash that the log's head authenticates, 32 bytes."""
        return hashlib.sha256(_DOMAIN + dumps(self.document())).digest()

    def encode(self) -> str:
        """Return the text of vault.toml."""
        for text in (*self.holders, *self.leaving, *self.copies, self.schedule.checkpoints):
            if not text.isprintable():
                raise FormatError("a path in vault.toml has unprintable characters")
        regions = f"regions = {_array(self.regions)}\n" if self.regions else ""
        lists = "".join(f"{key} = {_array(getattr(self, key))}\n" for key in _LISTS if getattr(self, key))
        return (
            f'{_HEADER}format = 1\nvault = "{self.vault_id.hex()}"\n\n'
            f"[root]\nuri = {_quote(self.root_uri)}\n{lists}\n"
            f"[copies]\npaths = {_array(self.copies)}\n\n"
            f"[settings]\nregion = {_quote(self.region)}\n{regions}"
            f"{_section('schedule', self.schedule.document())}"
            f"{_section('matching', self.matching.document())}"
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
                **{key: tuple(map(_text, document["root"].get(key, ()))) for key in _LISTS},
                schedule=Schedule.parse(document.get("schedule", {})),
                regions=tuple(map(_text, document["settings"].get("regions", ()))),
                matching=Matching.parse(document.get("matching", {})),
            )
            settings.check()
            if document != settings.document():
                raise FormatError("vault.toml has keys or values that facekeep does not know")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise FormatError("vault.toml cannot be read as facekeep's settings") from error
        return settings


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise FormatError("vault.toml has a value of the wrong type, or one that cannot be printed")
    return value


def _section(name: str, document: JsonObject) -> str:
    """Text of a section, empty where all is by default."""
    lines = [f"{key} = {_value(value)}\n" for key, value in document.items()]
    return "".join([f"\n[{name}]\n", *lines]) if lines else ""


def _value(value: JsonValue) -> str:
    """TOML writes texts, integers, booleans and arrays of texts as JSON does."""
    return json.dumps(value, ensure_ascii=False)


def _array(texts: tuple[str, ...]) -> str:
    return f"[{', '.join(_quote(text) for text in texts)}]"


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
