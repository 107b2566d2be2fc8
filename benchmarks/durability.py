"""What it costs to keep jobs on disk: a class visualised by the job manager, kept and not.

    python benchmarks/durability.py [--steps 128] [--rounds 5]

Kept jobs write every step to SQLite, and a checkpoint as often as they may. Rounds take turns; the best of
each counts.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from lite import CLASSES, MODELS, subject

from endoscope_server.jobs import JobManager, Keeping, Order
from endoscope_server.techniques.class_visualization import ClassVisualizationParameters, visualize_class
from endoscope_server.techniques.parts.subject import Subject


def seconds(model: Subject, steps: int, keeping: Keeping) -> float:
    """How long a job took, as those who watch it see it."""
    jobs = JobManager(keeping=keeping)
    jobs.resume()
    parameters = ClassVisualizationParameters(classes=CLASSES[:1], steps=steps, preview_every=10)

    def work(memory: Any) -> Any:
        result = yield from visualize_class(model, parameters, memory)
        return result.pixels.tobytes()

    began = time.perf_counter()
    order = Order("visualize_class", b"request", detached=True, durable=keeping.folder is not None)
    job = jobs.submit(order, lambda _name: b"header", work)
    while not job.state.ended:
        time.sleep(0.002)
    took = time.perf_counter() - began
    jobs.shut_down(5)
    return took


def main() -> None:
    """Print seconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", type=Path, default=MODELS)
    arguments = parser.parse_args()
    model = subject(arguments.models)
    with tempfile.TemporaryDirectory() as folder:
        ways = {
            "in memory": Keeping(),
            "kept, a checkpoint every 10 s": Keeping(Path(folder) / "seldom"),
            "kept, checkpoints as often as may be": Keeping(Path(folder) / "often", checkpoint_interval=0.0),
        }
        seconds(model, 8, Keeping())
        best = dict.fromkeys(ways, float("inf"))
        for _ in range(arguments.rounds):
            for way, keeping in ways.items():
                best[way] = min(best[way], seconds(model, arguments.steps, keeping))
    print(f"a job of {arguments.steps} steps at 224 x 224, EfficientNet-Lite0")
    print("| way | seconds | over memory |\n|---|---|---|")
    for way, took in best.items():
        print(f"| {way} | {took:.2f} | {took / best['in memory']:.3f} |", flush=True)


if __name__ == "__main__":
    main()
