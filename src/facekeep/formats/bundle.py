"""Shredding proofs: the bundle's canonical JSON (SPEC §12.1). Nothing is verified here.

A bundle holds whole log entries with their inclusion proofs, one checkpoint, and the operator's statement
under the log's own signatures. Verification is ``audit.bundle``.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, cast

from facekeep.errors import FormatError
from facekeep.formats import canonical, entries
from facekeep.formats import text as strict
from facekeep.formats.canonical import JsonObject, JsonValue
from facekeep.formats.entryrules import SCOPES
from facekeep.formats.ids import TAG_LEN, VAULT_ID_LEN, from_hex
from facekeep.formats.note import Note
from facekeep.formats.tiles import HASH_LEN
from facekeep.formats.tlogproof import MAX_HASHES

MAX_BYTES: Final = 1024 * 1024  # of a bundle; one erasure alone stays below 64 KiB
MAX_ENTRIES: Final = 2_000
TEXT_MAX: Final = 200  # characters of a text the operator gives
TYPE: Final = "facekeep/shredding-proof"
NOT_STATED: Final = "not stated"

#: What no bundle proves; a bundle carries these words.
NOT_PROVED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "all_grants": "that these are all the grants the subject tag ever had: an exported log shows it",
        "consent": "that the person consented, or that a photograph showed them",
        "kept_keys": "that nobody kept a copy of an earlier root key, of a node key or of process memory",
        "medium": "that the root holder's medium forgets: the limits in its receipt say what may remain",
        "one_history": "that everybody is shown the same log: compare checkpoints, or keep a witness",
        "other_tags": "that the same person is not enrolled under another tag: again, under another id, "
        "or in another vault",
        "outside": "what became of photographs, answers and copies outside the vault",
        "sanitization_level": "whether the medium counts as cleared or purged: the organization finds that",
        "software": "that the software which ran was facekeep, unaltered",
        "statement": "what the operator states of responsibility, media, mirrors, recovery keys and copies",
        "whose_tag": "whose tag it is: only the tag's opening, kept by the person, shows that",
    }
)

#: What is said besides where entry 0 is the restart of a lost log.
RESTARTED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "before_restart": "what stood in the log before it was lost and restarted: grants of the subject, "
        "destructions, decisions"
    }
)


#: What is said besides of a withdrawal.
WITHDRAWN: Final[Mapping[str, str]] = MappingProxyType(
    {"other_scopes": "what became of grants for other scopes, or of new ones for these after the withdrawal"}
)


def not_proved(*, restarted: bool, scopes: Sequence[str]) -> Mapping[str, str]:
    """Return what a bundle does not prove: of a log begun anew, and where ``scopes`` are named."""
    return {**NOT_PROVED, **(RESTARTED if restarted else {}), **(WITHDRAWN if scopes else {})}


_SIGNATURE_LENGTHS: Final = (64, 2420)  # Ed25519, ML-DSA-44
_VERSION: Final = re.compile(r"[0-9A-Za-z.+!-]{1,40}\Z", re.ASCII)
_KEYS: Final = frozenset(
    {
        "checkpoint", "entries", "erasure", "made_ms", "not_proved", "scopes", "signatures", "statement",
        "tag", "type", "v", "vault",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Held:
    """A log entry in a bundle: its index, itself, and its inclusion proof from the leaf's sibling upward."""

    index: int
    entry: JsonObject
    path: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Statement:
    """What the operator says, and nobody can check from the bundle. Texts of up to 200 characters.

    ``live`` counts the live second copies of keys.db and log.db, ``mirrors`` root holders beyond the first,
    ``backups`` the data backups that the log knew of.
    """

    version: str
    organization: str = NOT_STATED
    role: str = NOT_STATED
    media: str = NOT_STATED
    exported: str = NOT_STATED
    live: int = 0
    mirrors: int = 0
    recovery_keys: int = 0
    backups: int = 0

    def to_json(self) -> JsonObject:
        """Return the object that stands in a bundle."""
        return {
            "copies": {
                "backups": self.backups,
                "exported": self.exported,
                "live": self.live,
                "mirrors": self.mirrors,
                "recovery_keys": self.recovery_keys,
            },
            "sanitization": {
                "media": self.media,
                "organization": self.organization,
                "role": self.role,
                "tool": f"facekeep {self.version}",
            },
        }

    @staticmethod
    def from_json(value: object) -> Statement:
        """Parse strictly; raises FormatError."""
        try:
            whole = cast("dict[str, dict[str, object]]", value)
            said, copies = whole["sanitization"], whole["copies"]
            tool, _, version = cast("str", said["tool"]).partition(" ")
            found = Statement(
                version,
                organization=_text(said["organization"], "organization"),
                role=_text(said["role"], "role"),
                media=_text(said["media"], "media"),
                exported=_text(copies["exported"], "exported"),
                live=_count(copies["live"], "live"),
                mirrors=_count(copies["mirrors"], "mirrors"),
                recovery_keys=_count(copies["recovery_keys"], "recovery_keys"),
                backups=_count(copies["backups"], "backups"),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise FormatError("a bundle's statement does not have exactly its keys") from error
        if tool != "facekeep" or not _VERSION.match(version) or found.to_json() != value:
            raise FormatError("a bundle's statement does not have exactly its keys and words")
        return found


@dataclass(frozen=True, slots=True)
class ShreddingProof:
    """A parsed bundle. Believe nothing of it that ``audit.bundle.verify`` has not passed."""

    vault: bytes
    tag: bytes
    erasure: int  # index of the destruction's first entry
    made_ms: int
    checkpoint: Note
    entries: tuple[Held, ...]  # by index, ascending
    statement: Statement
    scopes: tuple[str, ...] = ()  # of a withdrawal, ascending; none: every grant was erased
    signatures: tuple[bytes, ...] = ()  # Ed25519, ML-DSA-44; empty only until it is signed

    def unsigned(self) -> bytes:
        """Return what is signed, after its domain: the bundle with the index alone of each of its entries."""
        return canonical.dumps(self._body([each.index for each in self.entries]))

    def encode(self) -> bytes:
        """Return the file's bytes; raises FormatError for what ``parse`` would refuse."""
        _check_signatures(self.signatures)
        signatures: list[JsonValue] = [strict.encode_base64(each) for each in self.signatures]
        held: list[JsonValue] = [_held_json(each) for each in self.entries]
        data = canonical.dumps(self._body(held) | {"signatures": signatures})
        if len(data) > MAX_BYTES:
            raise FormatError(f"a bundle is longer than {MAX_BYTES} bytes")
        return data

    def signed(self, signatures: tuple[bytes, ...]) -> ShreddingProof:
        """Return it with its signatures."""
        return replace(self, signatures=signatures)

    def _body(self, held: Sequence[JsonValue]) -> JsonObject:
        return {
            "checkpoint": self.checkpoint.encode().decode(),
            "entries": list(held),
            "erasure": self.erasure,
            "made_ms": self.made_ms,
            "not_proved": [*sorted(self.not_proved())],
            "scopes": list(self.scopes),
            "statement": self.statement.to_json(),
            "tag": self.tag.hex(),
            "type": TYPE,
            "v": 1,
            "vault": self.vault.hex(),
        }

    def not_proved(self) -> Mapping[str, str]:
        """Return the words and sentences of SPEC §12.2 for this log and these scopes."""
        restarted = self.entries[0].entry["type"] == "restart"
        return not_proved(restarted=restarted, scopes=self.scopes)

    @staticmethod
    def parse(data: bytes) -> ShreddingProof:
        """Parse strictly, re-encode, compare; raises FormatError."""
        if len(data) > MAX_BYTES:
            raise FormatError(f"a bundle is longer than {MAX_BYTES} bytes")
        value = canonical.loads(data)
        if value.get("type") != TYPE:
            raise FormatError("the file is no shredding proof")
        if value.keys() != _KEYS or type(value["v"]) is not int or value["v"] != 1:
            raise FormatError("a bundle does not have exactly the keys of version 1")
        held = _held_all(value["entries"])
        signatures = [
            _raw(item, "a bundle's signature") for item in _array(value["signatures"], "signatures")
        ]
        bundle = ShreddingProof(
            from_hex(value["vault"], VAULT_ID_LEN, "a bundle's vault id"),
            from_hex(value["tag"], TAG_LEN, "a bundle's subject tag"),
            _count(value["erasure"], "erasure"),
            _count(value["made_ms"], "made_ms"),
            Note.parse(_string(value["checkpoint"], "checkpoint").encode()),
            held,
            Statement.from_json(value["statement"]),
            _scopes(value["scopes"]),
            tuple(signatures),
        )
        if value["not_proved"] != sorted(bundle.not_proved()):
            raise FormatError("a bundle does not say what it does not prove, in the words of SPEC §12.2")
        if bundle.encode() != data:
            raise FormatError("a bundle is not in its canonical form")
        return bundle


def _held_json(held: Held) -> JsonObject:
    return {
        "entry": held.entry,
        "index": held.index,
        "proof": [strict.encode_base64(item) for item in held.path],
    }


def _held_all(value: object) -> tuple[Held, ...]:
    items = _array(value, "entries")
    if not 1 <= len(items) <= MAX_ENTRIES:
        raise FormatError(f"a bundle does not have 1 to {MAX_ENTRIES} entries")
    held = tuple(_held(item) for item in items)
    if any(a.index >= b.index for a, b in itertools.pairwise(held)):
        raise FormatError("a bundle's entries do not ascend")
    return held


def _held(item: object) -> Held:
    if type(item) is not dict or item.keys() != {"entry", "index", "proof"}:
        raise FormatError("an entry of a bundle does not have exactly its keys")
    path = _array(item["proof"], "proof")
    if len(path) > MAX_HASHES:
        raise FormatError(f"a proof in a bundle has more than {MAX_HASHES} hashes")
    return Held(
        _count(item["index"], "index"),
        entries.validate(item["entry"]),
        tuple(_raw(each, "a hash in a bundle", HASH_LEN) for each in path),
    )


def _scopes(value: object) -> tuple[str, ...]:
    words = _array(value, "scopes")
    if any(word not in SCOPES for word in words) or sorted({*map(str, words)}) != words:
        raise FormatError("a bundle's scopes are not words of scopes, ascending and unique")
    return tuple(map(str, words))


def _check_signatures(signatures: tuple[bytes, ...]) -> None:
    if tuple(map(len, signatures)) != _SIGNATURE_LENGTHS:
        raise FormatError("a bundle does not have an Ed25519 and an ML-DSA-44 signature")


def _array(value: object, key: str) -> list[object]:
    if type(value) is not list:
        raise FormatError(f"a bundle's {key} is not an array")
    return cast("list[object]", value)


def _count(value: object, key: str) -> int:
    if type(value) is not int or value < 0:
        raise FormatError(f"a bundle's {key} is not a count")
    return value


def _string(value: object, key: str) -> str:
    if type(value) is not str:
        raise FormatError(f"a bundle's {key} is not text")
    return value


def _text(value: object, key: str) -> str:
    text = _string(value, key)
    if not text.strip() or len(text) > TEXT_MAX or not text.isprintable():
        raise FormatError(f"a statement's {key} is empty, unprintable or longer than {TEXT_MAX} characters")
    return text


def _raw(value: object, what: str, length: int | None = None) -> bytes:
    return strict.decode_base64(_string(value, what), what, length)
