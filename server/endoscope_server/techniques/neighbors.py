"""The nearest neighbours in a space of features, exactly (as in Krizhevsky et al. 2012, figure 4).

Distances to everything are taken roughly first, as one matrix product, in 16 bits where the processor is
faster with them. Rounding each vector moves it by a length that is known, so a bound on the true distance
follows; what the bound can't rule out is measured again in 64 bits. The answer is exact.
"""

from __future__ import annotations

import enum
import functools
import math
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from endoscope_server.errors import InvalidInput
from endoscope_server.techniques.parts.devices import best_device
from endoscope_server.techniques.parts.shortlist import Shortlist

_BLOCK = 32_768
_SLAB = 4096
_KEPT_BYTES = 2 * 2**30
_SPARE = 64
_MOST_CANDIDATES = 4096
_CHUNK_NUMBERS = 2**24
"""What a block of features on disk has at most, or else it is of one chunk's images."""
_CHUNK_ITEMS = 256


class Metric(enum.Enum):
    """How far apart two feature vectors are."""

    L2 = "l2"
    """The Euclidean distance."""
    COSINE = "cosine"
    """One minus the cosine of the angle; 1 where a vector is zero."""


class Features(Protocol):
    """Vectors that may lie on disk."""

    def __len__(self) -> int: ...

    @property
    def width(self) -> int:
        """Numbers a vector."""
        ...

    def take(self, positions: NDArray[np.int64]) -> NDArray[Any]:
        """Some vectors (positions x width)."""
        ...

    def blocks(self) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
        """All vectors, a block at a time: their positions, and they."""
        ...


@dataclass(frozen=True, slots=True)
class NeighborParameters:
    """What is wanted of FindNeighbors.

    Attributes:
        k: How many neighbours, 1 to 1000; 0 for 10, or fewer if there are not as many.
        metric: How far apart two feature vectors are.
        pixel_space: Whether neighbours in pixels are wanted too.
        approximate: Whether an approximate index may be used.
        thumbnail_size: Side of the thumbnails in pixels, 0 to 512; 0 for none.
    """

    k: int = 0
    metric: Metric = Metric.L2
    pixel_space: bool = False
    approximate: bool = False
    thumbnail_size: int = 96

    def __post_init__(self) -> None:
        if not 0 <= self.k <= 1000:
            raise InvalidInput(f"k is {self.k}, expected 1 to 1000", field="k")
        if not 0 <= self.thumbnail_size <= 512:
            raise InvalidInput(
                f"thumbnail_size is {self.thumbnail_size}, expected 0 to 512", field="thumbnail_size"
            )

    def count(self, available: int) -> int:
        """How many neighbours of ``available`` there will be.

        Raises:
            InvalidInput: if more are asked for than there are.
        """
        if not available:
            raise InvalidInput(
                "the dataset has no other picture, expected at least one",
                field="dataset",
                reason="TOO_FEW_ITEMS",
            )
        if self.k > available:
            raise InvalidInput(
                f"k is {self.k}, expected at most {available}, the pictures that can be neighbours",
                field="k",
                reason="TOO_FEW_ITEMS",
            )
        return self.k or min(10, available)


@dataclass(frozen=True, slots=True)
class Found:
    """The neighbours of some queries, nearest first; of equally near ones the first in the dataset.

    Attributes:
        positions: queries x k, places in the features.
        distances: queries x k.
    """

    positions: NDArray[np.int64]
    distances: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class IndexMemory:
    """About how much memory an index takes.

    Attributes:
        kept: Bytes while it is there.
        beside: Bytes more while it is built.
    """

    kept: int
    beside: int


def search_memory(count: int, width: int, queries: int, parameters: NeighborParameters) -> int:
    """About how many bytes a search takes beside the index, thumbnails of its answer included.

    Args:
        count: Vectors that are searched.
        width: Numbers of a vector.
        queries: How many.
        parameters: What is wanted.
    """
    k = min(parameters.k or 10, count)
    candidates = min(k + 1 + _SPARE, count)
    products = 4 * queries * (min(_BLOCK, count) + 3 * min(_SLAB, count))
    # Values, queries and places: eight times as many as are kept, and again while they are sorted.
    shortlist = 2 * 8 * queries * candidates * (4 + 8 + 8)
    measured = candidates * width * (4 + 3 * 8)
    # As it is drawn, and encoded.
    thumbnails = queries * k * 5 * parameters.thumbnail_size**2
    return max(products + shortlist, measured) + thumbnails


