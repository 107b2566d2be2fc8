"""Batches depth first: which layers take pictures one by one, and that nothing else changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from endoscope_server.graph import Fidelity, Graph, Sessions, find_stem
from endoscope_server.graph.depth_first import depth_first

MOBILE = """
<ir_version: 8, opset_import: ["" : 17]>
agraph (float[n, 3, 128, 128] x) => (float[n, 10] y)
{
    low = Constant<value = float {0.0}>()
    high = Constant<value = float {6.0}>()
    wide = Conv<pads = [1, 1, 1, 1]>(x, w0)
    clipped = Clip(wide, low, high)
    deep = Conv<group = 32, pads = [1, 1, 1, 1], strides = [2, 2]>(clipped, w1)
    normal = BatchNormalization(deep, scale, bias, mean, variance)
    gate = ReduceMean<axes = [2, 3], keepdims = 1>(normal)
    gated = Mul(normal, gate)
    joined = Concat<axis = 1>(gated, normal)
    narrow = Conv(joined, w2)
    bounded = Clip(narrow, low, high)
    flat = Flatten(bounded)
    y = MatMul(flat, w3)
}
"""
SHAPES = {
    "w0": (32, 3, 3, 3),
    "w1": (32, 1, 3, 3),
    "scale": (32,),
    "bias": (32,),
    "mean": (32,),
    "variance": (32,),
    "w2": (8, 64, 1, 1),
    "w3": (32768, 10),
}


def mobile(text: str = MOBILE, **more: tuple[int, ...]) -> onnx.ModelProto:
    """A small network of cheap layers, with drawn weights."""
    model = parser.parse_model(text)
    read = {name for node in model.graph.node for name in node.input}
    generator = np.random.default_rng(0)
    for name, shape in {**SHAPES, **more}.items():
        if name in read:
            values = np.abs(generator.standard_normal(shape, np.float32)) * (1 if name == "variance" else 0.1)
            sign = 1 if name == "variance" else generator.choice([-1, 1], shape).astype(np.float32)
            model.graph.initializer.append(numpy_helper.from_array(values * sign, name))
    return model


def pictures(count: int = 5) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((count, 3, 128, 128), np.float32)


def fast_and_exact(
    model: onnx.ModelProto, batch: np.ndarray, outputs: Sequence[str] = ("y",)
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    graph = Graph.from_proto(model)
    fast = Sessions(graph, intra_op_threads=1, fidelity=Fidelity.FAST).run({"x": batch}, outputs)
    return fast, Sessions(graph).run({"x": batch}, outputs)


def close(fast: np.ndarray, exact: np.ndarray) -> bool:
    return fast.shape == exact.shape and bool(
        np.allclose(fast, exact, atol=1e-5 * np.abs(exact).max(initial=0))
    )


def test_the_real_network_takes_its_cheap_layers_picture_by_picture(lite0: Graph, batch: np.ndarray) -> None:
    stem = find_stem(lite0, [lite0.logits])
    assert stem is not None
    assert len(stem.places) > len(lite0.nodes) / 2
    model = depth_first(lite0.expose([lite0.logits]), stem)
    assert model.graph.node[0].op_type == "Scan"
    assert len(model.graph.node[0].attribute[0].g.node) == len(stem.places) + 2
    assert len(model.graph.node) + len(stem.places) == len(lite0.nodes) + 1
    weights = {tensor.name for tensor in model.graph.initializer if tensor.name.endswith("weight")}
    assert not weights & set(stem.constants)

    fast = Sessions(lite0, intra_op_threads=1, fidelity=Fidelity.FAST)
    together = fast.run({"input": batch}, [lite0.logits])[lite0.logits]
    assert close(together, Sessions(lite0).run({"input": batch}, [lite0.logits])[lite0.logits])
    for row in range(len(batch)):
        alone = fast.run({"input": batch[row : row + 1]}, [lite0.logits])[lite0.logits]
        assert close(alone[0], together[row])


def test_all_kinds_of_layers_may_be_among_them() -> None:
    graph = Graph.from_proto(mobile())
    stem = find_stem(graph, ["y"])
    assert stem is not None
    assert stem.value.name == "bounded"
    assert {"wide", "gate", "narrow"} < stem.passing
    model = depth_first(graph.expose(["y"]), stem)
    assert [node.op_type for node in model.graph.node if node.op_type != "Constant"] == [
        "Scan",
        "Flatten",
        "MatMul",
    ]
    fast, exact = fast_and_exact(mobile(), pictures())
    assert close(fast["y"], exact["y"])


def test_what_is_changed_is_a_valid_model() -> None:
    graph = Graph.from_proto(mobile())
    stem = find_stem(graph, ["y"])
    assert stem is not None
    whole = Graph.from_proto(mobile()).to_proto()
    exposed = graph.expose(["y"])
    before = exposed.SerializeToString()
    changed = depth_first(exposed, stem)
    assert exposed.SerializeToString() == before
    weights = {tensor.name: tensor for tensor in whole.graph.initializer}
    for tensor in changed.graph.initializer:
        tensor.CopyFrom(weights[tensor.name])
    onnx.checker.check_model(changed, full_check=True)


@pytest.mark.parametrize("outputs", [["deep"], ["bounded"], ["deep", "y"], ["x", "y"], ["gate", "narrow"]])
def test_values_in_between_can_be_asked_for(outputs: list[str]) -> None:
    fast, exact = fast_and_exact(mobile(), pictures(), outputs)
    for name in outputs:
        assert close(fast[name], exact[name])


@pytest.mark.parametrize(
    "mixing",
    [
        "mixed = ReduceMean<axes = [0], keepdims = 1>(deep)",
        "mixed = Concat<axis = 0>(deep, deep)",
        "mixed = Softmax<axis = 0>(deep)",
        "mixed = Pad(deep, pads)",
        "mixed = Add(deep, rows)",
        (
            "pooled, places = MaxPool<kernel_shape = [2, 2], pads = [0, 0, 1, 1]>(deep)\n"
            "mixed = Cast<to = 1>(places)"
        ),
        "mixed, m, v = BatchNormalization<training_mode = 1>(deep, scale, bias, mean, variance)",
    ],
)
def test_no_layer_that_mixes_pictures_is_among_them(mixing: str) -> None:
    begin, end = MOBILE.index("    normal ="), MOBILE.index("    gate =")
    text = MOBILE[:begin] + mixing + "\n normal = Add(deep, deep)\n moved = Relu(mixed)\n" + MOBILE[end:]
    text = text.replace("low =", "pads = Constant<value_ints = [1, 0, 0, 0, 0, 0, 0, 0]>()\n low =")
    text = text.replace("float[n, 10] y", "float[n, 10] y, float[m, 32, 64, 64] moved")
    model = mobile(text, rows=(3, 32, 64, 64))
    graph = Graph.from_proto(model)
    stem = find_stem(graph, ["moved"])
    assert stem is not None
    assert stem.value.name == "deep"
    fast, exact = fast_and_exact(model, pictures(3), ["moved", "y"])
    assert close(fast["moved"], exact["moved"])
    assert close(fast["y"], exact["y"])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("float[n, 3, 128, 128] x", "float[5, 3, 128, 128] x"),
        ("float[n, 3, 128, 128] x", "double[n, 3, 128, 128] x"),
        ("float[n, 3, 128, 128] x", "float[n, 3, 128, 128] x, float[n, 10] z"),
        ("float[n, 3, 128, 128] x", "float[n, 3, 64, 64] x"),
        ("pads = [1, 1, 1, 1]>(x, w0)", "pads = [7, 7, 7, 7]>(x, w4)"),
    ],
    ids=["fixed batch", "other numbers", "two inputs", "small pictures", "much arithmetic"],
)
def test_else_all_layers_take_the_whole_batch(old: str, new: str) -> None:
    assert old in MOBILE
    model = mobile(MOBILE.replace(old, new), w4=(32, 3, 15, 15))
    assert find_stem(Graph.from_proto(model), ["y"]) is None


@pytest.mark.parametrize("side", [224, 160])
def test_pictures_may_be_of_any_size(lite0: Graph, side: int) -> None:
    assert not isinstance(lite0.inputs[0].shape[2], int)
    batch = np.random.default_rng(1).standard_normal((3, 3, side, side), np.float32)
    fast = Sessions(lite0, intra_op_threads=1, fidelity=Fidelity.FAST).run(
        {"input": batch}, [lite0.features, lite0.logits]
    )
    exact = Sessions(lite0).run({"input": batch}, [lite0.features, lite0.logits])
    assert all(close(fast[name], exact[name]) for name in exact)


def test_an_old_operator_set_has_it_beside_the_shape_of_the_batch(
    variant: Callable[[str], Path], batch: np.ndarray
) -> None:
    graph = Graph.from_file(variant("opset9"))
    assert {"Shape", "Pad", "Gather"} < {node.op_type for node in graph.nodes}
    stem = find_stem(graph, ["logits"])
    assert stem is not None
    assert len(stem.places) > len(graph.nodes) / 2
    fast = Sessions(graph, intra_op_threads=1, fidelity=Fidelity.FAST).run({"input": batch}, ["logits"])[
        "logits"
    ]
    assert close(fast, Sessions(graph).run({"input": batch}, ["logits"])["logits"])


def test_an_empty_batch_gives_empty_values() -> None:
    fast, exact = fast_and_exact(mobile(), pictures(0))
    assert fast["y"].shape == exact["y"].shape == (0, 10)


def test_a_constant_that_other_layers_read_too_stays() -> None:
    text = MOBILE.replace("Mul(normal, gate)", "Mul(normal, half)").replace(
        "gate = ReduceMean", "unread = ReduceMean"
    )
    text = text.replace("y = MatMul(flat, w3)", "halved = Mul(flat, half)\n y = MatMul(halved, w3)")
    fast, exact = fast_and_exact(mobile(text, half=(1,)), pictures())
    assert close(fast["y"], exact["y"])


def test_only_a_single_thread_takes_pictures_one_by_one(lite0: Graph, batch: np.ndarray) -> None:
    def operators(threads: int) -> set[str]:
        sessions = Sessions(lite0, intra_op_threads=threads, fidelity=Fidelity.FAST)
        sessions.run({"input": batch}, ["logits"])
        return {node.op_type for node in sessions.model(frozenset({"logits"})).graph.node}

    assert "Scan" in operators(1)
    assert "Scan" not in operators(2)
    assert "Scan" not in operators(0)
