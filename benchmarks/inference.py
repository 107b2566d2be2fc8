"""Logits by programs, beside fast sessions of ONNX Runtime (depth first where it pays) and plain ones.

``python benchmarks/inference.py MODEL ... [--batches 1 2 4 8] [--threads 1 2]``. They take turns of half a
second, so that no engine's waiting threads disturb another; best runs are told, in milliseconds a picture,
with the largest difference from plain ONNX Runtime over its largest value. Ends with an error if that is more
than the order of sums explains.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort

from endoscope_server.graph import Fidelity, Graph, Sessions
from endoscope_server.mirror import Programs

SIDE = 224
TURN = 0.5
"""Seconds."""
APART = 1e-4


def best(run: Callable[[], object]) -> float:
    """Seconds of the best run of a turn, after one that is not counted."""
    run()
    fastest, ends = float("inf"), time.monotonic() + TURN
    while time.monotonic() < ends:
        started = time.perf_counter()
        run()
        fastest = min(fastest, time.perf_counter() - started)
    return fastest


def measure(path: Path, threads: int, batch: int, rounds: int) -> None:
    """Tell of one model, with so many threads and pictures."""
    graph = Graph.from_file(path)
    wanted, programs = frozenset([graph.logits]), Programs(graph)
    if not programs.takes(wanted):
        print(f"{path.stem:24} no program")
        return
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    plain = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    fast = Sessions(graph, intra_op_threads=threads, fidelity=Fidelity.FAST)
    pictures = np.random.default_rng(0).standard_normal((batch, 3, SIDE, SIDE), np.float32)
    feeds = {graph.inputs[0].name: pictures}
    found = programs.run(feeds, wanted, threads)
    expected = plain.run([graph.logits], feeds)[0]
    apart = np.abs(found[graph.logits] - expected).max() / np.abs(expected).max() if found else np.inf
    if apart > APART:
        raise RuntimeError(f"{path.stem} gives other numbers")
    contestants: dict[str, Callable[[], object]] = {
        "programs": lambda: programs.run(feeds, wanted, threads),
        "fast": lambda: fast.run(feeds, [graph.logits]),
        "plain": lambda: plain.run([graph.logits], feeds),
    }
    taken = dict.fromkeys(contestants, float("inf"))
    for _ in range(rounds):
        for name, run in contestants.items():
            taken[name] = min(taken[name], best(run) * 1000 / batch)
    ours, *others = taken.values()
    print(
        f"{path.stem:24} {threads:7} {batch:5} {ours:9.2f} {others[0]:6.2f} {others[1]:6.2f}"
        f" {ours / others[0]:10.2f} {ours / others[1]:11.2f} {apart:8.1e}",
        flush=True,
    )


def main() -> None:
    """Measure and tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=4)
    arguments = parser.parse_args()
    print(
        f"{'model':24} threads batch  programs   fast  plain  over fast  over plain    apart  (ms a picture)"
    )
    for path in arguments.models:
        for threads in arguments.threads:
            for batch in arguments.batches:
                measure(path, threads, batch, arguments.rounds)


if __name__ == "__main__":
    main()
