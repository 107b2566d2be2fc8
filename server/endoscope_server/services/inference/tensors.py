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
from endoscope_server.services.inference.regions import Part, part_of, size_of
from endoscope_server.services.inference.wire import InferRequest
from endoscope_server.serving import SharedMemory

Array = NDArray[np.generic]
Tensor = pb.ModelInferRequest.InferInputTensor

HEAVY_BYTES = 2**22
"""Copying so much out of shared memory holds up others."""

_LENGTH = struct.Struct("<I")


def decode(request: InferRequest, shared: SharedMemory | None = None, files: str = "") -> dict[str, Array]:
    """The inputs of a request by name; arrays over raw bytes are read-only.

    Args:
        request: The request.
        shared: Regions that inputs may lie in; None if they may not.
        files: The input whose BYTES are files and not texts.

    Raises:
        InvalidInput: for an input whose datatype, shape and contents do not fit, with the field
            ``inputs[NAME]`` or a part of it.
        NotFound: for a region that is not registered.
        Unsupported: for shared memory where there is none.
    """
    tensors, raws = request.message.inputs, request.raws
    parts = [part_of(tensor, shared, f"inputs[{tensor.name[:140]}]") for tensor in tensors]
    within = parts.count(None)
    if raws and len(raws) != within:
        raise InvalidInput(
            f"there are {len(raws)} raw contents for {within} inputs, expected one for each or none",
            field="raw_input_contents",
            reason="WRONG_COUNT",
        )
    left = iter(raws)
    arrays: dict[str, Array] = {}
    for index, (tensor, part) in enumerate(zip(tensors, parts, strict=True)):
        field = f"inputs[{tensor.name[:140] or index}]"
        if not tensor.name or tensor.name in arrays:
            problem = "is given twice" if tensor.name else "has no name"
            raise InvalidInput(f"the input {problem}, expected each once by its name", field=field)
        raw = part if part is not None else next(left) if raws else None
        array = _decode(tensor, raw, field)
        is_text = array.dtype == object and tensor.name != files
        arrays[tensor.name] = _to_texts(array, field) if is_text else array
    return arrays


def is_heavy(request: InferRequest) -> bool:
    """Whether decoding takes long enough to be done off the event loop."""
    copied = 0
    for tensor in request.message.inputs:
        size = size_of(tensor)
        if tensor.datatype == "BYTES" or not (size or request.raws):
            return True
        copied += size
    return copied > HEAVY_BYTES


def add_output(
    response: pb.ModelInferResponse, name: str, array: Array, *, raw: bool, part: Part | None = None
) -> None:
    """Put a value into a response, or into shared memory.

    Args:
        response: What gets it.
        name: As it was asked for.
        array: The value.
        raw: Whether as raw bytes, or as typed contents.
        part: Of the shared memory that gets it; None for the message.

    Raises:
        Unsupported: if the protocol can't tell the type, or not as contents.
        InvalidInput: if it is larger than its part of the shared memory.
    """
    datatype = datatypes.of(array, name)
    tensor = response.outputs.add(name=name, datatype=datatype.name, shape=array.shape)
    if part is not None:
        part.write(_to_raw(array, datatype), tensor)
        # Contents go by the place of their output.
        response.raw_output_contents.append(b"")
        return
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


def _decode(tensor: Tensor, raw: memoryview | Part | None, field: str) -> Array:
    datatype = datatypes.named(tensor.datatype, f"{field}.datatype")
    shape = tuple(tensor.shape)
    if any(size < 0 for size in shape):
        raise InvalidInput(f"the shape is {list(shape)}, expected no negative extent", field=f"{field}.shape")
    count = math.prod(shape)
    if raw is None:
        return _shaped(_from_contents(tensor, datatype, count, field), shape, field)
    if tensor.HasField("contents"):
        raise InvalidInput(
            "the input has typed contents beside raw ones, expected one of the two",
            field=f"{field}.contents",
        )
    if datatype.name == "BYTES":
        texts = (raw.read() if isinstance(raw, Part) else raw).tobytes()
        return _shaped(_objects(_elements(texts, count, field)), shape, field)
    expected = count * datatype.dtype.itemsize
    if len(raw) != expected:
        raise InvalidInput(
            f"there are {len(raw)} bytes, expected {expected} for {datatype.name} of shape {list(shape)}",
            field=field,
            reason="WRONG_BYTE_COUNT",
        )
    content = raw.read() if isinstance(raw, Part) else np.frombuffer(raw, np.uint8)
    if datatype.name == "BOOL" and count and content.max() > 1:
        raise InvalidInput("a BOOL is neither 0 nor 1", field=field)
    return _shaped(content.view(datatype.dtype), shape, field)


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
        return _objects(values)
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


def _objects(values: Sequence[bytes | str]) -> Array:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _to_texts(array: Array, field: str) -> Array:
    try:
        return _objects([value.decode() for value in array.ravel().tolist()]).reshape(array.shape)
    except UnicodeDecodeError as error:
        raise InvalidInput("an element is no UTF-8, expected text", field=field) from error


def _texts(array: Array) -> list[bytes]:
    return [str(value).encode() for value in array.ravel().tolist()]


def _to_raw(array: Array, datatype: Datatype) -> bytes:
    if datatype.name == "BYTES":
        return b"".join(_LENGTH.pack(len(text)) + text for text in _texts(array))
    return array.astype(datatype.dtype, copy=False).tobytes()
