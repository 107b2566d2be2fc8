"""t-SNE (van der Maaten and Hinton 2008), with the gradient of Barnes and Hut (van der Maaten 2014).

Neighbours, probabilities and gradients are scikit-learn's; the loop is ours, so that each iteration is a step
that can be watched and stopped. It ends where scikit-learn's own ends.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
from numpy.typing import NDArray

EXPLORATION = 250
EXAGGERATION = 12.0
_ANGLE = 0.5
_SMALLEST_GAIN = 0.01


def layouts(
    features: NDArray[Any], start: NDArray[np.float32], perplexity: float, iterations: int
) -> Generator[tuple[NDArray[np.float32], float, float] | None, None, None]:
    """The layout after each iteration.

    Args:
        features: items x numbers.
        start: items x 2 or 3, near zero.
        perplexity: About how many neighbours each item has; below the number of items.
        iterations: The first 250 exaggerate what is near (van der Maaten and Hinton 2008, 3.4).

    Yields:
        None before the first iteration; then the layout, its Kullback-Leibler divergence before the
        iteration, and the length of the gradient. The array is the same each time.
    """
    from sklearn.manifold import _t_sne
    from sklearn.neighbors import NearestNeighbors
    from threadpoolctl import threadpool_info

    count, dimensions = start.shape
    near = NearestNeighbors(n_neighbors=min(count - 1, int(3 * perplexity + 1))).fit(features)
    yield None
    distances = near.kneighbors_graph(mode="distance")
    distances.data **= 2
    probabilities = _t_sne._joint_probabilities_nn(distances, perplexity, 0)  # noqa: SLF001  # see the docstring
    yield None
    threads = max(
        (pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "openmp"), default=1
    )
    # A 64-bit number, so that updates are summed in 64 bits.
    rate = np.float64(max(count / EXAGGERATION / 4, 50.0))
    probabilities *= EXAGGERATION
    place = start.astype(np.float32).ravel().copy()
    for iteration in range(iterations):
        exploring = iteration < EXPLORATION
        if iteration == EXPLORATION:
            probabilities /= EXAGGERATION
        if iteration in (0, EXPLORATION):
            update, gains = np.zeros_like(place), np.ones_like(place)
        divergence, gradient = _t_sne._kl_divergence_bh(  # noqa: SLF001
            place,
            probabilities,
            max(dimensions - 1, 1),
            count,
            dimensions,
            angle=_ANGLE,
            num_threads=threads,
        )
        turning = update * gradient < 0
        gains[turning] += 0.2
        gains[~turning] *= 0.8
        np.clip(gains, _SMALLEST_GAIN, np.inf, out=gains)
        gradient *= gains
        update = (0.5 if exploring else 0.8) * update - rate * gradient
        place += update
        # The probabilities sum to one, so what the exaggeration adds is known.
        own = divergence / EXAGGERATION - np.log(EXAGGERATION) if exploring else divergence
        yield place.reshape(count, dimensions), float(own), float(np.linalg.norm(gradient))
