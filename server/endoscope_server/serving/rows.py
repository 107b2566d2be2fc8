"""Whether a graph treats the rows of a batch each for itself, so that several requests may be joined."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray

from endoscope_server.errors import EndoscopeError
from endoscope_server.graph import Graph, Sessions
from endoscope_server.graph.values import ValueKind

Arrays = Mapping[str, NDArray[np.generic]]

MIXING = frozenset(
    {
        "DynamicQuantizeLinear",
        "If",
        "Loop",
        "Multinomial",
        "NonMaxSuppression",
        "NonZero",
        "Bernoulli",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
        "Scan",
        "Unique",
        # Of ONNX Runtime's own domain.
        "DynamicQuantizeMatMul",
        "DynamicQuantizeLSTM",
        "BeamSearch",
        "GreedySearch",
        "Sampling",
    }
)
"""Operators by which what stands in one row may change another row's values, or whose values are drawn."""

TOLERANCE = {"float16": 1e-2, "bfloat16": 5e-2, "float32": 1e-4, "float64": 1e-8}
"""The difference, relative to a row's largest number, that the order of sums explains."""

SCALES = (1.0, 0.25, 3.0)
"""Sizes of the probe's rows: apart, so that a statistic over the batch shows in the smallest."""


def may_join(graph: Graph, outputs: Sequence[str]) -> bool:
    """Whether the graph leaves it open: the inputs' first axes are free, and no operator mixes rows.

    Args:
        graph: The model.
        outputs: Value names.
    """
    if any(graph.values[name].kind is ValueKind.INITIALIZER for name in outputs):
        return False
    if any(node.op_type in MIXING or _trains(node) for node in graph.expose(tuple(outputs)).graph.node):
        return False
    shapes = [graph.values[name].shape for name in needed_inputs(graph, outputs)]
    return bool(shapes) and all(shape and not isinstance(shape[0], int) for shape in shapes)


def needed_inputs(graph: Graph, outputs: Sequence[str]) -> frozenset[str]:
    """The inputs that some values need."""
    return frozenset(info.name for info in graph.expose(tuple(outputs)).graph.input)


def rows_are_independent(sessions: Sessions, inputs: Arrays, outputs: Sequence[str]) -> bool:
    """Whether rows give the same values together as alone, tried on numbers that are drawn.

    Args:
        sessions: Of the model.
        inputs: A request; only the types and the shapes behind the first axis are used.
        outputs: Value names.
    """
    drawn = {name: _draw(array, len(SCALES)) for name, array in inputs.items()}
    if any(array is None for array in drawn.values()):
        return False
    batch = {name: array for name, array in drawn.items() if array is not None}
    try:
        together = sessions.run(batch, outputs)
        for row in range(len(SCALES)):
            alone = sessions.run({name: array[row : row + 1] for name, array in batch.items()}, outputs)
            if not all(_same(together[name], alone[name], row) for name in outputs):
                return False
    except EndoscopeError:
        return False
    return True


def join(requests: Sequence[Arrays]) -> dict[str, NDArray[np.generic]]:
    """The rows of several requests below each other."""
    return {name: np.concatenate([inputs[name] for inputs in requests]) for name in requests[0]}


def split(found: Arrays, sizes: Sequence[int]) -> Iterator[dict[str, NDArray[np.generic]]]:
    """The requests' shares of what was computed of their rows, as views.

    Args:
        found: Arrays whose first axis is the rows'.
        sizes: How many rows each request had.
    """
    end = 0
    for size in sizes:
        start, end = end, end + size
        yield {name: array[start:end] for name, array in found.items()}


def _trains(node: onnx.NodeProto) -> bool:
    """Whether it normalises by the batch's own statistics."""
    return node.op_type == "BatchNormalization" and any(
        attribute.name == "training_mode" and attribute.i for attribute in node.attribute
    )


def _draw(array: NDArray[np.generic], rows: int) -> NDArray[np.generic] | None:
    generator = np.random.default_rng(0)
    shape = (rows, *array.shape[1:])
    if array.dtype.kind in "iub":
        return generator.integers(0, 2, shape).astype(array.dtype)
    if array.dtype.kind == "O":
        return None
    scales = np.reshape(np.array(SCALES[:rows], np.float32), (rows, *(1 for _ in shape[1:])))
    return (generator.standard_normal(shape, np.float32) * scales).astype(array.dtype)


def _same(together: NDArray[np.generic], alone: NDArray[np.generic], row: int) -> bool:
    if together.ndim == 0 or together.shape != (len(SCALES), *alone.shape[1:]) or len(alone) != 1:
        return False
    tolerance = TOLERANCE.get(together.dtype.name)
    if tolerance is None:
        return bool(np.array_equal(together[row], alone[0]))
    here, there = (np.asarray(array, np.float64) for array in (together[row], alone[0]))
    bound = tolerance * float(np.max(np.abs(there[np.isfinite(there)]), initial=0.0))
    return bool(np.allclose(here, there, rtol=0.0, atol=bound, equal_nan=True))
