"""Outer layers: what must be known or reached besides a holder's own secret (SPEC §4.6).

A layer is confidentiality, never the erasure point: a key that lives long revives whatever it wrapped. So a
layer only gives a key-encryption key (KEK, 32 bytes); ``keys.layered`` joins it with a share that the holder
destroys.
"""

from __future__ import annotations

import abc
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, Self
from urllib.parse import unquote
from weakref import WeakKeyDictionary

from facekeep.crypto.memory import LockedBuffer
from facekeep.crypto.primitives import KEY_LEN, sha256
from facekeep.errors import RootError, UsageError
from facekeep.formats.canonical import JsonObject, dumps
from facekeep.keys.provider import Place, ProviderClass
from facekeep.keys.sealed_holder import KeyGone
from facekeep.keys.secrets import Secrets

_KEPT: Final = 16  # KEKs one source of secrets keeps in memory; a vault uses one or two for each layer


@dataclass(frozen=True, slots=True)
class About:
    """Which root a KEK is for: vault id (16 bytes), fingerprints of root and share (32 bytes each)."""

    vault_id: bytes
    root: bytes
    share: bytes


class Layer(abc.ABC):
    """Gives a KEK for each record. All methods raise RootError where it cannot be reached or refuses."""

    word: ClassVar[str]  # its scheme
    klass: ClassVar[ProviderClass] = "wrapping"

    def __init__(self, place: Place) -> None:
        """Keep where it is used."""
        self.place = place

    @classmethod
    @abc.abstractmethod
    def from_uri(cls, head: str, options: Mapping[str, str], place: Place) -> Self:
        """Build from ``word:HEAD?OPTIONS``; raises UsageError. Touches nothing."""

    @abc.abstractmethod
    def begin(self) -> None:
        """Check what must hold before a first root is entrusted to it; raises UsageError too."""

    @abc.abstractmethod
    def new_key(self, about: About, proven: JsonObject | None) -> tuple[JsonObject, bytes]:
        """(parameters, KEK) for a new record. ``proven``: parameters of a record that has just opened.

        The KEK must be had again from the parameters without this process: never from memory alone.
        """

    @abc.abstractmethod
    def fetch(self, about: About, params: JsonObject) -> bytes:
        """Return the KEK that these parameters name; raises KeyGone for parameters to be refused."""

    def refused(self, params: JsonObject, *, proven: bool) -> RootError:
        """Say why nothing opens under the KEK. ``proven``: it has opened another record."""
        del proven
        self.kept.drop(self._name(params))
        return KeyGone("its record was altered, or belongs to another holder")

    def forget(self, params: JsonObject) -> None:
        """Remove what ``new_key`` left behind: no record has these parameters any more."""
        self.kept.drop(self._name(params))

    def key(self, about: About, params: JsonObject) -> bytes:
        """Return the KEK of a record, from memory once this process has fetched it.

        After each swap every process fetches the root again: it must not ask a person or a server each time.
        """
        return self.kept.get(self._name(params), lambda: self.fetch(about, params))

    @property
    def kept(self) -> KeyCache:
        """KEKs that live as long as the source of secrets does."""
        with _caches_guard:
            return _caches.setdefault(self.place.secrets, KeyCache())

    def _name(self, params: JsonObject) -> bytes:
        return sha256(self.word.encode("ascii"), b"\0", dumps(params))


class KeyCache:
    """KEKs in locked memory, the oldest given up first. A forked process inherits none of them."""

    def __init__(self) -> None:
        """Start empty."""
        self._keys: dict[bytes, LockedBuffer] = {}
        self._guard = threading.RLock()

    def get(self, name: bytes, fetch: Callable[[], bytes]) -> bytes:
        """Return a kept key, or fetch and keep it; two threads never fetch at once."""
        with self._guard:
            found = self._keys.get(name)
            if found is not None and found.usable:
                return bytes(found.view)
            key = fetch()
            self.put(name, key)
            return key

    def put(self, name: bytes, key: bytes) -> None:
        """Keep a key."""
        with self._guard:
            self.drop(name)
            while len(self._keys) >= _KEPT:
                self.drop(next(iter(self._keys)))
            buffer = LockedBuffer(KEY_LEN)
            buffer.view[:] = key
            self._keys[name] = buffer

    def drop(self, name: bytes) -> None:
        """Zero a key."""
        with self._guard:
            if (found := self._keys.pop(name, None)) is not None:
                found.close()


_caches: WeakKeyDictionary[Secrets, KeyCache] = WeakKeyDictionary()
_caches_guard = threading.Lock()


def split(rest: str) -> tuple[str, dict[str, str]]:
    """(head, options) of ``HEAD?NAME=VALUE&NAME=VALUE``, values percent-decoded; raises UsageError."""
    head, mark, query = rest.partition("?")
    options: dict[str, str] = {}
    for part in query.split("&") if mark else ():
        name, _, raw = part.partition("=")
        try:
            value = unquote(raw, errors="strict")
        except UnicodeDecodeError:
            value = ""
        if not name or name in options or not value.isprintable() or not value:
            raise UsageError(f"a layer's option {part[:40]!r} is empty, unreadable or named twice")
        options[name] = value
    return head, options


def only(options: Mapping[str, str], known: frozenset[str], word: str) -> None:
    """Raise UsageError for an option that the layer does not have."""
    if unknown := sorted(options.keys() - known):
        raise UsageError(
            f"the {word}: layer has no option {unknown[0][:40]!r}",
            next=f"it has: {', '.join(sorted(known | {'file'}))}",
        )
