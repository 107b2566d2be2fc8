"""t-SNE (van der Maaten and Hinton 2008), with the gradient of Barnes and Hut (van der Maaten 2014).

Neighbours, probabilities and gradients are scikit-learn's; the loop is ours, so that each iteration is a step
that can be watched and stopped. It ends where scikit-learn's own ends. All sums are made in one thread, for
their last bits would depend on how many share them, and small differences grow; the search for neighbours is
shared.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endoscope_server.techniques.parts.memory import Memory

EXPLORATION = 250
EXAGGERATION = 12.0
_ANGLE = 0.5
_SMALLEST_GAIN = 0.01


def layouts(
    features: NDArray[Any],
    start: NDArray[np.float32],
    perplexity: float,
    iterations: int,
    memory: Memory | None = None,
) -> Generator[tuple[NDArray[np.float32], float, float] | None, None, None]:
    """The layout after each iteration.

    Args:
        features: items x numbers.
        start: items x 2 or 3, near zero.
        perplexity: About how many neighbours each item has; below the number of items.
        iterations: The first 250 exaggerate what is near (van der Maaten and Hinton 2008, 3.4).
        memory: To go on from, after any iteration; None to begin.

    Yields:
        None before the first iteration; then the layout, its Kullback-Leibler divergence before the
        iteration, and the length of the gradient. The array is the same each time.
    """
    from sklearn.manifold import _t_sne

    count, dimensions = start.shape
    yield None
    distances = _squared_distances(features, min(count - 1, int(3 * perplexity + 1)))
    probabilities = _t_sne._joint_probabilities_nn(distances, perplexity, 0)  # noqa: SLF001  # see the docstring
    yield None
    # A 64-bit number, so that updates are summed in 64 bits.
    rate = np.float64(max(count / EXAGGERATION / 4, 50.0))
    place = start.astype(np.float32).ravel().copy()
    at = (memory or Memory()).variables(
        "tsne", iteration=0, place=place, update=np.zeros_like(place), gains=np.ones_like(place)
    )
    probabilities *= EXAGGERATION
    if at.iteration > EXPLORATION:
        # Not left out: there and back they are rounded.
        probabilities /= EXAGGERATION
    while at.iteration < iterations:
        place, update, gains = at.place, at.update, at.gains
        exploring = at.iteration < EXPLORATION
        if at.iteration == EXPLORATION:
            probabilities /= EXAGGERATION
            update, gains = np.zeros_like(place), np.ones_like(place)
        divergence, gradient = _t_sne._kl_divergence_bh(  # noqa: SLF001
            place,
            probabilities,
            max(dimensions - 1, 1),
            count,
            dimensions,
            angle=_ANGLE,
            num_threads=1,
        )
        turning = update * gradient < 0
        gains[turning] += 0.2
        gains[~turning] *= 0.8
        np.clip(gains, _SMALLEST_GAIN, np.inf, out=gains)
        gradient *= gains
        update = (0.5 if exploring else 0.8) * update - rate * gradient
        place += update
        at.iteration, at.update, at.gains = at.iteration + 1, update, gains
        # The probabilities sum to one, so what the exaggeration adds is known.
        own = divergence / EXAGGERATION - np.log(EXAGGERATION) if exploring else divergence
        # Not by a routine that shares the sum among threads.
        length = np.square(gradient, dtype=np.float64).sum()
        yield place.reshape(count, dimensions), float(own), float(np.sqrt(length))


def _squared_distances(features: NDArray[Any], neighbors: int) -> Any:
    """A sparse matrix of the squared distances to each item's nearest others."""
    from scipy.sparse import csr_matrix
    from sklearn.metrics._pairwise_distances_reduction import ArgKmin

    count = len(features)
    # One thread has all of a row: else which of two equally near items counts would depend on the threads.
    found, places = ArgKmin.compute(
        features,
        features,
        neighbors + 1,
        metric="euclidean",
        strategy="parallel_on_X",
        return_distance=True,
    )
    others = places != np.arange(count)[:, None]
    # An item with many copies may not be among its own nearest.
    others[others.all(axis=1), -1] = False
    rows = np.arange(0, count * neighbors + 1, neighbors)
    return csr_matrix((found[others] ** 2, places[others], rows), shape=(count, count))
