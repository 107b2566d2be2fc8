"""How torch's threads wait for each other, on cores that are free and on cores that others use too.

    python benchmarks/waiting.py [--batches 1 8] [--rounds 3] [--seconds 3]

A gradient step of EfficientNet-Lite0 in the mirror, in a process of its own for each way to wait, alone and
beside two processes that only count. What is told is milliseconds a step (the best round), and how many times
as long it takes beside the others; with two cores for three processes' work, 1.5 to 2 would be fair.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

TOP = Path(__file__).parent.parent
MODEL = TOP / ".cache" / "zoo" / "efficientnet-lite0.onnx"
WAYS: dict[str, dict[str, str]] = {
    "as it is": {},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "spin 1,000": {"GOMP_SPINCOUNT": "1000"},
    "spin 8,000": {"GOMP_SPINCOUNT": "8000"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}


def measure(batch: int, seconds: float) -> float:
    """Milliseconds that a step takes, the mean over some seconds."""
    import torch

    from endoscope_server.mirror import from_onnx

    mirror = from_onnx(MODEL)
    given, wanted = mirror.input_names[0], mirror.output_names[0]
    image = torch.zeros(batch, 3, 224, 224)

    def step() -> None:
        leaf = image.clone().requires_grad_()
        torch.autograd.grad(mirror({given: leaf}, [wanted])[wanted][:, 3].sum(), leaf)

    for _ in range(3):
        step()
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        step()
        count += 1
    return (time.perf_counter() - began) / count * 1e3


def busy() -> None:
    """Use a core."""
    number = 0
    while True:
        number += 1


def timed(way: str, batch: int, seconds: float, others: int) -> float:
    """A measurement in a process of its own, beside others."""
    processes = [multiprocessing.Process(target=busy, daemon=True) for _ in range(others)]
    for process in processes:
        process.start()
    try:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
        command = [sys.executable, __file__, "--measure", str(batch), str(seconds)]
        done = subprocess.run(command, env=kept | WAYS[way], capture_output=True, text=True, check=True)
        return float(json.loads(done.stdout.splitlines()[-1]))
    finally:
        for process in processes:
            process.kill()
            process.join()


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--batches", type=int, nargs="+", default=[1])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--ways", nargs="+", default=list(WAYS))
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(int(options.measure[0]), float(options.measure[1]))))
        return
    best: dict[tuple[str, int, int], float] = {}
    for _ in range(options.rounds):
        for batch in options.batches:
            for others in (0, 2):
                for way in options.ways:
                    key = way, batch, others
                    took = timed(way, batch, options.seconds, others)
                    best[key] = min(best.get(key, took), took)
    print("| threads wait | batch | alone, ms | beside two, ms | times as long |")
    print("|---|---|---|---|---|")
    for way in options.ways:
        for batch in options.batches:
            alone, beside = best[way, batch, 0], best[way, batch, 2]
            print(f"| {way} | {batch} | {alone:.1f} | {beside:.1f} | {beside / alone:.1f} |")


if __name__ == "__main__":
    main()
