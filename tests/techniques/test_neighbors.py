"""Nearest neighbours against scikit-learn and against every distance there is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import pairwise_distances
from sklearn.neighbors import NearestNeighbors

from endoscope_server.errors import InvalidInput
from endoscope_server.techniques import neighbors
from endoscope_server.techniques.approximate import ApproximateIndex
from endoscope_server.techniques.neighbors import Metric, NeighborIndex, NeighborParameters
from endoscope_server.techniques.parts.steps import drain


class InMemory:
    """Features in blocks of uneven order, as a store may give them."""

    def __init__(self, numbers: np.ndarray, block: int = 100) -> None:
        self.numbers = numbers
        self.width = numbers.shape[1]
        order = np.arange(len(numbers))
        self.parts = [np.sort(order[start::3]) for start in range(3)]
        self.parts = [
            part[start : start + block] for part in self.parts for start in range(0, len(part), block)
        ]

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, positions: np.ndarray) -> np.ndarray:
        return self.numbers[positions]

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for positions in self.parts:
            yield positions, self.numbers[positions]


def index_of(numbers: np.ndarray, metric: Metric = Metric.L2, **options: Any) -> NeighborIndex:
    index = NeighborIndex(InMemory(numbers), metric, **options)
    drain(index.build())
    return index


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["32 bits", "16 bits"])
def dtype(request, monkeypatch) -> torch.dtype:
    monkeypatch.setattr(neighbors, "fast_dtype", lambda device: request.param)
    return request.param


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize("kind", ["normal", "rectified", "far from zero", "clustered"])
def test_exact_whatever_the_matrix_product_is_taken_in(dtype: torch.dtype, metric: Metric, kind: str) -> None:
    generator = np.random.default_rng(0)
    numbers = generator.normal(size=(2000, 96)).astype(np.float32)
    queries = generator.normal(size=(17, 96)).astype(np.float32)
    if kind == "rectified":
        numbers, queries = np.maximum(numbers, 0), np.maximum(queries, 0)
    elif kind == "far from zero":
        numbers, queries = numbers + 1000, queries + 1000
    elif kind == "clustered":
        # Hundreds of near copies: rounding to 16 bits can't tell them apart.
        centres = generator.normal(size=(4, 96)).astype(np.float32)
        numbers = centres[generator.integers(0, 4, 2000)] + numbers * np.float32(1e-4)
        queries = numbers[:17] + queries * np.float32(1e-5)
    found = drain(index_of(numbers, metric).search(queries, 10))[1]
    name = "euclidean" if metric is Metric.L2 else "cosine"
    # scikit-learn's fast distances lose digits, so it is given 64 bits and no shortcut.
    if metric is Metric.L2:
        truth = np.sqrt(((queries[:, None].astype(np.float64) - numbers[None]) ** 2).sum(-1))
    else:
        truth = pairwise_distances(queries.astype(np.float64), numbers.astype(np.float64), metric=name)
    expected = np.take_along_axis(truth, found.positions, axis=1)
    np.testing.assert_allclose(found.distances, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.distances, np.sort(truth, axis=1)[:, :10], rtol=1e-9, atol=1e-12)


def test_the_same_as_scikit_learn(dtype: torch.dtype) -> None:
    generator = np.random.default_rng(1)
    numbers = np.maximum(generator.normal(size=(3000, 200)), 0).astype(np.float32)
    queries = np.maximum(generator.normal(size=(64, 200)), 0).astype(np.float32)
    found = drain(index_of(numbers).search(queries, 12))[1]
    distances, places = NearestNeighbors(n_neighbors=12, algorithm="brute").fit(numbers).kneighbors(queries)
    assert np.array_equal(found.positions, places)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-4)


def test_an_item_is_not_its_own_neighbour_but_a_copy_of_it_is(dtype: torch.dtype) -> None:
    numbers = np.random.default_rng(2).normal(size=(50, 8)).astype(np.float32)
    numbers[30] = numbers[7]
    found = drain(index_of(numbers).search(numbers[[7, 8]], 3, [7, 8]))[1]
    assert (found.positions[0, 0], found.distances[0, 0]) == (30, 0)
    assert 8 not in found.positions[1]
    everything = drain(index_of(numbers).search(numbers[[7]], 49, [7]))[1]
    assert sorted(everything.positions[0]) == [place for place in range(50) if place != 7]


def test_equal_distances_go_by_place(dtype: torch.dtype) -> None:
    numbers = np.repeat(np.eye(4, dtype=np.float32), 600, axis=0)
    found = drain(index_of(numbers).search(np.eye(4, dtype=np.float32)[1:2], 5))[1]
    assert found.positions[0].tolist() == [600, 601, 602, 603, 604]


def test_zero_vectors_and_numbers_that_are_not_finite(dtype: torch.dtype) -> None:
    numbers = np.random.default_rng(3).normal(size=(40, 6)).astype(np.float32)
    numbers[3] = 0
    numbers[5, 2] = np.nan
    numbers[6, 2] = np.inf
    found = drain(index_of(numbers, Metric.COSINE).search(numbers[:1], 40))[1]
    place = found.positions[0].tolist().index(3)
    assert found.distances[0, place] == 1
    assert set(found.positions[0, -2:]) == {5, 6}
    assert np.isinf(found.distances[0, -2:]).all()
    with pytest.raises(InvalidInput, match="not finite"):
        drain(index_of(numbers).search(numbers[5:6], 1))


def test_pixels_are_scaled_and_large_features_are_not_kept(dtype: torch.dtype, monkeypatch) -> None:
    generator = np.random.default_rng(4)
    numbers = generator.integers(0, 256, (300, 48)).astype(np.uint8)
    kept = drain(index_of(numbers, scale=1 / 255).search(numbers[:5], 6))[1]
    truth = np.sqrt((((numbers[:5, None].astype(float) - numbers[None]) / 255) ** 2).sum(-1))
    np.testing.assert_allclose(kept.distances, np.sort(truth, axis=1)[:, :6], rtol=1e-12)
    monkeypatch.setattr(neighbors, "_KEPT_BYTES", 0)
    read = drain(index_of(numbers, scale=1 / 255).search(numbers[:5], 6))[1]
    assert np.array_equal(read.positions, kept.positions)
    assert np.array_equal(read.distances, kept.distances)


@pytest.mark.parametrize("metric", list(Metric))
def test_approximate_search_tells_its_true_recall(metric: Metric) -> None:
    pytest.importorskip("faiss", reason="faiss-cpu is not installed: pip install endoscope[faiss]")
    generator = np.random.default_rng(5)
    centres = generator.normal(size=(200, 32))
    numbers = (centres[generator.integers(0, 200, 6000)] + 0.7 * generator.normal(size=(6000, 32))).astype(
        np.float32
    )
    index = ApproximateIndex(InMemory(numbers, 1000), metric)
    drain(index.build())
    assert 0.95 <= index.recall <= 1
    queries = (centres[:100] + 0.7 * generator.normal(size=(100, 32))).astype(np.float32)
    found = drain(index.search(queries, 10))[1]
    truth = drain(index_of(numbers, metric).search(queries, 10))[1]
    recall = np.mean(
        [len(set(a) & set(b)) / 10 for a, b in zip(found.positions, truth.positions, strict=True)]
    )
    assert recall == pytest.approx(index.recall, abs=0.05)
    # Distances are exact, whichever were found.
    same = found.positions == truth.positions
    assert same.mean() > 0.8
    np.testing.assert_array_equal(found.distances[same], truth.distances[same])
    own = drain(index.search(numbers[:3], 10, [0, 1, 2]))[1]
    assert all(row not in own.positions[row] for row in range(3))


def test_bad_parameters() -> None:
    for bad in ({"k": 1001}, {"k": -1}, {"thumbnail_size": 513}):
        with pytest.raises(InvalidInput) as caught:
            NeighborParameters(**bad)
        assert caught.value.field == next(iter(bad))
    assert NeighborParameters().count(5) == 5
    assert NeighborParameters().count(500) == 10
    with pytest.raises(InvalidInput, match="at most 5") as above:
        NeighborParameters(k=6).count(5)
    assert above.value.field == "k"
    with pytest.raises(InvalidInput) as alone:
        NeighborParameters().count(0)
    assert alone.value.field == "dataset"
