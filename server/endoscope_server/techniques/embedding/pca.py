"""Principal components."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_EXACT_WIDTH = 1536
_EXACT_COUNT = 512
_DOUBLE_NUMBERS = 2**26


@dataclass(frozen=True, slots=True)
class Components:
    """The directions in which features vary most.

    Attributes:
        mean: features; what is subtracted first.
        directions: components x features, orthonormal; the largest entry of each is positive.
        explained: components; the share of the whole variance that each explains.
    """

    mean: NDArray[np.float64]
    directions: NDArray[np.float64]
    explained: NDArray[np.float64]

    def project(self, features: NDArray[Any]) -> NDArray[np.float64]:
        """Coordinates (items x components) of features (items x numbers), also of new ones."""
        projected: NDArray[np.float64] = (features - self.mean) @ self.directions.T
        return projected


def principal_components(features: NDArray[Any], count: int, seed: int) -> Components:
    """The first ``count`` components of features (items x numbers).

    They are exact where either side is small; else they come by random projection (Halko et al. 2011).
    """
    from sklearn.decomposition import PCA

    items, width = features.shape
    solver = _solver(items, width, count)
    if features.size <= _DOUBLE_NUMBERS:
        features = features.astype(np.float64, copy=False)
    # Where nothing varies the shares are zero over zero.
    with np.errstate(invalid="ignore"):
        found = PCA(count, svd_solver=solver, random_state=seed, iterated_power=7).fit(features)
    directions = found.components_.astype(np.float64)
    largest = np.take_along_axis(directions, np.abs(directions).argmax(1)[:, None], axis=1)
    directions = directions * np.where(largest < 0, -1, 1)
    return Components(
        found.mean_.astype(np.float64),
        directions,
        np.nan_to_num(found.explained_variance_ratio_.astype(np.float64)),
    )


def fit_memory(items: int, width: int, count: int) -> int:
    """About how many bytes :func:`principal_components` takes beside the features themselves."""
    numbers = items * width
    copy = numbers * (8 if numbers <= _DOUBLE_NUMBERS else 4)
    match _solver(items, width, count):
        case "covariance_eigh":
            # The covariance, what it is decomposed in, and its eigenvectors.
            return copy + 5 * 8 * width**2
        case "full":
            # Features, centred, as they are decomposed, and both sides of the result.
            return 6 * copy
        case _:
            return 2 * copy + 8 * 4 * (count + 10) * (items + width)


def _solver(items: int, width: int, count: int) -> str:
    if width <= _EXACT_WIDTH:
        return "covariance_eigh"
    if items <= _EXACT_COUNT or count > 0.5 * min(items, width):
        return "full"
    return "randomized"
