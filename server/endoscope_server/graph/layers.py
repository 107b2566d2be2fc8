"""The layers of a graph, under the names that its author knew them by."""

from __future__ import annotations

import ast
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from endoscope_server.graph import walking
from endoscope_server.graph.receptive_field import ReceptiveField
from endoscope_server.graph.values import Shape, Value
from endoscope_server.graph.weights import Array

_PLUMBING = {
    "Cast",
    "CastLike",
    "Constant",
    "ConstantOfShape",
    "DequantizeLinear",
    "Dropout",
    "Expand",
    "Identity",
    "QuantizeLinear",
    "Range",
    "Squeeze",
    "Unsqueeze",
}
_WEIGHTED = {
    "Conv",
    "ConvInteger",
    "ConvTranspose",
    "Gemm",
    "LSTM",
    "GRU",
    "MatMul",
    "MatMulInteger",
    "QLinearConv",
    "QLinearMatMul",
    "RNN",
}
_ARITHMETIC = {"Add", "Sub", "Mul", "Div", "Sum", "Concat", "Pow", "Where", "Max", "Min"}
_PASSING = {"DequantizeLinear", "Identity", "Cast", "Transpose", "QuantizeLinear"}
_SETTINGS = (np.dtype(np.int64), np.dtype(np.object_), np.dtype(np.bool_))
_WEIGHT_SUFFIX = re.compile(r"[._/](weight|kernel|W|w|gamma|scale)(:\d+|_quantized)?$")
_GENERATED = re.compile(r"^(onnx::|val_|node_|n?\d+$|_?v_?\d+$)")


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: a node whose output is an activation.

    Attributes:
        alias: A readable name, unique in the graph, that can be asked for like a value's name.
        op_type: The ONNX operator.
        node: Name of the node, possibly empty.
        value: Name of the value that it makes.
        weight_shapes: Shapes of the initializers that it reads, by name.
        parameters: How many numbers these hold.
        multiply_adds: Multiplications for one image, or None where shapes are unknown.
        shape: Of the value.
        receptive_field: What of the image a unit of the value sees; None if it sees no image.
    """

    alias: str
    op_type: str
    node: str
    value: str
    weight_shapes: Mapping[str, tuple[int, ...]]
    parameters: int
    multiply_adds: int | None
    shape: Shape | None
    receptive_field: ReceptiveField | None


def list_layers(
    graph: onnx.GraphProto,
    values: Mapping[str, Value],
    weights: Mapping[str, Array],
    fields: Mapping[str, ReceptiveField],
) -> tuple[Layer, ...]:
    """Every node that computes with the input's content, in graph order, plumbing left out."""
    producers = {name: node for node in graph.node for name in node.output if name}
    depends = _dependent(graph)
    nodes = [node for node in graph.node if _is_layer(node, values, depends)]
    held = [_held(node, producers, weights) for node in nodes]
    aliases = _aliases(nodes, [_scope(node, own) for node, own in zip(nodes, held, strict=True)], values)
    return tuple(
        Layer(
            alias=alias,
            op_type=node.op_type,
            node=node.name,
            value=node.output[0],
            weight_shapes={name: array.shape for name, array in own.items()},
            parameters=sum(array.size for array in own.values()),
            multiply_adds=_multiply_adds(node, own, values),
            shape=values[node.output[0]].shape,
            receptive_field=fields.get(node.output[0]),
        )
        for node, own, alias in zip(nodes, held, aliases, strict=True)
    )


def _dependent(graph: onnx.GraphProto) -> set[str]:
    """The values whose content follows from an input's content, not only from its shape."""
    depends = {info.name for info in graph.input} - walking.initializer_names(graph)
    for node in graph.node:
        if node.op_type not in ("Shape", "Size") and walking.dependencies(node) & depends:
            depends.update(node.output)
    return depends


def _is_layer(node: onnx.NodeProto, values: Mapping[str, Value], depends: set[str]) -> bool:
    if node.op_type in _PLUMBING or not node.output or node.output[0] not in depends:
        return False
    value = values[node.output[0]]
    return value.dtype is None or value.is_float or node.op_type in _WEIGHTED


