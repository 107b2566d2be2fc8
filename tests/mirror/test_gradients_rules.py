"""Where gradients are zero, cut, or pass straight through; control flow; that no operator is forgotten."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from onnx import TensorProto, helper

from endoscope_server.mirror import from_onnx

HERE = Path(__file__).parent
MS = "com.microsoft::"
FLOAT = TensorProto.FLOAT

X = np.array([[0.3, -1.2, 2.4], [1.7, -0.6, 0.9]], np.float32)
BOXES = np.array([[[0, 0, 1, 1], [0, 0.1, 1, 1.1], [0, 2, 1, 3]]], np.float32)

# What no gradient passes: steps, comparisons, whole numbers, places. With the type of the output.
CUT: dict[str, tuple[dict[str, Any], int, dict[str, Any]]] = {
    "Round": ({"x": X}, FLOAT, {}),
    "Floor": ({"x": X}, FLOAT, {}),
    "Ceil": ({"x": X}, FLOAT, {}),
    "Sign": ({"x": X}, FLOAT, {}),
    "Hardmax": ({"x": X}, FLOAT, {}),
    "Bernoulli": ({"x": np.abs(X) / 3}, FLOAT, {"version": 22}),
    "RandomNormalLike": ({"x": X}, FLOAT, {}),
    "RandomUniformLike": ({"x": X}, FLOAT, {}),
    "Multinomial": ({"x": X}, TensorProto.INT32, {}),
    "EyeLike": ({"x": X}, FLOAT, {}),
    "Shape": ({"x": X}, TensorProto.INT64, {}),
    "Size": ({"x": X}, TensorProto.INT64, {}),
    "ArgMax": ({"x": X}, TensorProto.INT64, {}),
    "ArgMin": ({"x": X}, TensorProto.INT64, {}),
    "NonZero": ({"x": X}, TensorProto.INT64, {}),
    "IsNaN": ({"x": X}, TensorProto.BOOL, {}),
    "IsInf": ({"x": X}, TensorProto.BOOL, {}),
    "Equal": ({"a": X, "b": X}, TensorProto.BOOL, {}),
    "Less": ({"a": X, "b": X}, TensorProto.BOOL, {}),
    "LessOrEqual": ({"a": X, "b": X}, TensorProto.BOOL, {}),
    "Greater": ({"a": X, "b": X}, TensorProto.BOOL, {}),
    "GreaterOrEqual": ({"a": X, "b": X}, TensorProto.BOOL, {}),
    "Cast": ({"x": X}, TensorProto.INT32, {"to": TensorProto.INT32}),
    "CastLike": ({"x": X, "like": np.zeros(1, np.int32)}, TensorProto.INT32, {}),
    "BitCast": ({"x": X}, TensorProto.INT32, {"to": TensorProto.INT32, "version": 26}),
    "NonMaxSuppression": (
        {"b": BOXES, "s": X[:1, None], "n": np.array([2], np.int64), "o": np.array([0.5], np.float32)},
        TensorProto.INT64,
        {},
    ),
}

# Real numbers neither come in nor go out, or only from attributes and constants.
NO_NUMBERS = {
    *("And", "Or", "Xor", "Not", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor"),
    *("Constant", "ConstantOfShape", "RandomNormal", "RandomUniform", "MelWeightMatrix", "SequenceLength"),
    *("OptionalHasElement", "SequenceEmpty", "Range"),
}

# Tested below.
CONTAINERS = {
    *("If", "Loop", "Scan", "SequenceConstruct", "SequenceInsert", "SequenceErase", "SequenceAt"),
    *("SplitToSequence", "ConcatFromSequence", "Optional", "OptionalGetElement"),
}


@pytest.mark.parametrize("op_type", CUT)
def test_no_gradient_and_no_error(op_type: str, node_model: Any) -> None:
    inputs, kind, options = CUT[op_type]
    mirror = from_onnx(node_model(op_type, inputs, {"y": kind}, **options))
    fed = {name: torch.from_numpy(value) for name, value in inputs.items()}
    floats = [value.requires_grad_() for value in fed.values() if value.is_floating_point()]
    y = mirror(fed)["y"]
    # As in the middle of a network: something else has a gradient.
    loss = y.to(torch.float32).sum() + sum((value * 2).sum() for value in floats)
    loss.backward()
    assert all(bool((value.grad == 2).all()) for value in floats)


def test_casts_between_floats_pass_the_gradient(node_model: Any) -> None:
    mirror = from_onnx(node_model("Cast", {"x": X}, {"y": TensorProto.DOUBLE}, to=TensorProto.DOUBLE))
    x = torch.from_numpy(X.copy()).requires_grad_()
    mirror({"x": x})["y"].square().sum().backward()
    torch.testing.assert_close(x.grad, 2 * x.detach())


# Quantised operators, between QuantizeLinear (scale 1/64, zero point 128) and DequantizeLinear.
SCALE, ZERO = 1 / 64, 128
_W = np.random.default_rng(3).integers(-90, 90, (3, 3)).astype(np.int8)
_KERNEL = np.random.default_rng(4).integers(-90, 90, (2, 1, 2, 2)).astype(np.int8)
_B = np.random.default_rng(5).integers(90, 200, (4, 3)).astype(np.uint8)
_REAL_B = torch.from_numpy((_B.astype(np.float32) - ZERO) * SCALE)
_REAL_W = torch.from_numpy(_W.astype(np.float32) * 0.01)
_REAL_KERNEL = torch.from_numpy(_KERNEL.astype(np.float32) * 0.01)

# For each: the node's text, its constants, the function in real numbers, the input's shape.
QUANTIZED: dict[str, tuple[str, dict[str, Any], Callable[[Any], Any], tuple[int, ...]]] = {
    "QLinearMatMul": ("QLinearMatMul(q, s, z, w, ws, wz, ys, yz)", {}, lambda x: x @ _REAL_W, (4, 3)),
    MS + "QLinearMatMul": (
        "com.microsoft.QLinearMatMul(q, s, z, w, ws, wz, ys, yz)",
        {},
        lambda x: x @ _REAL_W,
        (4, 3),
    ),
    MS + "QGemm": ("com.microsoft.QGemm(q, s, z, w, ws, wz, , ys, yz)", {}, lambda x: x @ _REAL_W, (4, 3)),
    "QLinearConv": (
        "QLinearConv(q, s, z, k, ws, wz, ys, yz)",
        {},
        lambda x: torch.conv2d(x, _REAL_KERNEL),
        (1, 1, 4, 4),
    ),
    MS + "QLinearConv": (
        "com.microsoft.QLinearConv <channels_last = 1> (q, s, z, k, ws, wz, ys, yz)",
        {},
        lambda x: torch.conv2d(x.movedim(-1, 1), _REAL_KERNEL).movedim(1, -1),
        (1, 4, 4, 1),
    ),
    MS + "QLinearAdd": (
        "com.microsoft.QLinearAdd(q, s, z, b, s, z, ys, yz)",
        {},
        lambda x: x + _REAL_B,
        (4, 3),
    ),
    MS + "QLinearMul": (
        "com.microsoft.QLinearMul(q, s, z, b, s, z, ys, yz)",
        {},
        lambda x: x * _REAL_B,
        (4, 3),
    ),
    MS + "QLinearLeakyRelu": (
        "com.microsoft.QLinearLeakyRelu <alpha = 0.2> (q, s, z, ys, yz)",
        {},
        lambda x: torch.nn.functional.leaky_relu(x, 0.2),
        (4, 3),
    ),
    MS + "QLinearSigmoid": ("com.microsoft.QLinearSigmoid(q, s, z, ys, yz)", {}, torch.sigmoid, (4, 3)),
    MS + "QLinearSoftmax": (
        "com.microsoft.QLinearSoftmax <axis = 1, opset = 13> (q, s, z, ys, yz)",
        {},
        lambda x: x.softmax(1),
        (4, 3),
    ),
    MS + "QLinearGlobalAveragePool": (
        "com.microsoft.QLinearGlobalAveragePool(q, s, z, ys, yz)",
        {},
        lambda x: x.mean((2, 3), keepdim=True),
        (1, 2, 3, 3),
    ),
    MS + "QLinearAveragePool": (
        "com.microsoft.QLinearAveragePool <kernel_shape = [2, 2]> (q, s, z, ys, yz)",
        {},
        lambda x: torch.nn.functional.avg_pool2d(x, 2, 1),
        (1, 2, 3, 3),
    ),
    MS + "QLinearReduceMean": (
        "com.microsoft.QLinearReduceMean <axes = [1], keepdims = 0> (q, s, z, ys, yz)",
        {},
        lambda x: x.mean(1),
        (4, 3),
    ),
    MS + "QLinearConcat": (
        "com.microsoft.QLinearConcat <axis = 0> (ys, yz, q, s, z, b, s, z)",
        {},
        lambda x: torch.cat([x, _REAL_B]),
        (4, 3),
    ),
    MS + "QLinearWhere": (
        "com.microsoft.QLinearWhere(c, q, s, z, b, s, z, ys, yz)",
        {"c": np.array([[True, False, True]])},
        lambda x: torch.where(torch.tensor([[True, False, True]]), x, _REAL_B),
        (4, 3),
    ),
}


def _text(name: str, value: Any) -> str:
    array = np.asarray(value)
    kind = {"f": "float", "u": "uint8", "i": "int8", "b": "bool"}[array.dtype.kind]
    items = ", ".join(str(float(item) if kind == "float" else int(item)) for item in array.reshape(-1))
    shape = f"[{','.join(map(str, array.shape))}]" if array.ndim else ""
    return f"{kind}{shape} {name} = {{{items}}}"


def _model(body: str, constants: dict[str, Any]) -> onnx.ModelProto:
    held = ", ".join(_text(name, value) for name, value in constants.items())
    return onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]> g (float x) => (float y) '
        f"<{held}> {{ {body} }}"
    )


_CONSTANTS = {
    "s": np.float32(SCALE),
    "z": np.uint8(ZERO),
    "w": _W,
    "k": _KERNEL,
    "b": _B,
    "ws": np.float32(0.01),
    "wz": np.int8(0),
    "ys": np.float32(1 / 16),
    "yz": np.uint8(120),
}


def _grid(shape: tuple[int, ...]) -> torch.Tensor:
    """Numbers that quantisation leaves as they are, none of them zero."""
    whole = np.random.default_rng(0).integers(1, 100, shape) * np.random.default_rng(1).choice([-1, 1], shape)
    return torch.from_numpy((whole * SCALE).astype(np.float32)).requires_grad_()


@pytest.mark.parametrize("name", QUANTIZED)
def test_gradients_pass_straight_through(name: str) -> None:
    call, more, real, shape = QUANTIZED[name]
    body = f"q = QuantizeLinear(x, s, z) r = {call} y = DequantizeLinear(r, ys, yz)"
    mirror = from_onnx(_model(body, _CONSTANTS | more))
    x = _grid(shape)
    y = mirror({"x": x})["y"]
    with torch.no_grad():
        torch.testing.assert_close(mirror({"x": x.detach()}, ["r"])["r"].float(), (y / (1 / 16)) + 120)
        torch.testing.assert_close(y, real(x), atol=1 / 32 + 1e-6, rtol=0)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    (found,) = torch.autograd.grad((y * weights).sum(), x)
    (expected,) = torch.autograd.grad((real(x) * weights).sum(), x)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("domain", ["", "com.microsoft."])
def test_saturation_stops_gradients(domain: str) -> None:
    body = f"q = {domain}QuantizeLinear(x, s, z) y = {domain}DequantizeLinear(q, s, z)"
    mirror = from_onnx(_model(body, {"s": np.float32(0.1), "z": np.uint8(100)}))
    x = torch.tensor([-20.0, -3.14, 0.26, 12.3, 16.0], requires_grad=True)
    y = mirror({"x": x})["y"]
    torch.testing.assert_close(y, torch.tensor([-10.0, -3.1, 0.3, 12.3, 15.5]))
    y.sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([0.0, 1, 1, 1, 0]))


def test_quantized_values_have_their_exact_type_where_no_gradient_is_recorded() -> None:
    mirror = from_onnx(_model("q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z)", _CONSTANTS))
    x = _grid((2, 3))
    assert mirror({"x": x.detach()}, ["q"])["q"].dtype == torch.uint8
    recorded = mirror({"x": x}, ["q"])["q"]
    assert recorded.dtype == torch.float32
    assert torch.equal(recorded.detach().round(), recorded.detach())


_SCALED = "f = Cast<to = 1>(r) t = Mul(s1, ws) y = Mul(f, t)"
_DYNAMIC: dict[str, tuple[str, Callable[[Any], Any], tuple[int, ...]]] = {
    "MatMulInteger": (
        f"q, s1, z1 = DynamicQuantizeLinear(x) r = MatMulInteger(q, w, z1, wz) {_SCALED}",
        lambda x: x @ _REAL_W,
        (4, 3),
    ),
    "ConvInteger": (
        f"q, s1, z1 = DynamicQuantizeLinear(x) r = ConvInteger(q, k, z1, wz) {_SCALED}",
        lambda x: torch.conv2d(x, _REAL_KERNEL),
        (1, 1, 4, 4),
    ),
    MS + "MatMulIntegerToFloat": (
        "q, s1, z1 = DynamicQuantizeLinear(x) y = com.microsoft.MatMulIntegerToFloat(q, w, s1, ws, z1, wz)",
        lambda x: x @ _REAL_W,
        (4, 3),
    ),
    MS + "DynamicQuantizeMatMul": (
        "y = com.microsoft.DynamicQuantizeMatMul(x, w, ws, wz)",
        lambda x: x @ _REAL_W,
        (4, 3),
    ),
}


@pytest.mark.parametrize("name", _DYNAMIC)
def test_gradients_pass_dynamic_quantization(name: str) -> None:
    body, real, shape = _DYNAMIC[name]
    mirror = from_onnx(_model(body, _CONSTANTS))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), requires_grad=True)
    y = mirror({"x": x})["y"]
    torch.testing.assert_close(y, real(x), atol=0.06, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(mirror({"x": x.detach()})["y"], y)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    (found,) = torch.autograd.grad((y * weights).sum(), x)
    (expected,) = torch.autograd.grad((real(x) * weights).sum(), x)
    torch.testing.assert_close(found, expected)


def test_gradients_pass_the_dynamic_lstm(node_model: Any) -> None:
    """Against the plain LSTM with the same weights, which it approximates."""
    random = np.random.default_rng(0)
    hidden, features = 4, 6
    whole = [random.integers(-127, 128, (1, rows, 4 * hidden)).astype(np.int8) for rows in (features, hidden)]
    x = random.standard_normal((5, 1, features)).astype(np.float32)
    scale = np.array([0.005], np.float32)
    quantized = {"x": x, "w": whole[0], "r": whole[1], "ws": scale, "wz": np.zeros(1, np.int8)}
    quantized |= {"rs": scale, "rz": np.zeros(1, np.int8)}
    order = ["x", "w", "r", "", "", "", "", "", "ws", "wz", "rs", "rz"]
    turned = [(weight.transpose(0, 2, 1) * scale).astype(np.float32) for weight in whole]
    real = {"x": x, "w": turned[0], "r": turned[1]}
    gradients = []
    for op_type, inputs, domain, names in (
        ("DynamicQuantizeLSTM", quantized, "com.microsoft", order),
        ("LSTM", real, "", ["x", "w", "r"]),
    ):
        options = {"order": names, "constants": list(inputs)[1:], "domain": domain, "hidden_size": hidden}
        mirror = from_onnx(node_model(op_type, inputs, {"y": FLOAT}, **options))
        value = torch.from_numpy(x.copy()).requires_grad_()
        mirror({"x": value})["y"].square().sum().backward()
        gradients.append(value.grad)
    error = (gradients[0] - gradients[1]).norm() / gradients[1].norm()
    assert error < 0.03


# Control flow and containers


def _subgraph(name: str, nodes: Any, inputs: Any, outputs: Any) -> onnx.GraphProto:
    info = helper.make_tensor_value_info
    return helper.make_graph(
        nodes, name, [info(*item, None) for item in inputs], [info(*item, None) for item in outputs]
    )


def _graph_model(nodes: Any, inputs: Any, outputs: Any, tensors: Any = ()) -> onnx.ModelProto:
    graph = _subgraph("g", nodes, inputs, outputs)
    graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_loop_with_what_it_captures() -> None:
    """Three times: state = state * x + w, every state gathered."""
    body = _subgraph(
        "body",
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Mul", ["state", "x"], ["scaled"]),
            helper.make_node("Add", ["scaled", "w"], ["next"]),
            helper.make_node("Identity", ["next"], ["row"]),
        ],
        [("turn", TensorProto.INT64), ("go", TensorProto.BOOL), ("state", FLOAT)],
        [("go_on", TensorProto.BOOL), ("next", FLOAT), ("row", FLOAT)],
    )
    model = _graph_model(
        [helper.make_node("Loop", ["n", "", "x"], ["last", "rows"], body=body)],
        [("x", FLOAT), ("w", FLOAT)],
        [("last", FLOAT), ("rows", FLOAT)],
        [("n", np.int64(3))],
    )
    mirror = from_onnx(model)
    x, w = (torch.randn(4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda x, w: tuple(mirror({"x": x, "w": w}).values()), (x, w))
    torch.testing.assert_close(mirror({"x": x, "w": w})["last"], ((x * x + w) * x + w) * x + w)


def test_scan() -> None:
    """A running product, backwards."""
    body = _subgraph(
        "body",
        [
            helper.make_node("Mul", ["state", "row"], ["next"]),
            helper.make_node("Identity", ["next"], ["out"]),
        ],
        [("state", FLOAT), ("row", FLOAT)],
        [("next", FLOAT), ("out", FLOAT)],
    )
    options = {"num_scan_inputs": 1, "scan_input_directions": [1], "scan_output_axes": [1]}
    node = helper.make_node("Scan", ["s", "x"], ["last", "rows"], body=body, **options)
    inputs, outputs = [("s", FLOAT), ("x", FLOAT)], [("last", FLOAT), ("rows", FLOAT)]
    mirror = from_onnx(_graph_model([node], inputs, outputs))
    s = torch.rand(2, dtype=torch.float64).add(1).requires_grad_()
    x = torch.rand(3, 2, dtype=torch.float64).add(1).requires_grad_()
    assert torch.autograd.gradcheck(lambda s, x: tuple(mirror({"s": s, "x": x}).values()), (s, x))
    assert mirror({"s": s, "x": x})["rows"].shape == (2, 3)


@pytest.mark.parametrize("positive", [True, False])
def test_if(positive: bool) -> None:
    branches = {
        "then_branch": _subgraph("t", [helper.make_node("Exp", ["x"], ["a"])], [], [("a", FLOAT)]),
        "else_branch": _subgraph("e", [helper.make_node("Neg", ["x"], ["b"])], [], [("b", FLOAT)]),
    }
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0),
        helper.make_node("Greater", ["total", "zero"], ["condition"]),
        helper.make_node("If", ["condition"], ["y"], **branches),
    ]
    model = _graph_model(nodes, [("x", FLOAT)], [("y", FLOAT)], [("zero", np.float32(0))])
    x = torch.tensor([0.5, 0.25] if positive else [-0.5, -0.25], requires_grad=True)
    from_onnx(model)({"x": x})["y"].sum().backward()
    torch.testing.assert_close(x.grad, x.detach().exp() if positive else torch.tensor([-1.0, -1.0]))


def test_sequences_and_optionals() -> None:
    body = """
        parts = SplitToSequence <axis = 0, keepdims = 0> (x)
        first = SequenceAt (parts, zero)
        doubled = Add (first, first)
        made = SequenceConstruct (first, doubled)
        longer = SequenceInsert (made, first, one)
        shorter = SequenceErase (longer, zero)
        maybe = Optional (shorter)
        held = OptionalGetElement (maybe)
        y = ConcatFromSequence <axis = 0> (held)
    """
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21]> g (float[2, 3] x) => (float y) '
        f"<int64 zero = {{0}}, int64 one = {{1}}> {{ {body} }}"
    )
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    mirror = from_onnx(model)
    assert torch.autograd.gradcheck(lambda x: mirror({"x": x})["y"], (x,))
    torch.testing.assert_close(mirror({"x": x})["y"], torch.cat([x[0], 2 * x[0]]))
