"""Nearest neighbours by an inverted file (Jegou et al. 2011), through FAISS.

Vectors are grouped around centres; only the groups nearest to a query are looked at, in 8 bits a number, and
what is found is measured again exactly. How many groups are looked at follows from the recall measured.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endoscope_server.errors import Unsupported
from endoscope_server.techniques.neighbors import Features, Found, IndexMemory, Metric, NeighborIndex

_ROUNDS = 10
_VECTORS_A_CENTRE = 64
_SAMPLE = 64
_WANTED_RECALL = 0.95
_OVERSAMPLING = 4


class ApproximateIndex:
    """Features made ready to be searched approximately. Call :meth:`build` first.

    Args:
        features: What is searched.
        metric: How far apart two vectors are.
        seed: Of the sample that is clustered, and of the one that recall is measured on.

    Raises:
        Unsupported: if FAISS is not installed.
    """

    def __init__(self, features: Features, metric: Metric, seed: int = 0) -> None:
        if importlib.util.find_spec("faiss") is None:
            raise Unsupported(
                "approximate search needs FAISS, which this server has not: install endoscope[faiss]",
                field="approximate",
                reason="FAISS_MISSING",
            )
        self.features = features
        self.metric = metric
        self.recall = 0.0
        self._seed = seed
        self._index: Any = None
        # Measures exactly what was found roughly; it is never built.
        self._exact = NeighborIndex(features, metric)

    @staticmethod
    def memory(count: int, width: int) -> IndexMemory:
        """About how many bytes the index over so many vectors of so many numbers takes."""
        centres = max(1, min(round(2 * math.sqrt(count)), count))
        sample = min(count, centres * _VECTORS_A_CENTRE) * width
        exact = NeighborIndex.memory(count, width)
        # A byte a number, and the vector's place; recall is measured against an exact index.
        kept = count * (width + 8) + 4 * centres * width
        # The sample as read, as the metric sees it, without what is not finite, and in 32 bits.
        return IndexMemory(kept, max(sample * (4 + 8 + 8 + 4), exact.kept + exact.beside))

    def build(self) -> Generator[None, None, None]:
        """Cluster, fill, and look at as many groups as 95% recall needs; :attr:`recall` is what was found."""
        import faiss

        count, width = len(self.features), self.features.width
        generator = np.random.default_rng(self._seed)
        centres = max(1, min(round(2 * math.sqrt(count)), count))
        chosen = generator.choice(count, min(count, centres * _VECTORS_A_CENTRE), replace=False)
        sample = self._prepared(self.features.take(np.sort(chosen)))
        yield
        quantizer = faiss.IndexFlatL2(width)
        found: Any = sample[:: max(1, len(sample) // centres)][:centres]
        for _ in range(_ROUNDS):
            clustering = faiss.Kmeans(width, centres, niter=1, seed=self._seed)
            clustering.train(sample, init_centroids=np.ascontiguousarray(found))
            found = clustering.centroids
            yield
        quantizer.add(found)
        index = faiss.IndexIVFScalarQuantizer(quantizer, width, centres, faiss.ScalarQuantizer.QT_8bit)
        index.train(sample)
        del sample
        for positions, block in self.features.blocks():
            index.add_with_ids(self._prepared(block), positions)
            yield
        self._index = index
        yield from self._tune(generator)

    def search(
        self, queries: NDArray[Any], k: int, exclude: Sequence[int | None] = ()
    ) -> Generator[None, None, Found]:
        """About the ``k`` nearest features of each query, with their true distances.

        Args:
            queries: queries x width.
            k: How many.
            exclude: For each query a position that is no neighbour of it, or None.
        """
        excluded = list(exclude) or [None] * len(queries)
        _, candidates = self._index.search(
            self._prepared(queries), min(len(self.features), k * _OVERSAMPLING + 1)
        )
        yield
        positions = np.empty((len(queries), k), np.int64)
        distances = np.empty((len(queries), k))
        for row, places in enumerate(candidates):
            usable = places[(places >= 0) & (places != (-1 if excluded[row] is None else excluded[row]))]
            if len(usable) < k:
                # The groups looked at hold too few; the exact answer is never short.
                found = yield from self._exact.measure_all(queries[row : row + 1], k, [excluded[row]])
                positions[row], distances[row] = found.positions[0], found.distances[0]
                continue
            measured = self._exact.distances(self.features.take(usable), queries[row])
            order = np.lexsort((usable, measured))[:k]
            positions[row], distances[row] = usable[order], measured[order]
        return Found(positions, distances)

    def _prepared(self, vectors: NDArray[Any]) -> NDArray[np.float32]:
        return np.ascontiguousarray(np.nan_to_num(self._exact.prepared(vectors)), np.float32)

    def _tune(self, generator: np.random.Generator) -> Generator[None, None, None]:
        count = len(self.features)
        k = min(10, count - 1)
        if k < 1:
            self.recall = 1.0
            return
        own = np.sort(generator.choice(count, min(_SAMPLE, count), replace=False))
        queries = self.features.take(own)
        exact = NeighborIndex(self.features, self.metric)
        yield from exact.build()
        truth = yield from exact.search(queries, k, own.tolist())
        self._index.nprobe = 1
        while True:
            found = yield from self.search(queries, k, own.tolist())
            # An equally near one is as good.
            hits = found.distances <= truth.distances[:, -1:] * (1 + 1e-12)
            self.recall = float(hits.mean())
            if self.recall >= _WANTED_RECALL or self._index.nprobe >= self._index.nlist:
                return
            self._index.nprobe = min(2 * self._index.nprobe, self._index.nlist)
