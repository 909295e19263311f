"""Calibrate the gate for faces that tell too little, and measure what it lets through.

    python benchmarks/calibrate_quality.py FACES --models DIR --cache DIR > src/facekeep/matching/quality.json

FACES has a folder a person, with five photographs 1.jpg to 5.jpg of 250 pixels as in LFW; ``--models`` the
two files of SFace. People of odd number calibrate, those of even number give the figures; ``--table`` prints
them for each degradation. The cache holds faces and belongs to nobody else.

Whether a degradation is a dangerous one is measured: strangers who underwent it together match each other at
more than twice the claim. The score is a logistic regression with squares between the faces of those and of
ordinary photographs (as they are, and after changes that any camera or editor makes). Its limit is the
quantile, ``REFUSED``, of photographs as they are, each judged by a score fitted without its person.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from degradations import DEGRADATIONS, NEGATIVES, ORDINARY, SHARPENED, Pixels
from facekeep.errors import ImageError
from facekeep.matching.dlib_extractor import DlibExtractor
from facekeep.matching.images import RgbImage, load_rgb
from facekeep.matching.quality import MEASURES, Gate, measure
from facekeep.matching.sface_extractor import SFaceExtractor
from facekeep.matching.threshold import default_threshold

CLAIM: Final = 0.001
REFUSED: Final = 0.005  # of the photographs that calibrate; of others at most 1 %
RIDGE: Final = 4.0
FOLDS: Final = 8
PHOTOGRAPHS: Final = 5
DEGRADED: Final = (1,)  # photographs of each person that are degraded
# Where eyes are, of the aligned face's side; beyond how many deviations nothing is stranger; whether to
# sharpen faces as well: the 150 pixels of dlib's are more than LFW has, and a better camera's are sharper.
SETTINGS: Final = {"dlib": (0.3, 3.5, True), "sface": (0.46, 6.0, False)}
Floats = npt.NDArray[np.float64]
Extractor = DlibExtractor | SFaceExtractor


class Faces(NamedTuple):
    """One row a face: whose, what was done to the photograph, its measures and its template."""

    who: npt.NDArray[np.int64]
    change: npt.NDArray[np.str_]
    measured: Floats
    vector: Floats

    def of(self, chosen: npt.NDArray[np.bool_]) -> Faces:
        return Faces(self.who[chosen], self.change[chosen], self.measured[chosen], self.vector[chosen])


def photographs(folder: Path) -> Iterator[tuple[int, str, Pixels]]:
    """Person, change and pixels; only people who calibrate undergo the ordinary changes."""
    people = sorted(each for each in folder.iterdir() if each.is_dir())
    for who, person in enumerate(people, 1):
        progress(f"{who} of {len(people)} people")
        for number in range(1, PHOTOGRAPHS + 1):
            pixels = load_rgb(person / f"{number}.jpg")
            yield who, "", pixels
            for name, change in ORDINARY.items() if who % 2 else ():
                yield who, f"+{name}", change(pixels)
            for name, change in DEGRADATIONS.items() if number in DEGRADED else ():
                yield who, name, change(pixels)


def collect(name: str, extractor: Extractor, folder: Path, cache: Path) -> None:
    """Write the crop and the template of every face that is found; a file that is there is kept."""
    if (cache / f"{name}.npz").exists():
        return
    found: list[tuple[int, str, Pixels, npt.NDArray[np.float32]]] = []
    for who, change, pixels in photographs(folder):
        try:
            crop = extractor.crop(RgbImage(np.ascontiguousarray(pixels)))
        except ImageError:
            continue
        found.append((who, change, crop, extractor.describe(crop)))
    people, changes, crops, vectors = (np.array(each) for each in zip(*found, strict=True))
    np.savez(cache / f"{name}.npz", who=people, change=changes, crops=crops, vectors=vectors)


def read(name: str, cache: Path) -> Faces:
    """Read what ``collect`` wrote, and alter the aligned faces of people who calibrate."""
    data = np.load(cache / f"{name}.npz")
    crops, (eyes, _, sharpened) = data["crops"], SETTINGS[name]
    measured = [measure(each, eyes) for each in crops]
    who, change, vectors = data["who"].tolist(), data["change"].tolist(), list(data["vectors"])
    for row in np.flatnonzero((data["change"] == "") & (data["who"] % 2 == 1)):
        for label, alter in (NEGATIVES | SHARPENED if sharpened else NEGATIVES).items():
            who.append(who[row])
            change.append(label)
            vectors.append(np.zeros_like(vectors[row]))
            measured.append(measure(alter(crops[row]), eyes))
    return Faces(np.array(who), np.array(change), np.array(measured), np.array(vectors, np.float64))


def near(
    faces: Faces, others: Faces, extractor: Extractor
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Whether faces match others, and whether they are another person's."""
    model = extractor.model
    first, second = faces.vector, others.vector
    if model.metric == "cosine":
        first, second = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (first, second))
        gaps = 1 - first @ second.T
    else:
        squares = (first**2).sum(1)[:, None] + (second**2).sum(1) - 2 * first @ second.T
        gaps = np.sqrt(np.maximum(squares, 0))
    return gaps <= default_threshold(model).value, faces.who[:, None] != others.who[None]


