"""The protocol's names of element types, and Triton's numbers of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from endoscope_server.errors import InvalidInput, Unsupported
from endoscope_server.protocols import grpc_service_pb2 as pb


@dataclass(frozen=True, slots=True)
class Datatype:
    """An element type.

    Attributes:
        name: The protocol's.
        dtype: Its elements in memory, little-endian; ``object`` for texts.
        number: Triton's.
        contents: The field of ``InferTensorContents`` that takes it; empty if only raw bytes do.
    """

    name: str
    dtype: np.dtype[Any]
    number: pb.DataType.ValueType
    contents: str


_ALL = (
    Datatype("BOOL", np.dtype("?"), pb.TYPE_BOOL, "bool_contents"),
    Datatype("UINT8", np.dtype("<u1"), pb.TYPE_UINT8, "uint_contents"),
    Datatype("UINT16", np.dtype("<u2"), pb.TYPE_UINT16, "uint_contents"),
    Datatype("UINT32", np.dtype("<u4"), pb.TYPE_UINT32, "uint_contents"),
    Datatype("UINT64", np.dtype("<u8"), pb.TYPE_UINT64, "uint64_contents"),
    Datatype("INT8", np.dtype("<i1"), pb.TYPE_INT8, "int_contents"),
    Datatype("INT16", np.dtype("<i2"), pb.TYPE_INT16, "int_contents"),
    Datatype("INT32", np.dtype("<i4"), pb.TYPE_INT32, "int_contents"),
    Datatype("INT64", np.dtype("<i8"), pb.TYPE_INT64, "int64_contents"),
    Datatype("FP16", np.dtype("<f2"), pb.TYPE_FP16, ""),
    Datatype("BF16", np.dtype(ml_dtypes.bfloat16), pb.TYPE_BF16, ""),
    Datatype("FP32", np.dtype("<f4"), pb.TYPE_FP32, "fp32_contents"),
    Datatype("FP64", np.dtype("<f8"), pb.TYPE_FP64, "fp64_contents"),
    Datatype("BYTES", np.dtype("O"), pb.TYPE_STRING, "bytes_contents"),
)
_BY_NAME: Mapping[str, Datatype] = {datatype.name: datatype for datatype in _ALL}
_BY_DTYPE: Mapping[str, Datatype] = {datatype.dtype.name: datatype for datatype in _ALL}


def named(name: str, field: str) -> Datatype:
    """The type of that name.

    Raises:
        InvalidInput: if there is none.
    """
    if name not in _BY_NAME:
        raise InvalidInput(
            f"the datatype is {name[:40]!r}, expected one of {', '.join(_BY_NAME)}",
            field=field,
            reason="UNKNOWN_DATATYPE",
        )
    return _BY_NAME[name]


def known(dtype: str | None) -> Datatype | None:
    """The type for numpy's name or ``string``; None if the protocol has none for it."""
    return _BY_DTYPE.get("object" if dtype == "string" else dtype or "")


def of(array: np.ndarray[Any, Any], value: str) -> Datatype:
    """The type of an array.

    Raises:
        Unsupported: if the protocol has none for it, with the name of the value.
    """
    found = known(array.dtype.name)
    if found is None:
        raise Unsupported(
            f"value {value!r} is {array.dtype.name}, for which the protocol has no datatype",
            reason="NO_DATATYPE",
        )
    return found
