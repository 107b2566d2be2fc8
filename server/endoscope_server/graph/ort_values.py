"""Arrays as ONNX Runtime's values and back, in element types too that numpy knows only through ml_dtypes."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx.helper import np_dtype_to_tensor_dtype, tensor_dtype_to_np_dtype

from endoscope_server.graph.weights import Array


def is_extended(dtype: np.dtype[np.generic]) -> bool:
    """Whether numpy knows the type only through ml_dtypes: it crosses into ONNX Runtime by its bits."""
    return dtype.type.__module__.startswith("ml_dtypes")


def ort_value(array: Array) -> ort.OrtValue:
    """The value over an array's own memory, which must stay as long as the value does."""
    if not is_extended(array.dtype):
        return ort.OrtValue.ortvalue_from_numpy(array)
    bits = np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, np_dtype_to_tensor_dtype(array.dtype))


def run_extended(
    session: ort.InferenceSession, feeds: Mapping[str, NDArray[np.generic]], names: Sequence[str]
) -> dict[str, NDArray[np.generic]]:
    """What ``session.run`` gives, where it would not take or give such arrays."""
    values = session.run_with_ort_values(names, {name: ort_value(array) for name, array in feeds.items()})
    dtypes = [np.dtype(tensor_dtype_to_np_dtype(value.element_type())) for value in values]
    return {name: _from_ort(value, dtype) for name, value, dtype in zip(names, values, dtypes, strict=True)}


def _from_ort(value: ort.OrtValue, dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
    if not is_extended(dtype):
        array: NDArray[np.generic] = value.numpy()
        return array
    content = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return np.frombuffer(content, dtype).reshape(value.shape())
