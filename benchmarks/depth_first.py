"""Batches with the first layers picture by picture, beside the same with every layer for the whole batch.

Both with one thread, as scans and inference under load have it on two cores.

``python benchmarks/depth_first.py MODEL ... [--batches 1 2 4 8]``. Both take turns; medians of
all runs and the best ones are told, in milliseconds a picture. It ends with an error if their numbers differ
by more than the order of sums explains; whether they are the same bit for bit is told.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from unittest import mock

import numpy as np

from endoscope_server.graph import Fidelity, Graph, Sessions, find_stem
from endoscope_server.graph import sessions as building

SIDE = 224


def started(graph: Graph) -> Sessions:
    """Sessions whose session for the logits runs already."""
    sessions = Sessions(graph, intra_op_threads=1, fidelity=Fidelity.FAST)
    sessions.prepare([graph.logits])
    return sessions


def main() -> None:
    """Measure and tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--seconds", type=float, default=4.0, help="for each model and batch")
    arguments = parser.parse_args()
    print(
        f"{'model':24} batch  depth first ms (best)   whole batch ms (best)   ratio (of the best)   same bits"
    )
    for path in arguments.models:
        graph = Graph.from_file(path)
        if find_stem(graph, [graph.logits]) is None:
            print(f"{path.stem:24} every layer takes the whole batch")
            continue
        ours = started(graph)
        with mock.patch.object(building, "find_stem", return_value=None):
            plain = started(graph)
        for batch in arguments.batches:
            pictures = np.random.default_rng(0).standard_normal((batch, 3, SIDE, SIDE), np.float32)
            feeds = {graph.inputs[0].name: pictures}
            found, expected = (
                sessions.run(feeds, [graph.logits])[graph.logits] for sessions in (ours, plain)
            )
            if not np.allclose(found, expected, atol=1e-4 * np.abs(expected).max()):
                raise RuntimeError(f"{path.stem} gives other numbers")
            times: tuple[list[float], list[float]] = ([], [])
            ends = time.monotonic() + arguments.seconds
            while time.monotonic() < ends:
                for sessions, spent in zip((ours, plain), times, strict=True):
                    # The first run brings back into the cache what the other pushed out.
                    sessions.run(feeds, [graph.logits])
                    began = time.perf_counter()
                    sessions.run(feeds, [graph.logits])
                    spent.append(1e3 * (time.perf_counter() - began) / batch)
            (middle, other), (best, least) = map(statistics.median, times), map(min, times)
            same = "yes" if np.array_equal(found, expected) else "no"
            print(
                f"{path.stem:24} {batch:5d} {middle:12.2f} ({best:.2f}) {other:16.2f} ({least:.2f}) "
                f"{middle / other:14.2f} ({best / least:.2f}) {same:>15}"
            )


if __name__ == "__main__":
    main()
