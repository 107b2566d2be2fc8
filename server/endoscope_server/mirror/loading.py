"""From an ONNX model to nodes and constants: weights apart, functions inlined, types inferred."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx.inliner
import onnx.shape_inference

from endoscope_server.graph import Graph, weights
from endoscope_server.mirror.expansion import MAX_DEPTH, collect_types, expand
from endoscope_server.mirror.node import Node, dense
from endoscope_server.mirror.tensors import Array, Value, from_numpy

Model = onnx.ModelProto | Graph | Path | str
_SMALL = 1024
_NO_LIMIT = 1 << 62


@dataclass(frozen=True)
class Body:
    """One graph as nodes in order.

    Attributes:
        nodes: The nodes.
        inputs: Names of the inputs that are no initializers.
        outputs: Names of the outputs.
        constants: The initializers, by name.
        types: ONNX element types by value name.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: Mapping[str, Value]
    types: Mapping[str, int]


@dataclass(frozen=True)
class Source:
    """A model, ready to be rebuilt.

    Attributes:
        body: The top graph.
        opsets: Opset version by domain.
        node_opsets: Opsets of nodes that came from a function's body, by node name.
        output_types: The declared ONNX types of the model's outputs.
    """

    body: Body
    opsets: Mapping[str, int]
    node_opsets: Mapping[str, Mapping[str, int]]
    output_types: tuple[onnx.TypeProto, ...]


def load(model: Model) -> Source:
    """Reads a model without changing it; a graph's weights are shared, not copied.

    Raises:
        InvalidInput: if it is no ONNX model, or its weights are missing.
    """
    if isinstance(model, (str, Path)):
        model = Graph.from_file(Path(model))
    if isinstance(model, Graph):
        light, constants = _lighten(model.skeleton, model.weights)
    else:
        light, constants = _lighten(model, {})
    opsets = {"" if item.domain == "ai.onnx" else item.domain: item.version for item in light.opset_import}
    opsets.setdefault("", 1)
    if light.functions:
        light = onnx.inliner.inline_local_functions(light)
    for index, node in enumerate(light.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    light = _infer(light)
    node_opsets: dict[str, dict[str, int]] = {}
    for _ in range(MAX_DEPTH):
        count, _new = expand(light.graph, opsets, node_opsets)
        if not count:
            break
        light = _infer(light)
    types = {name: _element_type(kind) for name, kind in collect_types(light.graph).items()}
    names = set(constants)
    body = make_body(light.graph, opsets, node_opsets, types, names)
    body = Body(body.nodes, body.inputs, body.outputs, {**body.constants, **constants}, types)
    return Source(body, opsets, node_opsets, tuple(item.type for item in light.graph.output))


def make_body(
    graph: onnx.GraphProto,
    opsets: Mapping[str, int],
    node_opsets: Mapping[str, Mapping[str, int]],
    types: Mapping[str, int],
    elsewhere: set[str] | frozenset[str] = frozenset(),
) -> Body:
    """A graph's nodes and small constants; ``elsewhere`` names constants that are kept apart."""
    constants: dict[str, Value] = {}
    for tensor in graph.initializer:
        constants[tensor.name] = from_numpy(onnx.numpy_helper.to_array(tensor))
    for sparse in graph.sparse_initializer:
        constants[sparse.values.name] = from_numpy(dense(sparse))
    nodes = []
    for index, proto in enumerate(graph.node):
        own = node_opsets.get(proto.name, opsets)
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        nodes.append(Node.from_proto(proto, index, own.get(domain, 1), types))
    inputs = tuple(
        info.name for info in graph.input if info.name not in constants and info.name not in elsewhere
    )
    return Body(tuple(nodes), inputs, tuple(info.name for info in graph.output), constants, types)


def _lighten(
    model: onnx.ModelProto, held: Mapping[str, weights.Array]
) -> tuple[onnx.ModelProto, dict[str, Value]]:
    """A copy without the large initializers, which become inputs, and all initializers' values."""
    light = onnx.ModelProto(ir_version=model.ir_version)
    light.opset_import.extend(model.opset_import)
    light.functions.extend(model.functions)
    graph, source = light.graph, model.graph
    graph.name = source.name or "graph"
    graph.node.extend(source.node)
    graph.input.extend(source.input)
    graph.output.extend(source.output)
    graph.value_info.extend(source.value_info)
    constants: dict[str, Value] = {}
    declared = {info.name for info in source.input}
    for tensor in source.initializer:
        array: Array = held[tensor.name] if tensor.name in held else weights.read(tensor, None, _NO_LIMIT)
        constants[tensor.name] = from_numpy(array)
        if array.size <= _SMALL and tensor.data_location != onnx.TensorProto.EXTERNAL:
            graph.initializer.append(tensor)
        elif tensor.name not in declared:
            graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
    for sparse in source.sparse_initializer:
        array = dense(sparse)
        constants[sparse.values.name] = from_numpy(array)
        graph.input.append(
            onnx.helper.make_tensor_value_info(sparse.values.name, sparse.values.data_type, array.shape)
        )
    return light, constants


def _infer(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # types are a help: where ONNX's own inference fails, builders go without them
        return model


def _element_type(kind: onnx.TypeProto) -> int:
    which = kind.WhichOneof("value")
    if which == "tensor_type":
        return kind.tensor_type.elem_type
    if which == "sequence_type":
        return _element_type(kind.sequence_type.elem_type)
    if which == "optional_type":
        return _element_type(kind.optional_type.elem_type)
    if which == "sparse_tensor_type":
        return kind.sparse_tensor_type.elem_type
    return 0
