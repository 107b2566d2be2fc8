"""InvertRepresentation."""

from __future__ import annotations

from endoscope.v1 import gradient_pb2, job_pb2
from endoscope_server.models import Model
from endoscope_server.services.gradient.prepared import Pictures, Prepared, format_of, picture_leaf
from endoscope_server.services.parameters import resolved, to_parameters
from endoscope_server.services.streaming import preview_every
from endoscope_server.services.tensors import to_image, to_tensor
from endoscope_server.techniques.inversion import (
    Inversion,
    InversionParameters,
    invert_representation,
    with_defaults,
)
from endoscope_server.techniques.parts.subject import Subject


def prepare(_model: Model, subject: Subject, request: gradient_pb2.InvertRepresentationRequest) -> Prepared:
    """Checks a request."""
    asked = to_parameters(
        request,
        InversionParameters,
        leaves=picture_leaf(subject),
        image_format=format_of(request),
        preview_every=preview_every(request.options),
    )
    parameters = with_defaults(subject, asked)

    def to_result(found: Inversion, provenance: job_pb2.Provenance) -> gradient_pb2.Inversion:
        picture = Pictures(request, provenance)
        message = gradient_pb2.Inversion(
            original=picture(found.original), curve=to_image(found.curve), provenance=provenance
        )
        for item in found.layers:
            message.layers.add(
                layer=item.layer,
                value=item.value,
                image=picture(item.picture),
                pixels=to_tensor(item.pixels),
                feature_error=item.feature_error,
                reference_error=item.reference_error,
                psnr=item.psnr,
                ssim=item.ssim,
                perceptual_distance=item.perceptual_distance,
            )
        return message

    return Prepared(
        resolved(request, parameters),
        parameters.steps * len(parameters.layers),
        lambda memory: invert_representation(subject, parameters, memory),
        to_result,
    )
