"""Which graphs' rows may be joined."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from endoscope_server.graph import Fidelity, Graph, Sessions
from endoscope_server.serving.rows import join, may_join, rows_are_independent, split

FLOAT = TensorProto.FLOAT


def weight(name: str, *shape: int) -> onnx.TensorProto:
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return onnx.numpy_helper.from_array(values, name)


def graph_of(nodes: Sequence[onnx.NodeProto], shape: list, weights: Sequence[onnx.TensorProto] = ()) -> Graph:
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info("x", FLOAT, shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.UNDEFINED, None)],
        list(weights),
    )
    graph.output[0].CopyFrom(onnx.ValueInfoProto(name="y"))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    inferred = onnx.shape_inference.infer_shapes(model)
    return Graph.from_proto(inferred)


def node(kind: str, inputs: str, output: str = "y", **attributes: object) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), [output], **attributes)


CONVOLUTION = [node("Conv", "x w", "c"), node("Relu", "c", "r"), node("GlobalAveragePool", "r")]
DENSE = [node("MatMul", "x m", "h"), node("Softmax", "h", axis=1)]
AXES = onnx.numpy_helper.from_array(np.array([1]), "axes")
ALIKE = {
    "convolution": (CONVOLUTION, ["n", 3, 8, 8], [weight("w", 4, 3, 3, 3)]),
    "dense": (DENSE, ["n", 6], [weight("m", 6, 5)]),
    "mean of each": ([node("ReduceMean", "x axes")], ["n", 6], [AXES]),
    "recurrent over each": (
        [
            node("Transpose", "x", "t", perm=[1, 0, 2]),
            node("LSTM", "t lw lr", "l", hidden_size=2),
            node("Transpose", "l", perm=[2, 0, 1, 3]),
        ],
        ["n", 5, 3],
        [weight("lw", 1, 8, 3), weight("lr", 1, 8, 2)],
    ),
}
MIXED = {
    "mean of all": ([node("ReduceMean", "x", "a"), node("Sub", "x a")], ["n", 6], []),
    "softmax down": ([node("Softmax", "x", axis=0)], ["n", 6], []),
    "products": ([node("Transpose", "x", "t"), node("MatMul", "x t")], ["n", 6], []),
    "transposed": ([node("Transpose", "x")], ["n", 6], []),
    "running sum": (
        [node("CumSum", "x zero")],
        ["n", 6],
        [onnx.numpy_helper.from_array(np.array(0), "zero")],
    ),
    "recurrent over rows": (
        [node("LSTM", "x lw lr", hidden_size=2)],
        ["n", 1, 3],
        [weight("lw", 1, 8, 3), weight("lr", 1, 8, 2)],
    ),
    "largest of all": ([node("ReduceMax", "x", "a"), node("Div", "x a")], ["n", 6], []),
    "shape": ([node("Shape", "x")], ["n", 6], []),
}


@pytest.mark.parametrize("name", ALIKE)
def test_rows_that_stand_alone_may_be_joined(name: str) -> None:
    graph = graph_of(*ALIKE[name])
    sessions = Sessions(graph, fidelity=Fidelity.FAST)
    example = np.zeros([1, *graph.values["x"].shape[1:]], np.float32)
    assert may_join(graph, ["y"])
    assert rows_are_independent(sessions, {"x": example}, ["y"])


@pytest.mark.parametrize("name", MIXED)
def test_rows_that_see_each_other_may_not(name: str) -> None:
    graph = graph_of(*MIXED[name])
    sessions = Sessions(graph, fidelity=Fidelity.FAST)
    example = np.zeros([1, *graph.values["x"].shape[1:]], np.float32)
    sessions.run({"x": np.repeat(example, 3, axis=0)}, ["y"])
    assert not rows_are_independent(sessions, {"x": example}, ["y"])


def test_graphs_whose_rows_can_not_be_joined_are_told_by_their_nodes() -> None:
    quantize = helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "scale", "zero"])
    assert not may_join(graph_of([quantize], ["n", 6]), ["y"])
    assert not may_join(graph_of([node("Relu", "x")], [4, 6]), ["y"])
    assert not may_join(graph_of([node("RandomNormalLike", "x")], ["n", 6]), ["y"])
    dense = graph_of(*ALIKE["dense"])
    assert not may_join(dense, ["y", "m"])
    # Only what the values need counts.
    half = graph_of([node("Relu", "x", "r"), node("RandomNormalLike", "r")], ["n", 6])
    assert may_join(half, ["r"])


def test_a_real_network_may_be_joined(lite0_path) -> None:
    sessions = Sessions(Graph.from_file(lite0_path), fidelity=Fidelity.FAST)
    assert may_join(sessions.graph, ["logits"])
    assert rows_are_independent(sessions, {"input": np.zeros((1, 3, 64, 64), np.float32)}, ["logits"])


def test_what_is_joined_is_split_again() -> None:
    requests = [{"a": np.full((size, 2), size), "b": np.arange(size)} for size in (1, 3, 2)]
    found = list(split(join(requests), [1, 3, 2]))
    assert all(
        np.array_equal(one[name], other[name])
        for one, other in zip(found, requests, strict=True)
        for name in one
    )
