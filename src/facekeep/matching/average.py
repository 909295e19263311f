"""What lies nearer to everybody than a photograph does (docs/adr/0027-no-average-of-everybody.md).

The average of many people's embeddings is taken for every fourth of them, at a threshold that takes one
photograph in a thousand. No photograph, and hardly a mean of several, comes as near to that average
(benchmarks/calibrate_average.py), so what does was made for it.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from facekeep.errors import UsageError

Floats = npt.NDArray[np.float32]
_ROWS: Final = 4_096  # measured at a time


class Average(NamedTuple):
    """Average embedding (d,) of a model, and the least distance from it of what is not refused."""

    centre: Floats
    nearest: float

    def is_near(self, rows: Floats, metric: str) -> bool:
        """Whether one of (n, d) rows is nearer, by the model's metric."""
        if metric == "l2":
            gaps = rows - self.centre
            return bool((np.einsum("ij,ij->i", gaps, gaps) < self.nearest**2).any())
        lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows)) * np.sqrt(self.centre @ self.centre)
        return bool((rows @ self.centre > (1 - self.nearest) * lengths).any())


@cache
def _averages() -> dict[str, Average]:
    text = resources.files(__package__).joinpath("average.json").read_text(encoding="utf-8")
    return {
        each["model_id"]: Average(np.array(each["average"], np.float32), each["nearest"])
        for each in json.loads(text)
    }


def check_not_average(model_id: str, metric: str, rows: Floats) -> None:
    """Raise UsageError for embeddings (n, d) of which one is nearly everybody's average.

    Nothing is known of the average of models that are not calibrated here.
    """
    average = _averages().get(model_id)
    if average is None:
        return
    for start in range(0, len(rows), _ROWS):
        if average.is_near(rows[start : start + _ROWS], metric):
            raise UsageError(
                "an embedding is nearly the average of everybody's, which no photograph gives",
                next="give the embedding of one photograph; of several photographs give one row each",
            )
