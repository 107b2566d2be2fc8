"""What every method of GradientService makes of its request."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from google.protobuf.message import Message
from numpy.typing import NDArray

from endoscope.v1 import image_pb2, job_pb2
from endoscope_server.errors import EndoscopeError, InvalidInput
from endoscope_server.images.encoding import ImageFormat, from_array
from endoscope_server.images.preprocessing import ChannelOrder
from endoscope_server.jobs import Start
from endoscope_server.models import Model
from endoscope_server.services import preprocessing
from endoscope_server.services.parameters import Leaf
from endoscope_server.services.provenance import as_text
from endoscope_server.services.tensors import image_format, to_image, to_picture
from endoscope_server.techniques.deep_dream import MAX_SIDE
from endoscope_server.techniques.parts.batches import Batch
from endoscope_server.techniques.parts.joining import Joiner
from endoscope_server.techniques.parts.subject import Subject


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
    return {"Image": functools.partial(model_size_pixels, subject)}


def model_size_pixels(subject: Subject, message: image_pb2.Image, field: str) -> NDArray[np.float32]:
    """A picture of a request as the model sees it: channels x height x width in [0, 1]."""
    return subject.preprocessing.pixels(to_picture(message, field))


def own_size_pixels(subject: Subject, message: image_pb2.Image, field: str) -> NDArray[np.float32]:
    """A picture of a request in its own size: channels x height x width in [0, 1].

    Raises:
        InvalidInput: if it is none that can be read, or has too many pixels a side.
    """
    picture = to_picture(message, field)
    if max(picture.size) > MAX_SIDE:
        raise InvalidInput(
            f"the picture has {picture.width} x {picture.height} pixels, expected at most {MAX_SIDE} a side",
            field=field,
        )
    settings = dataclasses.replace(subject.preprocessing, height=picture.height, width=picture.width)
    grey = settings.channel_order is ChannelOrder.GREY
    return settings.pixels(picture.convert("L" if grey else "RGB"))


class Pictures:
    """Makes the pictures of a result.

    Args:
        request: Its ``image_format`` counts.
        provenance: Goes into PNGs as text.
    """

    def __init__(self, request: Any, provenance: job_pb2.Provenance) -> None:
        self._format = format_of(request)
        self._text = as_text(provenance)

    def __call__(self, pixels: NDArray[np.uint8]) -> image_pb2.Image:
        """A picture of channels x height x width in 8 bits as a message."""
        return to_image(from_array(pixels), self._format, self._text)


def format_of(request: Any) -> ImageFormat:
    """The encoding of a request's results."""
    return image_format(request.image_format)
