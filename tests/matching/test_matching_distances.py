"""Means, reference stacks, distances: what a threshold is compared with."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from facekeep.errors import UsageError
from facekeep.matching.model import (
    _GAPS,
    Floats,
    Metric,
    Model,
    distance,
    distances,
    mean_template,
    reference_stack,
)

METRICS: tuple[Metric, ...] = ("l2", "cosine")


def model(metric: Metric, dimension: int = 4) -> Model:
    return Model("raw:t", "1", dimension, metric)


def some(count: int, dimension: int, seed: int = 1) -> Floats:
    return np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)


def exact(
    metric: Metric, probe: Floats, gallery: Floats
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    one, many = probe.astype(np.float64), gallery.astype(np.float64)
    if metric == "l2":
        return np.asarray(np.linalg.norm(many - one, axis=1))
    return np.asarray(1 - many @ one / np.linalg.norm(many, axis=1) / np.linalg.norm(one))


@pytest.mark.parametrize(
    ("name", "version", "dimension"),
    [("a" * 39, "1", 4), ("UPPER", "1", 4), ("ü", "1", 4), ("", "1", 4), ("a", "1\n", 4), ("a", "1", 0)],
)
def test_a_model_that_could_not_stand_in_a_log_entry(name: str, version: str, dimension: int) -> None:
    with pytest.raises(UsageError):
        Model(name, version, dimension, "l2")


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("count", [1, 5, _GAPS // 8 + 3])
def test_distances_are_exact_across_chunks(metric: Metric, count: int) -> None:
    probe, gallery = some(1, 8)[0], some(count, 8, seed=2)
    found = distances(model(metric, 8), probe, gallery)
    assert found.shape == (count,)
    np.testing.assert_allclose(found, exact(metric, probe, gallery), rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("metric", METRICS)
def test_one_distance_is_the_first_of_many(metric: Metric) -> None:
    probe, gallery = some(1, 8)[0], some(5, 8, seed=2)
    many = distances(model(metric, 8), probe, gallery)
    assert distance(model(metric, 8), probe, gallery[0]) == pytest.approx(float(many[0]), rel=1e-6)
    with pytest.raises(UsageError, match="8 numbers"):
        distance(model(metric, 8), probe[:1], gallery[0])


def test_near_duplicates_keep_their_digits() -> None:
    probe = some(1, 128)[0] * 10
    gallery = np.stack([probe, probe])
    gallery[1, 0] = np.nextafter(probe[0], np.float32(np.inf))
    same, near = distances(model("l2", 128), probe, gallery)
    assert same == 0
    assert near == pytest.approx(float(gallery[1, 0]) - float(probe[0]))


@pytest.mark.parametrize("shape", [(1,), (3,), (5,), (1, 4)])
def test_a_probe_is_never_stretched_to_the_gallery(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="4 numbers"):
        distances(model("l2"), np.ones(shape, np.float32), some(3, 4))


def test_one_embedding_is_its_own_reference() -> None:
    assert reference_stack(model("l2"), some(1, 4)).shape == (1, 4)


@pytest.mark.parametrize("metric", METRICS)
def test_the_mean_stands_in_front_of_what_it_is_the_mean_of(metric: Metric) -> None:
    templates = some(3, 4) * np.array([[1], [5], [25]], np.float32)
    stack = reference_stack(model(metric), templates)
    np.testing.assert_array_equal(stack[1:], templates)
    np.testing.assert_array_equal(stack[0], mean_template(model(metric), templates))
    assert stack.dtype == np.float32


def test_for_cosine_a_long_template_weighs_no_more_than_a_short_one() -> None:
    mean = mean_template(model("cosine", 2), np.array([[100, 0], [0, 1]], np.float32))
    np.testing.assert_allclose(mean, [0.5**0.5, 0.5**0.5], rtol=1e-6)


def test_no_reference_without_an_embedding_or_of_embeddings_that_cancel() -> None:
    with pytest.raises(UsageError, match="one embedding"):
        reference_stack(model("l2"), np.empty((0, 4), np.float32))
    with pytest.raises(UsageError, match="cancel"):
        reference_stack(model("cosine", 2), np.array([[1, 0], [-2, 0]], np.float32))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("number", [0, np.nan, np.inf, -np.inf, 1e-30, 1e25])
def test_embeddings_that_cannot_be_compared(metric: Metric, number: float) -> None:
    vector = np.full(4, number, np.float32)
    for each in (vector, vector.astype(np.float64)):
        with pytest.raises(UsageError):
            model(metric).check(each)
    with pytest.raises(UsageError):
        model(metric).check_many(np.stack([np.ones(4, np.float32), vector]))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("scale", [2e-15, 1, 4e14])
def test_what_passes_the_check_has_finite_distances(metric: Metric, scale: float) -> None:
    vector = model(metric).check(np.ones(4, np.float32) * np.float32(scale))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isfinite(distances(model(metric), vector, np.stack([vector, -vector]))).all()


@pytest.mark.parametrize("kind", ["complex64", "bool", "object", "U4"])
def test_other_kinds_of_number(kind: str) -> None:
    with pytest.raises(UsageError):
        model("l2").check(np.ones(4).astype(kind))