def rate(faces: Faces, others: Faces, extractor: Extractor) -> tuple[int, int]:
    """False matches and pairs."""
    matched, strangers = near(faces, others, extractor)
    return int((matched & strangers).sum()), int(strangers.sum())


def logistic(rows: Floats, bad: Floats, weight: Floats) -> Floats:
    """Ridge logistic regression by Newton's method; the last coefficient is the constant."""
    wide = np.c_[rows, np.ones(len(rows))]
    ridge = np.diag([RIDGE] * rows.shape[1] + [1e-6])
    found = np.zeros(wide.shape[1])
    for _ in range(30):
        chance = 1 / (1 + np.exp(-np.clip(wide @ found, -30, 30)))
        slope = wide.T @ (weight * (chance - bad)) + ridge @ found
        bend = (wide * (weight * chance * (1 - chance))[:, None]).T @ wide + ridge
        found -= np.linalg.solve(bend, slope)
    return found


def fit(faces: Faces, dangers: dict[str, float], eyes: float, far: float) -> Gate:
    """Fit a gate without its limit."""
    plain = np.array([each == "" or each.startswith("+") for each in faces.change])
    danger = np.array([dangers.get(each.removeprefix("-"), 0.0) for each in faces.change])
    used = plain | (danger > 2 * CLAIM)
    mean, spread = faces.measured[plain].mean(axis=0), faces.measured[plain].std(axis=0) + 1e-6
    plain_gate = Gate(eyes, far, mean, spread, np.ones(len(mean)), np.zeros(len(mean)), 0.0)
    strange = plain_gate.terms(faces.measured[used])
    bad = (~plain[used]).astype(np.float64)
    names, counts = np.unique(faces.change[used], return_counts=True)
    many = dict(zip(names.tolist(), counts.tolist(), strict=True))
    weight = np.where(bad > 0, 0.2 + np.minimum(0.8, 5 * danger[used]), 1.0)
    weight /= np.array(
        [many[each] if hurt else 1 for each, hurt in zip(faces.change[used], bad, strict=True)]
    )
    weight[[each.startswith("-") for each in faces.change[used]]] *= 5  # rare ways of being wrong
    for each in (0, 1):
        weight[bad == each] *= len(bad) / 2 / weight[bad == each].sum()
    found = logistic(np.c_[strange, strange**2], bad, weight)
    return Gate(eyes, far, mean, spread, found[: len(mean)], found[len(mean) : -1], 0.0)


def scores(gate: Gate, faces: Faces) -> Floats:
    return np.asarray(gate.terms(faces.measured).sum(axis=1), np.float64)


