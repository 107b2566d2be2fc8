"""Every value of a graph by name, with type, shape and producer."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from endoscope_server.graph import walking
from endoscope_server.graph.weights import Array, dtype_name

Dimension = int | str | None
"""A fixed size, the name of a symbolic one, or None for an unknown one."""

Shape = tuple[Dimension, ...]


class ValueKind(enum.Enum):
    """Where a value stands in the graph."""

    INPUT = "input"
    INITIALIZER = "initializer"
    INTERMEDIATE = "intermediate"
    OUTPUT = "output"
    SUBGRAPH = "subgraph"
    """Inside the body of an If, Loop or Scan, where it can't be asked for."""


@dataclass(frozen=True, slots=True)
class Value:
    """One tensor of the graph.

    Attributes:
        name: Its ONNX name, unique in the graph.
        kind: Where it stands.
        dtype: numpy's name of the element type (``float32``, ``bfloat16``), ``string``, or None.
        shape: Sizes, with symbolic ones as strings; None if not even the rank is known.
        producer: Index of the node in the graph that makes it; None for inputs and initializers.
    """

    name: str
    kind: ValueKind
    dtype: str | None = None
    shape: Shape | None = None
    producer: int | None = None

    @property
    def is_float(self) -> bool:
        """Whether gradients and statistics make sense on it."""
        return self.dtype is not None and self.dtype in {"float16", "bfloat16", "float32", "float64"}


def type_of(info: onnx.ValueInfoProto) -> tuple[str | None, Shape | None]:
    """The element type and the shape that a value info declares."""
    if info.type.WhichOneof("value") != "tensor_type":
        return None, None
    tensor = info.type.tensor_type
    if not tensor.HasField("shape"):
        return dtype_name(tensor.elem_type), None
    return dtype_name(tensor.elem_type), tuple(map(_dimension, tensor.shape.dim))


def collect(graph: onnx.GraphProto, weights: Mapping[str, Array]) -> dict[str, Value]:
    """The values of a graph in the order in which they come to be, those of subgraphs last.

    Args:
        graph: With the value infos that shape inference found.
        weights: The initializers' values, by name.
    """
    infos = {info.name: type_of(info) for info in (*graph.value_info, *graph.input, *graph.output)}
    values: dict[str, Value] = {}
    for name, array in weights.items():
        values[name] = Value(name, ValueKind.INITIALIZER, _array_dtype(array), array.shape)
    for info in graph.input:
        values.setdefault(info.name, Value(info.name, ValueKind.INPUT, *type_of(info)))
    outputs = {info.name for info in graph.output}
    for index, node in enumerate(graph.node):
        for name in filter(None, node.output):
            kind = ValueKind.OUTPUT if name in outputs else ValueKind.INTERMEDIATE
            values[name] = Value(name, kind, *infos.get(name, (None, None)), index)
    for index, node in enumerate(graph.node):
        for inner in walking.subgraphs(node):
            for name, (dtype, shape) in _inside(inner).items():
                values.setdefault(name, Value(name, ValueKind.SUBGRAPH, dtype, shape, index))
    return values


def _inside(graph: onnx.GraphProto) -> dict[str, tuple[str | None, Shape | None]]:
    found: dict[str, tuple[str | None, Shape | None]] = {}
    for scope in walking.graphs(graph):
        infos = {info.name: type_of(info) for info in (*scope.value_info, *scope.input, *scope.output)}
        names = [info.name for info in scope.input] + [tensor.name for tensor in scope.initializer]
        names += [name for node in scope.node for name in node.output if name]
        for name in names:
            found.setdefault(name, infos.get(name, (None, None)))
    return found


def _array_dtype(array: Array) -> str:
    return "string" if array.dtype == np.object_ else array.dtype.name


def _dimension(dimension: onnx.TensorShapeProto.Dimension) -> Dimension:
    # Some exporters write -1 for a size that is free.
    if dimension.HasField("dim_value"):
        return dimension.dim_value if dimension.dim_value >= 0 else None
    return dimension.dim_param or None
