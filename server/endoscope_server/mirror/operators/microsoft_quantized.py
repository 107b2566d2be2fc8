"""What ONNX Runtime's quantiser leaves beside ONNX's own operators (domain com.microsoft).

Each takes its inputs apart into real numbers, computes as the plain operator does, and quantises the result;
see :mod:`endoscope_server.mirror.quantized` for the gradients.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from endoscope_server.mirror import registry
from endoscope_server.mirror.node import Function, Node
from endoscope_server.mirror.operators.quantization import dynamic_quantize
from endoscope_server.mirror.operators.quantized_linear import shifted
from endoscope_server.mirror.operators.recurrence import Activation, Cell, Layer, lstm_cell, run_layer
from endoscope_server.mirror.quantized import limits, to_range, wide
from endoscope_server.mirror.registry import operator
from endoscope_server.mirror.tensors import torch_type

_DOMAIN = "com.microsoft"


def _real(x: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
    numbers = wide(x)
    return (numbers if zero is None else numbers - wide(zero)) * scale


def _quantized(node: Node, y: Tensor, scale: Tensor, zero: Tensor | None, like: Tensor) -> Tensor:
    element = node.output_type() or node.input_type(0)
    dtype = torch_type(element) if element else (like if zero is None else zero).dtype
    return to_range(y / scale, 0 if zero is None else wide(zero), *limits(dtype), dtype)


@operator("QLinearAdd", "QLinearMul", domain=_DOMAIN)
def _arithmetic(node: Node) -> Function:
    combine: Function = torch.add if node.op_type == "QLinearAdd" else torch.mul

    def apply(
        a: Tensor,
        a_scale: Tensor,
        a_zero: Tensor | None,
        b: Tensor,
        b_scale: Tensor,
        b_zero: Tensor | None,
        y_scale: Tensor,
        y_zero: Tensor | None = None,
    ) -> Tensor:
        y = combine(_real(a, a_scale, a_zero), _real(b, b_scale, b_zero))
        return _quantized(node, y, y_scale, y_zero, a)

    return apply


def _plain(node: Node) -> Function:
    """The operator of ONNX that a quantised one is named for, as it is since opset 13."""
    name = node.op_type.removeprefix("QLinear")
    opset = node.attribute("opset", 13)
    entry = registry.find(name, "", opset)
    if entry is None:
        raise node.unsupported()
    return entry.build(replace(node, op_type=name, domain="", opset=opset, inputs=node.inputs[:1]))


@operator(
    *("QLinearLeakyRelu", "QLinearSigmoid", "QLinearAveragePool", "QLinearGlobalAveragePool"),
    *("QLinearSoftmax", "QLinearReduceMean"),
    domain=_DOMAIN,
)
def _unary(node: Node) -> Function:
    plain, last = _plain(node), bool(node.attribute("channels_last", 0))

    def apply(
        x: Tensor, x_scale: Tensor, x_zero: Tensor | None, y_scale: Tensor, y_zero: Tensor | None = None
    ) -> Tensor:
        real = _real(x, x_scale, x_zero)
        y = plain(real.movedim(-1, 1)).movedim(1, -1) if last else plain(real)
        return _quantized(node, y, y_scale, y_zero, x)

    return apply


@operator("QLinearConcat", domain=_DOMAIN)
def _concat(node: Node) -> Function:
    axis = node.attribute("axis", 0)

    def apply(y_scale: Tensor, y_zero: Tensor, *parts: Tensor) -> Tensor:
        reals = [_real(*parts[start : start + 3]) for start in range(0, len(parts), 3)]
        dtype = y_zero.dtype
        return to_range(torch.cat(reals, axis) / y_scale, wide(y_zero), *limits(dtype), dtype)

    return apply


@operator("QLinearWhere", domain=_DOMAIN)
def _where(_: Node) -> Function:
    def apply(
        condition: Tensor,
        a: Tensor,
        a_scale: Tensor,
        a_zero: Tensor,
        b: Tensor,
        b_scale: Tensor,
        b_zero: Tensor,
        y_scale: Tensor,
        y_zero: Tensor,
    ) -> Tensor:
        y = torch.where(condition, _real(a, a_scale, a_zero), _real(b, b_scale, b_zero))
        return to_range(y / y_scale, wide(y_zero), *limits(y_zero.dtype), y_zero.dtype)

    return apply


@operator("NhwcMaxPool", domain=_DOMAIN)
def _max_pool(node: Node) -> Function:
    entry = registry.find("MaxPool", "", 12)
    if entry is None:
        raise node.unsupported()
    pool = entry.build(replace(node, op_type="MaxPool", domain="", opset=12))
    return lambda x: pool(x.movedim(-1, 1)).movedim(1, -1)


@operator("DynamicQuantizeLSTM", domain=_DOMAIN)
def _lstm(node: Node) -> Function:
    layer = Layer.from_node(node, ["Sigmoid", "Tanh", "Tanh"])
    coupled = bool(node.attribute("input_forget", 0))

    def product(x: Tensor, w: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        quantised, x_scale, x_zero = dynamic_quantize(x)
        terms = x.shape[-1]
        sums = torch.matmul(shifted(quantised, x_zero, terms), shifted(w, zero, terms))
        return sums.to(x.dtype) * (x_scale * scale)

    def apply(
        x: Tensor,
        w: Tensor,
        r: Tensor,
        b: Tensor | None,
        lengths: Tensor | None,
        h: Tensor | None,
        c: Tensor | None,
        p: Tensor | None,
        w_scale: Tensor,
        w_zero: Tensor,
        r_scale: Tensor,
        r_zero: Tensor,
    ) -> Any:
        hidden = r.shape[1]

        def make(direction: int, activations: tuple[Activation, ...]) -> tuple[Any, Cell]:
            bias = 0 if b is None else b[direction].reshape(2, -1).sum(0)

            def recur(state: Tensor) -> Tensor:
                return product(state, r[direction], r_scale[direction], r_zero[direction])

            step = lstm_cell(layer, activations, recur, None if p is None else p[direction], coupled)
            return (
                lambda seq: product(seq, w[direction], w_scale[direction], w_zero[direction]) + bias,
                step,
            )

        return run_layer(layer, make, x, hidden, lengths, [h, c])

    return apply
