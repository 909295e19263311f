"""Whether several embeddings are one person's (SPEC §5.5): two people's mean matches both of them.

Embeddings are joined to groups, always the two that lie nearest to one another on average (average linkage).
Copies of a photograph change no average, so nobody is outvoted by them. A chain of embeddings from one person
to another is one group; so no two of them may lie too far apart, either.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from facekeep.errors import NotOnePerson
from facekeep.matching.model import Floats, Model, distances

_NAMED: Final = 3  # rows that a message names


class RowLimits(NamedTuple):
    """Greatest distances among one person's rows: on average between two groups, and of any two."""

    groups: float
    rows: float


def check_one_person(model: Model, rows: Floats, limits: RowLimits, names: Sequence[str] = ()) -> float:
    """Return the greatest distance of two of k rows (k, d); raises NotOnePerson, which names the odd ones.

    ``names`` are what messages call the rows, if there is one for each.
    """
    apart = np.stack([distances(model, row, rows) for row in rows]).astype(np.float64)
    odd = strangers(apart, limits)
    if odd:
        called = names if len(names) == len(rows) else [f"row {at}" for at in range(1, len(rows) + 1)]
        rest = [at for at in range(len(rows)) if at not in odd]
        verb = "is" if len(odd) == 1 else "are"
        raise NotOnePerson(
            f"not one person: {_listed(called, odd)} {verb} too unlike {_listed(called, rest)}", rows=odd
        )
    return float(apart.max())


def strangers(apart: npt.NDArray[np.float64], limits: RowLimits) -> tuple[int, ...]:
    """Rows of a (k, k) table of distances that are not of the person whom most are of; none: one person."""
    groups = _groups(apart, limits.groups)
    if len(groups) > 1:
        most = max(groups, key=len)
        return tuple(sorted(at for group in groups if group is not most for at in group))
    ends = np.unravel_index(int(apart.argmax()), apart.shape)
    if apart[ends] <= limits.rows:
        return ()
    return (int(max(sorted(ends), key=lambda at: apart[at].sum())),)


def _groups(apart: npt.NDArray[np.float64], limit: float) -> list[list[int]]:
    """Join the nearest two groups until they are one, or lie farther apart than the limit."""
    groups = [[at] for at in range(len(apart))]
    if apart.max() <= limit:
        return [list(range(len(apart)))]
    gaps = apart.copy()
    np.fill_diagonal(gaps, np.inf)
    while len(groups) > 1:
        one, other = sorted(divmod(int(gaps.argmin()), len(gaps)))
        if gaps[one, other] > limit:
            break
        sizes = len(groups[one]), len(groups[other])
        gaps[one] = gaps[:, one] = np.average(gaps[[one, other]], axis=0, weights=sizes)
        gaps[one, one] = np.inf
        gaps = np.delete(np.delete(gaps, other, axis=0), other, axis=1)
        groups[one] = sorted(groups[one] + groups.pop(other))
    return groups


def _listed(names: Sequence[str], which: Sequence[int]) -> str:
    listed = [names[at] for at in which[:_NAMED]]
    if len(which) > _NAMED:
        listed.append(f"{len(which) - _NAMED} more")
    return listed[0] if len(listed) == 1 else f"{', '.join(listed[:-1])} and {listed[-1]}"
