"""Exposed values against unrewritten runs, bit for bit; and what sessions cost."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, parser

from endoscope_server.errors import InvalidInput, NotFound
from endoscope_server.graph import Fidelity, Graph, Sessions, ValueKind

BRANCHING = """
<ir_version: 8, opset_import: ["" : 17]>
agraph (float[n, 4] x, bool choose, int64 trips) => (float[n, 4] y)
<float[4, 4] w = {1,2,3,4, 5,6,7,8, 2,1,0,1, 3,3,1,0}, float one = {1.0}>
{
    h = MatMul(x, w)
    scale = ReduceMean<keepdims=0>(h)
    chosen = If (choose) <
        then_branch = then_graph () => (float[n, 4] t) { tripled = Mul(h, scale)  t = Relu(tripled) },
        else_branch = else_graph () => (float[n, 4] e) { e = Sub(h, one) }
    >
    keep = Equal(trips, trips)
    summed = Loop (trips, keep, chosen) <
        body = body_graph (int64 i, bool going, float[n, 4] state) => (bool again, float[n, 4] next) {
            again = Identity(going)
            moved = Add(state, h)
            next = Tanh(moved)
        }
    >
    y = Add(summed, scale)
}
"""


def unrewritten(path_or_bytes: str | bytes, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")
    return ort.InferenceSession(path_or_bytes, options).run(None, feeds)


def unrewritten_value(path: Path, name: str, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """A value of the file as it is, with only its name appended to the outputs."""
    model = onnx.load(path)
    if name not in {info.name for info in model.graph.output}:
        model.graph.output.append(onnx.ValueInfoProto(name=name))
    names = [info.name for info in model.graph.output]
    return unrewritten(model.SerializeToString(), feeds)[names.index(name)]


@pytest.mark.parametrize("name", ["lite0", "external", "opset9", "opset13", "opset17", "qdq", "fp16"])
def test_exposed_values_equal_those_of_an_unrewritten_run(
    name: str, lite0_path: Path, variant: Callable[[str], Path], batch: np.ndarray
) -> None:
    path = lite0_path if name == "lite0" else variant(name)
    graph = Graph.from_file(path)
    feeds = {"input": batch.astype(np.float16) if name == "fp16" else batch}
    [logits] = unrewritten(str(path), feeds)
    assert logits.argmax(1).tolist()[1] == 967

    sessions = Sessions(graph, capacity=2)
    assert np.array_equal(sessions.run(feeds, [graph.outputs[0].name])[graph.outputs[0].name], logits)
    layers = [layer.alias for layer in graph.layers]
    for alias in [*layers[::20], layers[-1]]:
        alone = sessions.run(feeds, [alias])[alias]
        beside = sessions.run(feeds, [alias, graph.outputs[0].name])
        expected = unrewritten_value(path, graph.resolve(alias), feeds)
        assert alone.dtype == expected.dtype
        assert np.array_equal(alone, expected)
        assert np.array_equal(beside[alias], expected)
        assert np.array_equal(beside[graph.outputs[0].name], logits)


def test_the_variants_are_what_they_say(variant: Callable[[str], Path], lite0: Graph) -> None:
    assert [Graph.from_file(variant(f"opset{n}")).opsets[""] for n in (9, 13, 17)] == [9, 13, 17]
    assert lite0.opsets[""] >= 20
    assert lite0.inputs[0].shape == ("batch", 3, "height", "width")
    assert Graph.from_file(variant("fixed")).inputs[0].shape == ("batch", 3, 224, 224)
    quantised = Graph.from_file(variant("qdq"))
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in quantised.nodes}
    assert Graph.from_file(variant("fp16")).inputs[0].dtype == "float16"


@pytest.mark.parametrize("choose", [True, False])
def test_subgraphs_keep_the_outer_values_they_capture(choose: bool) -> None:
    model = parser.parse_model(BRANCHING)
    graph = Graph.from_proto(model)
    x = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    feeds = {"x": x, "choose": np.array(choose), "trips": np.array(2)}
    sessions = Sessions(graph)
    whole = parser.parse_model(BRANCHING)
    whole.graph.output.extend(onnx.ValueInfoProto(name=name) for name in ("h", "scale", "chosen", "summed"))
    session = ort.InferenceSession(whole.SerializeToString())
    expected = dict(zip(["y", "h", "scale", "chosen", "summed"], session.run(None, feeds), strict=True))
    for name, array in expected.items():
        assert np.array_equal(sessions.run(feeds, [name])[name], array), name
    # `chosen` reads `h`, `scale` and `one` from inside of its branches alone.
    cut = graph.expose(["chosen"])
    assert [node.op_type for node in cut.graph.node] == ["MatMul", "ReduceMean", "If"]
    assert {tensor.name for tensor in cut.graph.initializer} == {"w", "one"}
    assert {info.name for info in cut.graph.input} == {"x", "choose"}
    assert set(sessions.run({"x": x}, ["h"])) == {"h"}


def test_a_value_inside_a_subgraph_is_named_but_refused() -> None:
    graph = Graph.from_proto(parser.parse_model(BRANCHING))
    assert graph.values["tripled"].kind is ValueKind.SUBGRAPH
    assert graph.values["moved"].kind is ValueKind.SUBGRAPH
    with pytest.raises(InvalidInput, match="inside the body") as caught:
        Sessions(graph).run({}, ["moved"])
    assert caught.value.reason == "VALUE_IN_SUBGRAPH"


def test_an_early_layer_runs_fewer_nodes(lite0: Graph, batch: np.ndarray, tmp_path: Path) -> None:
    sessions = Sessions(lite0)

    def nodes_run(value: str) -> set[str]:
        model = lite0.expose([value])
        options = sessions.options(model)
        options.enable_profiling = True
        options.profile_file_prefix = str(tmp_path / value)
        session = ort.InferenceSession(model.SerializeToString(), options)
        session.run([value], {"input": batch})
        events = json.loads(Path(session.end_profiling()).read_text())
        return {event["name"] for event in events if event["name"].endswith("_kernel_time")}

    early, late = nodes_run("hardtanh"), nodes_run("logits")
    assert len(early) == 2
    assert len(late) == len(lite0.nodes) == 94


def test_weights_are_held_once(lite0_path: Path) -> None:
    """Each of forty further sessions costs less than a tenth of the weights: its nodes, not their data."""
    import subprocess
    import sys

    code = f"""
