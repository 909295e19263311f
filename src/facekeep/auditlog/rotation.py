"""The ``signing`` entry: the log's keys replaced, old and new signing for each other (SPEC.md §10.8).

Pure: no I/O. Whoever holds the keys of one generation finds those of every later one with ``Keyring``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, cast

from facekeep.auditlog.signed import LOG_TYPES, LogSigner, verify_raw
from facekeep.crypto.primitives import domain
from facekeep.crypto.signing import check_ed25519_public
from facekeep.errors import IntegrityError
from facekeep.formats import entries
from facekeep.formats.canonical import JsonObject, JsonValue, encode_trusted
from facekeep.formats.note import VerifierKey

TYPE: Final = "signing"
_DOMAIN: Final = domain("signing")


def signing_entry(
    old: LogSigner, new: LogSigner, *, by: str | None, time_ms: int, nonce: str | None = None
) -> JsonObject:
    """Make the entry that ends ``old`` and begins ``new``, signed by both."""
    entry: JsonObject = {
        "v": 1,
        "type": TYPE,
        "nonce": nonce or entries.nonce_hex(),
        "time_ms": time_ms,
        "by": by,
        "generation": new.generation,
        "previous": [key.encode() for key in old.keys],
        "keys": [key.encode() for key in new.keys],
    }
    message = _message(entry)
    signatures = (*old.sign_raw(message), *new.sign_raw(message))
    entry["signatures"] = [each.hex() for each in signatures]
    check(entry)
    return entry


@dataclass(frozen=True, slots=True)
class Rotation:
    """A verified ``signing`` entry."""

    generation: int  # of ``keys``
    previous: tuple[VerifierKey, ...]
    keys: tuple[VerifierKey, ...]


def check(entry: JsonObject) -> Rotation:
    """Verify one valid entry of type ``signing`` by itself; raises IntegrityError or FormatError."""
    previous, keys = _keys(entry, "previous"), _keys(entry, "keys")
    if {key.name for key in previous} != {key.name for key in keys}:
        raise IntegrityError("a signing entry's old and new keys are not those of one log")
    if {key.public for key in previous} & {key.public for key in keys}:
        raise IntegrityError("a signing entry's new keys are not new")
    signatures = [bytes.fromhex(item) for item in cast("list[str]", entry["signatures"])]
    verify_raw(previous + keys, signatures, _message(entry))
    return Rotation(cast("int", entry["generation"]), previous, keys)


class Keyring:
    """A log's keys, generation after generation, from ones that are trusted."""

    __slots__ = ("_chain", "_trusted", "origin")

    def __init__(self, origin: str, trusted: Iterable[VerifierKey]) -> None:
        """Start with the log keys among ``trusted``; IntegrityError if there is none."""
        self.origin = origin
        self._trusted = frozenset(key for key in trusted if key.name == origin and key.type in LOG_TYPES)
        self._chain: list[tuple[int, tuple[VerifierKey, ...]]] = []  # (first size in force, keys)
        if not self._trusted:
            raise IntegrityError("no key is known for the log")

    def follow(self, index: int, entry: JsonObject) -> None:
        """Take up the log's next ``signing`` entry, in the order of the log; raises IntegrityError.

        Each must name the keys in force before it, and the generation after theirs.
        """
        step = check(entry)
        if step.keys[0].name != self.origin:
            raise IntegrityError(f"log entry {index}: it rotates the keys of another log")
        if not self._chain:
            self._chain.append((0, step.previous))
        if step.generation != len(self._chain) + 1 or self._chain[-1][1] != step.previous:
            raise IntegrityError(f"log entry {index}: its keys do not follow from those before it")
        self._chain.append((index + 1, step.keys))

    def keys_at(self, size: int) -> tuple[VerifierKey, ...]:
        """Keys that sign a checkpoint of ``size``: those of the last ``signing`` entry inside it.

        A trusted key vouches for later generations, never for earlier ones. Raises IntegrityError where
        none reaches.
        """
        if not self._chain:
            return tuple(sorted(self._trusted, key=lambda key: key.encode()))
        reached = False
        found: tuple[VerifierKey, ...] = ()
        for first, keys in self._chain:
            if first > size:
                break
            reached = reached or bool(self._trusted & frozenset(keys))
            found = keys
        if not reached:
            raise IntegrityError("the trusted keys are none of those that the log had until then")
        return found


def _keys(entry: JsonObject, field: str) -> tuple[VerifierKey, ...]:
    keys = tuple(VerifierKey.parse(text) for text in cast("list[str]", entry[field]))
    if tuple(key.type for key in keys) != LOG_TYPES or len({key.name for key in keys}) != 1:
        raise IntegrityError("a signing entry does not name an Ed25519 and an ML-DSA-44 key of one log")
    check_ed25519_public(keys[0].public)
    return keys


def _message(entry: JsonObject) -> bytes:
    """Return what is signed: the entry without its signatures."""
    unsigned: dict[str, JsonValue] = {key: value for key, value in entry.items() if key != "signatures"}
    return _DOMAIN + encode_trusted(unsigned)
