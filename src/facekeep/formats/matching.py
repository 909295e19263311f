"""What principals who may not change the settings may ask: the section [matching] (SPEC §9.3)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Final, NamedTuple, cast

from facekeep.errors import FormatError
from facekeep.formats.canonical import JsonObject, JsonValue
from facekeep.formats.ids import check_model_id
from facekeep.limits import LIMITS

MAX_THRESHOLDS: Final = 16
_MOST_E6: Final = 10**15

#: key -> its least and greatest value.
BOUNDS: Final[Mapping[str, tuple[int, int]]] = {
    "top": (1, LIMITS.candidates),
    "failures": (0, 1_000),
    "pause_s": (1, 86_400),
    "longest_s": (1, 86_400),
    "asks": (0, 1_000_000),
    "searches": (0, 10_000_000),
}
_PAIR: Final = re.compile(r"([a-z_]{1,40})=(0|[1-9][0-9]{0,8})\Z")


class Limits(NamedTuple):
    """Greatest distances that match, times 10^6: of a single photograph's reference, and of a mean."""

    value_e6: int
    mean_e6: int


#: The calibrated thresholds that come with this version (matching/thresholds.json).
CALIBRATED: Final[Mapping[str, Limits]] = {
    "dlib-resnet/1": Limits(546_900, 495_000),
    "sface/2021dec": Limits(642_400, 625_800),
}
#: Dimension and metric of the models that they were calibrated for.
SHAPES: Final[Mapping[str, tuple[int, str]]] = {
    "dlib-resnet/1": (128, "l2"),
    "sface/2021dec": (128, "cosine"),
}


