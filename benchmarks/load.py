"""What it takes to mirror a model: seconds, and memory beyond that of the libraries.

Run it on Linux::

    python benchmarks/load.py model.onnx [...]

Each model is measured in a process of its own, after a tiny one has warmed the libraries up: the graph is
read and mirrored; then comes a first gradient step, which packs the weights for oneDNN; then a session of
ONNX Runtime over the same weights. ``peak`` is the most that was resident until the mirror was there.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from pathlib import Path

import numpy as np
import torch
from onnx import helper
from rich.console import Console
from rich.table import Table

from endoscope_server.graph import Graph
from endoscope_server.graph.sessions import Sessions
from endoscope_server.mirror import Mirror, from_onnx

_MIB = 2**20


def memory(name: str) -> float:
    """One of the kernel's figures about this process, in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise KeyError(name)


def step(mirror: Mirror, image: torch.Tensor) -> None:
    """A gradient step to the input."""
    leaf = image.clone().requires_grad_()
    output = mirror.output_names[0]
    mirror({mirror.input_names[0]: leaf}, [output])[output].sum().backward()


def warm() -> None:
    """Uses each library once."""
    values = [helper.make_tensor_value_info(name, 1, [1, 3, 4, 4]) for name in ("x", "y")]
    node = helper.make_node("Sigmoid", ["x"], ["y"])
    model = helper.make_model(
        helper.make_graph([node], "tiny", values[:1], values[1:]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    graph = Graph.from_proto(model)
    image = torch.zeros(1, 3, 4, 4)
    step(from_onnx(graph), image)
    Sessions(graph).run({"x": image.numpy()}, ["y"])
    torch.conv2d(torch.zeros(1, 8, 8, 8), torch.zeros(8, 8, 3, 3))


def measure(path: Path) -> list[str]:
    """A row of the table: figures of memory in MiB and over the file's size."""
    warm()
    size = path.stat().st_size / _MIB
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before, started = memory("VmRSS"), time.perf_counter()
    graph = Graph.from_file(path)
    mirror = from_onnx(graph)
    seconds = time.perf_counter() - started
    resident, peak = memory("VmRSS") - before, memory("VmHWM") - before
    sizes = [size if isinstance(size, int) else 1 for size in graph.inputs[0].shape or ()]
    image = torch.from_numpy(np.random.default_rng(0).standard_normal(sizes, np.float32))
    step(mirror, image)
    stepped = memory("VmRSS") - before
    Sessions(graph).run({graph.inputs[0].name: image.numpy()}, [graph.outputs[0].name])
    shared = memory("VmRSS") - before
    figures = [f"{value:.0f} ({value / size:.2f})" for value in (resident, peak, stepped, shared)]
    return [path.name, f"{size:.0f}", f"{seconds:.2f}", *figures]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", type=Path)
    options = parser.parse_args()
    table = Table("model", "MiB", "seconds", "resident", "peak", "after a step", "and a session")
    context = multiprocessing.get_context("spawn")
    for path in options.models:
        with context.Pool(1) as pool:
            table.add_row(*pool.apply(measure, (path,)))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
