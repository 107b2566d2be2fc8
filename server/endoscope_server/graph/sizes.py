"""How much room a graph's values take for inputs of some size."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx

from endoscope_server.graph.graph import Graph
from endoscope_server.graph.values import type_of
from endoscope_server.graph.walking import graphs, subgraphs


def value_bytes(graph: Graph, shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """About how many bytes each value takes that a node of the main graph computes.

    Args:
        graph: The model.
        shapes: Of its inputs, by name. A size that is not known after that counts as one.

    Returns:
        By name; values of unknown type are left out.
    """
    inferred = _inferred(graph, shapes)
    computed = {name for node in graph.nodes for name in node.output}
    sizes: dict[str, int] = {}
    for info in (*inferred.value_info, *inferred.output):
        dtype, shape = type_of(info)
        if info.name in computed and dtype not in (None, "string"):
            known = [size for size in shape or () if isinstance(size, int)]
            itemsize = np.dtype("float32" if dtype == "bfloat16" else dtype).itemsize
            sizes.setdefault(info.name, math.prod(known) * itemsize)
    return sizes


def most_alive(graph: Graph, sizes: Mapping[str, int], wanted: Iterable[str]) -> int:
    """The most bytes that values take at one time while others are computed from them.

    A value lives from the node that makes it to the last that reads it; what is wanted lives to the end.

    Args:
        graph: The model.
        sizes: Bytes of values, by name.
        wanted: ONNX names of the values that are computed.
    """
    kept = sorted(name for name in wanted if name in sizes)
    if not kept:
        return 0
    nodes = graph.expose(kept).graph.node
    reads = [{name for inner in _nodes_within(node) for name in inner.input} for node in nodes]
    last = {name: place for place, names in enumerate(reads) for name in names}
    alive = most = 0
    for place, node in enumerate(nodes):
        alive += sum(sizes.get(name, 0) for name in node.output)
        most = max(most, alive)
        ended = {name for name in reads[place] if last[name] == place}
        ended |= {name for name in node.output if name not in last}
        alive -= sum(sizes.get(name, 0) for name in ended - set(kept))
    return most


def _nodes_within(node: onnx.NodeProto) -> Iterable[onnx.NodeProto]:
    """A node, and those of its subgraphs."""
    yield node
    for body in subgraphs(node):
        for scope in graphs(body):
            yield from scope.node


def _inferred(graph: Graph, shapes: Mapping[str, Sequence[int]]) -> onnx.GraphProto:
    """The graph with what follows from the shapes; as it is if that can't be inferred."""
    probe = onnx.ModelProto()
    probe.CopyFrom(graph.skeleton)
    main = probe.graph
    del main.value_info[:]
    for info in main.output:
        info.type.tensor_type.ClearField("shape")
    for info in main.input:
        if info.name in shapes:
            dtype = info.type.tensor_type.elem_type
            info.CopyFrom(onnx.helper.make_tensor_value_info(info.name, dtype, list(shapes[info.name])))
    # Inference wants to see data; of what is not in the skeleton it needs only the shapes.
    held = [tensor for tensor in main.initializer if tensor.name not in graph.stripped]
    main.input.extend(
        onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        for tensor in main.initializer
        if tensor.name in graph.stripped
    )
    del main.initializer[:]
    main.initializer.extend(held)
    try:
        return onnx.shape_inference.infer_shapes(probe, check_type=False, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, RuntimeError):
        return graph.skeleton.graph
