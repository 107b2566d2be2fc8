"""DeepDream."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from endoscope.v1 import gradient_pb2, job_pb2
from endoscope_server.errors import InvalidInput
from endoscope_server.images.preprocessing import ChannelOrder
from endoscope_server.models import Model
from endoscope_server.services.gradient.prepared import Batch, Pictures, Prepared, picture_leaf
from endoscope_server.services.parameters import resolved, to_parameters
from endoscope_server.services.streaming import preview_every
from endoscope_server.services.tensors import to_picture
from endoscope_server.techniques.deep_dream import (
    MAX_SIDE,
    DeepDreamParameters,
    deep_dream,
    total_steps,
    with_defaults,
)
from endoscope_server.techniques.parts.subject import Subject


def prepare(_model: Model, subject: Subject, request: gradient_pb2.DeepDreamRequest) -> Prepared:
    """Checks a request."""
    asked = to_parameters(
        request,
        DeepDreamParameters,
        leaves=picture_leaf(subject),
        image=_own_size(subject, request),
        preview_every=preview_every(request.options),
    )
    parameters = with_defaults(subject, asked)

    def to_result(found: NDArray[np.uint8], provenance: job_pb2.Provenance) -> gradient_pb2.Dream:
        return gradient_pb2.Dream(image=Pictures(request, provenance)(found), provenance=provenance)

    return Prepared(
        resolved(request, parameters),
        total_steps(parameters),
        lambda memory: deep_dream(subject, parameters, memory),
        to_result,
        Batch(1, *(min(side, parameters.tile_size) for side in parameters.image.shape[1:])),
    )


def _own_size(subject: Subject, request: gradient_pb2.DeepDreamRequest) -> NDArray[np.float32]:
    """The picture in its own size, as channels x height x width in [0, 1]."""
    picture = to_picture(request.image, "image")
    if max(picture.size) > MAX_SIDE:
        raise InvalidInput(
            f"the picture has {picture.width} x {picture.height} pixels, expected at most {MAX_SIDE} a side",
            field="image",
        )
    settings = dataclasses.replace(subject.preprocessing, height=picture.height, width=picture.width)
    grey = settings.channel_order is ChannelOrder.GREY
    return settings.pixels(picture.convert("L" if grey else "RGB"))
