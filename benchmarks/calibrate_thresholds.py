"""Calibrate the default thresholds: all impostor and genuine pairs of an embeddings file.

    python benchmarks/calibrate_thresholds.py EMBEDDINGS.npz > src/facekeep/matching/thresholds.json

The file holds ``dlib`` (n, 128) and ``sface`` (n, 128) float32 with ``*_identity`` integers, one row a
photograph. The interval is a bootstrap over identities (resampling people, not pairs: two pairs that share
a person are not independent), 200 rounds: each weighs pair (i, j) by how often both people were drawn.
The FNMR is the mean over people with two photographs or more: pooled, one person of LFW has 68 % of dlib's
genuine pairs, and the FNMR is his.

``rows_value`` is how far two rows of one subject may lie apart at enrolment: as strangers do in ``ROWS_FMR``
of pairs. What it lets through and refuses, together with ``value``, is measured on every second person, by
both limits as they come out for the others.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import numpy.typing as npt

from facekeep.matching.oneperson import RowLimits, strangers

TARGET_FMR = 0.001
ROWS_FMR = 0.005  # a tighter one refuses the very different photographs of one person, which groups allow for
MIXED = ((1, 1), (2, 1), (2, 2), (3, 1), (3, 3), (4, 1))  # photographs of each of two people under one id
MIXTURES = 40_000  # of each kind
ENROLLED = 5  # photographs behind a mean reference; fewer lie farther from strangers
DRAWS = 8  # references of one person
ROUNDS = 200
EDGES = np.linspace(0, 2.2, 22_001)
Counts = npt.NDArray[np.float64]

MODELS = {
    "dlib": ("dlib-resnet/1", "l2"),
    "sface": ("sface/2021dec", "cosine"),
}


def pair_distances(vectors: npt.NDArray[np.float32], metric: str, start: int, stop: int) -> Counts:
    wide = vectors.astype(np.float64)
    if metric == "cosine":
        wide /= np.linalg.norm(wide, axis=1, keepdims=True)
        return np.asarray(1 - wide[start:stop] @ wide.T)
    squares = (wide * wide).sum(axis=1)
    gaps = squares[start:stop, None] + squares - 2 * wide[start:stop] @ wide.T
    return np.asarray(np.sqrt(np.maximum(gaps, 0)))


def calibrate(
    name: str, vectors: npt.NDArray[np.float32], people: npt.NDArray[np.int64]
) -> dict[str, object]:
    model_id, metric = MODELS[name]
    _, person = np.unique(people, return_inverse=True)
    impostors = impostor_counts(name, vectors, metric, person)
    rates = np.cumsum(impostors) / impostors.sum()
    value, rows_value = limit(impostors, TARGET_FMR), limit(impostors, ROWS_FMR)
    matched = matches(vectors, metric, person, value)
    pairs = ordered_pairs(person)
    low, high = interval(name, matched, pairs)
    mean_value, mean_fnmr = calibrate_mean(vectors, metric, person)
    mixed, refused = one_person_rates(name, vectors, metric, person)
    return {
        "model_id": model_id,
        "metric": metric,
        "value": value,
        "target_fmr": TARGET_FMR,
        "fmr": round(float(rates[int(np.searchsorted(EDGES, value)) - 1]), 6),
        "fmr_low": round(low, 6),
        "fmr_high": round(high, 6),
        "fnmr": round(fnmr(matched, pairs), 4),
        "mean_value": mean_value,
        "mean_fnmr": mean_fnmr,
        "rows_value": rows_value,
        "rows_fmr": mixed,
        "rows_fnmr": refused,
        "dataset": "LFW deep-funneled, one half of the identities",
        "identities": len(pairs),
        "impostor_pairs": int(impostors.sum()),
        "genuine_pairs": int(np.trace(pairs)) // 2,
    }


def impostor_counts(
    name: str, vectors: npt.NDArray[np.float32], metric: str, person: npt.NDArray[np.int64]
) -> Counts:
    """Histogram of the distances of strangers' pairs, each once."""
    n = len(vectors)
    impostors = np.zeros(len(EDGES) - 1)
    for start in range(0, n, 512):
        stop = min(start + 512, n)
        found = pair_distances(vectors, metric, start, stop)
        later = np.arange(n)[None] > np.arange(start, stop)[:, None]
        same = person[None] == person[start:stop, None]
        impostors += np.histogram(found[later & ~same].clip(EDGES[0], EDGES[-1]), EDGES)[0]
        progress(name, stop, n)
    return impostors


def limit(impostors: Counts, fmr: float) -> float:
    """Greatest distance at which no more than this share of strangers' pairs match."""
    rates = np.cumsum(impostors) / impostors.sum()
    return round(float(EDGES[int(np.searchsorted(rates, fmr, "right"))]), 4)


def one_person_rates(
    name: str, vectors: npt.NDArray[np.float32], metric: str, person: npt.NDArray[np.int64]
) -> tuple[float, float]:
    """Return the shares of sets of two people that pass for one (of the kind that most does) and of one
    person's sets of ``ENROLLED`` that do not, among people with an odd number, by limits of the others.
    """
    even = person % 2 == 0
    chosen = impostor_counts(f"{name} one half", vectors[even], metric, person[even])
    limits = RowLimits(limit(chosen, TARGET_FMR), limit(chosen, ROWS_FMR))
    vectors, person = vectors[~even], person[~even]
    apart = np.concatenate(
        [pair_distances(vectors, metric, at, min(at + 512, len(person))) for at in range(0, len(person), 512)]
    )
    mixed = max(mixed_rate(apart, person, limits, kind) for kind in MIXED)
    return round(mixed, 6), round(refused_rate(apart, person, limits, ENROLLED), 4)


