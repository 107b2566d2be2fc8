"""How much of the features' neighbourhoods is left in a layout."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

NEIGHBORS = 10
MOST_MEASURED = 5000
_BLOCK = 256
_PAIR_BYTES = 44
"""Of a pair of items: two distances, the order of each, and a rank."""
_SILHOUETTE_BYTES = 6


@dataclass(frozen=True, slots=True)
class Quality:
    """Measures of a layout.

    Attributes:
        trustworthiness: Whether near items were near before, in [0, 1] (Venna and Kaski 2001).
        silhouette: Of the labels, in [-1, 1] (Rousseeuw 1987); None without two labels or more.
        purity: The share of the nearest neighbours that have an item's own label; None without labels.
    """

    trustworthiness: float
    silhouette: float | None
    purity: float | None


def measure(
    features: NDArray[Any], coordinates: NDArray[Any], labels: Sequence[str], seed: int
) -> Generator[None, None, Quality]:
    """Measure a layout, on 5000 items drawn with the seed where there are more.

    Args:
        features: items x numbers.
        coordinates: items x dimensions.
        labels: One an item; items whose label is empty count for trustworthiness alone.
        seed: Of the sample.
    """
    trust = yield from trustworthiness(features, coordinates, seed=seed)
    known = np.array([bool(label) for label in labels], bool)
    names = np.unique(np.array(labels)[known]) if known.any() else np.zeros(0)
    if not known.any() or known.sum() < 2:
        return Quality(trust, None, None)
    own, classes = coordinates[known], np.array(labels)[known]
    purity = _purity(own, classes)
    yield
    silhouette = _silhouette(own, classes, seed) if 2 <= len(names) < len(own) else None
    return Quality(trust, silhouette, purity)


def measure_memory(count: int, labelled: bool) -> int:
    """About how many bytes :func:`measure` takes beside features and layout.

    Args:
        count: Items.
        labelled: Whether they have labels.
    """
    pairs = min(count, _BLOCK) * count * _PAIR_BYTES
    return max(pairs, _SILHOUETTE_BYTES * min(count, MOST_MEASURED) ** 2 if labelled else 0)


def trustworthiness(
    features: NDArray[Any], coordinates: NDArray[Any], neighbors: int = NEIGHBORS, seed: int = 0
) -> Generator[None, None, float]:
    """One minus a penalty for neighbours in the layout that were none before, by how far from it they were.

    Args:
        features: items x numbers.
        coordinates: items x dimensions.
        neighbors: How many are looked at; fewer where there are not twice as many items.
        seed: Of the sample where there are more than 5000 items.
    """
    from sklearn.metrics import pairwise_distances

    count = len(features)
    k = min(neighbors, (count - 1) // 2)
    if k < 1:
        return 1.0
    chosen = np.arange(count)
    if count > MOST_MEASURED:
        chosen = np.sort(np.random.default_rng(seed).choice(count, MOST_MEASURED, replace=False))
    penalty = 0.0
    for start in range(0, len(chosen), _BLOCK):
        rows = chosen[start : start + _BLOCK]
        before = pairwise_distances(features[rows], features)
        after = pairwise_distances(coordinates[rows], coordinates)
        index = np.arange(len(rows))
        before[index, rows] = after[index, rows] = np.inf
        near = np.argsort(after, axis=1, kind="stable")[:, :k]
        ranks = np.empty(before.shape, np.int64)
        np.put_along_axis(
            ranks, np.argsort(before, axis=1, kind="stable"), np.arange(1, count + 1)[None], axis=1
        )
        penalty += float(np.maximum(np.take_along_axis(ranks, near, axis=1) - k, 0).sum())
        yield
    return 1 - penalty * 2 / (len(chosen) * k * (2 * count - 3 * k - 1))


def _purity(coordinates: NDArray[Any], labels: NDArray[Any]) -> float:
    from sklearn.neighbors import NearestNeighbors

    k = min(NEIGHBORS, len(coordinates) - 1)
    near = NearestNeighbors(n_neighbors=k).fit(coordinates).kneighbors(return_distance=False)
    return float((labels[near] == labels[:, None]).mean())


def _silhouette(coordinates: NDArray[Any], labels: NDArray[Any], seed: int) -> float | None:
    from sklearn.metrics import silhouette_score

    if len(labels) > MOST_MEASURED:
        chosen = np.random.default_rng(seed).choice(len(labels), MOST_MEASURED, replace=False)
        coordinates, labels = coordinates[chosen], labels[chosen]
        if not 2 <= len(np.unique(labels)) < len(labels):
            return None
    return float(silhouette_score(coordinates, labels))
