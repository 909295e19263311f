"""What matching answers, 1:1 and 1:N. A distance is told only to whoever asked and may have it."""

from __future__ import annotations

from dataclasses import dataclass

from facekeep.answers import Answer
from facekeep.matching.threshold import Threshold


@dataclass(frozen=True, slots=True, eq=False)
class Verification(Answer):
    """Answer of ``verify``, true for a match.

    ``decision`` is its id in the log; ``score`` the distance in steps of 0.01, if it was asked for.
    """

    match: bool
    decision: str
    threshold: Threshold
    score: float | None = None

    def __bool__(self) -> bool:
        """Whether it is the person."""
        return self.match


@dataclass(frozen=True, slots=True)
class Candidate:
    """Somebody whom a search found, the best with rank 1; ``score`` as in ``Verification``."""

    subject: str
    rank: int
    score: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Identification(Answer):
    """Answer of a search: candidates in rank order, true where there is one (none: unknown).

    ``compared`` and ``excluded`` count grants, ``decision`` is its id in the log.
    """

    candidates: tuple[Candidate, ...]
    compared: int
    excluded: int
    decision: str
    threshold: Threshold

    def __bool__(self) -> bool:
        """Whether anybody was found."""
        return bool(self.candidates)
