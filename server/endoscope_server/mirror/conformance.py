"""Compares the mirror with ONNX Runtime on every value of every model in a folder.

``python -m endoscope_server.mirror.conformance FOLDER`` prints a table: for each ``.onnx`` file how many
nodes and values it has, the worst relative difference with the operator where it arises, and a verdict.
Inputs are noise; where that won't do (a sampling rate, say), put them beside the model as ``MODEL.npz``,
an array for each input by name. Ends with status 1 if any model isn't equal.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from rich.console import Console
from rich.live import Live
from rich.table import Table

from endoscope_server.errors import EndoscopeError
from endoscope_server.graph import Graph, Sessions
from endoscope_server.mirror.certificate import MOVED_STEP, Certificate, certify
from endoscope_server.mirror.module import from_onnx
from endoscope_server.mirror.samples import Inputs, sample_inputs


@dataclass(frozen=True)
class Comparison:
    """What became of one file.

    Attributes:
        file: Its path within the folder.
        nodes: How many nodes its graph has; 0 if it couldn't be read.
        certificate: What the engines said, or None if they couldn't be compared.
        problem: Why not, or what can't be mirrored.
        seconds: How long it took.
    """

    file: str
    nodes: int
    certificate: Certificate | None
    problem: str
    seconds: float

    @property
    def stepwise(self) -> bool:
        """Whether a step that rounding moved had to be set right on the way; see ``certify``."""
        notes = self.certificate.notes if self.certificate else ()
        return any(note.startswith(MOVED_STEP) for note in notes)

    @property
    def equal(self) -> bool:
        """Whether every value is within the tolerance."""
        return self.certificate is not None and self.certificate.passed


def compare_folder(folder: Path, *, tolerance: float = 1e-3, seed: int = 0) -> Iterator[Comparison]:
    """Compares each model in a folder and the folders in it, in the order of their names.

    Args:
        folder: The folder.
        tolerance: The largest relative difference that counts as equal.
        seed: Of the noise.
    """
    for path in sorted(folder.rglob("*.onnx")):
        yield compare_file(path, str(path.relative_to(folder)), tolerance=tolerance, seed=seed)


def compare_file(path: Path, label: str, *, tolerance: float, seed: int) -> Comparison:
    """Compares one model; what goes wrong is told in the result."""
    start, nodes, certificate, problem = time.monotonic(), 0, None, ""
    try:
        graph = Graph.from_file(path)
        nodes = len(graph.nodes)
        sessions = Sessions(graph)
        inputs = _inputs(path, graph, sessions, seed)
        computed = [name for node in graph.nodes for name in node.output if name]
        certificate = certify(from_onnx(graph), sessions.run, inputs, computed, tolerance=tolerance)
        problem = "; ".join(note for note in certificate.notes if note.startswith("no mirror"))
    except EndoscopeError as error:
        problem = error.message
    return Comparison(label, nodes, certificate, problem, time.monotonic() - start)


def _inputs(path: Path, graph: Graph, sessions: Sessions, seed: int) -> Inputs:
    beside = path.with_suffix(".npz")
    if beside.is_file():
        with np.load(beside) as held:
            return dict(held)
    outputs = [value.name for value in graph.outputs]
    return sample_inputs(graph, lambda inputs: sessions.run(inputs, outputs), seed)


def _row(item: Comparison) -> list[Any]:
    certificate = item.certificate
    if certificate is None:
        return [item.file, str(item.nodes), "", "", "", f"{item.seconds:.1f}", f"[red]{item.problem}"]
    verdict = f"[red]{item.problem or _first(certificate)}"
    if item.equal:
        verdict = "[green]equal from step to step" if item.stepwise else "[green]equal"
    return [
        item.file,
        str(item.nodes),
        str(len(certificate.values)),
        f"{certificate.worst_relative:.1e}",
        certificate.worst_op_type or "",
        f"{item.seconds:.1f}",
        verdict,
    ]


def _first(certificate: Certificate) -> str:
    return f"differs, first in {certificate.first_difference!r}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m endoscope_server.mirror.conformance", description=__doc__
    )
    parser.add_argument("folder", type=Path, help="a folder of .onnx files")
    parser.add_argument("--tolerance", type=float, default=1e-3, help="largest relative difference accepted")
    parser.add_argument("--seed", type=int, default=0, help="of the noise that models get")
    options = parser.parse_args(arguments)
    if not options.folder.is_dir():
        parser.error(f"{options.folder} is no folder")
    console = Console()
    table = Table("file", "nodes", "values", "worst relative", "operator", "s", "verdict", box=None)
    equal = total = 0
    # Inputs that don't fit are tried on purpose.
    onnxruntime.set_default_logger_severity(4)
    with Live(table, console=console, vertical_overflow="visible", refresh_per_second=2):
        for item in compare_folder(options.folder, tolerance=options.tolerance, seed=options.seed):
            total += 1
            equal += item.equal
            table.add_row(*_row(item))
    console.print()
    console.print(f"{equal} of {total} models equal ONNX Runtime within {options.tolerance:g}")
    return 0 if equal == total else 1


if __name__ == "__main__":
    sys.exit(main())