class NeighborIndex:
    """Features made ready to be searched. Call :meth:`build` first.

    Args:
        features: What is searched.
        metric: How far apart two vectors are.
        scale: What features and queries are multiplied by before they are compared.
        device: Where the matrix products are taken.
    """

    def __init__(
        self, features: Features, metric: Metric, scale: float = 1.0, device: torch.device | None = None
    ) -> None:
        self.features = features
        self.metric = metric
        self._scale = scale
        self._device = device or best_device()
        self._dtype = torch.float32
        self._mean = np.zeros(features.width)
        self._squares = np.zeros(len(features), np.float32)
        self._moved = self._longest = 0.0
        self._kept: torch.Tensor | None = None

    @staticmethod
    def memory(count: int, width: int) -> IndexMemory:
        """About how many bytes the index over so many vectors of so many numbers takes."""
        numbers = count * width
        kept = 4 * numbers if 2 * numbers <= _KEPT_BYTES else 0
        block = min(min(count, _CHUNK_ITEMS) * width, max(_CHUNK_NUMBERS, width))
        # As read, as the metric sees it, centred, rounded, and how far that moved it: mostly in 64 bits.
        return IndexMemory(kept + 4 * count, block * (2 * 4 + 4 * 8))

    def build(self) -> Generator[None, None, None]:
        """Centre and round the features; keeps a copy of them if that is not too large."""
        total = np.zeros(self.features.width)
        for _, block in self.features.blocks():
            finite = block[np.isfinite(block).all(1)]
            total += self.prepared(finite).sum(0)
            yield
        self._mean = total / max(len(self.features), 1)
        shape = len(self.features), self.features.width
        if math.prod(shape) * 2 <= _KEPT_BYTES:
            self._dtype = fast_dtype(self._device)
            self._kept = torch.empty(shape, dtype=self._dtype, device=self._device)
        for positions, block in self.features.blocks():
            rounded, moved = self._round(block)
            squares = rounded.double().square().sum(1).cpu().numpy()
            self._longest = max(self._longest, math.sqrt(squares.max()))
            self._moved = max(self._moved, float(moved.max()))
            self._squares[positions] = np.where(np.isfinite(block).all(1), squares, np.inf)
            if self._kept is not None:
                self._kept[torch.from_numpy(positions).to(self._device)] = rounded
            yield

    def search(
        self, queries: NDArray[Any], k: int, exclude: Sequence[int | None] = ()
    ) -> Generator[None, None, Found]:
        """The ``k`` nearest features of each query.

        Args:
            queries: queries x width.
            k: How many; at most as many as there are, without the excluded one.
            exclude: For each query a position that is no neighbour of it, or None.

        Raises:
            InvalidInput: if a query is not finite; features that are not are infinitely far.
        """
        if not np.isfinite(queries).all():
            raise InvalidInput("the features of a query are not finite", reason="NOT_FINITE")
        excluded = list(exclude) or [None] * len(queries)
        positions = np.empty((len(queries), k), np.int64)
        distances = np.empty((len(queries), k))
        left, candidates = np.arange(len(queries)), k + 1 + _SPARE
        while len(left):
            if candidates > min(_MOST_CANDIDATES, len(self.features)):
                found = yield from self.measure_all(queries[left], k, [excluded[row] for row in left])
                positions[left], distances[left] = found.positions, found.distances
                break
            near, bounds = yield from self._rough(queries[left], candidates)
            unsure = []
            for row, places, bound in zip(left, near, bounds, strict=True):
                measured = self.distances(self.features.take(places), queries[row])
                if excluded[row] is not None:
                    measured[places == excluded[row]] = np.inf
                order = np.lexsort((places, measured))[:k]
                positions[row], distances[row] = places[order], measured[order]
                # What is not among the candidates is farther than this.
                if not distances[row, -1] < self._from_length(bound):
                    unsure.append(row)
                yield
            left, candidates = np.array(unsure, np.int64), 4 * candidates
        return Found(positions, distances)

    def prepared(self, vectors: NDArray[Any]) -> NDArray[np.float64]:
        """Vectors as the metric sees them: of length 1 for cosine."""
        numbers = vectors.astype(np.float64)
        if self.metric is Metric.COSINE:
            lengths = np.linalg.norm(numbers, axis=1, keepdims=True)
            with np.errstate(invalid="ignore"):
                numbers /= np.where(lengths == 0, 1, lengths)
        return numbers

    def _round(self, vectors: NDArray[Any]) -> tuple[torch.Tensor, NDArray[np.float64]]:
        """Vectors as they are multiplied, and how far rounding moved each; zeros for what is not finite."""
        centred = self.prepared(vectors) - self._mean
        centred[~np.isfinite(centred).all(1)] = 0
        exact = torch.from_numpy(centred)
        rounded = exact.to(self._dtype)
        moved = (exact - rounded.double()).norm(dim=1).numpy()
        return rounded.to(self._device), moved

    def _rough(
        self, queries: NDArray[Any], count: int
    ) -> Generator[None, None, tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """Candidates (queries x count), and for each query a length that all others exceed."""
        rounded, moved = self._round(queries)
        multiplier = rounded.T.contiguous()
        shortlist = Shortlist(len(queries), count)
        # A product is given back rounded to the type's own precision.
        coarse = np.float32(torch.finfo(self._dtype).eps)
        for positions, block in self._rounded_blocks():
            # Torch takes the products in all its threads; waking them for little things would take longer
            # than the things.
            products = torch.mm(block, multiplier).cpu()
            for start in range(0, len(positions), _SLAB):
                slab = _widened(products[start : start + _SLAB])
                places = positions[start : start + _SLAB]
                lowest = np.abs(slab)
                lowest *= -coarse
                slab *= 2
                lowest -= slab
                lowest += self._squares[places, None]
                shortlist.take(lowest, places)
            yield
        places, last = shortlist.result()
        own = rounded.double().square().sum(1).cpu().numpy()
        # Sums of products are off by their rounding, at most this much.
        slack = self.features.width * 2.0**-22 * self._longest * np.sqrt(own)
        slack += 2.0**-21 * (own + self._longest**2)
        lengths = np.sqrt(np.maximum(last + own - slack, 0)) - self._moved - moved
        return places, lengths

    def _rounded_blocks(self) -> Iterator[tuple[NDArray[np.int64], torch.Tensor]]:
        """Positions, and the features there as they are multiplied."""
        if self._kept is not None:
            for start in range(0, len(self._kept), _BLOCK):
                block = self._kept[start : start + _BLOCK]
                yield np.arange(start, start + len(block)), block
            return
        for positions, vectors in self.features.blocks():
            yield positions, self._round(vectors)[0]

    def measure_all(
        self, queries: NDArray[Any], k: int, exclude: Sequence[int | None]
    ) -> Generator[None, None, Found]:
        """Exact distances to everything: where candidates would be nearly all there is."""
        distances = np.empty((len(queries), len(self.features)))
        for positions, block in self.features.blocks():
            for row, query in enumerate(queries):
                distances[row, positions] = self.distances(block, query)
            yield
        for row, excluded in enumerate(exclude):
            if excluded is not None:
                distances[row, excluded] = np.inf
        order = np.argsort(distances, axis=1, kind="stable")[:, :k]
        return Found(order, np.take_along_axis(distances, order, axis=1))

    def distances(self, vectors: NDArray[Any], query: NDArray[Any]) -> NDArray[np.float64]:
        """The exact distance of each vector (vectors x width) to a query; infinite for what is not finite."""
        own, other = self.prepared(vectors), self.prepared(query[None])
        lengths = np.linalg.norm(own - other, axis=1)
        distances = np.asarray(self._from_length(lengths))
        if self.metric is Metric.COSINE:
            zero = ~own.any(axis=1) | ~other.any()
            distances[zero] = 1.0
        return np.where(np.isnan(distances), np.inf, distances)

    def _from_length(self, lengths: Any) -> Any:
        """The metric's distance of two prepared vectors whose difference is so long."""
        if self.metric is Metric.COSINE:
            return np.maximum(lengths, 0) ** 2 / 2
        return lengths * self._scale


def _widened(numbers: torch.Tensor) -> NDArray[np.float32]:
    """A tensor as an array in 32 bits, of its own memory; numpy has no bfloat16."""
    if numbers.dtype is torch.float32:
        return numbers.numpy().copy()
    bits = numbers.view(torch.int16).numpy().view(np.uint16).astype(np.uint32)
    bits <<= 16
    return bits.view(np.float32)


@functools.cache
def fast_dtype(device: torch.device) -> torch.dtype:
    """The type in which the device multiplies matrices faster: 32 bits, or bfloat16.

    Either gives the same answers in the end. It is measured, because a processor without instructions for
    bfloat16 is slower with it.
    """
    times = {}
    for dtype in (torch.float32, torch.bfloat16):
        block, queries = torch.ones(4096, 512, dtype=dtype, device=device), torch.ones(512, 64, dtype=dtype)
        queries = queries.to(device)
        torch.mm(block, queries)
        taken = []
        for _ in range(3):
            started = time.perf_counter()
            float(torch.mm(block, queries)[0, 0])
            taken.append(time.perf_counter() - started)
        times[dtype] = min(taken)
    return min(times, key=lambda dtype: times[dtype])
