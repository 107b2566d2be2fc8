"""Pictures as a model's input: 8-bit pixels or whole files, where the model takes floats."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from endoscope_server.errors import EndoscopeError, InvalidInput
from endoscope_server.images.decoding import DEFAULT_MAX_PIXELS, decode
from endoscope_server.images.resampling import are_kernels_loaded
from endoscope_server.models import Model
from endoscope_server.services.calls import MAX_REQUEST_BYTES
from endoscope_server.services.inference.tensors import Array, Tensor

MOST_PIXELS = 4 * DEFAULT_MAX_PIXELS
"""What the files of one request may have together: more would keep a worker busy for long."""

SMALL = 2**18
"""Numbers of a picture that is fitted at once: one of 224 x 224 has fewer."""


def input_of(model: Model) -> str:
    """The input that takes pictures: floats, with a preprocessing that is known; empty if there is none."""
    name = model.card.image_input
    if not name or model.card.preprocessing is None:
        return ""
    dtype = model.graph.values[name].dtype
    return name if dtype is not None and "float" in dtype else ""


def are_pictures(array: Array) -> bool:
    """Whether what came for such an input is pictures, and not yet numbers."""
    return array.dtype == np.uint8 or array.dtype == object


def as_numbers(model: Model, array: Array, field: str) -> Array:
    """Pictures as the model takes them: fitted to its size and normalised by its preprocessing.

    Args:
        model: It has an input for pictures.
        array: uint8 pixels, pictures x height x width x channels or pictures x channels x height x width, of
            1 or 3 channels and any size; or an object array of encoded files.
        field: Where they stand in the request.

    Returns:
        In the input's element type, as many rows as pictures.

    Raises:
        InvalidInput: for another shape, for a file that is no picture, for none and for more than
            could come as numbers; with the field of the picture.
        LimitExceeded: for a file of too many pixels, alone or with those before it.
    """
    preprocessing = model.preprocessing({})
    files = array.dtype == object
    if not files and array.ndim != 4:
        raise InvalidInput(
            f"the pixels have the shape {list(array.shape)}, expected pictures x height x width x channels "
            "or pictures x channels x height x width",
            field=f"{field}.shape",
            reason="WRONG_SHAPE",
        )
    pictures = array.reshape(-1) if files else array
    # As many as could have come as numbers.
    most = MAX_REQUEST_BYTES // (4 * math.prod(preprocessing.shape))
    if not 1 <= len(pictures) <= most:
        raise InvalidInput(
            f"there are {len(pictures)} pictures, expected at least one and at most {most}",
            field=field,
            reason="WRONG_COUNT",
        )
    numbers = np.empty((len(pictures), *preprocessing.shape), np.float32)
    left = MOST_PIXELS
    for index, picture in enumerate(pictures):
        try:
            if files:
                decoded = decode(picture, min(left, DEFAULT_MAX_PIXELS))
                left -= decoded.width * decoded.height
                preprocessing.write(decoded, numbers[index])
            else:
                preprocessing.write_pixels(picture, numbers[index])
        except EndoscopeError as error:
            raise error.at(f"{field}[{index}]") from None
    return model.as_input(numbers)


def take_long(model: Model, name: str, tensors: Iterable[Tensor]) -> bool:
    """Whether pixels for the input of a name hold up others: several pictures, a large one, or the first."""
    shapes = [tensor.shape for tensor in tensors if tensor.name == name and tensor.datatype == "UINT8"]
    if not shapes:
        return False
    needed = math.prod(model.preprocessing({}).shape)
    large = any(shape[:1] != [1] or max(math.prod(shape), needed) > SMALL for shape in shapes)
    return large or not are_kernels_loaded()
