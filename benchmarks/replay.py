"""A gradient step of the mirror as it is replayed, beside the same step called from Python, in one run.

``python benchmarks/replay.py [--models resnet50 vit_b_16] [--batches 1 8] [--threads 2]``, where torchvision
is installed or the models were exported before (see ``gradient_step.py``). Both take turns; the medians of
all steps and the best ones are told. It ends with an error if their bytes differ.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time

import torch
from gradient_step import CACHE, MODELS, exported, mirrored, native

from endoscope_server.mirror.fusion import replay

WARM = 12
"""Steps before any counts: more than are called from Python before a form is taken down."""


def main() -> None:
    """Measure and tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", default=MODELS)
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 8])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=8.0, help="for each model and batch")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{'model':20} batch  replayed ms (best)   from Python ms (best)   ratio (of the best)")
    for name, batch in itertools.product(arguments.models, arguments.batches):
        path = CACHE / f"{name}.onnx"
        if not path.is_file():
            exported(name, native(name))
        image = torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(0))
        replayed = mirrored(path, image)
        for _ in range(WARM):
            replayed()
        replay.PLAIN_RUNS, before = 10**9, replay.PLAIN_RUNS
        plain = mirrored(path, image)
        for _ in range(WARM):
            plain()
        if not torch.equal(replayed(), plain()):
            raise RuntimeError(f"{name} has other gradients when it is replayed")
        times: tuple[list[float], list[float]] = ([], [])
        ends = time.monotonic() + arguments.seconds
        while time.monotonic() < ends or len(times[0]) < WARM:
            for step, spent in zip((replayed, plain), times, strict=True):
                started = time.perf_counter()
                step()
                spent.append(1e3 * (time.perf_counter() - started))
        replay.PLAIN_RUNS = before
        (middle, other), (best, least) = map(statistics.median, times), map(min, times)
        print(
            f"{name:20} {batch:5d} {middle:10.1f} ({best:.1f}) {other:20.1f} ({least:.1f}) "
            f"{middle / other:15.2f} ({best / least:.2f})"
        )


if __name__ == "__main__":
    main()
