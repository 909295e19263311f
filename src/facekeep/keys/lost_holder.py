"""A holder that was given up unreached: it destroys nothing, and its receipt says so (SPEC §4.1)."""

from __future__ import annotations

from typing import ClassVar, Self

from facekeep.errors import RootError
from facekeep.keys.provider import Candidate, Place, ProviderClass, Receipt, RootProvider


class LostHolder(RootProvider):
    """Stands among the leaving holders for one that is gone. Its URI is ``lost:`` and the old one."""

    scheme: ClassVar[str] = "lost"
    klass: ClassVar[ProviderClass] = "erasing"
    limits: ClassVar[tuple[str, ...]] = ("holder_lost",)

    def __init__(self, uri: str) -> None:
        """Keep the URI of what was lost."""
        self.uri = uri

    @classmethod
    def from_uri(cls, rest: str, place: Place) -> Self:  # noqa: ARG003 - the signature of every holder
        """``lost:URI``."""
        return cls(rest)

    @property
    def identity(self) -> str:
        """Nothing that another holder could be."""
        return f"lost:{self.uri}"

    @property
    def damage(self) -> tuple[str, ...]:
        """Nothing: it is not asked."""
        return ()

    def candidates(self) -> tuple[Candidate, ...]:
        """Nothing."""
        return ()

    def abandon(self) -> Receipt:
        """Say that it is lost: what became of its roots is not known."""
        return self.receipt("lost")

    def provision(self, root: bytes) -> None:
        """Refuse."""
        raise _gone(root)

    def unprovision(self) -> None:
        """Do nothing."""

    def stage(self, root: bytes) -> None:
        """Refuse."""
        raise _gone(root)

    def read_back(self, fingerprint: bytes) -> bytes:
        """Refuse."""
        raise _gone(fingerprint)

    def promote(self, fingerprint: bytes) -> Receipt:
        """Refuse."""
        raise _gone(fingerprint)

    def drop(self, fingerprint: bytes) -> Receipt:
        """Refuse."""
        raise _gone(fingerprint)


def _gone(_what: bytes) -> RootError:
    return RootError("a holder that was given up as lost holds no root", next="name another holder")
