"""A root in memory: read where every holder is lost, until the vault has a new one (SPEC §4.7).

It stands among the leaving holders and is staged nothing: a root that only this process has would be lost
with it. What needs a swap stays pending until a real holder is there.
"""

from __future__ import annotations

from typing import ClassVar, Self

from facekeep.errors import RootError, UsageError
from facekeep.formats.nodes import root_fingerprint
from facekeep.keys.provider import Candidate, Place, ProviderClass, Receipt, RootProvider


class MemoryHolder(RootProvider):
    """Gives one root to whoever reads, until it is given up."""

    scheme: ClassVar[str] = "memory"
    klass: ClassVar[ProviderClass] = "recovery"
    limits: ClassVar[tuple[str, ...]] = ("holder_lost",)  # bytes in a process cannot be shown destroyed

    def __init__(self, vault_id: bytes, root: bytes) -> None:
        """Hold ``root`` (32 bytes) as the current one."""
        self._held: tuple[Candidate, ...] = (Candidate(root_fingerprint(vault_id, root), "current", root),)

    @classmethod
    def from_uri(cls, rest: str, place: Place) -> Self:  # noqa: ARG003 - the signature of every holder
        """Raise UsageError: no vault can name it."""
        raise UsageError("memory: is no root holder of a vault", next="use file: or another that lasts")

    @property
    def identity(self) -> str:
        """Nothing that another holder could be."""
        return "memory:"

    @property
    def damage(self) -> tuple[str, ...]:
        """Nothing: memory is whole or gone."""
        return ()

    def candidates(self) -> tuple[Candidate, ...]:
        """Return the root, if it was not given up."""
        return self._held

    def abandon(self) -> Receipt:
        """Forget the root. What became of the memory it stood in is not known, and the receipt says so."""
        self._held = ()
        return self.receipt("lost")

    def read_back(self, fingerprint: bytes) -> bytes:
        """Return the root; raises RootError for another's fingerprint."""
        for each in self._held:
            if each.fingerprint == fingerprint:
                return each.root
        raise RootError(f"the root {fingerprint.hex()[:16]} is not in memory")

    def provision(self, root: bytes) -> None:
        """Refuse."""
        raise _only_read(root)

    def unprovision(self) -> None:
        """Forget the root."""
        self._held = ()

    def stage(self, root: bytes) -> None:
        """Refuse."""
        raise _only_read(root)

    def promote(self, fingerprint: bytes) -> Receipt:
        """Refuse."""
        raise _only_read(fingerprint)

    def drop(self, fingerprint: bytes) -> Receipt:
        """Refuse."""
        raise _only_read(fingerprint)


def _only_read(_what: bytes) -> RootError:
    return RootError("the recovered root is only read until the vault has a new root holder")
