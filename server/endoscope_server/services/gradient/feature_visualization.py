"""VisualizeFeature."""

from __future__ import annotations

from endoscope.v1 import gradient_pb2, job_pb2
from endoscope_server.models import Model
from endoscope_server.services.gradient.prepared import Pictures, Prepared, format_of, picture_leaf
from endoscope_server.services.parameters import resolved, to_parameters
from endoscope_server.services.streaming import preview_every
from endoscope_server.services.tensors import to_tensor
from endoscope_server.techniques.feature_visualization import (
    FeatureVisualization,
    FeatureVisualizationParameters,
    bind,
    visualize_feature,
)
from endoscope_server.techniques.parts.batches import Batch
from endoscope_server.techniques.parts.subject import Subject


def prepare(_model: Model, subject: Subject, request: gradient_pb2.VisualizeFeatureRequest) -> Prepared:
    """Checks a request."""
    parameters = to_parameters(
        request,
        FeatureVisualizationParameters,
        leaves=picture_leaf(subject),
        defaults={"objectives": (), "height": subject.size[0], "width": subject.size[1]},
        image_format=format_of(request),
        preview_every=preview_every(request.options),
    )
    bound = bind(subject, parameters)

    def to_result(
        found: FeatureVisualization, provenance: job_pb2.Provenance
    ) -> gradient_pb2.FeatureVisualization:
        picture = Pictures(request, provenance)
        message = gradient_pb2.FeatureVisualization(provenance=provenance)
        for index, value in enumerate(found.values):
            one = message.pictures.add(
                value=value, image=picture(found.pictures[index]), pixels=to_tensor(found.pixels[index])
            )
            if found.transparency is not None:
                one.transparency.CopyFrom(to_tensor(found.transparency[index]))
        return message

    return Prepared(
        resolved(request, parameters),
        parameters.steps,
        lambda memory: visualize_feature(subject, parameters, bound, memory),
        to_result,
        Batch(len(parameters.objectives), parameters.height, parameters.width).transformed(
            parameters.transforms
        ),
    )
