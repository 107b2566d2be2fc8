"""ONNX element types in torch, and values on their way between numpy and torch."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from torch import Tensor

Array = NDArray[Any]
Value = Any
"""A tensor, a list of tensors (sequence), None (empty optional), or a numpy object array (strings)."""

TORCH_TYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.UINT8: torch.uint8,
    TensorProto.INT8: torch.int8,
    TensorProto.UINT16: torch.uint16,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.BOOL: torch.bool,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.UINT32: torch.uint32,
    TensorProto.UINT64: torch.uint64,
    TensorProto.COMPLEX64: torch.complex64,
    TensorProto.COMPLEX128: torch.complex128,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.FLOAT8E4M3FN: torch.float8_e4m3fn,
    TensorProto.FLOAT8E4M3FNUZ: torch.float8_e4m3fnuz,
    TensorProto.FLOAT8E5M2: torch.float8_e5m2,
    TensorProto.FLOAT8E5M2FNUZ: torch.float8_e5m2fnuz,
    TensorProto.FLOAT8E8M0: torch.float8_e8m0fnu,
    # Narrower than a byte: held in the next wider type, their own type is known from the graph.
    TensorProto.INT4: torch.int8,
    TensorProto.UINT4: torch.uint8,
    TensorProto.INT2: torch.int8,
    TensorProto.UINT2: torch.uint8,
    TensorProto.FLOAT4E2M1: torch.float32,
}
_NARROW: dict[int, Any] = {
    TensorProto.INT4: ml_dtypes.int4,
    TensorProto.UINT4: ml_dtypes.uint4,
    TensorProto.INT2: ml_dtypes.int2,
    TensorProto.UINT2: ml_dtypes.uint2,
    TensorProto.FLOAT4E2M1: ml_dtypes.float4_e2m1fn,
}
# Types that torch knows and numpy only through ml_dtypes: they cross as unsigned integers.
_BITS: dict[torch.dtype, tuple[Any, Any, torch.dtype]] = {
    torch.bfloat16: (ml_dtypes.bfloat16, np.int16, torch.int16),
    torch.float8_e4m3fn: (ml_dtypes.float8_e4m3fn, np.uint8, torch.uint8),
    torch.float8_e4m3fnuz: (ml_dtypes.float8_e4m3fnuz, np.uint8, torch.uint8),
    torch.float8_e5m2: (ml_dtypes.float8_e5m2, np.uint8, torch.uint8),
    torch.float8_e5m2fnuz: (ml_dtypes.float8_e5m2fnuz, np.uint8, torch.uint8),
    torch.float8_e8m0fnu: (ml_dtypes.float8_e8m0fnu, np.uint8, torch.uint8),
}
_BITS_BY_NUMPY = {np.dtype(entry[0]): (dtype, *entry[1:]) for dtype, entry in _BITS.items()}
_NARROW_BY_NUMPY = {np.dtype(narrow): TORCH_TYPES[element] for element, narrow in _NARROW.items()}

UNSIGNED = frozenset({torch.uint16, torch.uint32, torch.uint64})
FLOAT8 = frozenset(dtype for dtype in _BITS if dtype is not torch.bfloat16)


def torch_type(element_type: int) -> torch.dtype:
    """The torch type that holds values of an ONNX element type.

    Raises:
        KeyError: for strings and undefined types.
    """
    return TORCH_TYPES[element_type]


def from_numpy(array: Array) -> Value:
    """A tensor of the array's values, sharing its memory where possible; strings stay in numpy."""
    array = np.asarray(array)
    if array.dtype.kind in "OUS" or array.dtype.kind == "T":
        return array.astype(object)
    if (narrow := _NARROW_BY_NUMPY.get(array.dtype)) is not None:
        return torch.from_numpy(array.astype(np.float32)).to(narrow)
    if not array.flags.c_contiguous:
        array = np.array(array, order="C")
    if (bits := _BITS_BY_NUMPY.get(array.dtype)) is not None:
        dtype, numpy_bits, _ = bits
        return _share(array.view(numpy_bits)).view(dtype)
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("="))
    return _share(array)


def _share(array: Array) -> Tensor:
    with warnings.catch_warnings():
        # torch warns of read-only memory; nothing here ever writes into a constant.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def to_numpy(value: Value, element_type: int = TensorProto.UNDEFINED) -> Any:
    """The value in numpy, in the exact type of ``element_type`` where that is given."""
    if value is None:
        return None
    if isinstance(value, (list, tuple)):
        return [to_numpy(item, element_type) for item in value]
    if isinstance(value, np.ndarray):
        return value
    tensor: Tensor = value.detach().cpu()
    if (bits := _BITS.get(tensor.dtype)) is not None:
        numpy_type, _, torch_bits = bits
        return tensor.contiguous().view(torch_bits).numpy().view(numpy_type)
    array = tensor.resolve_conj().numpy()
    narrow = _NARROW.get(element_type)
    return array if narrow is None else array.astype(narrow)


def widened(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that also takes unsigned 16, 32 and 64-bit tensors, which torch has little arithmetic for.

    Computed in int64 and cut back, so that overflow wraps as in C. uint64 values above 2^63 wrap too:
    right for sums, differences and products, wrong for quotients and comparisons of such values.
    """

    @functools.wraps(function)
    def apply(*arguments: Any) -> Any:
        for argument in arguments:
            if isinstance(argument, Tensor) and argument.dtype in UNSIGNED:
                dtype = argument.dtype
                break
        else:
            return function(*arguments)
        wide = [
            item.to(torch.int64) if isinstance(item, Tensor) and item.dtype in UNSIGNED else item
            for item in arguments
        ]
        result = function(*wide)
        return result.to(dtype) if isinstance(result, Tensor) and result.dtype == torch.int64 else result

    return apply
