"""Convolutions and products of quantised numbers; see :mod:`endoscope_server.mirror.quantized`."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from endoscope_server.mirror.node import Function, Node
from endoscope_server.mirror.operators.convolution import convolution, with_window
from endoscope_server.mirror.operators.quantization import dynamic_quantize
from endoscope_server.mirror.quantized import limits, to_range, whole, wide
from endoscope_server.mirror.registry import operator
from endoscope_server.mirror.spatial import Window
from endoscope_server.mirror.tensors import torch_type

# Sums of so many products of 8-bit numbers stay exact in float32.
_EXACT = (1 << 24) // (255 * 255)


def shifted(x: Tensor, zero: Tensor | None, terms: int) -> Tensor:
    """``x - zero`` in a type in which sums of ``terms`` products are exact."""
    dtype = torch.float32 if terms <= _EXACT else torch.float64
    numbers = wide(x, dtype)
    return numbers if zero is None else numbers - zero.to(dtype)


def _columns(value: Tensor | None, rank: int) -> Tensor | None:
    """A scale or zero point of each output channel, along axis ``-rank`` of the result."""
    if value is None or value.numel() == 1:
        return None if value is None else value.reshape(())
    return value.reshape(-1, *[1] * (rank - 1))


def _convolve(window: Window, groups: int) -> Function:
    """Input, weight, zero points, bias to the exact sums."""
    convolve = convolution(window, groups)

    def apply(x: Tensor, w: Tensor, x_zero: Tensor | None, w_zero: Tensor | None, bias: Any = None) -> Any:
        terms = math.prod(w.shape[1:])
        weight = shifted(w, _columns(w_zero, w.ndim), terms)
        sums = convolve(shifted(x, x_zero, terms), weight)
        return sums if bias is None else sums + _columns(bias, x.ndim - 1)

    return apply


@operator("ConvInteger", since=10)
def _integer_convolution(node: Node) -> Function:
    def make(window: Window) -> Function:
        convolve = _convolve(window, node.attribute("group", 1))

        def apply(x: Tensor, w: Tensor, x_zero: Tensor | None = None, w_zero: Tensor | None = None) -> Any:
            return whole(convolve(x, w, x_zero, w_zero), torch.int32)

        return apply

    return with_window(node, make)


@operator("QLinearConv", since=10)
@operator("QLinearConv", domain="com.microsoft")
def _quantized_convolution(node: Node) -> Function:
    dtype = torch_type(node.output_type() or node.input_type(7))
    last = bool(node.attribute("channels_last", 0)) if node.domain else False

    def make(window: Window) -> Function:
        convolve = _convolve(window, node.attribute("group", 1))

        def apply(
            x: Tensor,
            x_scale: Tensor,
            x_zero: Tensor,
            w: Tensor,
            w_scale: Tensor,
            w_zero: Tensor,
            y_scale: Tensor,
            y_zero: Tensor,
            bias: Tensor | None = None,
        ) -> Any:
            x = x.movedim(-1, 1) if last else x
            scale = x_scale * w_scale / y_scale
            factor = scale.reshape(-1, *[1] * (x.ndim - 2)) if scale.numel() > 1 else scale.reshape(())
            sums = convolve(x, w, x_zero, w_zero, bias)
            y = to_range(sums.to(torch.float32) * factor, wide(y_zero), *limits(dtype), dtype)
            return y.movedim(1, -1) if last else y

        return apply

    return with_window(node, make, 3)


def _row_zero(zero: Tensor | None) -> Tensor | None:
    """A zero point for each row of the left matrix."""
    return zero.unsqueeze(-1) if zero is not None and zero.ndim == 1 and zero.numel() > 1 else zero


def _sums(a: Tensor, a_zero: Tensor | None, b: Tensor, b_zero: Tensor | None) -> Tensor:
    """The matrix product of whole numbers less their zero points, exact."""
    terms = a.shape[-1]
    return torch.matmul(shifted(a, a_zero, terms), shifted(b, b_zero, terms))


@operator("MatMulInteger", since=10)
def _integer_product(_: Node) -> Function:
    def apply(a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None) -> Tensor:
        return whole(_sums(a, _row_zero(a_zero), b, b_zero), torch.int32)

    return apply


@operator("QLinearMatMul", since=10)
@operator("QLinearMatMul", domain="com.microsoft")
def _quantized_product(node: Node) -> Function:
    dtype = torch_type(node.output_type() or node.input_type(7))

    def apply(
        a: Tensor,
        a_scale: Tensor,
        a_zero: Tensor,
        b: Tensor,
        b_scale: Tensor,
        b_zero: Tensor,
        y_scale: Tensor,
        y_zero: Tensor,
    ) -> Tensor:
        sums = _sums(a, _row_zero(a_zero), b, b_zero)
        scale = wide(_row_zero(a_scale)) * wide(b_scale) / wide(y_scale)  # type: ignore[arg-type]
        return to_range(sums.to(torch.float32) * scale, wide(y_zero), *limits(dtype), dtype)

    return apply


@operator("QGemm", domain="com.microsoft")
def _quantized_general_product(node: Node) -> Function:
    alpha = node.attribute("alpha", 1.0)
    left, right = bool(node.attribute("transA", 0)), bool(node.attribute("transB", 0))

    def apply(
        a: Tensor,
        a_scale: Tensor,
        a_zero: Tensor,
        b: Tensor,
        b_scale: Tensor,
        b_zero: Tensor,
        c: Tensor | None = None,
        y_scale: Tensor | None = None,
        y_zero: Tensor | None = None,
    ) -> Tensor:
        a, b = a.t() if left else a, b.t() if right else b
        sums = _sums(a, a_zero, b, b_zero)
        sums = sums if c is None else sums + c
        scaled = sums.to(torch.float32) * (alpha * a_scale * b_scale)
        if y_scale is None:
            return scaled
        zero = torch.zeros((), dtype=a.dtype) if y_zero is None else y_zero
        dtype = zero.dtype
        return to_range(scaled / y_scale, wide(zero), *limits(dtype), dtype)

    return apply


@operator("MatMulIntegerToFloat", domain="com.microsoft")
def _product_to_float(_: Node) -> Function:
    def apply(
        a: Tensor,
        b: Tensor,
        a_scale: Tensor,
        b_scale: Tensor,
        a_zero: Tensor | None = None,
        b_zero: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        sums = _sums(a, _row_zero(a_zero), b, b_zero)
        result = sums.to(torch.float32) * (a_scale * b_scale)
        return result if bias is None else result + bias

    return apply


@operator("DynamicQuantizeMatMul", domain="com.microsoft")
def _dynamic_product(_: Node) -> Function:
    def apply(
        a: Tensor, b: Tensor, b_scale: Tensor, b_zero: Tensor | None = None, bias: Tensor | None = None
    ) -> Tensor:
        quantised, scale, zero = dynamic_quantize(a)
        terms = a.shape[-1]
        sums = torch.matmul(shifted(quantised, zero, terms), shifted(b, b_zero, terms))
        result = sums.to(torch.float32) * (scale * b_scale)
        return result if bias is None else result + bias

    return apply


@operator("MatMulNBits", domain="com.microsoft")
def _narrow_product(node: Node) -> Function:
    bits, block = node.attribute("bits", 4), node.attribute("block_size")
    inner, columns = node.attribute("K"), node.attribute("N")
    if bits not in (2, 4, 8):
        raise node.unsupported(f"its weights have {bits} bits, expected 2, 4 or 8")
    per_byte, middle = 8 // bits, float(1 << (bits - 1))
    blocks = -(-inner // block)

    def unpacked(packed: Tensor, count: int) -> Tensor:
        shifts = torch.arange(per_byte, device=packed.device, dtype=torch.uint8) * bits
        parts = (packed.unsqueeze(-1) >> shifts) & ((1 << bits) - 1)
        return parts.reshape(columns, -1, parts.shape[-2] * per_byte)[..., :count]

    def apply(
        a: Tensor,
        b: Tensor,
        scales: Tensor,
        zeros: Tensor | None = None,
        groups: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        if groups is not None:
            raise ValueError("g_idx is deprecated and not mirrored, expected it to be omitted")
        weights = unpacked(b.reshape(columns, blocks, -1), block).to(a.dtype)
        if zeros is None:
            weights = weights - middle
        elif zeros.dtype == torch.uint8:
            weights = weights - unpacked(zeros.reshape(columns, 1, -1), blocks).reshape(
                columns, blocks, 1
            ).to(a.dtype)
        else:
            weights = weights - zeros.reshape(columns, blocks, 1)
        weights = (weights * scales.reshape(columns, blocks, 1)).reshape(columns, -1)[:, :inner]
        return functional.linear(a, weights, bias)

    return apply
