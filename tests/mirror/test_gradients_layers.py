"""Gradients of convolutions, pooling, normalisation, products, sampling against finite differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st


def _window(d: Any, rank: int) -> dict[str, Any]:
    options: dict[str, Any] = {"strides": [d.int(1, 2) for _ in range(rank)]}
    padding = d.choice("pads", "SAME_UPPER", "SAME_LOWER", "VALID")
    if padding == "pads":
        options["pads"] = [d.int(0, 1) for _ in range(2 * rank)]
    else:
        options["auto_pad"] = padding
    return options


def _convolution(d: Any) -> dict[str, Any]:
    rank, groups = d.int(1, 2), d.int(1, 2)
    sizes = [5, 6][:rank]
    inputs = {"x": d.array(2, 2, *sizes), "w": d.array(2 * groups, 2 // groups, *[2, 3][:rank])}
    if d.bool():
        inputs["b"] = d.array(2 * groups)
    options = _window(d, rank) | {"group": groups}
    if options.get("auto_pad", "VALID") == "VALID":
        options["dilations"] = [d.int(1, 2) if "auto_pad" not in options else 1 for _ in range(rank)]
    return {"inputs": inputs, **options}


def _transposed(d: Any) -> dict[str, Any]:
    groups = d.int(1, 2)
    inputs = {"x": d.array(1, 2, 3, 2), "w": d.array(2, 2, 2, 3), "b": d.array(2 * groups)}
    options = _window(d, 2) | {"group": groups}
    if "auto_pad" in options:
        options["auto_pad"] = d.choice("SAME_UPPER", "SAME_LOWER")
    return {"inputs": inputs, **options}


def _deformable(d: Any) -> dict[str, Any]:
    groups = d.int(1, 2)
    inputs = {
        "x": d.array(1, 2, 4, 4),
        "w": d.array(2, 2, 2, 2),
        "offset": d.array(1, 8 * groups, 3, 3, low=-0.45, high=0.45),
        "b": d.array(2),
        "mask": d.array(1, 4 * groups, 3, 3, low=0.1, high=1),
    }
    return {"inputs": inputs, "offset_group": groups, "kernel_shape": [2, 2], "version": 22}


def _pool(average: bool) -> Any:
    def make(d: Any) -> dict[str, Any]:
        rank = d.int(1, 2)
        options = _window(d, rank) | {"kernel_shape": [2, 3][:rank], "ceil_mode": d.int(0, 1)}
        if average:
            options["count_include_pad"] = d.int(0, 1)
        if "auto_pad" not in options and d.bool():
            options["dilations"] = [1, 2][-rank:]
        return {"inputs": {"x": d.array(2, 2, *[6, 7][:rank])}, **options}

    return make


def _lp_pool(d: Any) -> dict[str, Any]:
    options = {"kernel_shape": [2, 2], "p": d.int(1, 3), "strides": [d.int(1, 2), 1]}
    return {"inputs": {"x": d.array(1, 2, 4, 4)}, **options}


def _unpool(d: Any) -> dict[str, Any]:
    places = np.array([5, 7, 13, 15], np.int64).reshape(1, 1, 2, 2)
    inputs = {"x": d.array(1, 1, 2, 2), "i": places}
    return {"inputs": inputs, "kernel_shape": [2, 2], "strides": [2, 2]}


def _regions_pool(d: Any) -> dict[str, Any]:
    regions = np.array([[0, 0, 0, 3, 3], [0, 1, 1, 4, 3]], np.float64)
    inputs = {"x": d.array(1, 2, 5, 5), "r": regions}
    return {"inputs": inputs, "constants": ["r"], "pooled_shape": [2, 2]}


def _batch_normalization(d: Any) -> dict[str, Any]:
    inputs = {"x": d.array(3, 2, 2), "s": d.array(2), "b": d.array(2), "m": d.array(2)}
    inputs["v"] = d.array(2, low=0.5, high=2)
    return {"inputs": inputs, "epsilon": 1e-3, "training_mode": d.int(0, 1)}


def _affine_normalization(d: Any) -> dict[str, Any]:
    return {"inputs": {"x": d.array(2, 4, 3), "s": d.array(4), "b": d.array(4)}, "epsilon": 1e-3}


def _group_normalization(d: Any) -> dict[str, Any]:
    version = d.choice(18, 21)
    count = 2 if version == 18 else 4
    inputs = {"x": d.array(2, 4, 3), "s": d.array(count), "b": d.array(count)}
    return {"inputs": inputs, "num_groups": 2, "epsilon": 1e-3, "version": version}


def _over_last(bias: bool, **options: Any) -> Any:
    def make(d: Any) -> dict[str, Any]:
        axis = d.int(-2, -1)
        shape = (2, 3, 4)[axis:]
        inputs = {"x": d.array(2, 3, 4), "s": d.array(*shape)}
        if bias and d.bool():
            inputs["b"] = d.array(*shape)
        return {"inputs": inputs, "axis": axis, "epsilon": 1e-3, **options}

    return make


def _skip_layer(d: Any) -> dict[str, Any]:
    inputs = {"x": d.array(1, 2, 4), "k": d.array(1, 2, 4), "g": d.array(4), "b": d.array(4), "c": d.array(4)}
    return {"inputs": inputs, "epsilon": 1e-3}


def _skip_simplified(d: Any) -> dict[str, Any]:
    inputs = {"x": d.array(1, 2, 4), "k": d.array(1, 2, 4), "g": d.array(4)}
    return {"inputs": inputs, "epsilon": 1e-3}


def _embedding(d: Any) -> dict[str, Any]:
    ids = np.array([[0, 2, 1]], np.int32)
    inputs = {"ids": ids, "kinds": ids % 2, "words": d.array(3, 4), "places": d.array(3, 4)}
    inputs |= {"segments": d.array(2, 4), "g": d.array(4), "b": d.array(4)}
    return {"inputs": inputs, "epsilon": 1e-3}


def _response_normalization(d: Any) -> dict[str, Any]:
    options = {"size": d.choice(1, 3, 5), "alpha": 0.1, "beta": 0.7, "bias": 1.5}
    return {"inputs": {"x": d.array(2, 5, 2, 2)}, **options}


def _product(d: Any) -> dict[str, Any]:
    shapes = d.choice([(2, 3), (3, 2)], [(3,), (3, 2)], [(2, 2, 3), (3,)], [(2, 1, 2, 3), (2, 3, 2)])
    return {"inputs": dict(zip("ab", [d.array(*shape) for shape in shapes], strict=True))}


def _general_product(d: Any) -> dict[str, Any]:
    left, right = d.int(0, 1), d.int(0, 1)
    inputs = {"a": d.array(*((3, 2) if left else (2, 3))), "b": d.array(*((4, 3) if right else (3, 4)))}
    if d.bool():
        inputs["c"] = d.array(*d.choice((4,), (2, 1), (2, 4)))
    options = {"alpha": d.float(0.3, 2), "beta": d.float(0.3, 2), "transA": left, "transB": right}
    return {"inputs": inputs, **options}


def _fused_product(d: Any) -> dict[str, Any]:
    left, right = d.int(0, 1), d.int(0, 1)
    inputs = {"a": d.array(*((2, 3, 2) if left else (2, 2, 3))), "b": d.array(*((4, 3) if right else (3, 4)))}
    return {"inputs": inputs, "transA": left, "transB": right, "alpha": d.float(0.3, 2)}


def _fused_convolution(d: Any) -> dict[str, Any]:
    inputs = {"x": d.array(1, 2, 4, 4), "w": d.array(2, 2, 3, 3), "b": d.array(2), "z": d.array(1, 2, 2, 2)}
    return {"inputs": inputs, "activation": d.choice("Relu", "Tanh", "Sigmoid", "LeakyRelu", "HardSigmoid")}


def _einsum(d: Any) -> dict[str, Any]:
    equation, shapes = d.choice(
        ("ij,jk->ik", [(2, 3), (3, 2)]),
        ("bij , bjk -> bik", [(2, 2, 3), (2, 3, 2)]),
        ("...ii->...i", [(2, 3, 3)]),
        ("i,i", [(3,), (3,)]),
    )
    return {"inputs": {f"x{i}": d.array(*s) for i, s in enumerate(shapes)}, "equation": equation}


def _narrow_product(d: Any) -> dict[str, Any]:
    packed = d.ints(3, 1, 8, low=0, high=256).astype(np.uint8)
    inputs = {"a": d.array(2, 16), "b": packed, "s": d.array(3, low=0.1, high=0.4)}
    return {"inputs": inputs, "K": 16, "N": 3, "bits": 4, "block_size": 16}


def _recurrent(gates: int, bias: int, states: int, **options: Any) -> Any:
    def make(d: Any) -> dict[str, Any]:
        direction = d.choice("forward", "reverse", "bidirectional")
        count, hidden = 2 if direction == "bidirectional" else 1, 2
        inputs: dict[str, Any] = {"x": d.array(3, 2, 2), "w": d.array(count, gates * hidden, 2)}
        inputs |= {"r": d.array(count, gates * hidden, hidden), "b": d.array(count, bias * hidden)}
        order = ["x", "w", "r", "b", ""]
        if d.bool():
            inputs["n"], order[-1] = np.array([2, 3], np.int32), "n"
        if d.bool():
            for state in "hc"[:states]:
                inputs[state] = d.array(count, 2, hidden)
                order.append(state)
        chosen = {key: d.choice(*values) for key, values in options.items()}
        return {
            "inputs": inputs,
            "order": order,
            "outputs": 1 + states,
            "hidden_size": hidden,
            "direction": direction,
            **chosen,
        }

    return make


def _peepholes(d: Any) -> dict[str, Any]:
    inputs = {"x": d.array(2, 1, 2), "w": d.array(1, 8, 2), "r": d.array(1, 8, 2), "p": d.array(1, 6)}
    order = ["x", "w", "r", "", "", "", "", "p"]
    return {"inputs": inputs, "order": order, "hidden_size": 2, "input_forget": d.int(0, 1), "clip": 3.0}


def _resize(d: Any) -> dict[str, Any]:
    mode = d.choice("nearest", "linear", "cubic")
    transformation = d.choice(
        *("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"),
        "tf_crop_and_resize",
    )
    options: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": transformation}
    if mode == "nearest":
        options["nearest_mode"] = d.choice("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
    else:
        options |= {"antialias": d.int(0, 1), "exclude_outside": d.int(0, 1) if mode == "cubic" else 0}
    inputs: dict[str, Any] = {"x": d.array(1, 2, 4, 3)}
    inputs["roi"] = np.array([0, 0, 0.1, 0.2, 1, 1, 0.8, 1.1], np.float32)
    if d.bool():
        inputs["scales"] = np.array([1, 1, *d.choice((2, 2), (0.6, 1.7), (1, 0.5))], np.float32)
        order = ["x", "roi", "scales"]
    else:
        inputs["sizes"] = np.array([1, 2, *d.choice((8, 6), (3, 2), (5, 7))], np.int64)
        order = ["x", "roi", "", "sizes"]
    return {"inputs": inputs, "order": order, "constants": d.choice([], order[1:][-1:]), **options}


def _upsample(d: Any) -> dict[str, Any]:
    inputs = {"x": d.array(1, 2, 3, 2), "scales": np.array([1, 1, 2, 1.5], np.float32)}
    return {"inputs": inputs, "mode": d.choice("nearest", "linear"), "version": 9}


def _grid_sample(d: Any) -> dict[str, Any]:
    mode = d.choice("linear", "cubic", "nearest")
    padding = d.choice("zeros", "border", "reflection")
    inputs = {"x": d.array(1, 2, 4, 4), "grid": d.array(1, 2, 3, 2, low=-0.93, high=0.91)}
    options = {"mode": mode, "padding_mode": padding, "align_corners": d.int(0, 1)}
    # The grid has no gradient where the nearest element is taken.
    return {"inputs": inputs, "constants": ["grid"] if mode == "nearest" else [], **options}


def _affine_grid(d: Any) -> dict[str, Any]:
    if d.bool():
        inputs = {"theta": d.array(2, 2, 3), "size": np.array([2, 1, 3, 2], np.int64)}
    else:
        inputs = {"theta": d.array(1, 3, 4), "size": np.array([1, 1, 2, 3, 2], np.int64)}
    return {"inputs": inputs, "align_corners": d.int(0, 1)}


def _roi_align(d: Any) -> dict[str, Any]:
    regions = np.array([[0.3, 0.4, 3.3, 3.6], [1.2, 0.7, 2.9, 4.1]])
    inputs = {"x": d.array(2, 2, 5, 5), "r": regions, "b": np.array([0, 1], np.int64)}
    options = {"output_height": 2, "output_width": 2, "sampling_ratio": d.choice(0, 1, 2)}
    options["mode"] = d.choice("avg", "max")
    half = d.choice("half_pixel", "output_half_pixel")
    return {"inputs": inputs, "coordinate_transformation_mode": half, **options}


def _columns(d: Any) -> dict[str, Any]:
    inputs = {"x": d.array(1, 8, 9), "i": np.array([4, 4], np.int64), "k": np.array([2, 2], np.int64)}
    return {"inputs": inputs}


def _transform(d: Any) -> dict[str, Any]:
    inverse = d.int(0, 1)
    inputs = {"x": d.array(1, 6, 2 if inverse else d.int(1, 2))}
    onesided = d.int(0, 1) if not inverse and inputs["x"].shape[-1] == 1 else 0
    return {"inputs": inputs, "inverse": inverse, "onesided": onesided}


def _short_time(d: Any) -> dict[str, Any]:
    inputs = {"x": d.array(1, 12, 1), "step": np.int64(3), "window": d.array(4)}
    return {"inputs": inputs, "onesided": d.int(0, 1)}


def _attention(d: Any) -> dict[str, Any]:
    inputs = {"q": d.array(1, 2, 3, 4), "k": d.array(1, 2, 3, 4), "v": d.array(1, 2, 3, 4)}
    # In float64 throughout: ONNX's function body would take the softmax in float32 otherwise.
    return {"inputs": inputs, "is_causal": d.int(0, 1), "softmax_precision": 11, "version": 23}


def _rotary(d: Any) -> dict[str, Any]:
    inputs = {"x": d.array(1, 2, 3, 4), "c": d.array(1, 3, 2), "s": d.array(1, 3, 2)}
    return {"inputs": inputs, "interleaved": d.int(0, 1), "version": 23}


def _loss(d: Any) -> dict[str, Any]:
    labels = d.ints(3, low=0, high=4)
    return {"inputs": {"x": d.array(3, 4), "t": labels}, "reduction": d.choice("mean", "sum", "none")}


CASES: dict[str, Any] = {
    "Conv": _convolution,
    "ConvTranspose": _transposed,
    "DeformConv": _deformable,
    "MaxPool": _pool(average=False),
    "AveragePool": _pool(average=True),
    "LpPool": _lp_pool,
    "MaxUnpool": _unpool,
    "MaxRoiPool": _regions_pool,
    "GlobalAveragePool": lambda d: {"inputs": {"x": d.array(2, 2, 3, 2)}},
    "GlobalMaxPool": lambda d: {"inputs": {"x": d.array(2, 2, 3, 2)}},
    "GlobalLpPool": lambda d: {"inputs": {"x": d.array(2, 2, 3)}, "p": d.int(1, 3)},
    "com.microsoft::NhwcMaxPool": lambda d: {"inputs": {"x": d.array(1, 4, 4, 2)}, "kernel_shape": [2, 2]},
    "BatchNormalization": _batch_normalization,
    "InstanceNormalization": _affine_normalization,
    "GroupNormalization": _group_normalization,
    "LayerNormalization": _over_last(bias=True, stash_type=11),
    "RMSNormalization": _over_last(bias=False, stash_type=11, version=23),
    "SimplifiedLayerNormalization": _over_last(bias=False, stash_type=11),
    "com.microsoft::SkipLayerNormalization": _skip_layer,
    "com.microsoft::SkipSimplifiedLayerNormalization": _skip_simplified,
    "com.microsoft::EmbedLayerNormalization": _embedding,
    "LRN": _response_normalization,
    "LpNormalization": lambda d: {"inputs": {"x": d.array(3, 4)}, "axis": d.int(-2, 1), "p": d.int(1, 2)},
    "MeanVarianceNormalization": lambda d: {"inputs": {"x": d.array(2, 2, 3, 2)}},
    "MatMul": _product,
    "Gemm": _general_product,
    "Einsum": _einsum,
    "Det": lambda d: {"inputs": {"x": d.array(2, 3, 3)}},
    "com.microsoft::FusedMatMul": _fused_product,
    "com.microsoft::TransposeMatMul": _fused_product,
    "com.microsoft::FusedGemm": lambda d: _general_product(d) | {"activation": "LeakyRelu"},
    "com.microsoft::FusedConv": _fused_convolution,
    "com.microsoft::MatMulNBits": _narrow_product,
    "RNN": _recurrent(1, 2, 1, activations=(["Tanh"] * 2, ["Softsign"] * 2)),
    "GRU": _recurrent(3, 6, 1, linear_before_reset=(0, 1)),
    "LSTM": _recurrent(4, 8, 2, input_forget=(0, 1)),
    "LSTM with peepholes": _peepholes,
    "Resize": _resize,
    "Upsample": _upsample,
    "GridSample": _grid_sample,
    "AffineGrid": _affine_grid,
    "RoiAlign": _roi_align,
    "Col2Im": _columns,
    "DFT": _transform,
    "STFT": _short_time,
    "Attention": _attention,
    "RotaryEmbedding": _rotary,
    "SoftmaxCrossEntropyLoss": _loss,
    "NegativeLogLikelihoodLoss": _loss,
}


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=8, deadline=None, derandomize=True)
@given(data=st.data())
def test_gradient(name: str, data: st.DataObject, check_gradient: Any) -> None:
    check_gradient(name, CASES[name], data)
