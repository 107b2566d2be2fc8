"""The classifier's end of a graph: logits and probabilities."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

import onnx

_NORMALISERS = {"Softmax", "LogSoftmax", "Sigmoid"}
_WEIGHTED = {"Gemm", "MatMul", "Conv", "QLinearConv", "QLinearMatMul"}
_TRANSPARENT = {
    "Identity",
    "Reshape",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    "Cast",
    "Dropout",
    "QuantizeLinear",
    "DequantizeLinear",
}


@dataclass(frozen=True, slots=True)
class Head:
    """Where a classifier's scores are.

    Attributes:
        logits: The value before the final Softmax, LogSoftmax or Sigmoid, or the output itself.
        probabilities: The value after the final Softmax or Sigmoid, in the output's shape, or None.
    """

    logits: str
    probabilities: str | None


def find_head(graph: onnx.GraphProto) -> Head:
    """The head that ends in the first output for which there is a normaliser, else in the first output."""
    producers = {name: node for node in graph.node for name in node.output if name}
    for info in graph.output:
        name = info.name
        while (node := producers.get(name)) is not None and node.op_type in _TRANSPARENT:
            name = node.input[0]
        if node is not None and node.op_type in _NORMALISERS:
            return Head(node.input[0], None if node.op_type == "LogSoftmax" else info.name)
    return Head(graph.output[0].name, None)


def find_features(graph: onnx.GraphProto, logits: str, stored: Container[str]) -> str:
    """What the last layer makes its scores of: the value that goes into the logits' own weights.

    Args:
        graph: In topological order.
        logits: Name of the logits.
        stored: Names of the initializers.

    Returns:
        The value before the last Gemm, MatMul or Conv, or the logits themselves where there is none.
    """
    producers = {name: node for node in graph.node for name in node.output if name}
    name = logits
    while (node := producers.get(name)) is not None:
        if node.op_type in _WEIGHTED:
            return node.input[0]
        computed = [source for source in node.input if source and source not in stored]
        if node.op_type not in _TRANSPARENT and node.op_type != "Add":
            break
        name = computed[0] if computed else ""
    return logits
