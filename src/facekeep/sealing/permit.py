"""The Permit: proof that the gate said yes. Opening a template takes one.

Only ``access.gate`` and the re-sealing operation mint permits; a test holds the source to that.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

_MINT: Final = object()


@dataclass(frozen=True, slots=True)
class Permit:
    """What may be opened: the slots. For how long, the append of the answer judges (SPEC §7)."""

    slots: frozenset[int]
    _mint: object = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse a Permit that was not minted."""
        if self._mint is not _MINT:
            raise TypeError("only the gate makes a Permit")

    def __reduce__(self) -> str:
        """Refuse to be copied or pickled."""
        raise TypeError("a Permit cannot be copied")


def mint(slots: frozenset[int]) -> Permit:
    """Make a Permit. For the gate only."""
    return Permit(slots, _MINT)