from pathlib import Path
from endoscope_server.graph import Graph, Sessions
graph = Graph.from_file(Path({str(lite0_path)!r}))
sessions = Sessions(graph, capacity=100)
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
sessions.prepare(["logits"])
before = resident()
for layer in graph.layers[-41:-1]:
    sessions.prepare([layer.value, "logits"])
print(resident() - before)
"""
    grown = int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert grown / 40 < lite0_path.stat().st_size / 10


def test_fast_sessions_agree_closely(lite0: Graph, batch: np.ndarray) -> None:
    exact = Sessions(lite0).run({"input": batch}, ["logits", "_conv_head"])
    fast = Sessions(lite0, fidelity=Fidelity.FAST).run({"input": batch}, ["logits", "_conv_head"])
    for name, array in exact.items():
        np.testing.assert_allclose(fast[name], array, rtol=1e-3, atol=2e-5)


def test_inputs_and_initializers_can_be_asked_for(lite0: Graph, batch: np.ndarray) -> None:
    found = Sessions(lite0).run({"input": batch}, ["input", "_conv_stem.weight", "_conv_stem"])
    assert np.array_equal(found["input"], batch)
    assert found["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert found["_conv_stem"].shape == (2, 32, 112, 112)


def test_bfloat16_comes_back_as_bfloat16() -> None:
    node = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.BFLOAT16)
    back = helper.make_node("Cast", ["y"], ["z"], to=TensorProto.FLOAT)
    info = helper.make_tensor_value_info
    model = helper.make_model(
        helper.make_graph(
            [node, back],
            "g",
            [info("x", TensorProto.FLOAT, ["n"])],
            [info("z", TensorProto.FLOAT, ["n"])],
        ),
        opset_imports=[helper.make_opsetid("", 19)],
        ir_version=9,
    )
    x = np.array([1.0, 2.5, 1 / 3], np.float32)
    found = Sessions(Graph.from_proto(model)).run({"x": x}, ["y", "z"])
    assert found["y"].dtype == ml_dtypes.bfloat16
    assert np.array_equal(found["y"], x.astype(ml_dtypes.bfloat16))


@pytest.mark.parametrize(
    ("inputs", "field", "reason"),
    [
        ({}, "inputs[input]", "INPUT_MISSING"),
        ({"inputs": np.zeros(1)}, "inputs[inputs]", "UNKNOWN_INPUT"),
        ({"input": np.zeros((1, 3, 224, 224))}, "inputs[input]", "WRONG_DTYPE"),
        ({"input": np.zeros((3, 224, 224), np.float32)}, "inputs[input]", "WRONG_SHAPE"),
        ({"input": np.zeros((1, 4, 224, 224), np.float32)}, "inputs[input]", "WRONG_SHAPE"),
    ],
)
def test_bad_inputs_are_named(lite0: Graph, inputs: dict[str, np.ndarray], field: str, reason: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Sessions(lite0).run(inputs, ["logits"])
    assert (caught.value.field, caught.value.reason) == (field, reason)


def test_an_unknown_layer_names_the_closest(lite0: Graph, batch: np.ndarray) -> None:
    with pytest.raises(NotFound, match="_conv_stem") as caught:
        Sessions(lite0).run({"input": batch}, ["conv_stem"])
    assert caught.value.reason == "UNKNOWN_LAYER"


def test_threads_share_sessions(lite0: Graph, batch: np.ndarray) -> None:
    sessions = Sessions(lite0, capacity=1)
    expected = sessions.run({"input": batch}, ["_conv_stem", "_blocks.0._swish"])
    failures: list[str] = []

    def work(name: str) -> None:
        failures.extend(
            name
            for _ in range(5)
            if not np.array_equal(sessions.run({"input": batch}, [name])[name], expected[name])
        )

    threads = [threading.Thread(target=work, args=(name,)) for name in [*expected, *expected]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
