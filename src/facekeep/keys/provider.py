"""Root providers: whoever holds the 32 bytes outside the three files (SPEC.md §3.5, §4; docs/DESIGN.md).

A provider never decides which root is the true one: the one that opens keys.db is. ``promote`` and ``drop``
may be called again after any interruption and then return the same receipt.
"""

from __future__ import annotations

import abc
import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Final, Literal, Self, TypeAlias, cast

from facekeep.errors import UsageError
from facekeep.formats.canonical import JsonObject

ProviderClass: TypeAlias = Literal["erasing", "wrapping"]
CandidateState: TypeAlias = Literal["staged", "current"]
Action: TypeAlias = Literal["promoted", "destroyed"]

LIMIT_WORDS: Final = frozenset(
    {
        "copied_file",  # whoever copied the root file before keeps that root
        "filesystem_snapshot",  # a snapshot or backup of the file system keeps the old blocks
        "flash_remanence",  # flash storage may keep overwritten blocks until it collects them
        "token_clone",  # a cloned hardware token keeps the old key
        "server_snapshot",  # a snapshot of a key server keeps the old key
        "outer_layer",  # destroys nothing by itself: a layer around an erasing provider
    }
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A root some provider holds: fingerprint (32 bytes), state, the root itself (32 bytes)."""

    fingerprint: bytes
    state: CandidateState
    root: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a provider says it did, and the words for what that does not cover (SPEC.md §6.1)."""

    klass: ProviderClass
    scheme: str
    action: Action
    limits: tuple[str, ...]

    def to_json(self) -> JsonObject:
        """Return the object that stands in a log entry."""
        return {
            "class": self.klass,
            "scheme": self.scheme,
            "action": self.action,
            "limits": list(self.limits),
        }


class RootProvider(abc.ABC):
    """Holds one current root and at most one staged one.

    Every method raises RootError for a root that is missing or badly kept, StoreError where it cannot be
    written. Callers hold the writer lock, except for ``candidates`` and ``read_back``.
    """

    scheme: ClassVar[str]
    klass: ClassVar[ProviderClass]
    limits: ClassVar[tuple[str, ...]]  # words of LIMIT_WORDS, sorted

    @classmethod
    @abc.abstractmethod
    def from_uri(cls, rest: str, vault_id: bytes, base: Path) -> Self:
        """Build from what stands after ``scheme:``; raises UsageError. Touches nothing."""

    @property
    @abc.abstractmethod
    def damage(self) -> tuple[str, ...]:
        """What the last call found unreadable, in words for an operator."""

    @abc.abstractmethod
    def provision(self, root: bytes) -> None:
        """Take the first root as current. Never overwrites: raises VaultExists."""

    @abc.abstractmethod
    def unprovision(self) -> None:
        """Undo ``provision`` of a moment ago: destroy everything held. Only for a creation that failed."""

    @abc.abstractmethod
    def candidates(self) -> tuple[Candidate, ...]:
        """Every root held, each once."""

    @abc.abstractmethod
    def stage(self, root: bytes) -> None:
        """Hold ``root`` beside the current one, durably; staging it again is no error."""

    @abc.abstractmethod
    def read_back(self, fingerprint: bytes) -> bytes:
        """Return the root of this fingerprint as it is now held; raises RootError if it is not."""

    @abc.abstractmethod
    def promote(self, fingerprint: bytes) -> Receipt:
        """Make a staged root the current one. May destroy the previous one already."""

    @abc.abstractmethod
    def drop(self, fingerprint: bytes) -> Receipt:
        """Destroy the root of this fingerprint, if it is held."""

    def receipt(self, action: Action) -> Receipt:
        """Receipt of this provider for ``action``."""
        return Receipt(self.klass, self.scheme, action, self.limits)


PROVIDERS: Final = {
    "file": "facekeep.keys.file_provider:FileProvider",
}


def provider_from_uri(uri: str, vault_id: bytes, base: Path) -> RootProvider:
    """Return the provider of a root URI such as ``file:../staff.root``; relative paths start at ``base``.

    ``base`` is the directory the vault stands in. Raises UsageError for an unknown scheme.
    """
    scheme, colon, rest = uri.partition(":")
    if not colon or scheme not in PROVIDERS:
        known = ", ".join(f"{each}:" for each in sorted(PROVIDERS))
        raise UsageError(
            f"no root provider has the scheme {scheme[:20]!r}", next=f"use one of these schemes: {known}"
        )
    module, _, name = PROVIDERS[scheme].partition(":")
    found = cast("type[RootProvider]", getattr(importlib.import_module(module), name))
    return found.from_uri(rest, vault_id, base)
