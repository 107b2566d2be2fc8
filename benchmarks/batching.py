"""Eight jobs on one model: one after the other, in turns, and with their steps joined to one batch.

    python benchmarks/batching.py [--jobs 8] [--steps 24] [--rounds 3]

The job manager runs them as in a server, without network and disk. Rounds of the three take turns; the best
of each counts.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
from lite import CLASSES, MODELS, subject

from endoscope_server.jobs import Job, JobManager, Order
from endoscope_server.techniques.class_visualization import ClassVisualizationParameters, visualize_class
from endoscope_server.techniques.parts.joining import Joiner
from endoscope_server.techniques.parts.subject import Subject


def run(model: Subject, count: int, steps: int, concurrency: int) -> tuple[float, list[np.ndarray]]:
    """Seconds until all jobs have ended, and their pictures."""
    jobs = JobManager(concurrency)
    found: list[Any] = [None] * count

    def start(index: int) -> Any:
        parameters = ClassVisualizationParameters(classes=(CLASSES[index],), steps=steps, seed=index)

        def work(memory: Any) -> Any:
            result = yield from visualize_class(model, parameters, memory)
            found[index] = result.pixels
            return b""

        return work

    began = time.perf_counter()
    order = Order("visualize_class", durable=False)
    submitted: list[Job] = [jobs.submit(order, lambda _name: b"", start(index)) for index in range(count)]
    while not all(job.state.ended for job in submitted):
        time.sleep(0.005)
    took = time.perf_counter() - began
    jobs.shut_down(5)
    return took, found


def main() -> None:
    """Print seconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", type=Path, default=MODELS)
    arguments = parser.parse_args()
    alone = subject(arguments.models)
    joined = dataclasses.replace(alone, joiner=Joiner())
    ways = {
        "one after the other": (alone, 1),
        "in turns": (alone, arguments.jobs),
        "joined": (joined, arguments.jobs),
    }
    for model, concurrency in ways.values():
        run(model, arguments.jobs, 2, concurrency)
    best = dict.fromkeys(ways, float("inf"))
    pictures: dict[str, list[np.ndarray]] = {}
    for _ in range(arguments.rounds):
        for way, (model, concurrency) in ways.items():
            took, pictures[way] = run(model, arguments.jobs, arguments.steps, concurrency)
            best[way] = min(best[way], took)
    first = next(iter(ways))
    print(f"{arguments.jobs} jobs of {arguments.steps} steps at 224 x 224, EfficientNet-Lite0")
    print("| way | seconds | over the first | mean difference of pixels |\n|---|---|---|---|")
    for way, took in best.items():
        far = np.mean([np.abs(a - b).mean() for a, b in zip(pictures[way], pictures[first], strict=True)])
        print(f"| {way} | {took:.2f} | {took / best[first]:.2f} | {far:.1e} |", flush=True)


if __name__ == "__main__":
    main()
