"""Arrays between numpy and messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endoscope.errors import invalid
from endoscope.v1 import tensor_pb2

_PREFIX = "DATA_TYPE_"
_NAMES: Mapping[str, str] = {
    "FLOAT": "float32",
    "DOUBLE": "float64",
    "FLOAT8E4M3FN": "float8_e4m3fn",
    "FLOAT8E4M3FNUZ": "float8_e4m3fnuz",
    "FLOAT8E5M2": "float8_e5m2",
    "FLOAT8E5M2FNUZ": "float8_e5m2fnuz",
    "FLOAT4E2M1": "float4_e2m1fn",
    "FLOAT8E8M0": "float8_e8m0fnu",
}
"""numpy's names where they are not the contract's in lower case."""
_NUMBERS: Mapping[str, int] = {
    _NAMES.get(name.removeprefix(_PREFIX), name.removeprefix(_PREFIX).lower()): number
    for name, number in tensor_pb2.DataType.items()
}


def dtype_name(number: int) -> str:
    """Numpy's name of a data type of the contract, such as ``float32``."""
    name = tensor_pb2.DataType.Name(tensor_pb2.DataType.ValueType(number)).removeprefix(_PREFIX)
    return _NAMES.get(name, name.lower())


def to_tensor(array: Any, field: str) -> tensor_pb2.Tensor:
    """An array, or what numpy makes one of, as a message; ``float64`` stays ``float64``.

    Raises:
        InvalidArgument: for a type that the contract does not have.
    """
    values = np.asarray(array)
    number = _NUMBERS.get(values.dtype.name)
    if number is None:
        raise invalid(f"arrays of {values.dtype} can't be sent, expected numbers", field)
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    data_type = tensor_pb2.DataType.ValueType(number)
    return tensor_pb2.Tensor(data_type=data_type, shape=values.shape, data=little.tobytes())


def to_array(message: tensor_pb2.Tensor) -> NDArray[Any] | None:
    """A message as an array, read-only; None if the server left its data out."""
    if not message.data and np.prod(message.shape):
        return None
    dtype = _dtype(dtype_name(message.data_type)).newbyteorder("<")
    return np.frombuffer(message.data, dtype).reshape(message.shape)


def _dtype(name: str) -> np.dtype[Any]:
    try:
        return np.dtype(name)
    except TypeError:
        # Types that numpy does not have; the package is small, but few need it.
        try:
            import ml_dtypes
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"arrays of {name} need the package ml_dtypes: pip install ml_dtypes", name="ml_dtypes"
            ) from error
        return np.dtype(getattr(ml_dtypes, name))
