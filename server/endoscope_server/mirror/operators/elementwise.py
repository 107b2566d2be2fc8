"""Elementwise arithmetic: one or two tensors (with numpy's broadcasting) to one of the same type."""

from __future__ import annotations

import math
from functools import reduce
from typing import Any

import torch
from onnx import TensorProto
from torch import Tensor

from endoscope_server.mirror.node import Function, Node
from endoscope_server.mirror.registry import operator
from endoscope_server.mirror.tensors import UNSIGNED, widened

_UNARY: dict[str, Function] = {
    "Abs": torch.abs,
    "Neg": torch.neg,
    "Sqrt": torch.sqrt,
    "Exp": torch.exp,
    "Log": torch.log,
    "Reciprocal": torch.reciprocal,
    "Floor": torch.floor,
    "Ceil": torch.ceil,
    "Round": torch.round,
    "Sign": torch.sign,
    "Erf": torch.erf,
    "Sin": torch.sin,
    "Cos": torch.cos,
    "Tan": torch.tan,
    "Asin": torch.asin,
    "Acos": torch.acos,
    "Atan": torch.atan,
    "Sinh": torch.sinh,
    "Cosh": torch.cosh,
    "Asinh": torch.asinh,
    "Acosh": torch.acosh,
    "Atanh": torch.atanh,
}
_UNSIGNED_TYPES = (
    TensorProto.UNDEFINED,
    TensorProto.UINT8,
    TensorProto.UINT16,
    TensorProto.UINT32,
    TensorProto.UINT64,
)


@operator(*_UNARY)
def _unary(node: Node) -> Function:
    function = _UNARY[node.op_type]
    return widened(function) if node.input_type(0) in _UNSIGNED_TYPES else function


def _exact_uint64(function: Function) -> Function:
    """Quotients of uint64 need all 64 bits: numpy has them."""

    def apply(a: Tensor, b: Tensor) -> Tensor:
        return torch.from_numpy(function(a.cpu().numpy(), b.cpu().numpy())).to(a.device)

    return apply


def divide(a: Tensor, b: Tensor) -> Tensor:
    """Division; integers are truncated towards zero, as in C."""
    if a.is_floating_point() or a.is_complex():
        return torch.div(a, b)
    return torch.div(a, b, rounding_mode="trunc")


_ARITHMETIC: dict[str, Function] = {"Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Div": divide}


@operator(*_ARITHMETIC)
def _arithmetic(node: Node) -> Function:
    kind = node.input_type(0)
    function = _ARITHMETIC[node.op_type]
    if node.op_type == "Div":
        if kind == TensorProto.UINT64:
            return _exact_uint64(lambda a, b: a // b)
        if kind in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16):
            function = torch.div
    return widened(function) if kind in _UNSIGNED_TYPES else function


@operator("Mod")
def _mod(node: Node) -> Function:
    if node.input_type(0) == TensorProto.UINT64:
        return _exact_uint64(lambda a, b: a % b)
    return widened(torch.fmod if node.attribute("fmod", 0) else torch.remainder)


@operator("Pow")
def _power(node: Node) -> Function:
    exponent = node.known(1)
    if isinstance(exponent, Tensor) and exponent.numel() == 1 and exponent.ndim == 0:
        scalar = exponent.item()

        def fixed(x: Tensor, _: Tensor) -> Tensor:
            return torch.pow(x, scalar).to(x.dtype)

        return fixed

    def apply(x: Tensor, y: Tensor) -> Tensor:
        if not x.is_floating_point() and not y.is_floating_point():
            wide = torch.pow(x.to(torch.int64), y.to(torch.int64).clamp_min(0))
            return wide.to(x.dtype)
        if not x.is_floating_point():
            return torch.pow(x.to(torch.float64), y.to(torch.float64)).to(x.dtype)
        return torch.pow(x, y.to(x.dtype))

    return apply


def _variadic(pairwise: Function) -> Function:
    safe = widened(pairwise)

    def apply(*values: Tensor) -> Any:
        return reduce(safe, values) if len(values) > 1 else values[0].clone()

    return apply


_VARIADIC: dict[str, Function] = {"Max": torch.maximum, "Min": torch.minimum, "Sum": torch.add}


@operator(*_VARIADIC)
def _variadic_operator(node: Node) -> Function:
    return _variadic(_VARIADIC[node.op_type])


@operator("Mean")
def _mean(node: Node) -> Function:
    total, count = _variadic(torch.add), len(node.inputs)
    return lambda *values: total(*values) / count


@operator("Clip")
def _clip_attributes(node: Node) -> Function:
    low, high = node.attribute("min", -math.inf), node.attribute("max", math.inf)
    return lambda x: torch.clamp(x, low, high)


@operator("Clip", since=11)
def _clip_inputs(node: Node) -> Function:
    bounds = []
    for index in (1, 2):
        value = node.known(index)
        if node.given(index) and not isinstance(value, Tensor):
            break
        bounds.append(None if value is None else value.item())
    if len(bounds) == 2:
        low, high = bounds
        if low is None and high is None:
            return lambda x, *_: x.clone()

        def fixed(x: Tensor, *_: Tensor) -> Tensor:
            # ONNX takes min(max(x, low), high), so that high wins where the two are crossed.
            return torch.clamp(x, low, high)

        return widened(fixed)

    def apply(x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
        if low is None and high is None:
            return x.clone()
        return torch.clamp(x, low, high)

    def exact(x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Any:
        return (widened(apply) if x.dtype in UNSIGNED else apply)(x, low, high)

    return exact