@dataclass(frozen=True)
class Matching:
    """Limits on matching; they bind whoever may not change the settings. Days are those of UTC.

    Registered thresholds are JSON texts, at most one of a model.
    """

    scores: bool = False  # whether a distance may leave
    top: int = 5  # candidates that a search names at the most
    failures: int = 5  # non-matches in a row about one person before the first pause; 0: no pauses
    pause_s: int = 30  # the first pause, seconds; each further non-match doubles it
    longest_s: int = 3_600  # the longest pause, seconds
    asks: int = 100  # answers about one person a day; 0: as many as asked
    searches: int = 1_000  # searches a day; 0: as many as asked
    thresholds: tuple[str, ...] = ()
    search_thresholds: tuple[str, ...] = ()  # for searches, in place of those

    @cached_property
    def limits(self) -> Mapping[str, Limits]:
        """Model id -> the limits that may be used: of its registered threshold, or the calibrated one."""
        return {**CALIBRATED, **dict(map(_limits, self.thresholds))}

    @cached_property
    def search_limits(self) -> Mapping[str, Limits]:
        """The same for searches."""
        return {**self.limits, **dict(map(_limits, self.search_thresholds))}

    @cached_property
    def metrics(self) -> Mapping[str, str]:
        """Model id -> the metric of the distances that its limits are of."""
        texts = (*self.thresholds, *self.search_thresholds)
        return {**{model: metric for model, (_, metric) in SHAPES.items()}, **dict(map(_metric, texts))}

    def registered(self, model_id: str, *, search: bool = False) -> str | None:
        """Return the JSON text of the threshold that is registered for a model, or None."""
        texts = (*(self.search_thresholds if search else ()), *self.thresholds)
        return next((text for text in texts if _limits(text)[0] == model_id), None)

    def with_threshold(self, text: str, *, search: bool = False) -> Matching:
        """Return it with a threshold registered in place of its model's; raises FormatError."""
        texts = self.search_thresholds if search else self.thresholds
        new = tuple(sorted((*_without(texts, _limits(text)[0]), text), key=_limits))
        return replace(self, search_thresholds=new) if search else replace(self, thresholds=new)

    def without_threshold(self, model_id: str) -> Matching:
        """Return it with no threshold registered for a model."""
        return replace(
            self,
            thresholds=_without(self.thresholds, model_id),
            search_thresholds=_without(self.search_thresholds, model_id),
        )

    def check(self) -> None:
        """Raise FormatError for a value of another type, or out of its bounds."""
        for key, (low, high) in BOUNDS.items():
            value = getattr(self, key)
            if type(value) is not int or not low <= value <= high:
                raise FormatError(f"{key} is not a number from {low} to {high}")
        if type(self.scores) is not bool:
            raise FormatError("scores is not true or false")
        for texts in (self.thresholds, self.search_thresholds):
            models = [_limits(text)[0] for text in texts]
            if len(models) > MAX_THRESHOLDS or models != sorted(set(models)):
                raise FormatError(f"thresholds are at most {MAX_THRESHOLDS}, one of a model, by model")
            for model, metric in map(_metric, texts):
                if metric != self.metrics[model] or metric != SHAPES.get(model, (0, metric))[1]:
                    raise FormatError(f"the thresholds of {model} are not all of the metric of that model")

    def document(self) -> JsonObject:
        """Return what differs from the defaults."""
        default = Matching()
        pairs = ((each.name, getattr(self, each.name)) for each in fields(self))
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in pairs
            if value != getattr(default, name)
        }

    def logged(self) -> JsonObject:
        """Return it as it stands in log entries (SPEC §6.1): every value, thresholds as limits."""
        found: JsonObject = {key: getattr(self, key) for key in BOUNDS}
        return found | {
            "scores": self.scores,
            "search_thresholds": _triples(self.search_limits),
            "thresholds": _triples(self.limits),
        }

    @staticmethod
    def parse(document: object) -> Matching:
        """Return the limits of a table of vault.toml; raises FormatError."""
        names = {each.name for each in fields(Matching)}
        if not isinstance(document, dict) or not names.issuperset(document):
            raise FormatError("[matching] has a key that facekeep does not know")
        values = dict(document)
        for key in {"thresholds", "search_thresholds"}.intersection(values):
            if not isinstance(values[key], list) or not all(type(each) is str for each in values[key]):
                raise FormatError(f"{key} are not texts")
            values[key] = tuple(values[key])
        matching = Matching(**values)
        matching.check()
        return matching

    def changed(self, words: tuple[str, ...]) -> Matching:
        """Return it with changes such as ``top=3``, ``scores=yes``, ``asks=default``; raises FormatError."""
        new = self
        for word in words:
            key, _, text = word.partition("=")
            number = _PAIR.match(word)
            if key not in BOUNDS and key != "scores":
                keys = ", ".join(("scores", *BOUNDS))
                raise FormatError(f"{key[:40]!r} is no limit of matching: say KEY=VALUE, of {keys}")
            if text == "default":
                value: Any = getattr(Matching(), key)
            elif key == "scores" and text in {"yes", "no"}:
                value = text == "yes"
            elif key != "scores" and number is not None:
                value = int(number[2])
            else:
                raise FormatError(f"{key} takes {'yes or no' if key == 'scores' else 'a whole number'}")
            new = replace(new, **{key: value})
        new.check()
        return new


def _triples(limits: Mapping[str, Limits]) -> list[JsonValue]:
    return [[model, *each] for model, each in sorted(limits.items())]


def _without(texts: tuple[str, ...], model_id: str) -> tuple[str, ...]:
    return tuple(text for text in texts if _limits(text)[0] != model_id)


def _metric(text: str) -> tuple[str, str]:
    """Model id and metric of a threshold's JSON text that ``_limits`` takes."""
    found = json.loads(text)
    return str(found["model_id"]), str(found.get("metric"))


def _limits(text: str) -> tuple[str, Limits]:
    """Model id and limits of a threshold's JSON text; what else it says is ``matching.threshold``'s."""
    try:
        found = cast("Mapping[str, Any]", json.loads(text))
        value, mean = found["value"], found["mean_value"]
        limits = Limits(*(round(each * 1e6) for each in (value, value if mean is None else mean)))
        check_model_id(found["model_id"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise FormatError("a registered threshold is none") from error
    if not all(0 <= each <= _MOST_E6 for each in limits) or not text.isprintable():
        raise FormatError("a registered threshold is out of range")
    return str(found["model_id"]), limits
