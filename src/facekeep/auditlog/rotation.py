"""The ``signing`` entry: the log's keys replaced, old and new signing for each other (SPEC §10.8).

Pure: no I/O. Whoever was given the keys of one generation finds those of every later one with ``Keyring``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, cast

from facekeep.auditlog.restarting import check_restart
from facekeep.auditlog.signed import ASK_FOR_KEYS, LOG_TYPES, LogSigner, verify_raw
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

    __slots__ = ("_begun", "_chain", "_given", "_types", "origin")

    def __init__(self, origin: str, trusted: Iterable[VerifierKey]) -> None:
        """Start with the log keys among ``trusted``; IntegrityError if there is none."""
        self.origin = origin
        self._given = frozenset(key for key in trusted if key.name == origin and key.type in LOG_TYPES)
        self._types = frozenset(key.type for key in self._given)
        self._chain: list[tuple[int, tuple[VerifierKey, ...]]] = []  # (first size in force, keys)
        self._begun: tuple[VerifierKey, ...] = ()  # who signed the restart of the log
        if not self._given:
            raise IntegrityError("no key is known for the log", next=ASK_FOR_KEYS)

    def follow(self, index: int, entry: JsonObject) -> None:
        """Take up the log's next ``signing``, ``restart`` or ``restarted`` entry, in the order of the log.

        A rotation must name the keys in force before it, and the generation after theirs; a restart must be
        signed by the keys that are in force at its end. Raises IntegrityError.
        """
        if entry["type"] == "signing":
            self._rotate(index, entry)
        elif (entry["type"] == "restart") is not (index == 0):
            raise IntegrityError(f"log entry {index}: a restart is the first entry of a log and no other")
        elif entry["type"] == "restart":
            self._begun = self._own(index, check_restart(entry))
        elif (self._chain and self._chain[-1][1] != self._begun) or not self._begun:
            raise IntegrityError(f"log entry {index}: the keys in force did not sign the restart of the log")
        elif not self._chain:
            self._chain.append((0, self._begun))

    def keys_at(self, size: int) -> tuple[VerifierKey, ...]:
        """Keys that sign a checkpoint of ``size``: those of the last ``signing`` entry inside it.

        A generation is trusted if for each type among the given keys its key is one of them. It vouches for
        later generations, never for earlier ones. Raises IntegrityError where none reaches.
        """
        if not self._chain:
            return tuple(sorted(self._given, key=lambda key: key.encode()))
        if not any(self._trusts(keys) for first, keys in self._chain if first <= size):
            raise IntegrityError(
                "the given keys are none of those that the log had until then", next=ASK_FOR_KEYS
            )
        return self.named_at(size)

    def named_at(self, size: int) -> tuple[VerifierKey, ...]:
        """Keys that the entries name for ``size``, trusted or not; () where no entry names any."""
        return next((keys for first, keys in reversed(self._chain) if first <= size), ())

    def _rotate(self, index: int, entry: JsonObject) -> None:
        step = check(entry)
        self._own(index, step.keys)
        if not self._chain:
            self._chain.append((0, step.previous))
        if step.generation != len(self._chain) + 1 or self._chain[-1][1] != step.previous:
            raise IntegrityError(f"log entry {index}: its keys do not follow from those before it")
        self._chain.append((index + 1, step.keys))

    def _own(self, index: int, keys: tuple[VerifierKey, ...]) -> tuple[VerifierKey, ...]:
        if keys[0].name != self.origin:
            raise IntegrityError(f"log entry {index}: its keys are those of another log")
        return keys

    def _trusts(self, keys: tuple[VerifierKey, ...]) -> bool:
        return self._given.issuperset(key for key in keys if key.type in self._types)


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