def _held(
    node: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto], weights: Mapping[str, Array]
) -> dict[str, Array]:
    """The weights that a node reads, also through dequantisation; scalars, axes and sizes are settings."""
    found: dict[str, Array] = {}
    for name in filter(None, node.input):
        source = name
        while source not in weights and source in producers and producers[source].op_type in _PASSING:
            source = producers[source].input[0]
        if source in weights and weights[source].ndim and weights[source].dtype not in _SETTINGS:
            found[source] = weights[source]
    return found


def _scope(node: onnx.NodeProto, held: Mapping[str, Array]) -> str:
    """The dotted path of the module that made the node, or an empty string."""
    if node.op_type in _WEIGHTED | {"BatchNormalization", "LayerNormalization", "InstanceNormalization"}:
        for name in held:
            if (match := _WEIGHT_SUFFIX.search(name)) and not _GENERATED.match(name):
                return _dotted(name[: match.start()])
    notes = {entry.key: entry.value for entry in node.metadata_props}
    if scopes := _listed(notes.get("pkg.torch.onnx.name_scopes", "")):
        return scopes[-2] if len(scopes) > 1 else ""
    if namespace := notes.get("namespace", ""):
        parts = [part.split(":")[0].strip() for part in namespace.split("/")]
        return parts[-2] if len(parts) > 1 else ""
    path = _dotted(node.name)
    if "." in path and not _GENERATED.match(node.name):
        return path.rpartition(".")[0]
    return ""


def _listed(text: str) -> list[str]:
    try:
        found = ast.literal_eval(text) if text else []
    except (SyntaxError, ValueError):
        return []
    return [item for item in found if isinstance(item, str)] if isinstance(found, list) else []


def _dotted(path: str) -> str:
    """``/layer1/layer1.0/conv1/Conv`` as ``layer1.0.conv1.Conv``: parts that repeat their parent merge."""
    merged = ""
    for part in filter(None, re.split(r"/+", path)):
        merged = part if not merged or part.startswith(merged + ".") else f"{merged}.{part}"
    return merged


def _aliases(
    nodes: Sequence[onnx.NodeProto], scopes: Sequence[str], values: Mapping[str, Value]
) -> list[str]:
    sharing = Counter(filter(None, scopes))
    taken: Counter[str] = Counter()
    aliases: list[str] = []
    for node, scope in zip(nodes, scopes, strict=True):
        for candidate in _candidates(node, scope, sharing, taken):
            if candidate not in taken and (candidate not in values or candidate == node.output[0]):
                break
        taken[candidate] += 1
        aliases.append(candidate)
    return aliases


def _candidates(
    node: onnx.NodeProto, scope: str, sharing: Mapping[str, int], taken: Mapping[str, int]
) -> Iterator[str]:
    operator = node.op_type.lower()
    if scope:
        if sharing[scope] == 1 and node.op_type not in _ARITHMETIC:
            yield scope
        base = f"{scope}.{operator}"
    elif node.name and not _GENERATED.match(node.name):
        base = _dotted(node.name)
    elif not _GENERATED.match(node.output[0]):
        base = node.output[0]
    else:
        number = 1
        while f"{operator}{number}" in taken:
            number += 1
        base = f"{operator}{number}"
    yield base
    number = 2
    while True:
        yield f"{base}_{number}"
        number += 1


def _multiply_adds(
    node: onnx.NodeProto, held: Mapping[str, Array], values: Mapping[str, Value]
) -> int | None:
    if node.op_type not in _WEIGHTED:
        return 0
    shape = values[node.output[0]].shape
    if not shape or not all(isinstance(size, int) for size in shape[1:]):
        return None
    outputs = math.prod(size for size in shape[1:] if isinstance(size, int))
    if node.op_type in ("Conv", "ConvInteger", "QLinearConv"):
        kernel = next((array.shape for array in held.values() if array.ndim > 2), None)
        return outputs * math.prod(kernel[1:]) if kernel else None
    source = values.get(node.input[0])
    inner = source.shape[-1] if source and source.shape else None
    if node.op_type in ("Gemm", "MatMul", "MatMulInteger", "QLinearMatMul") and isinstance(inner, int):
        return outputs * inner
    if node.op_type == "ConvTranspose" and source and source.shape:
        sizes = [size for size in source.shape[1:] if isinstance(size, int)]
        kernel = next((array.shape for array in held.values() if array.ndim > 2), None)
        if kernel and len(sizes) == len(source.shape) - 1:
            return math.prod(sizes) * math.prod(kernel[1:])
    return None
