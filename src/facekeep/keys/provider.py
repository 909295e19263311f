"""Root providers: whoever holds the 32 bytes outside the three files (SPEC §3.5, §4; docs/DESIGN.md).

A provider never decides which root is the true one: the one that opens keys.db is. ``promote`` and ``drop``
may be called again after any interruption and then return the same receipt.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, Self, TypeAlias

from facekeep.crypto.primitives import compare, domain, sha256
from facekeep.errors import RootError
from facekeep.formats.canonical import JsonObject
from facekeep.keys.secrets import Secrets
from facekeep.wiping import wipe_last

ProviderClass: TypeAlias = Literal["erasing", "wrapping", "recovery"]
CandidateState: TypeAlias = Literal["staged", "current"]
Action: TypeAlias = Literal["promoted", "destroyed", "lost"]

LIMIT_WORDS: Final = frozenset(
    {
        "copied_file",  # whoever copied the root file before keeps that root
        "filesystem_snapshot",  # a snapshot or backup of the file system keeps the old blocks
        "flash_remanence",  # flash storage may keep overwritten blocks until it collects them
        "tpm_firmware",  # the TPM's maker, or whoever can change its firmware, may read keys and set counters
        "tpm_state_copy",  # a copy of the state of a virtual TPM keeps its keys and its counter
        "token_clone",  # a cloned hardware token keeps the old key
        "server_snapshot",  # a snapshot of a key server keeps the old key
        "exportable_key",  # whoever may read the key server's keys in clear could have kept the old one
        "outer_layer",  # destroys nothing by itself: a layer around an erasing provider
        "offline_key",  # whoever holds the offline recovery key and an old sealed copy has that root
        "holder_lost",  # the holder was given up: what became of the roots it held is not known
    }
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a holder is used: vault id (16 bytes), the vault's parent directory, the source of secrets.

    ``directory`` is the vault's own, for what belongs with keys.db.
    """

    vault_id: bytes
    base: Path
    secrets: Secrets = field(default_factory=Secrets, repr=False)
    directory: Path | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A root some provider holds: fingerprint (32 bytes), state, the root itself (32 bytes).

    The root is empty where the holder keeps it but cannot give it back (a recovery key).
    """

    fingerprint: bytes
    state: CandidateState
    root: bytes = field(repr=False)

    def __del__(self) -> None:
        """Zero the root with the last who has it."""
        wipe_last(self, "root")


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a provider says it did, and the words for what that does not cover (SPEC §6.1)."""

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


def placeholder(vault_id: bytes) -> bytes:
    """Return what a new holder is tried with, 32 bytes: public, so that it opens nothing (SPEC §4.1)."""
    return sha256(domain("root-placeholder"), vault_id)


def inode_of(path: Path) -> tuple[str, ...]:
    """Name a file by its inode, where it is there: links to one file have one name then."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return (f"inode {status.st_dev}:{status.st_ino}",)


class RootProvider(abc.ABC):
    """Holds one current root and at most one staged one.

    Every method raises RootError for a root that is missing or badly kept, StoreError where it cannot be
    written. Callers hold the writer lock, except for ``candidates`` and ``read_back``.
    """

    @property
    @abc.abstractmethod
    def scheme(self) -> str:
        """Word before the colon of its URI; a class attribute, but for layered holders."""

    @property
    @abc.abstractmethod
    def klass(self) -> ProviderClass:
        """What its destroying means."""

    @property
    @abc.abstractmethod
    def limits(self) -> tuple[str, ...]:
        """Words of LIMIT_WORDS, sorted."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Words of the layers around it, the outermost first (SPEC §4.6)."""
        return ()

    @classmethod
    @abc.abstractmethod
    def from_uri(cls, rest: str, place: Place) -> Self:
        """Build from what stands after ``scheme:``; raises UsageError. Touches nothing."""

    @property
    @abc.abstractmethod
    def identity(self) -> str:
        """What tells two holders apart, for an operator: one place has one identity, however named."""

    @property
    def inmost(self) -> RootProvider:
        """The holder behind all layers: what keeps, and destroys."""
        return self

    @property
    def places(self) -> tuple[str, ...]:
        """Everything that no other holder may share, by however many names: files, as inodes too."""
        return (self.identity,)

    def is_touched(self) -> bool:
        """Whether it was written to since it was last asked; False where only asking tells."""
        return False

    @property
    @abc.abstractmethod
    def damage(self) -> tuple[str, ...]:
        """What the last call found unreadable, in words for an operator."""

    def refusal(self) -> RootError | None:
        """Return why a call would be refused, where that shows without one; None where a holder is away."""
        return None

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

    def confirm(self, winner: Candidate) -> None:
        """Read a staged root back and compare; raises RootError. Overridden where it cannot be given back."""
        if not compare(self.read_back(winner.fingerprint), winner.root):
            raise RootError(f"the {self.scheme}: provider gives back another root than was staged")

    @abc.abstractmethod
    def promote(self, fingerprint: bytes) -> Receipt:
        """Make a staged root the current one. May destroy the previous one already."""

    @abc.abstractmethod
    def drop(self, fingerprint: bytes) -> Receipt:
        """Destroy the root of this fingerprint, if it is held."""

    def abandon(self) -> Receipt:
        """Destroy every root held, since the holder is given up; may be called again."""
        for each in self.candidates():
            self.drop(each.fingerprint)
        return self.receipt("destroyed")

    def receipt(self, action: Action) -> Receipt:
        """Receipt of this provider for ``action``."""
        return Receipt(self.klass, self.scheme, action, self.limits)
