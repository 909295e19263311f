"""Find the average of everybody's embeddings, and how near to it those of photographs come.

    python benchmarks/calibrate_average.py EMBEDDINGS.npz > src/facekeep/matching/average.json

The file is that of calibrate_thresholds.py. Half of the people give the average and the attack, the others
the figures. ``nearest`` are round numbers below which no photograph lies, and hardly a mean of several.
The attack climbs from people's embeddings to where most of the others are, kept outside of ``nearest``.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import numpy.typing as npt

from facekeep.matching.model import Model, distances, mean_template
from facekeep.matching.threshold import default_threshold

MODELS = {"dlib": Model("dlib-resnet", "1", 128, "l2"), "sface": Model("sface", "2021dec", 128, "cosine")}
NEAREST = {"dlib": 0.39, "sface": 0.5}
STARTS, ROUNDS = 25, 40  # of the attack
SOFT = 0.02  # distance over which a match fades: without it there is no way to climb
Floats = npt.NDArray[np.float32]


def kept_out(model: Model, point: Floats, centre: Floats, nearest: float) -> Floats:
    """Move a point away from the centre until it is ``nearest``."""
    if distances(model, point, centre[None])[0] >= nearest:
        return point
    if model.metric == "l2":
        gap = point - centre
        return np.asarray(centre + gap / np.linalg.norm(gap) * nearest, np.float32)
    axis = centre / np.linalg.norm(centre)
    across = point - (point @ axis) * axis
    across /= np.linalg.norm(across)
    return np.asarray((1 - nearest) * axis + np.sqrt(1 - (1 - nearest) ** 2) * across, np.float32)


def best_found(model: Model, known: Floats, centre: Floats, nearest: float) -> Floats:
    """Embedding that the most of ``known`` match, of all that are not nearer to the centre than that."""
    limit = default_threshold(model).limit()
    rates = np.array([(distances(model, each, known) <= limit).mean() for each in known])
    best, most = centre, -1.0
    for start in known[np.argsort(-rates)[:STARTS]]:
        point = start
        for _ in range(ROUNDS):
            point = kept_out(model, point, centre, nearest)
            apart = distances(model, point, known)
            if (found := float((apart <= limit).mean())) > most:
                best, most = point, found
            match = 1 / (1 + np.exp((apart - limit) / SOFT))
            weights = match * (1 - match) + SOFT * match
            point = np.asarray(point + (weights @ known / weights.sum() - point) / 2, np.float32)
    return best


def calibrate(name: str, vectors: Floats, people: npt.NDArray[np.int64]) -> dict[str, object]:
    model, nearest = MODELS[name], NEAREST[name]
    threshold = default_threshold(model)
    _, person = np.unique(people, return_inverse=True)
    half, others = np.array_split(np.random.default_rng(1).permutation(person.max() + 1), 2)
    vectors = vectors if model.metric == "l2" else vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    known = np.concatenate([vectors[person == each][:1] for each in half])
    centre = mean_template(model, np.stack([mean_template(model, vectors[person == each]) for each in half]))
    theirs = [vectors[person == each] for each in others]
    means = np.stack([mean_template(model, rows) for rows in theirs if len(rows) > 1])

    def taken(point: Floats) -> list[float]:
        one = distances(model, point, np.concatenate([rows[:1] for rows in theirs])) <= threshold.limit()
        return [
            round(float(each), 3)
            for each in (one.mean(), (distances(model, point, means) <= threshold.limit(2)).mean())
        ]

    photographs = distances(model, centre, np.concatenate(theirs))
    return {
        "model_id": model.id,
        "nearest": nearest,
        "photographs_refused": round(float((photographs < nearest).mean()), 5),
        "means_refused": round(float((distances(model, centre, means) < nearest).mean()), 5),
        "taken_for": {
            "average": taken(centre),
            "best found": taken(best_found(model, known, centre, 0.0)),
            "best found that is not refused": taken(best_found(model, known, centre, nearest)),
        },
        "average": [round(float(each), 4) for each in centre],
    }


if __name__ == "__main__":
    data = np.load(sys.argv[1])
    found = [calibrate(name, data[name], data[f"{name}_identity"]) for name in MODELS]
    print("[" + ",\n".join(json.dumps(each) for each in found) + "]")
