"""Conversions between element types, and Dropout, which ends as one of a mask."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import torch
from onnx import TensorProto
from torch import Tensor

from endoscope_server.mirror.node import Function, Node
from endoscope_server.mirror.registry import operator
from endoscope_server.mirror.tensors import FLOAT8, from_numpy, torch_type

NARROW_INTEGERS: dict[int, tuple[int, bool]] = {
    TensorProto.INT4: (4, True),
    TensorProto.UINT4: (4, False),
    TensorProto.INT2: (2, True),
    TensorProto.UINT2: (2, False),
}
_FINITE_E8M0 = 2.0**127


def converter(target: int, saturate: bool = True, rounding: str = "up") -> Function:
    """A function that converts to an ONNX element type as Cast does.

    Args:
        target: The ONNX element type.
        saturate: For 8-bit floats, whether what is too large becomes the largest number.
        rounding: For the exponent-only type: ``up``, ``down`` or ``nearest``.
    """
    if target == TensorProto.STRING:
        return _to_string
    dtype = torch_type(target)
    if target in NARROW_INTEGERS:
        return _to_narrow(dtype, *NARROW_INTEGERS[target])
    if target == TensorProto.FLOAT4E2M1:
        return _to_float4
    if dtype == torch.float8_e8m0fnu:
        return lambda x: _to_exponent(_numbers(x), rounding)
    if dtype in FLOAT8:
        return lambda x: _to_float8(_numbers(x), dtype, saturate)

    def plain(x: Any) -> Tensor:
        x = _numbers(x, dtype)
        if x.is_complex() and not dtype.is_complex:
            x = x.real
        return x.to(dtype)

    return plain


def _numbers(x: Any, dtype: torch.dtype = torch.float32) -> Tensor:
    """Strings parsed; tensors as they are."""
    if isinstance(x, Tensor):
        return x
    parse = int if not dtype.is_floating_point and dtype != torch.bool else float
    return (
        torch.tensor(
            [parse(item) for item in x.reshape(-1)], dtype=torch.float64 if parse is float else dtype
        )
        .to(dtype)
        .reshape(x.shape)
    )


def _to_string(x: Any) -> Any:
    if not isinstance(x, Tensor):
        return x
    items = x.float().numpy() if x.dtype == torch.bfloat16 else x.numpy()
    text = np.array([str(item) for item in items.reshape(-1)], dtype=object)
    return text.reshape(items.shape)


def _to_narrow(dtype: torch.dtype, bits: int, signed: bool) -> Function:
    def apply(x: Any) -> Tensor:
        x = _numbers(x, torch.int32)
        whole = x.to(torch.float32).to(torch.int32) if x.is_floating_point() else x.to(torch.int32)
        low = whole & ((1 << bits) - 1)
        if signed:
            low = torch.where(low >= 1 << (bits - 1), low - (1 << bits), low)
        return low.to(dtype)

    return apply


def _to_float4(x: Any) -> Tensor:
    array = _numbers(x).to(torch.float32).numpy()
    return torch.from_numpy(array.astype(ml_dtypes.float4_e2m1fn).astype(np.float32))


def _to_float8(x: Tensor, dtype: torch.dtype, saturate: bool) -> Tensor:
    wide = x.to(torch.float32)
    if saturate:
        largest = torch.finfo(dtype).max
        return wide.clamp(-largest, largest).to(dtype)
    name = str(dtype).removeprefix("torch.")
    result: Tensor = from_numpy(wide.detach().numpy().astype(getattr(ml_dtypes, name)))
    return result


def _to_exponent(x: Tensor, rounding: str) -> Tensor:
    wide = x.to(torch.float32)
    mantissa, exponent = torch.frexp(wide)
    # frexp's mantissa lies in [0.5, 1): the power of two below is exponent - 1.
    if rounding == "up":
        exponent = torch.where(mantissa > 0.5, exponent, exponent - 1)
    elif rounding == "down":
        exponent = exponent - 1
    else:
        exponent = torch.where(mantissa >= 0.75, exponent, exponent - 1)
    # Zero has no exponent: it becomes the least power of two.
    bits = torch.where(wide == 0, 0, (exponent + 127).clamp(0, 254)).to(torch.uint8)
    bits = torch.where(torch.isfinite(wide), bits, torch.full_like(bits, 255))
    return bits.view(torch.float8_e8m0fnu)


@operator("Cast")
def _cast(node: Node) -> Function:
    return converter(
        node.attribute("to"), bool(node.attribute("saturate", 1)), node.attribute("round_mode", "up")
    )


@operator("CastLike")
def _cast_like(node: Node) -> Function:
    kind = node.input_type(1)
    if kind:
        convert = converter(kind, bool(node.attribute("saturate", 1)), node.attribute("round_mode", "up"))
        return lambda x, _: convert(x)
    return lambda x, like: x.to(like.dtype)


@operator("BitCast")
def _bit_cast(node: Node) -> Function:
    dtype = torch_type(node.attribute("to"))
    return lambda x: x.contiguous().view(dtype)


@operator("Dropout")
def _dropout(_: Node) -> Function:
    return lambda x: (x, torch.ones_like(x, dtype=torch.bool))


@operator("Dropout", since=12, pure=False)
def _dropout_training(node: Node) -> Function:
    training, seed = node.known(2), node.attribute("seed")
    if not node.given(2) or (isinstance(training, Tensor) and not bool(training)):
        return lambda x, *_: (x, torch.ones_like(x, dtype=torch.bool))

    def apply(x: Tensor, ratio: Tensor | None = None, train: Tensor | None = None) -> Any:
        rate = 0.5 if ratio is None else float(ratio)
        if train is None or not bool(train) or rate == 0:
            return x, torch.ones_like(x, dtype=torch.bool)
        # The generator of ONNX's own reference, so that a seed means the same.
        drawn = np.random.RandomState(int(seed or 0)).uniform(0, 1, x.shape)
        mask = torch.from_numpy(drawn >= rate).to(x.device)
        return x * mask / (1 - rate), mask

    return apply
