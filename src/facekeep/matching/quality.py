"""Whether a face tells enough of one person (docs/adr/0025-faces-that-tell-enough.md).

Pictures with little in them match one another, whoever is in them: of strangers reduced to two colours a
third to three quarters. The face that the network is about to see is measured, and a score over the measures
is held to a limit that was calibrated on photographs as they are (benchmarks/calibrate_quality.py).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from facekeep.errors import ImageError
from facekeep.matching.model import Model

Floats = npt.NDArray[np.float64]

_EDGE: Final = 0.14  # of the side, left out: hair and background
_LUMA: Final = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
# Measure -> the reason where it is lower than in photographs, and where it is higher.
MEASURES: Final = {
    "shadows": ("too_dark", "too_bright"),
    "middle": ("too_dark", "too_bright"),
    "lights": ("too_dark", "too_bright"),
    "contrast": ("low_contrast", "high_contrast"),
    "clipped": ("low_contrast", "high_contrast"),
    "shades": ("few_levels", "noisy"),
    "fewest shades of a channel": ("few_levels", "noisy"),
    "commonest shades": ("noisy", "few_levels"),
    "gaps between shades": ("noisy", "few_levels"),
    "flat parts": ("noisy", "few_levels"),
    "steps of 1 across": ("blurred", "noisy"),
    "steps of 2 across": ("blurred", "noisy"),
    "steps of 4 across": ("blurred", "noisy"),
    "steps of 1 down": ("blurred", "noisy"),
    "steps of 2 down": ("blurred", "noisy"),
    "steps of 4 down": ("blurred", "noisy"),
    "detail": ("blurred", "noisy"),
    "grain": ("blurred", "noisy"),
    "edges": ("noisy", "few_levels"),
    "cheeks over eyes": ("inverted", "high_contrast"),
    "nose over eyes": ("inverted", "high_contrast"),
    "cheeks over mouth": ("inverted", "high_contrast"),
    "red over blue": ("wrong_colours", "wrong_colours"),
    "red over green": ("wrong_colours", "wrong_colours"),
    "one direction": ("noisy", "blurred"),
    "light on dark": ("high_contrast", "inverted"),
    "grain of colours": ("blurred", "noisy"),
}
_ORIGINAL: Final = "use the camera's own file: not a preview, not printed, not edited"
_TELL: Final = {
    "blurred": ("is blurred", "hold the camera still, focus on the face, come nearer"),
    "noisy": ("is covered by noise", "give it more light"),
    "few_levels": ("has too few shades, or is covered or cut off", f"show the whole face, and {_ORIGINAL}"),
    "low_contrast": ("has too little contrast", "wipe the lens, and let light fall from the front"),
    "high_contrast": ("has lights and shadows cut off", "avoid hard light, and use the camera's own file"),
    "too_dark": ("is too dark", "give it more light"),
    "too_bright": ("is too bright", "give it less light, none from behind"),
    "inverted": ("is a negative, or its eyes are not seen", _ORIGINAL),
    "wrong_colours": ("has colours that no light gives", _ORIGINAL),
}


def measure(crop: npt.NDArray[np.uint8], eyes: float) -> Floats:
    """Return ``MEASURES`` of an aligned face, uint8 RGB (s, s, 3), whose ``eyes`` are so far down, 0 to 1."""
    size = len(crop)
    edge = round(_EDGE * size)
    inner = crop[edge : size - edge, edge : size - edge].astype(np.float64)
    grey, whole = inner @ _LUMA, crop.astype(np.float64) @ _LUMA
    spread = grey.std() + 0.5
    shares, entropy = _shades(grey)
    smooth = np.convolve(shares, np.ones(5) / 5, "same")
    channels = [_shades(inner[:, :, each]) for each in range(3)]
    steps = np.abs(np.diff(np.rint(grey), axis=0))[:, :-1], np.abs(np.diff(np.rint(grey), axis=1))[:-1]
    bend = _laplace(grey)
    red, green, blue = inner.mean(axis=(0, 1))
    return np.array(
        [
            *np.percentile(grey, [2, 50, 98]),
            np.log(spread),
            shares[:3].sum() + shares[253:].sum(),
            entropy,
            min(each for _, each in channels),
            max(np.sort(each)[-8:].sum() for each, _ in channels),
            np.abs(shares - smooth).sum(),
            (np.maximum(*steps) <= 1).mean(),
            *_steps(grey),
            *_steps(grey.T),
            np.log((bend**2).mean() + 0.1) - 2 * np.log(spread),
            np.log(np.median(np.abs(_laplace(bend))) + 0.3) - np.log(spread),
            np.log((bend**4).mean() + 1e-3) - 2 * np.log((bend**2).mean() + 1e-2),
            *(each / spread for each in _features(whole, eyes)),
            (red - blue) / (grey.mean() + 5),
            (red - green) / (grey.mean() + 5),
            *_band(grey),
            np.log(sum((_laplace(inner[:, :, each] - inner[:, :, 1]) ** 2).mean() for each in (0, 2)) + 0.1)
            - 2 * np.log(spread),
        ]
    )


def _shades(channel: Floats) -> tuple[Floats, float]:
    """Share of each of 256 values, and their entropy in bits."""
    shares = np.bincount(np.rint(channel).astype(np.int64).ravel(), minlength=256) / channel.size
    used = shares[shares > 0]
    return shares, -float((used * np.log2(used)).sum())


def _steps(grey: Floats) -> list[float]:
    """Log of the mean squared step over 1, 2 and 4 columns, relative to that over 8."""
    found = [float(((grey[:, lag:] - grey[:, :-lag]) ** 2).mean()) + 0.05 for lag in (1, 2, 4, 8)]
    return [float(np.log(each / found[3])) for each in found[:3]]


def _laplace(grey: Floats) -> Floats:
    return np.asarray(
        4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:], np.float64
    )


def _mean(grey: Floats, half: int) -> Floats:
    """Mean of each square of 2 ``half`` + 1 pixels."""
    side = 2 * half + 1
    sums = np.pad(grey, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    return np.asarray(
        (sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]) / side**2
    )


def _band(grey: Floats) -> tuple[float, float]:
    """Of what is 3 to 7 pixels wide: log of steps, strongest over weakest direction, and skewness.

    Motion raises the first. Lids, nostrils and lips are dark on light, but not in a negative.
    """
    small = _mean(grey, 1)
    band, lines = small[3:-3, 3:-3] - _mean(small, 3), small[2:-2, 2:-2] - _mean(grey, 3)
    steps = np.array([(band[1:-1, 2:] - band[1:-1, :-2]).ravel(), (band[2:, 1:-1] - band[:-2, 1:-1]).ravel()])
    weakest, strongest = np.linalg.eigvalsh(steps @ steps.T / steps.shape[1]) + 0.05
    skewness = (lines**3).mean() / ((lines**2).mean() + 0.01) ** 1.5
    return float(np.log(strongest / weakest)), float(skewness)


def _features(grey: Floats, eyes: float) -> tuple[float, float, float]:
    """By how much cheeks and the bridge of the nose are brighter than eyes, and cheeks than the mouth."""

    def patch(across: float, down: float, half: float) -> float:
        (top, bottom), (left, right) = (
            (int((at - reach) * len(grey)), int((at + reach) * len(grey)) + 1)
            for at, reach in ((down, half), (across, 0.06))
        )
        return float(grey[top:bottom, left:right].mean())

    eye = (patch(0.32, eyes, 0.035) + patch(0.68, eyes, 0.035)) / 2
    cheek = (patch(0.32, eyes + 0.21, 0.05) + patch(0.68, eyes + 0.21, 0.05)) / 2
    return cheek - eye, patch(0.5, eyes, 0.035) - eye, cheek - patch(0.5, eyes + 0.39, 0.04)


@dataclass(frozen=True, slots=True)
class Gate:
    """A score, linear in the measures (in standard deviations of photographs) and in their squares.

    What lies farther than ``far`` standard deviations is as strange.
    """

    eyes: float
    far: float
    mean: Floats
    spread: Floats
    linear: Floats
    squared: Floats
    limit: float

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Read what the calibration wrote; a measure that it left out adds nothing."""
        known = [value["measures"].get(each, (0, 1, 0, 0)) for each in MEASURES]
        mean, spread, linear, squared = np.array(known, np.float64).T
        return cls(value["eyes"], value["far"], mean, spread, linear, squared, value["limit"])

    def terms(self, measured: Floats) -> Floats:
        """Return what each measure adds to the score."""
        far = np.clip((measured - self.mean) / self.spread, -self.far, self.far)
        return np.asarray(far * self.linear + far**2 * self.squared, np.float64)

    def reason(self, crop: npt.NDArray[np.uint8]) -> str | None:
        """None for a face that tells enough, else the reason that adds most to its score."""
        measured = measure(crop, self.eyes)
        terms = self.terms(measured)
        if terms.sum() <= self.limit:
            return None
        sums: dict[str, float] = {}
        for (lower, higher), term, above in zip(MEASURES.values(), terms, measured > self.mean, strict=True):
            word = higher if above else lower
            sums[word] = sums.get(word, 0.0) + float(term)
        return max(sums, key=lambda word: sums[word])

    def check(self, crop: npt.NDArray[np.uint8], name: str) -> None:
        """Raise ImageError, with the photograph's ``name``, for a face that tells too little."""
        reason = self.reason(crop)
        if reason is not None:
            what, step = _TELL[reason]
            raise ImageError(f"{name}: the face {what}", reason=reason, next=step)


@cache
def gate(model: Model) -> Gate:
    """Return the gate that was calibrated for an extractor's model."""
    text = resources.files(__package__).joinpath("quality.json").read_text(encoding="utf-8")
    return Gate.from_json(next(each for each in json.loads(text) if each["model_id"] == model.id))
