"""What previews cost: a class visualised through a server, with a preview every n steps and with none.

    python benchmarks/previews.py [--every 10] [--rounds 5] [--steps 128]

Server and client are two processes, and the client decodes nothing. Runs with and without previews take
turns; the best round of each counts.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from lite import MODELS, model
from processes import endoscope_server

import endoscope

NAME = "efficientnet-lite0"
CLASSES = (967, 88, 947)


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, nargs="*", default=[10, 5])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=128)
    parser.add_argument("--models", type=Path, default=MODELS)
    arguments = parser.parse_args()
    model(NAME, arguments.models)
    with endoscope_server(arguments.models) as (_, target), endoscope.connect(target) as client:

        def seconds(classes: tuple[int, ...], every: int) -> float:
            began = time.perf_counter()
            stream = client.visualize_class(
                NAME, list(classes), preset="fourier", steps=arguments.steps, preview_every=every
            )
            stream.result()
            return time.perf_counter() - began

        seconds(CLASSES[:1], 0)
        print(f"preset fourier, {arguments.steps} steps at 224 x 224")
        print("| pictures | a preview every | seconds | over none |\n|---|---|---|---|")
        for classes in (CLASSES[:1], CLASSES):
            best = dict.fromkeys((0, *arguments.every), float("inf"))
            for _ in range(arguments.rounds):
                for every in best:
                    best[every] = min(best[every], seconds(classes, every))
            for every, took in best.items():
                told = f"{every} steps" if every else "none"
                print(f"| {len(classes)} | {told} | {took:.2f} | {took / best[0]:.3f} |", flush=True)


if __name__ == "__main__":
    main()
