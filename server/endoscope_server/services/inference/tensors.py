"""Tensors of the protocol as arrays and back: raw bytes without a copy, or typed contents."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endoscope_server.errors import InvalidInput, Unsupported
from endoscope_server.protocols import grpc_service_pb2 as pb
from endoscope_server.services.inference import datatypes
from endoscope_server.services.inference.datatypes import Datatype

Array = NDArray[np.generic]
Tensor = pb.ModelInferRequest.InferInputTensor

SHARED_MEMORY = "shared_memory_region"

_LENGTH = struct.Struct("<I")


def decode(request: pb.ModelInferRequest) -> dict[str, Array]:
    """The inputs of a request by name; arrays over raw bytes are read-only.

    Raises:
        InvalidInput: for an input whose datatype, shape and contents do not fit, with the field
            ``inputs[NAME]`` or a part of it.
        Unsupported: for shared memory.
    """
    tensors, raws = request.inputs, request.raw_input_contents
    if raws and len(raws) != len(tensors):
        raise InvalidInput(
            f"there are {len(raws)} raw contents for {len(tensors)} inputs, expected one for each or none",
            field="raw_input_contents",
            reason="WRONG_COUNT",
        )
    arrays: dict[str, Array] = {}
    for index, tensor in enumerate(tensors):
        field = f"inputs[{tensor.name[:140] or index}]"
        if not tensor.name or tensor.name in arrays:
            problem = "is given twice" if tensor.name else "has no name"
            raise InvalidInput(f"the input {problem}, expected each once by its name", field=field)
        if SHARED_MEMORY in tensor.parameters:
            raise Unsupported(
                "the input is in shared memory, expected it in the message",
                field=f"{field}.parameters",
                reason="SHARED_MEMORY",
            )
        arrays[tensor.name] = _decode(tensor, raws[index] if raws else None, field)
    return arrays


def is_heavy(request: pb.ModelInferRequest) -> bool:
    """Whether decoding takes long enough to be done off the event loop."""
    return not request.raw_input_contents or any(tensor.datatype == "BYTES" for tensor in request.inputs)


def add_output(response: pb.ModelInferResponse, name: str, array: Array, *, raw: bool) -> None:
    """Put a value into a response.

    Args:
        response: What gets it.
        name: As it was asked for.
        array: The value.
        raw: Whether as raw bytes, or as typed contents.

    Raises:
        Unsupported: if the protocol can't tell the type, or not as contents.
    """
    datatype = datatypes.of(array, name)
    tensor = response.outputs.add(name=name, datatype=datatype.name, shape=array.shape)
    if raw:
        response.raw_output_contents.append(_to_raw(array, datatype))
        return
    if not datatype.contents:
        raise Unsupported(
            f"value {name!r} is {datatype.name}, which has no typed contents; expected raw outputs",
            reason="RAW_ONLY",
        )
    values = _texts(array) if datatype.name == "BYTES" else array.ravel().tolist()
    getattr(tensor.contents, datatype.contents).extend(values)


def _decode(tensor: Tensor, raw: bytes | None, field: str) -> Array:
    datatype = datatypes.named(tensor.datatype, f"{field}.datatype")
    shape = tuple(tensor.shape)
    if any(size < 0 for size in shape):
        raise InvalidInput(f"the shape is {list(shape)}, expected no negative extent", field=f"{field}.shape")
    count = math.prod(shape)
    if raw is None:
        return _shaped(_from_contents(tensor, datatype, count, field), shape, field)
    if tensor.HasField("contents"):
        raise InvalidInput(
            "the input has typed contents beside raw_input_contents, expected one of the two",
            field=f"{field}.contents",
        )
    if datatype.name == "BYTES":
        return _shaped(_from_texts(_elements(raw, count, field), field), shape, field)
    expected = count * datatype.dtype.itemsize
    if len(raw) != expected:
        raise InvalidInput(
            f"there are {len(raw)} bytes, expected {expected} for {datatype.name} of shape {list(shape)}",
            field=field,
            reason="WRONG_BYTE_COUNT",
        )
    if datatype.name == "BOOL" and count and np.frombuffer(raw, np.uint8).max() > 1:
        raise InvalidInput("a BOOL is neither 0 nor 1", field=field)
    return _shaped(np.frombuffer(raw, datatype.dtype), shape, field)


def _shaped(array: Array, shape: tuple[int, ...], field: str) -> Array:
    try:
        return array.reshape(shape)
    except ValueError as error:
        # Without a single element, any extents pass the counts.
        raise InvalidInput(
            f"the shape has {len(shape)} axes or extents too large for an array", field=f"{field}.shape"
        ) from error


def _from_contents(tensor: Tensor, datatype: Datatype, count: int, field: str) -> Array:
    if not datatype.contents:
        raise InvalidInput(
            f"{datatype.name} has no typed contents, expected raw_input_contents",
            field=f"{field}.contents",
            reason="RAW_ONLY",
        )
    filled = [descriptor.name for descriptor, _ in tensor.contents.ListFields()]
    if any(name != datatype.contents for name in filled):
        raise InvalidInput(
            f"the contents are {', '.join(filled)}, expected {datatype.contents} for {datatype.name}",
            field=f"{field}.contents",
            reason="WRONG_CONTENTS",
        )
    values: Sequence[Any] = getattr(tensor.contents, datatype.contents)
    if len(values) != count:
        raise InvalidInput(
            f"there are {len(values)} elements, expected {count} for the shape {list(tensor.shape)}",
            field=f"{field}.contents",
            reason="WRONG_ELEMENT_COUNT",
        )
    if datatype.name == "BYTES":
        return _from_texts(values, field)
    try:
        return np.array(values, datatype.dtype)
    except OverflowError as error:
        raise InvalidInput(
            f"an element is out of the range of {datatype.name}", field=f"{field}.contents"
        ) from error


def _elements(raw: bytes, count: int, field: str) -> list[bytes]:
    """The texts in raw bytes: each behind its length, as four little-endian bytes."""
    found: list[bytes] = []
    position = 0
    while position + _LENGTH.size <= len(raw) and len(found) < count:
        (length,) = _LENGTH.unpack_from(raw, position)
        position += _LENGTH.size
        if position + length > len(raw):
            break
        found.append(raw[position : position + length])
        position += length
    if len(found) != count or position != len(raw):
        raise InvalidInput(
            f"the {len(raw)} bytes are not {count} BYTES elements, each behind its length in 4 bytes",
            field=field,
            reason="WRONG_BYTE_COUNT",
        )
    return found


def _from_texts(values: Sequence[bytes], field: str) -> Array:
    array = np.empty(len(values), object)
    try:
        array[:] = [value.decode() for value in values]
    except UnicodeDecodeError as error:
        raise InvalidInput("an element is no UTF-8, expected text", field=field) from error
    return array


def _texts(array: Array) -> list[bytes]:
    return [str(value).encode() for value in array.ravel().tolist()]


def _to_raw(array: Array, datatype: Datatype) -> bytes:
    if datatype.name == "BYTES":
        return b"".join(_LENGTH.pack(len(text)) + text for text in _texts(array))
    return array.astype(datatype.dtype, copy=False).tobytes()
