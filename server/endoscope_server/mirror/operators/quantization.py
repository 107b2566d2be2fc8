"""Between real and quantised numbers; see :mod:`endoscope_server.mirror.quantized` for the gradients."""

from __future__ import annotations

from typing import Any

import torch
from onnx import TensorProto
from torch import Tensor

from endoscope_server.mirror.node import Function, Node
from endoscope_server.mirror.operators.casting import NARROW_INTEGERS, converter
from endoscope_server.mirror.quantized import limits, straight_through, to_range, tracked, wide
from endoscope_server.mirror.registry import operator
from endoscope_server.mirror.tensors import FLOAT8, torch_type


def _spread(value: Tensor, x: Tensor, axis: int, block: int) -> Tensor:
    """A scale or zero point in a shape that fits x: one for all, one for each slice, one for each block."""
    if value.numel() == 1 and not block:
        return value.reshape(())
    along = axis % x.ndim
    if block:
        return value.repeat_interleave(block, along).narrow(along, 0, x.shape[along])
    shape = [1] * x.ndim
    shape[along] = -1
    return value.reshape(shape)


def _range(element: int, dtype: torch.dtype) -> tuple[int, int]:
    if element in NARROW_INTEGERS:
        bits, signed = NARROW_INTEGERS[element]
        return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    return limits(dtype)


@operator("QuantizeLinear", since=10)
@operator("QuantizeLinear", domain="com.microsoft")
def _quantize(node: Node) -> Function:
    axis, block = node.attribute("axis", 1), node.attribute("block_size", 0)
    element = node.input_type(2) or node.attribute("output_dtype", 0) or TensorProto.UINT8
    precision = torch_type(node.attribute("precision")) if node.attribute("precision", 0) else None
    dtype = torch_type(element)
    if dtype in FLOAT8 or element == TensorProto.FLOAT4E2M1:
        convert = converter(element, bool(node.attribute("saturate", 1)))

        def to_float(x: Tensor, scale: Tensor, _: Any = None) -> Any:
            divided = x / _spread(scale, x, axis, block).to(x.dtype)
            result = convert(divided.detach())
            return straight_through(divided, result) if tracked(x) else result

        return to_float
    low, high = _range(element, dtype)

    def apply(x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        by = _spread(scale, x, axis, block)
        divided = x.to(precision) / by.to(precision) if precision else wide(x) / wide(by)
        return to_range(divided, 0 if zero is None else wide(_spread(zero, x, axis, block)), low, high, dtype)

    return apply


@operator("DequantizeLinear", since=10)
@operator("DequantizeLinear", domain="com.microsoft")
def _dequantize(node: Node) -> Function:
    axis, block = node.attribute("axis", 1), node.attribute("block_size", 0)
    given = node.attribute("output_dtype", 0)

    def apply(x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        dtype = torch_type(given) if given else scale.dtype
        numbers = wide(x)
        if zero is not None:
            numbers = numbers - wide(_spread(zero, x, axis, block))
        return (numbers * wide(_spread(scale, x, axis, block))).to(dtype)

    return apply


@operator("DynamicQuantizeLinear", since=11)
def _dynamic(_: Node) -> Function:
    return dynamic_quantize


def dynamic_quantize(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The range of the values themselves, zero included, spread over uint8.

    Returns:
        The quantised tensor, its scale, its zero point.
    """
    fixed = x.detach()
    low, high = fixed.amin().clamp(max=0), fixed.amax().clamp(min=0)
    scale = (high - low) / 255
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = torch.round((-low / scale).clamp(0, 255))
    return to_range(x / scale, zero, 0, 255, torch.uint8), scale, zero.to(torch.uint8)
