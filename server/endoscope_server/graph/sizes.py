"""How much room a graph's values take for inputs of some size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from endoscope_server.graph.graph import Graph
from endoscope_server.graph.values import type_of


def computed_bytes(graph: Graph, shapes: Mapping[str, Sequence[int]]) -> int:
    """About how many bytes all that the nodes of the main graph compute takes, side by side.

    Args:
        graph: The model.
        shapes: Of its inputs, by name. A size that is not known after that counts as one.
    """
    inferred = _inferred(graph, shapes)
    computed = {name for node in graph.nodes for name in node.output}
    total = 0
    for info in (*inferred.value_info, *inferred.output):
        dtype, shape = type_of(info)
        if info.name in computed and dtype not in (None, "string"):
            computed.remove(info.name)
            known = [size for size in shape or () if isinstance(size, int)]
            total += math.prod(known) * np.dtype("float32" if dtype == "bfloat16" else dtype).itemsize
    return total


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
