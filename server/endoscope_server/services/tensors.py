"""Tensors and pictures between messages and arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx.helper import tensor_dtype_to_np_dtype
from PIL import Image

from endoscope.v1 import image_pb2, tensor_pb2
from endoscope_server.errors import EndoscopeError, InvalidInput
from endoscope_server.images.decoding import decode, from_pixels
from endoscope_server.images.encoding import ImageFormat, encode

# The contract numbers its data types as ONNX does.
_DTYPES: Mapping[int, np.dtype[Any]] = {
    number: np.dtype(tensor_dtype_to_np_dtype(number))
    for number in tensor_pb2.DataType.values()
    if number not in (tensor_pb2.DATA_TYPE_UNSPECIFIED, tensor_pb2.DATA_TYPE_STRING)
}
_NUMBERS: Mapping[str, int] = {dtype.name: number for number, dtype in _DTYPES.items()}

_FORMATS: Mapping[image_pb2.ImageFormat.ValueType, ImageFormat] = {
    image_pb2.IMAGE_FORMAT_PNG: ImageFormat.PNG,
    image_pb2.IMAGE_FORMAT_JPEG: ImageFormat.JPEG,
    image_pb2.IMAGE_FORMAT_WEBP: ImageFormat.WEBP,
}
_FORMAT_NUMBERS = {value: number for number, value in _FORMATS.items()}


def data_type(dtype_name: str | None) -> tensor_pb2.DataType.ValueType:
    """The contract's number of a numpy type; unspecified for None."""
    if dtype_name == "string":
        return tensor_pb2.DATA_TYPE_STRING
    return tensor_pb2.DataType.ValueType(_NUMBERS.get(dtype_name or "", 0))


def to_tensor(array: NDArray[Any], *, with_data: bool = True) -> tensor_pb2.Tensor:
    """An array as a message."""
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return tensor_pb2.Tensor(
        data_type=data_type(array.dtype.name),
        shape=array.shape,
        data=np.ascontiguousarray(little).tobytes() if with_data else b"",
    )


def to_array(message: tensor_pb2.Tensor, field: str) -> NDArray[Any]:
    """A message as an array, read-only.

    Raises:
        InvalidInput: if type, shape and data do not fit each other.
    """
    dtype = _DTYPES.get(message.data_type)
    if dtype is None:
        raise InvalidInput("the tensor has no data type, expected one", field=f"{field}.data_type")
    if any(size < 0 for size in message.shape):
        raise InvalidInput(
            f"the shape is {list(message.shape)}, expected no negative extent", field=f"{field}.shape"
        )
    expected = math.prod(message.shape) * dtype.itemsize
    if len(message.data) != expected:
        raise InvalidInput(
            f"{len(message.data)} bytes of data, expected {expected} for the shape {list(message.shape)}",
            field=f"{field}.data",
        )
    return np.frombuffer(message.data, dtype).reshape(message.shape)


def to_picture(message: image_pb2.Image, field: str) -> Image.Image:
    """A picture from a message, in 8-bit RGB or grey.

    Raises:
        InvalidInput: if there is none, or none that can be read.
        LimitExceeded: if it is too large.
    """
    source = message.WhichOneof("source")
    if source is None:
        raise InvalidInput("there is no picture, expected encoded bytes or pixels", field=field)
    try:
        if source == "encoded":
            return decode(message.encoded)
        return from_pixels(to_array(message.pixels, f"{field}.pixels"))
    except EndoscopeError as error:
        raise error.at(f"{field}.{source}") from error


def image_format(
    number: image_pb2.ImageFormat.ValueType,
    default: ImageFormat = ImageFormat.PNG,
    field: str = "image_format",
) -> ImageFormat:
    """The encoding that a request asks for.

    Raises:
        InvalidInput: if it is none of the contract's.
    """
    if number not in _FORMATS and number != image_pb2.IMAGE_FORMAT_UNSPECIFIED:
        expected = ", ".join(image_pb2.ImageFormat.Name(known) for known in _FORMATS)
        raise InvalidInput(f"{field} is {number}, expected one of {expected}", field=field)
    return _FORMATS.get(number, default)


def to_image(
    picture: Image.Image, encoding: ImageFormat = ImageFormat.PNG, text: Mapping[str, str] | None = None
) -> image_pb2.Image:
    """A picture as a message."""
    return image_pb2.Image(
        encoded=encode(picture, encoding, text),
        format=_FORMAT_NUMBERS[encoding],
        width=picture.width,
        height=picture.height,
    )