def calibrate(faces: Faces, extractor: Extractor, eyes: float, far: float) -> Gate:
    dangers = {}
    for name in DEGRADATIONS:
        same = faces.of(faces.change == name)
        matched, pairs = rate(same, same, extractor)
        dangers[name] = matched / max(pairs, 1)
    gate = fit(faces, dangers, eyes, far)
    judged, clean = np.zeros(len(faces.who)), faces.change == ""
    for fold in range(FOLDS):
        mine = faces.who // 2 % FOLDS == fold
        part = fit(faces.of(~mine), dangers, eyes, far)
        middle = np.median(scores(part, faces.of(~mine & clean))) - np.median(
            scores(gate, faces.of(~mine & clean))
        )
        judged[mine] = scores(part, faces.of(mine)) - middle
    limit = float(np.quantile(judged[clean], 1 - REFUSED))
    return Gate(eyes, far, gate.mean, gate.spread, gate.linear, gate.squared, limit)


def figures(gate: Gate, faces: Faces, extractor: Extractor) -> tuple[dict[str, Any], list[list[object]]]:
    """What the gate does to people who did not calibrate: evidence, and a row for each degradation."""
    accepted = scores(gate, faces) <= gate.limit
    clean = faces.change == ""
    references, rows = faces.of(clean & accepted), []
    sums = np.zeros(
        (2, 2, 2), np.int64
    )  # before, after; against photographs, among themselves; matches, pairs
    for name in DEGRADATIONS:
        row: list[object] = [name]
        for turn, kept in enumerate((np.ones(len(clean), bool), accepted)):
            degraded = faces.of((faces.change == name) & kept)
            against = rate(degraded, faces.of(clean) if not turn else references, extractor)
            among = rate(degraded, degraded, extractor)
            sums[turn] += [against, among]
            row += [
                len(degraded.who),
                *(100 * each[0] / max(each[1], 1) for each in (against, among)),
                among[0],
            ]
        rows.append(row)
    every = faces.of(~clean & accepted)
    evidence = {
        "people": len(set(faces.who.tolist())),
        "photographs": int(clean.sum()),
        "refused": round(float(1 - accepted[clean].mean()), 4),
        "degradations": len(DEGRADATIONS),
        "degraded": int((~clean).sum()),
        "degraded_accepted": int((~clean & accepted).sum()),
        **{
            f"fmr_{kind}_{when}": round(float(sums[turn, part, 0] / max(sums[turn, part, 1], 1)), 6)
            for turn, when in enumerate(("before", "after"))
            for part, kind in enumerate(("against_photographs", "alike"))
        },
        "fmr_all_degraded_after": round(
            rate(every, every, extractor)[0] / max(rate(every, every, extractor)[1], 1), 6
        ),
    }
    return evidence, rows


def to_json(gate: Gate, extractor: Extractor, evidence: dict[str, Any]) -> dict[str, Any]:
    rows = np.round(np.array([gate.mean, gate.spread, gate.linear, gate.squared]).T, 5).tolist()
    return {
        "model_id": extractor.model.id,
        "eyes": gate.eyes,
        "far": gate.far,
        "limit": round(gate.limit, 5),
        "measures": dict(zip(MEASURES, rows, strict=True)),
        "evidence": {"dataset": "LFW deep-funneled, 80 people with 5 photographs", **evidence},
    }


def progress(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{text} ")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("faces", type=Path)
    parser.add_argument("--models", required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    os.nice(10)
    extractors: dict[str, Extractor] = {"dlib": DlibExtractor(), "sface": SFaceExtractor(given.models)}
    found = []
    for name, extractor in extractors.items():
        collect(name, extractor, given.faces, given.cache)
        faces = read(name, given.cache)
        gate = calibrate(faces.of(faces.who % 2 == 1), extractor, *SETTINGS[name][:2])
        evidence, rows = figures(gate, faces.of(faces.who % 2 == 0), extractor)
        found.append(to_json(gate, extractor, evidence))
        if given.table:
            for label, *numbers in rows:
                before, after = numbers[:4], numbers[4:]
                columns = [label, *before[:1], *after[:1], *before[1:3], *after[1:]]
                print(
                    name,
                    *(f"{each:.2f}" if isinstance(each, float) else each for each in columns),
                    sep=" | ",
                    file=sys.stderr,
                )
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
