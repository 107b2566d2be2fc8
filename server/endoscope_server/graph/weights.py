"""Stored tensors as numpy arrays; external data is mapped into memory, never copied."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from endoscope_server.errors import InvalidInput, LimitExceeded

Array = NDArray[np.generic]

PACKED_BITS: Mapping[int, int] = {
    getattr(onnx.TensorProto, name): bits
    for name, bits in (("INT4", 4), ("UINT4", 4), ("FLOAT4E2M1", 4), ("INT2", 2), ("UINT2", 2))
    if hasattr(onnx.TensorProto, name)
}


def dtype_name(element_type: int) -> str | None:
    """``float32`` for ``TensorProto.FLOAT`` and so on; None for an undefined type."""
    if element_type == onnx.TensorProto.UNDEFINED:
        return None
    if element_type == onnx.TensorProto.STRING:
        return "string"
    try:
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(element_type)).name
    except (KeyError, TypeError, ValueError):
        return None


def read(
    tensor: onnx.TensorProto, folder: Path | None, limit: int, raw: NDArray[np.uint8] | None = None
) -> Array:
    """The tensor's values, read-only.

    Args:
        tensor: An initializer or an attribute's tensor, with its data inside, apart or external.
        folder: The model's folder, which external data may not leave; None for a model without one.
        limit: The largest size accepted, in bytes.
        raw: The tensor's raw data, if it was read apart; the result shares its memory.

    Raises:
        InvalidInput: if the data is missing, outside of the folder, or not of the declared size.
        LimitExceeded: if the declared size is above ``limit``.
    """
    expected = _declared_bytes(tensor)
    if expected is not None and expected > limit:
        raise LimitExceeded(
            f"tensor {tensor.name!r} declares {expected} bytes, expected at most {limit}",
            reason="TENSOR_TOO_LARGE",
            metadata={"tensor": tensor.name},
        )
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        array = _external(tensor, folder, expected)
    elif raw is not None and expected is not None:
        if len(raw) != expected:
            raise _wrong_size(tensor, expected, len(raw))
        array = _interpret(tensor, raw)
    else:
        if expected is not None and tensor.HasField("raw_data") and len(tensor.raw_data) != expected:
            raise _wrong_size(tensor, expected, len(tensor.raw_data))
        try:
            array = onnx.numpy_helper.to_array(tensor)
        except (TypeError, ValueError) as error:
            raise _invalid(tensor, "INVALID_TENSOR", f"can't be read: {error}") from error
    if array.flags.writeable:
        array = array.view()
        array.flags.writeable = False
    return array


def _declared_bytes(tensor: onnx.TensorProto) -> int | None:
    if any(size < 0 for size in tensor.dims):
        raise _invalid(tensor, "INVALID_TENSOR", f"has a negative size in {list(tensor.dims)}")
    name = dtype_name(tensor.data_type)
    if name is None:
        raise _invalid(tensor, "INVALID_TENSOR", f"has the unknown element type {tensor.data_type}")
    if name == "string":
        return None
    elements = math.prod(tensor.dims)
    if bits := PACKED_BITS.get(tensor.data_type):
        return -(-elements * bits // 8)
    return elements * np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize


def _external(tensor: onnx.TensorProto, folder: Path | None, expected: int | None) -> Array:
    path, offset, length = _locate(tensor, folder)
    if expected is None:
        raise _invalid(tensor, "INVALID_TENSOR", "holds strings, which can't be external data")
    if length is not None and length != expected:
        raise _wrong_size(tensor, expected, length)
    available = path.stat().st_size - offset
    if available < expected:
        raise _wrong_size(tensor, expected, max(available, 0))
    if expected == 0:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
        return np.zeros(tuple(tensor.dims), dtype)
    raw: NDArray[np.uint8] = np.memmap(path, np.uint8, "c", offset, (expected,))
    return _interpret(tensor, raw.view(np.ndarray))


def _interpret(tensor: onnx.TensorProto, raw: NDArray[np.uint8]) -> Array:
    """Bytes as the tensor's type and shape have it; copied only where they don't lie as numpy wants them."""
    dims = tuple(tensor.dims)
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    if tensor.data_type in PACKED_BITS:
        inline = onnx.TensorProto(data_type=tensor.data_type, dims=dims, raw_data=raw.tobytes())
        return onnx.numpy_helper.to_array(inline)
    if raw.ctypes.data % dtype.itemsize:
        raw = raw.copy()
    return raw.view(dtype).reshape(dims)


def _locate(tensor: onnx.TensorProto, folder: Path | None) -> tuple[Path, int, int | None]:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if folder is None:
        raise _invalid(
            tensor, "EXTERNAL_DATA_MISSING", "has external data, but the model came without a folder"
        )
    folder = folder.resolve()
    path = (folder / location).resolve()
    if not location or Path(location).is_absolute() or not path.is_relative_to(folder):
        raise _invalid(
            tensor,
            "EXTERNAL_DATA_OUTSIDE",
            f"has external data at {location!r}, expected a relative path inside of the model's folder",
        )
    if not path.is_file():
        raise _invalid(
            tensor, "EXTERNAL_DATA_MISSING", f"has external data at {location!r}, which is missing"
        )
    try:
        offset = int(entries.get("offset", "0"))
        length = int(entries["length"]) if "length" in entries else None
    except ValueError as error:
        raise _invalid(
            tensor, "INVALID_TENSOR", "has an external offset or length that is no number"
        ) from error
    if offset < 0:
        raise _invalid(tensor, "INVALID_TENSOR", f"has the external offset {offset}, expected 0 or more")
    return path, offset, length


def _wrong_size(tensor: onnx.TensorProto, expected: int, actual: int) -> InvalidInput:
    return _invalid(
        tensor,
        "TENSOR_SIZE_MISMATCH",
        f"of shape {list(tensor.dims)} has {actual} bytes of data, expected {expected}",
    )


def _invalid(tensor: onnx.TensorProto, reason: str, what: str) -> InvalidInput:
    return InvalidInput(f"tensor {tensor.name!r} {what}", reason=reason, metadata={"tensor": tensor.name})
