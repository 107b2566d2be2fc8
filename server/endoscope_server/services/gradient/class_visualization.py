"""VisualizeClass."""

from __future__ import annotations

from endoscope.v1 import gradient_pb2, job_pb2
from endoscope_server.models import Model
from endoscope_server.services.classes import to_classification, to_score
from endoscope_server.services.gradient.prepared import Pictures, Prepared, format_of
from endoscope_server.services.parameters import enumerated, resolved, to_parameters
from endoscope_server.services.streaming import preview_every
from endoscope_server.services.tensors import to_tensor
from endoscope_server.techniques.class_visualization import (
    PRESETS,
    ClassVisualization,
    ClassVisualizationParameters,
    visualize_class,
)
from endoscope_server.techniques.parts.batches import Batch
from endoscope_server.techniques.parts.subject import Subject


def prepare(model: Model, subject: Subject, request: gradient_pb2.VisualizeClassRequest) -> Prepared:
    """Checks a request."""
    preset = enumerated(request.DESCRIPTOR.fields_by_name["preset"], request.preset, "preset")
    parameters = to_parameters(
        request,
        ClassVisualizationParameters,
        defaults={"height": subject.size[0], "width": subject.size[1], **PRESETS.get(preset, {})},
        image_format=format_of(request),
        preview_every=preview_every(request.options),
    )
    for index, wanted in enumerate(parameters.classes):
        subject.check_class(wanted, f"classes[{index}]")

    def to_result(
        found: ClassVisualization, provenance: job_pb2.Provenance
    ) -> gradient_pb2.ClassVisualization:
        picture = Pictures(request, provenance)
        message = gradient_pb2.ClassVisualization(provenance=provenance)
        for index, score in enumerate(found.scores):
            one = message.pictures.add(
                score=to_score(score, model.card),
                image=picture(found.pictures[index]),
                pixels=to_tensor(found.pixels[index]),
                classification=to_classification(found.top[index], model.card),
            )
            if found.transparency is not None:
                one.transparency.CopyFrom(to_tensor(found.transparency[index]))
        return message

    return Prepared(
        resolved(request, parameters),
        parameters.steps,
        lambda memory: visualize_class(subject, parameters, memory),
        to_result,
        Batch(len(parameters.classes), parameters.height, parameters.width).transformed(
            parameters.transforms
        ),
    )
