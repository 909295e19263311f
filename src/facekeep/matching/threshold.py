"""Thresholds with their evidence.

There is no bare float in the API: a number without its model, its data and its error rates says nothing
about who is let in.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib import resources
from typing import Any, Final, Self, cast

from facekeep.arguments import checks_arguments
from facekeep.errors import UsageError
from facekeep.formats.canonical import JsonValue
from facekeep.formats.matching import Limits, Matching
from facekeep.matching.model import Metric, Model, check_shape
from facekeep.matching.oneperson import RowLimits

_MOST: Final = 1e9  # log entries hold the millionfold, below 2**53


@checks_arguments
@dataclass(frozen=True, slots=True)
class Threshold:
    """A distance up to which two embeddings count as one person's, and what that costs.

    ``value`` is for a reference of one photograph, ``mean_value`` for the mean of several: a mean lies nearer
    to everybody, strangers included, and at ``value`` its false match rate would be a few times higher.

    ``target_fmr`` and ``fmr`` are false match rates, ``fnmr`` the false non-match rate at ``value``, each of
    single comparisons on ``dataset``. The FMR counts pairs; the FNMR is the mean over identities, because
    one person with many photographs has most of the pairs. The interval is a 95 % bootstrap over identities,
    because pairs that share a person are not independent (benchmarks/calibrate_thresholds.py).

    At enrolment ``value`` is also how far two groups of one subject's rows may lie apart on average, and
    ``rows_value`` how far any two rows may; without one no two may be farther apart than ``value``.
    ``rows_fmr`` is the share of sets of two people that pass for one, ``rows_fnmr`` that of one person's sets
    that are refused, both by limits that were chosen on other people.
    """

    model_id: str
    metric: Metric
    value: float
    target_fmr: float
    fmr: float
    fmr_low: float
    fmr_high: float
    fnmr: float
    dataset: str
    identities: int
    impostor_pairs: int
    genuine_pairs: int
    mean_value: float | None = None  # None: the same as ``value``
    mean_fnmr: float | None = None
    rows_value: float | None = None
    rows_fmr: float | None = None
    rows_fnmr: float | None = None

    def __post_init__(self) -> None:
        """Raise UsageError for a threshold without evidence."""
        rates = (self.target_fmr, self.fmr, self.fmr_low, self.fmr_high, self.fnmr)
        if not 0 <= self.value <= _MOST or not all(0 <= rate <= 1 for rate in rates):
            raise UsageError("a threshold's value or rates are out of range")
        if not 0 <= self.limit(2) <= _MOST or not 0 <= (self.mean_fnmr or 0) <= 1:
            raise UsageError("a threshold's value for means is out of range")
        shares = (self.rows_fmr or 0, self.rows_fnmr or 0)
        if not 0 <= self.row_limits.rows <= _MOST or not all(0 <= share <= 1 for share in shares):
            raise UsageError("a threshold's value for rows is out of range")
        if self.metric not in ("l2", "cosine") or not self.fmr_low <= self.fmr <= self.fmr_high:
            raise UsageError("a threshold's metric is l2 or cosine, and its FMR lies within its interval")
        check_shape(self.model_id, None, self.metric)
        if not self.dataset or self.impostor_pairs < 1 or self.genuine_pairs < 1:
            raise UsageError("a threshold needs its evidence: the data set and the pairs it was measured on")

    def limit(self, photographs: int = 1) -> float:
        """Greatest distance that matches a reference made of that many photographs."""
        return self.value if photographs == 1 or self.mean_value is None else self.mean_value

    def matches(self, distance: float, photographs: int = 1) -> bool:
        """Whether a distance is a match. Not-a-number never is."""
        return distance <= self.limit(photographs)

    @property
    def row_limits(self) -> RowLimits:
        """Limits among the rows of one subject."""
        return RowLimits(self.value, self.value if self.rows_value is None else self.rows_value)

    @property
    def limits(self) -> Limits:
        """Both limits, times 10^6, as they stand in log entries."""
        return Limits(round(self.limit(1) * 1e6), round(self.limit(2) * 1e6))

    def to_json(self) -> dict[str, JsonValue | float]:
        """Return every field."""
        return asdict(self)

    def to_text(self) -> str:
        """Return every field as JSON text, as it is registered in the settings."""
        return json.dumps(self.to_json(), sort_keys=True)

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read ``to_text`` back; raises UsageError."""
        try:
            return cls.from_json(json.loads(text))
        except ValueError:
            raise UsageError("a threshold is not JSON") from None

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Read ``to_json`` back; raises UsageError unless there is every field and no other."""
        names = {field.name for field in fields(cls)}
        given: dict[object, object] = value if isinstance(value, dict) else {}
        if given.keys() != names:
            lacking = ", ".join(sorted(names - given.keys()))
            said = f"lacks {lacking}" if lacking else f"has {len(given) - len(names)} fields too many"
            raise UsageError(f"a threshold {said}", next="'facekeep verify --json' gives one in its form")
        kinds = {
            "str": str,
            "int": int,
            "float": (int, float),
            "float | None": (int, float, type(None)),
            "Metric": str,
        }
        for field in fields(cls):
            got = given[field.name]
            if isinstance(got, bool) or not isinstance(got, kinds[str(field.type)]):  # type: ignore[arg-type] # a tuple of types is one too
                raise UsageError(f"a threshold's {field.name} is of the wrong type")
        return cls(**cast("dict[str, Any]", given))


@cache
def _packaged() -> dict[str, Threshold]:
    text = resources.files(__package__).joinpath("thresholds.json").read_text(encoding="utf-8")
    found = [Threshold.from_json(each) for each in cast("list[object]", json.loads(text))]
    return {each.model_id: each for each in found}


def default_threshold(model: Model, registered: str | None = None) -> Threshold:
    """Threshold ``registered`` for a model (as JSON text), or calibrated for it at FMR 0.1 %.

    Raises UsageError for a model that has none.
    """
    threshold = _packaged().get(model.id) if registered is None else Threshold.from_text(registered)
    if threshold is None or threshold.model_id != model.id or threshold.metric != model.metric:
        raise UsageError(
            f"there is no calibrated threshold for the model {model.id}",
            next="measure one on people of yours, and give it with its evidence: --threshold FILE.json",
        )
    return threshold


def row_limits(model: Model, limits: Matching) -> RowLimits | None:
    """Limits among one subject's rows of a model; None where no threshold says how far strangers lie apart.

    A registered threshold without a ``rows_value`` leaves a calibrated model its own limits: a stricter match
    is no reason to refuse a person's photographs.
    """
    text = limits.registered(model.id) or limits.registered(model.id, search=True)
    own = None if text is None else Threshold.from_text(text)
    if own is None or own.rows_value is None:
        own = _packaged().get(model.id, own)
    return None if own is None else own.row_limits


def check_pair(model: Model, threshold: Threshold) -> None:
    """Raise UsageError for a threshold that says nothing of a model's distances."""
    if (threshold.model_id, threshold.metric) != (model.id, model.metric):
        raise UsageError("the threshold was measured for another model")


def allows(
    limits: Matching, model: Model, threshold: Threshold, *, score: bool, top: int | None = None
) -> bool:
    """Whether limits on matching allow to be asked so (SPEC §9.3); ``top`` None: 1:1."""
    known = (limits.limits if top is None else limits.search_limits).get(model.id) == threshold.limits
    known = known and limits.metrics.get(model.id) == model.metric == threshold.metric
    return known and (top or 1) <= limits.top and (limits.scores or not score)
