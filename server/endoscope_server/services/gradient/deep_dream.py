"""DeepDream."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from endoscope.v1 import gradient_pb2, job_pb2
from endoscope_server.models import Model
from endoscope_server.services.gradient.prepared import (
    Pictures,
    Prepared,
    own_size_pixels,
    picture_leaf,
)
from endoscope_server.services.parameters import resolved, to_parameters
from endoscope_server.services.streaming import preview_every
from endoscope_server.techniques.deep_dream import (
    DeepDreamParameters,
    deep_dream,
    total_steps,
    with_defaults,
)
from endoscope_server.techniques.parts.batches import Batch
from endoscope_server.techniques.parts.subject import Subject


def prepare(_model: Model, subject: Subject, request: gradient_pb2.DeepDreamRequest) -> Prepared:
    """Checks a request."""
    asked = to_parameters(
        request,
        DeepDreamParameters,
        leaves=picture_leaf(subject),
        image=own_size_pixels(subject, request.image, "image"),
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
