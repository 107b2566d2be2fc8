"""Where the time of a gradient step goes.

Run it on a quiet machine, after ``gradient_step.py`` has exported the models::

    python benchmarks/step_profile.py [--models resnet50 vit_b_16] [--batches 1 8] [--threads 2]

Torch's profiler says what each operator takes by itself; what is left of an unprofiled step is programs of
convolutions (``endoscope_server.mirror.native``), which it doesn't see, Python, autograd and the way into the
operators.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from gradient_step import CACHE, MODELS, mirrored, sample
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

GROUPS = {
    "convolutions": ("_convolution",),
    "products": ("_linear_pointwise", "aten::mm", "bmm", "addm", "matmul"),
    "activations": ("threshold", "hardtanh", "gelu", "silu", "hardswish", "softmax", "layer_norm", "leaky"),
    "pooling": ("pool", "aten::mean"),
    "copies and sums": ("copy_", "fill_", "zero_", "cat", "aten::add", "aten::sum", "aten::div", "aten::mul"),
}
"""Parts of operators' names, by group; the first that fits counts."""


def grouped(work: Callable[[], object], repeats: int) -> dict[str, float]:
    """Milliseconds of a step in each group of operators, the least of some steps."""
    least = dict.fromkeys(GROUPS, float("inf"))
    for _ in range(repeats):
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            work()
        found = dict.fromkeys(GROUPS, 0.0)
        for event in profiler.key_averages():
            group = next((g for g, parts in GROUPS.items() if any(part in event.key for part in parts)), None)
            if group is not None:
                found[group] += event.self_cpu_time_total / 1e3
        least = {group: min(before, found[group]) for group, before in least.items()}
    return least


def best(work: Callable[[], object], repeats: int) -> float:
    """The shortest of some times, in milliseconds."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append((time.perf_counter() - started) * 1e3)
    return min(times)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="*", default=MODELS, choices=MODELS)
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 8])
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table = Table("model", "batch", "step ms", *GROUPS, "the rest")
    for name in options.models:
        for batch in options.batches:
            work = mirrored(CACHE / f"{name}.onnx", torch.from_numpy(sample(batch)))
            repeats = 20 if batch == 1 else 5
            best(work, 3)
            step = best(work, repeats)
            groups = grouped(work, repeats)
            cells = [f"{groups[group]:.1f}" for group in GROUPS]
            table.add_row(name, str(batch), f"{step:.1f}", *cells, f"{step - sum(groups.values()):.1f}")
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
