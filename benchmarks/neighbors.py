"""Exact neighbours of 64 queries among 100,000 vectors of 1,280 numbers, beside scikit-learn and FAISS.

Each gets its preparation before the clock starts: scikit-learn's fit, FAISS's add, our own index. Rounds
alternate, so that a busy machine slows all alike. ``python benchmarks/neighbors.py``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

import faiss
import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors

from endoscope_server.techniques.neighbors import Metric, NeighborIndex, fast_dtype
from endoscope_server.techniques.parts.steps import drain


class InMemory:
    """Features in memory, as the index reads them."""

    def __init__(self, numbers: np.ndarray) -> None:
        self.numbers = numbers
        self.width = numbers.shape[1]

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, positions: np.ndarray) -> np.ndarray:
        """Some vectors."""
        return self.numbers[positions]

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All vectors, as many at a time as a chunk of the store has."""
        for start in range(0, len(self.numbers), 256):
            block = self.numbers[start : start + 256]
            yield np.arange(start, start + len(block)), block


def main() -> None:
    """Print the times, and the ratio of ours to the better of the two."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--queries", type=int, default=64)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    generator = np.random.default_rng(0)
    # As features after a ReLU: none is negative, many are near zero, and all have a mean.
    numbers = np.maximum(generator.normal(0.2, 1, (arguments.items, arguments.width)), 0).astype(np.float32)
    queries = np.maximum(generator.normal(0.2, 1, (arguments.queries, arguments.width)), 0).astype(np.float32)
    k = arguments.k

    brute = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(numbers)
    flat = faiss.IndexFlatL2(arguments.width)
    flat.add(numbers)
    index = NeighborIndex(InMemory(numbers), Metric.L2)
    started = time.perf_counter()
    drain(index.build())
    print(f"building the index: {time.perf_counter() - started:.2f} s, {fast_dtype(torch.device('cpu'))}")

    ours = drain(index.search(queries, k))[1]
    assert np.array_equal(ours.positions, brute.kneighbors(queries)[1]), "the answers differ"
    works: dict[str, Callable[[], object]] = {
        "scikit-learn brute": lambda: brute.kneighbors(queries),
        "FAISS flat": lambda: flat.search(queries, k),
        "endoscope": lambda: drain(index.search(queries, k))[1],
    }
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(arguments.rounds):
        for name, work in works.items():
            started = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - started)
    for name, taken in times.items():
        print(f"{name:20s} best {min(taken):.3f} s, median {np.median(taken):.3f} s")
    better = np.minimum(times["scikit-learn brute"], times["FAISS flat"])
    print(f"median ratio: {np.median(np.array(times['endoscope']) / better):.2f}")


if __name__ == "__main__":
    main()
