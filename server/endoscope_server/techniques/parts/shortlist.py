"""The smallest of many numbers, as they pass by."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Shortlist:
    """The smallest numbers of each query among what passes by.

    Args:
        queries: How many queries.
        count: How many numbers of each are kept, at least.
    """

    def __init__(self, queries: int, count: int) -> None:
        self._queries = queries
        self._count = count
        self._bound: NDArray[np.float32] | None = None
        self._values: list[NDArray[np.float32]] = []
        self._rows: list[NDArray[np.int64]] = []
        self._places: list[NDArray[np.int64]] = []
        self._held = 0

    def take(self, values: NDArray[np.float32], positions: NDArray[np.int64]) -> None:
        """Look at a block.

        Args:
            values: places x queries.
            positions: Which places they are.
        """
        if self._bound is None and len(values) >= self._count:
            self._bound = np.partition(values, self._count - 1, axis=0)[self._count - 1]
        if self._bound is None:
            places, rows = (found.reshape(-1) for found in np.indices(values.shape))
        else:
            places, rows = np.divmod(np.flatnonzero(values <= self._bound), self._queries)
        self._values.append(values[places, rows])
        self._rows.append(rows)
        self._places.append(positions[places])
        self._held += len(rows)
        if self._held > 8 * self._queries * self._count:
            self._thin()

    def result(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The places of the smallest numbers (queries x count), and the largest number among them."""
        self._thin()
        shape = self._queries, self._count
        return self._places[0].reshape(shape), self._values[0].reshape(shape)[:, -1].astype(np.float64)

    def _thin(self) -> None:
        values, rows = np.concatenate(self._values), np.concatenate(self._rows)
        places = np.concatenate(self._places)
        order = np.lexsort((places, values, rows))
        rank = np.arange(len(rows)) - np.searchsorted(rows[order], rows[order])
        kept = order[rank < self._count]
        self._values, self._rows, self._places = [values[kept]], [rows[kept]], [places[kept]]
        self._held = len(kept)
        if self._held == self._queries * self._count:
            self._bound = values[kept].reshape(self._queries, self._count)[:, -1]
