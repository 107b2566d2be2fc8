"""CreateAdversarial."""

from __future__ import annotations

from endoscope.v1 import gradient_pb2, job_pb2
from endoscope_server.models import Model
from endoscope_server.services.classes import to_classification
from endoscope_server.services.gradient.prepared import Pictures, Prepared, format_of, picture_leaf
from endoscope_server.services.parameters import resolved, to_parameters
from endoscope_server.services.streaming import preview_every
from endoscope_server.techniques.adversarial import (
    AdversarialParameters,
    Adversarials,
    create_adversarial,
    total_steps,
    with_defaults,
)
from endoscope_server.techniques.parts.batches import Batch
from endoscope_server.techniques.parts.subject import Subject


def prepare(model: Model, subject: Subject, request: gradient_pb2.CreateAdversarialRequest) -> Prepared:
    """Checks a request."""
    asked = to_parameters(
        request,
        AdversarialParameters,
        leaves=picture_leaf(subject),
        image_format=format_of(request),
        preview_every=preview_every(request.options),
    )
    parameters = with_defaults(subject, asked)

    def to_result(found: Adversarials, provenance: job_pb2.Provenance) -> gradient_pb2.Adversarials:
        picture = Pictures(request, provenance)
        message = gradient_pb2.Adversarials(provenance=provenance)
        for index, item in enumerate(found.items):
            message.adversarials.add(
                success=item.success,
                original=picture(found.originals[index]),
                image=picture(found.pictures[index]),
                difference=picture(found.differences[index]),
                magnification=found.magnifications[index],
                linf=item.linf,
                l2=item.l2,
                l0=item.l0,
                original_classification=to_classification(item.before, model.card),
                classification=to_classification(item.after, model.card),
                true_class=item.true_class,
                target=item.target,
            )
        return message

    return Prepared(
        resolved(request, parameters),
        total_steps(parameters),
        lambda memory: create_adversarial(subject, parameters, memory),
        to_result,
        Batch(len(parameters.images)),
    )
