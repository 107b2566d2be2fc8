"""Operators of com.microsoft against ONNX Runtime, which defines them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

FLOAT, UINT8, INT8 = TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT8
DOMAIN = "com.microsoft"


def noise(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def whole(*shape: int, dtype: Any = np.uint8, seed: int = 0) -> np.ndarray[Any, Any]:
    told = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(told.min, told.max + 1, shape).astype(dtype)


def scalar(value: float) -> np.ndarray[Any, Any]:
    return np.asarray(value, np.float32)


def zero(value: int, dtype: Any = np.uint8) -> np.ndarray[Any, Any]:
    return np.asarray(value, dtype)


@pytest.fixture(scope="session")
def compare(node_model: Any, run_runtime: Any, run_mirror: Any) -> Any:
    def check(
        op_type: str, inputs: dict[str, Any], outputs: dict[str, int], *, steps: int = 0, **options: Any
    ) -> None:
        """``steps``: by how much quantised results may differ where a sum falls between two steps."""
        model = node_model(op_type, inputs, outputs, domain=options.pop("domain", DOMAIN), **options)
        expected, found = run_runtime(model, inputs), run_mirror(model, inputs)
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.dtype == theirs.dtype
            assert ours.shape == theirs.shape
            if theirs.dtype.kind == "f":
                np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-5)
            else:
                gaps = np.abs(ours.astype(int) - theirs.astype(int))
                assert gaps.max() <= steps
                assert (gaps > 0).mean() <= 0.01

    return check


@pytest.mark.parametrize("op_type", ["Gelu", "QuickGelu", "FastGelu"])
def test_gelus(compare: Any, op_type: str) -> None:
    compare(op_type, {"x": noise(3, 7)}, {"y": FLOAT})


@pytest.mark.parametrize("op_type", ["BiasGelu", "FastGelu"])
def test_biased_gelus(compare: Any, op_type: str) -> None:
    compare(op_type, {"x": noise(3, 7), "bias": noise(7, seed=1)}, {"y": FLOAT})


@pytest.mark.parametrize("bias", [False, True])
def test_skip_layer_normalization(compare: Any, bias: bool) -> None:
    inputs = {"x": noise(2, 3, 8), "skip": noise(2, 3, 8, seed=1), "gamma": noise(8, seed=2)}
    inputs["beta"] = noise(8, seed=3)
    if bias:
        inputs["bias"] = noise(8, seed=4)
    compare("SkipLayerNormalization", inputs, {"y": FLOAT}, epsilon=1e-5)


def test_skip_simplified_layer_normalization(compare: Any) -> None:
    inputs = {"x": noise(2, 3, 8), "skip": noise(2, 3, 8, seed=1), "gamma": noise(8, seed=2)}
    compare("SkipSimplifiedLayerNormalization", inputs, {"y": FLOAT}, epsilon=1e-5)


@pytest.mark.parametrize("axis", [-1, 1])
def test_simplified_layer_normalization(compare: Any, axis: int) -> None:
    inputs = {"x": noise(2, 3, 8), "scale": noise(*(2, 3, 8)[axis:], seed=1)}
    compare("SimplifiedLayerNormalization", inputs, {"y": FLOAT}, domain="", axis=axis)


def test_embed_layer_normalization(compare: Any) -> None:
    inputs = {
        "ids": np.array([[1, 4, 2], [0, 3, 3]], np.int32),
        "segments": np.array([[0, 0, 1], [1, 1, 0]], np.int32),
        "words": noise(5, 8),
        "places": noise(4, 8, seed=1),
        "kinds": noise(2, 8, seed=2),
        "gamma": noise(8, seed=3),
        "beta": noise(8, seed=4),
        "mask": np.array([[1, 1, 0], [1, 1, 1]], np.int32),
    }
    compare("EmbedLayerNormalization", inputs, {"y": FLOAT, "lengths": TensorProto.INT32}, epsilon=1e-5)


@pytest.mark.parametrize(
    ("activation", "parameters"),
    [
        ("Relu", None),
        ("LeakyRelu", [0.2]),
        ("Clip", [-0.5, 1.5]),
        ("HardSigmoid", [0.3, 0.4]),
        ("Tanh", None),
    ],
)
@pytest.mark.parametrize("added", [False, True])
def test_fused_convolution(compare: Any, activation: str, parameters: Any, added: bool) -> None:
    inputs = {"x": noise(2, 4, 7, 7), "w": noise(6, 2, 3, 3, seed=1), "b": noise(6, seed=2)}
    if added:
        inputs["z"] = noise(2, 6, 4, 4, seed=3)
    options: dict[str, Any] = {"activation": activation, "group": 2, "pads": [1, 1, 1, 1], "strides": [2, 2]}
    if parameters:
        options["activation_params"] = parameters
    compare("FusedConv", inputs, {"y": FLOAT}, constants=["w", "b"], **options)


def test_fused_general_product(compare: Any) -> None:
    inputs = {"a": noise(4, 3), "b": noise(5, 4, seed=1), "c": noise(5, seed=2)}
    options = {"activation": "LeakyRelu", "activation_alpha": 0.3, "alpha": 0.5, "beta": 2.0}
    compare("FusedGemm", inputs, {"y": FLOAT}, transA=1, transB=1, **options)


@pytest.mark.parametrize("left", [0, 1])
@pytest.mark.parametrize("right", [0, 1])
def test_fused_product(compare: Any, left: int, right: int) -> None:
    a = noise(2, 4, 3) if left else noise(2, 3, 4)
    b = noise(2, 5, 4, seed=1) if right else noise(2, 4, 5, seed=1)
    compare("FusedMatMul", {"a": a, "b": b}, {"y": FLOAT}, transA=left, transB=right, alpha=0.25)


def test_fused_product_with_a_batch_behind(compare: Any) -> None:
    inputs = {"a": noise(3, 2, 4), "b": noise(4, 2, 5, seed=1)}
    compare("FusedMatMul", inputs, {"y": FLOAT}, transBatchA=1, transBatchB=1)


@pytest.mark.parametrize("op_type", ["QLinearAdd", "QLinearMul"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_quantized_arithmetic(compare: Any, op_type: str, dtype: Any) -> None:
    inputs = {
        "a": whole(3, 40, dtype=dtype),
        "as": scalar(0.021),
        "az": zero(7, dtype),
        "b": whole(40, dtype=dtype, seed=1),
        "bs": scalar(0.037),
        "bz": zero(3, dtype),
        "ys": scalar(0.11),
        "yz": zero(11, dtype),
    }
    kind = UINT8 if dtype is np.uint8 else INT8
    constants = [name for name in inputs if len(name) > 1]
    compare(op_type, inputs, {"y": kind}, constants=constants, steps=1)


def _one(x: Any) -> dict[str, Any]:
    return {"x": x, "xs": scalar(0.031), "xz": zero(120), "ys": scalar(0.027), "yz": zero(100)}


@pytest.mark.parametrize(
    ("op_type", "options"),
    [
        ("QLinearLeakyRelu", {"alpha": 0.2}),
        ("QLinearSigmoid", {}),
        ("QLinearGlobalAveragePool", {}),
        ("QLinearAveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ("QLinearSoftmax", {"axis": 1, "opset": 13}),
    ],
)
def test_quantized_functions(compare: Any, op_type: str, options: Any) -> None:
    inputs = _one(whole(2, 5, 6, 6))
    if op_type in ("QLinearSigmoid", "QLinearSoftmax"):
        inputs |= {"ys": scalar(1 / 256), "yz": zero(0)}
    compare(op_type, inputs, {"y": UINT8}, constants=["xs", "xz", "ys", "yz"], steps=1, **options)


def test_quantized_global_average_of_channels_last(compare: Any) -> None:
    inputs = _one(whole(2, 6, 6, 5))
    compare(
        "QLinearGlobalAveragePool", inputs, {"y": UINT8}, constants=["xs", "xz"], steps=1, channels_last=1
    )


def test_quantized_concat(compare: Any) -> None:
    inputs = {"ys": scalar(0.04), "yz": zero(90), "a": whole(2, 3), "as": scalar(0.02), "az": zero(80)}
    inputs |= {"b": whole(2, 4, seed=1), "bs": scalar(0.05), "bz": zero(128)}
    constants = ["ys", "yz", "as", "az", "bs", "bz"]
    compare("QLinearConcat", inputs, {"y": UINT8}, constants=constants, steps=1, axis=1)


def test_quantized_general_product(compare: Any) -> None:
    inputs = {"a": whole(3, 8), "as": scalar(0.02), "az": zero(110)}
    inputs |= {"b": whole(8, 5, dtype=np.int8, seed=1), "bs": scalar(0.01), "bz": zero(0, np.int8)}
    inputs |= {"c": np.arange(5, dtype=np.int32) * 40, "ys": scalar(0.05), "yz": zero(120)}
    compare("QGemm", inputs, {"y": UINT8}, constants=["bs", "bz", "as", "az", "ys", "yz"], steps=1)


def test_max_pool_of_channels_last(compare: Any) -> None:
    options = {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [1, 0, 0, 1]}
    compare("NhwcMaxPool", {"x": whole(2, 6, 6, 3)}, {"y": UINT8}, **options)


def test_product_to_float(compare: Any) -> None:
    inputs = {"a": whole(3, 8), "b": whole(8, 5, dtype=np.int8, seed=1), "as": scalar(0.02)}
    inputs |= {"bs": noise(5) * 0.1, "az": zero(99), "bz": zero(0, np.int8), "bias": noise(5, seed=3)}
    compare("MatMulIntegerToFloat", inputs, {"y": FLOAT})


def test_dynamic_product(compare: Any) -> None:
    inputs = {"a": noise(3, 8), "b": whole(8, 5, seed=1), "bs": scalar(0.02), "bz": zero(128)}
    compare("DynamicQuantizeMatMul", inputs, {"y": FLOAT})


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
def test_product_with_narrow_weights(compare: Any, zeros: bool, bits: int) -> None:
    inputs = {"a": noise(3, 64), "b": whole(5, 2, 32 * bits // 8, seed=1), "scales": np.abs(noise(10)) * 0.1}
    if zeros:
        inputs["zeros"] = whole(5 * bits // 4 if bits == 4 else 10, seed=2)
    options = {"K": 64, "N": 5, "bits": bits, "block_size": 32}
    compare("MatMulNBits", inputs, {"y": FLOAT}, constants=["b", "scales", "zeros"], **options)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_dynamic_lstm(compare: Any, direction: str, per_channel: bool) -> None:
    count, hidden, features = 2 if direction == "bidirectional" else 1, 4, 6
    scales = (count, 4 * hidden) if per_channel else (count,)
    inputs = {
        "x": noise(5, 1, features),
        "w": whole(count, features, 4 * hidden, dtype=np.int8),
        "r": whole(count, hidden, 4 * hidden, dtype=np.int8, seed=1),
        "b": noise(count, 8 * hidden, seed=2) * 0.1,
        "ws": np.abs(noise(*scales, seed=3)) * 0.01,
        "wz": np.zeros(scales, np.int8),
        "rs": np.abs(noise(*scales, seed=4)) * 0.01,
        "rz": np.zeros(scales, np.int8),
    }
    order = ["x", "w", "r", "b", "", "", "", "", "ws", "wz", "rs", "rz"]
    outputs = {"y": FLOAT, "h": FLOAT, "c": FLOAT}
    constants = [name for name in inputs if name != "x"]
    options = {"hidden_size": hidden, "direction": direction}
    compare("DynamicQuantizeLSTM", inputs, outputs, order=order, constants=constants, **options)
