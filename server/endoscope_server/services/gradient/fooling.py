"""CreateFoolingImage."""

from __future__ import annotations

from endoscope.v1 import gradient_pb2, job_pb2
from endoscope_server.models import Model
from endoscope_server.services.classes import to_classification, to_score
from endoscope_server.services.gradient.prepared import Pictures, Prepared, format_of, picture_leaf
from endoscope_server.services.parameters import resolved, to_parameters
from endoscope_server.services.streaming import preview_every
from endoscope_server.techniques.fooling import (
    FoolingImages,
    FoolingParameters,
    create_fooling_images,
    with_defaults,
)
from endoscope_server.techniques.parts.batches import Batch
from endoscope_server.techniques.parts.subject import Subject


def prepare(model: Model, subject: Subject, request: gradient_pb2.CreateFoolingImageRequest) -> Prepared:
    """Checks a request."""
    asked = to_parameters(
        request,
        FoolingParameters,
        leaves=picture_leaf(subject),
        image_format=format_of(request),
        preview_every=preview_every(request.options),
    )
    parameters = with_defaults(asked)
    for index, wanted in enumerate(parameters.classes):
        subject.check_class(wanted, f"classes[{index}]")

    def to_result(found: FoolingImages, provenance: job_pb2.Provenance) -> gradient_pb2.FoolingImages:
        picture = Pictures(request, provenance)
        message = gradient_pb2.FoolingImages(provenance=provenance)
        for index, score in enumerate(found.scores):
            message.images.add(
                success=found.success[index],
                score=to_score(score, model.card),
                image=picture(found.pictures[index]),
                classification=to_classification(found.top[index], model.card),
            )
        return message

    return Prepared(
        resolved(request, parameters),
        parameters.steps or 0,
        lambda memory: create_fooling_images(subject, parameters, memory),
        to_result,
        Batch(len(parameters.classes)),
    )
