"""Attribute."""

from __future__ import annotations

from endoscope.v1 import gradient_pb2, job_pb2
from endoscope_server.models import Model
from endoscope_server.services.classes import to_score
from endoscope_server.services.gradient.prepared import Pictures, Prepared, picture_leaf
from endoscope_server.services.parameters import resolved, to_parameters
from endoscope_server.services.streaming import preview_every
from endoscope_server.services.tensors import to_tensor
from endoscope_server.techniques.attribution import (
    BATCH,
    AttributionParameters,
    Attributions,
    attribute,
    total_steps,
    with_defaults,
)
from endoscope_server.techniques.parts.batches import Batch
from endoscope_server.techniques.parts.subject import Subject


def prepare(model: Model, subject: Subject, request: gradient_pb2.AttributeRequest) -> Prepared:
    """Checks a request."""
    asked = to_parameters(
        request,
        AttributionParameters,
        leaves=picture_leaf(subject),
        preview_every=preview_every(request.options),
    )
    parameters = with_defaults(subject, asked)

    def to_result(found: Attributions, provenance: job_pb2.Provenance) -> gradient_pb2.Attributions:
        picture = Pictures(request, provenance)
        message = gradient_pb2.Attributions(
            score=to_score(found.score, model.card),
            provenance=provenance,
            original=picture(found.original),
        )
        for item in found.items:
            message.attributions.add(
                method=gradient_pb2.AttributionMethod.Value(f"ATTRIBUTION_METHOD_{item.method.name}"),
                values=to_tensor(item.values),
                picture=picture(item.picture),
                completeness_error=item.completeness_error,
                deletion=item.deletion,
                insertion=item.insertion,
                deletion_curve=item.deletion_curve.tolist(),
                insertion_curve=item.insertion_curve.tolist(),
            )
        return message

    return Prepared(
        resolved(request, parameters),
        total_steps(subject, parameters),
        lambda memory: attribute(subject, parameters, memory),
        to_result,
        Batch(BATCH),
    )
