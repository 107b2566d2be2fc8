"""What every method of GradientService makes of its request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from google.protobuf.message import Message
from numpy.typing import NDArray

from endoscope.v1 import image_pb2, job_pb2
from endoscope_server.errors import EndoscopeError
from endoscope_server.images.encoding import ImageFormat, from_array
from endoscope_server.jobs import Start
from endoscope_server.models import Model
from endoscope_server.services import preprocessing
from endoscope_server.services.parameters import Leaf
from endoscope_server.services.provenance import as_text
from endoscope_server.services.tensors import image_format, to_image, to_picture
from endoscope_server.techniques.parts.joining import Joiner
from endoscope_server.techniques.parts.subject import Subject

_BACKWARD = 2
"""A backward pass keeps the values of the forward pass, and makes gradients as large as they go."""

_CANVAS_BYTES = 64
"""Of a pixel that is optimised: three channels of numbers, gradient, two moments, the picture, a copy."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What goes through the model at once.

    Attributes:
        pictures: How many.
        height: Rows of each; 0 for the model's.
        width: Columns of each; 0 for the model's.
    """

    pictures: int = 1
    height: int = 0
    width: int = 0

    def memory(self, model: Model, subject: Subject) -> int:
        """About how many bytes a step takes with it."""
        own = subject.size[0] * subject.size[1]
        pixels = (self.height or subject.size[0]) * (self.width or subject.size[1])
        scale = 1.0 if subject.fixed_size else pixels / own
        values = _BACKWARD * scale * model.activation_bytes
        return round(self.pictures * (values + _CANVAS_BYTES * pixels))


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request that was checked.

    Attributes:
        parameters: Every field as it is used, defaults filled in, in protobuf's JSON.
        total: How many steps there will be; 0 if that is not known.
        start: Starts the work.
        to_result: Makes the result's message of what the work returned.
        batch: What a step sends through the model.
    """

    parameters: Mapping[str, Any]
    total: int
    start: Start
    to_result: Callable[[Any, job_pb2.Provenance], Message]
    batch: Batch = field(default_factory=Batch)


Prepare = Callable[[Model, Subject, Any], Prepared]
"""Checks a request to a model; the message is the method's own."""


def make_subject(model: Model, request: Any, device: torch.device, joiner: Joiner | None = None) -> Subject:
    """The model as gradient techniques see it.

    Raises:
        PreconditionFailed: if the mirror does not agree with ONNX Runtime, or the model takes no picture.
        InvalidInput: for preprocessing that can't be.
    """
    try:
        settings = model.preprocessing(preprocessing.changes(request.preprocessing))
    except EndoscopeError as error:
        error.field = f"preprocessing.{error.field}".rstrip(".")
        raise
    mirror = model.require_parity()
    return Subject(model.graph, mirror, model.run, model.card.image_input, settings, device, joiner)


def picture_leaf(subject: Subject) -> Mapping[str, Leaf]:
    """Pictures of a request as the model sees them: channels x height x width in [0, 1]."""

    def convert(message: image_pb2.Image, field: str) -> NDArray[np.float32]:
        return subject.preprocessing.pixels(to_picture(message, field))

    return {"Image": convert}


class Pictures:
    """Makes the pictures of a result.

    Args:
        request: Its ``image_format`` counts.
        provenance: Goes into PNGs as text.
    """

    def __init__(self, request: Any, provenance: job_pb2.Provenance) -> None:
        self._format = image_format(request.image_format)
        self._text = as_text(provenance)

    def __call__(self, pixels: NDArray[np.uint8]) -> image_pb2.Image:
        """A picture of channels x height x width in 8 bits as a message."""
        return to_image(from_array(pixels), self._format, self._text)


def format_of(request: Any) -> ImageFormat:
    """The encoding of a request's results."""
    return image_format(request.image_format)