def mixed_rate(
    apart: Counts, person: npt.NDArray[np.int64], limits: RowLimits, kind: tuple[int, int]
) -> float:
    """Share of sets of two people, so many photographs of each, that pass for one person."""
    generator = np.random.default_rng(22)
    owned = [np.flatnonzero(person == who) for who in np.unique(person)]
    owned = [each for each in owned if len(each) >= max(kind)]
    passed = 0
    for _ in range(MIXTURES):
        pair = generator.choice(len(owned), 2, replace=False)
        drawn = [generator.choice(owned[who], n, replace=False) for who, n in zip(pair, kind, strict=True)]
        passed += not strangers(apart[np.ix_(*[np.concatenate(drawn)] * 2)], limits)
    return passed / MIXTURES


def refused_rate(apart: Counts, person: npt.NDArray[np.int64], limits: RowLimits, photographs: int) -> float:
    """Mean over people with as many photographs of the share of sets of them that is refused."""
    generator = np.random.default_rng(23)
    found = []
    for who in np.unique(person):
        own = np.flatnonzero(person == who)
        if len(own) >= photographs:
            sets = [generator.choice(own, photographs, replace=False) for _ in range(DRAWS)]
            found.append(np.mean([bool(strangers(apart[np.ix_(each, each)], limits)) for each in sets]))
    return float(np.mean(found))


def calibrate_mean(
    vectors: npt.NDArray[np.float32], metric: str, person: npt.NDArray[np.int64]
) -> tuple[float, float]:
    """Return (threshold, FNMR over people) of references that are the mean of ``ENROLLED`` photographs.

    A mean lies nearer to everybody, strangers included: at the threshold of single photographs its FMR is a
    few times higher. Probes are all photographs that are not in the reference.
    """
    wide = vectors.astype(np.float64)
    if metric == "cosine":
        wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    generator = np.random.default_rng(21)
    impostors = np.zeros(len(EDGES) - 1)
    genuine: dict[int, list[npt.NDArray[np.float64]]] = {}
    for who in np.flatnonzero(np.bincount(person) > ENROLLED).tolist():
        own = np.flatnonzero(person == who)
        for _ in range(DRAWS):
            drawn = generator.choice(own, ENROLLED, replace=False)
            reference = wide[drawn].mean(axis=0)
            if metric == "cosine":
                found = 1 - wide @ (reference / np.linalg.norm(reference))
            else:
                found = np.linalg.norm(wide - reference, axis=1)
            impostors += np.histogram(found[person != who].clip(EDGES[0], EDGES[-1]), EDGES)[0]
            genuine.setdefault(who, []).append(found[np.setdiff1d(own, drawn)])
    rates = np.cumsum(impostors) / impostors.sum()
    value = round(float(EDGES[int(np.searchsorted(rates, TARGET_FMR, "right"))]), 4)
    missed = [float(np.mean(np.concatenate(each) > value)) for each in genuine.values()]
    return value, round(float(np.mean(missed)), 4)


def ordered_pairs(person: npt.NDArray[np.int64]) -> Counts:
    """Pairs of photographs by their two people, (total, total); none is paired with itself."""
    photographs = np.bincount(person).astype(np.float64)
    return np.outer(photographs, photographs) - np.diag(photographs)


def matches(
    vectors: npt.NDArray[np.float32], metric: str, person: npt.NDArray[np.int64], value: float
) -> Counts:
    """``ordered_pairs`` at a distance of up to ``value``."""
    total = int(person.max()) + 1
    found = np.zeros((total, total))
    for start in range(0, len(vectors), 512):
        stop = min(start + 512, len(vectors))
        near = pair_distances(vectors, metric, start, stop) <= value
        near[np.arange(stop - start), np.arange(start, stop)] = False
        rows, columns = np.nonzero(near)
        np.add.at(found, (person[rows + start], person[columns]), 1)
    return found


def fnmr(matched: Counts, pairs: Counts) -> float:
    own = np.diag(pairs) > 0
    return float(np.mean(1 - np.diag(matched)[own] / np.diag(pairs)[own]))


def interval(name: str, matched: Counts, pairs: Counts) -> tuple[float, float]:
    """95 % interval of the FMR over resampled identities."""
    total = len(pairs)
    errors, others = matched - np.diag(np.diag(matched)), pairs - np.diag(np.diag(pairs))
    generator = np.random.default_rng(20)
    found = []
    for done in range(ROUNDS):
        weight = np.bincount(generator.integers(0, total, total), minlength=total).astype(np.float64)
        found.append(weight @ errors @ weight / (weight @ others @ weight))
        progress(f"{name} bootstrap", done + 1, ROUNDS)
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def progress(what: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{what}: {100 * done // total} %{'' if done < total else chr(10)}")


def main() -> None:
    data = np.load(sys.argv[1])
    found = [calibrate(name, data[name], data[f"{name}_identity"]) for name in MODELS]
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
