"""GradientService."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message

from endoscope.v1 import gradient_pb2, gradient_pb2_grpc
from endoscope_server.jobs import JobManager, Start, Work
from endoscope_server.models import Repository
from endoscope_server.services import preprocessing, streaming
from endoscope_server.services.calls import Workers, resource_id
from endoscope_server.services.gradient import (
    adversarial,
    attribution,
    class_visualization,
    deep_dream,
    feature_visualization,
    fooling,
    inversion,
)
from endoscope_server.services.gradient.prepared import Prepare, Prepared, make_subject
from endoscope_server.services.provenance import provenance
from endoscope_server.services.status import Context
from endoscope_server.services.streaming import Methods, Ticket
from endoscope_server.techniques.parts.devices import best_device
from endoscope_server.techniques.parts.joining import Joiner
from endoscope_server.techniques.parts.memory import Memory
from endoscope_server.techniques.parts.subject import Subject

_METHODS: Mapping[str, tuple[type[Message], Prepare]] = {
    "visualize_class": (gradient_pb2.VisualizeClassRequest, class_visualization.prepare),
    "visualize_feature": (gradient_pb2.VisualizeFeatureRequest, feature_visualization.prepare),
    "invert_representation": (gradient_pb2.InvertRepresentationRequest, inversion.prepare),
    "deep_dream": (gradient_pb2.DeepDreamRequest, deep_dream.prepare),
    "create_adversarial": (gradient_pb2.CreateAdversarialRequest, adversarial.prepare),
    "create_fooling_image": (gradient_pb2.CreateFoolingImageRequest, fooling.prepare),
    "attribute": (gradient_pb2.AttributeRequest, attribution.prepare),
}


class GradientService(gradient_pb2_grpc.GradientServiceServicer):
    """See ``gradient.proto``.

    Args:
        models: The models.
        jobs: What runs the methods.
        workers: What checks their requests.
        join: Whether jobs on one model take their steps as one batch, at the price of results that depend on
            the company in their last digits.
    """

    def __init__(self, models: Repository, jobs: JobManager, workers: Workers, *, join: bool = False) -> None:
        self._models = models
        self._jobs = jobs
        self._device = best_device()
        self._joiner = Joiner() if join else None
        self._methods = Methods(jobs, workers)
        for technique, (request, prepare) in _METHODS.items():
            self._methods.add(technique, request, partial(self._prepare, technique, prepare))

    def VisualizeClass(
        self, request: gradient_pb2.VisualizeClassRequest, context: Context
    ) -> AsyncIterator[gradient_pb2.VisualizeClassResponse]:
        """Pictures of classes."""
        return self._methods.run("visualize_class", request, gradient_pb2.VisualizeClassResponse)

    def VisualizeFeature(
        self, request: gradient_pb2.VisualizeFeatureRequest, context: Context
    ) -> AsyncIterator[gradient_pb2.VisualizeFeatureResponse]:
        """Pictures of units, channels, layers or directions."""
        return self._methods.run("visualize_feature", request, gradient_pb2.VisualizeFeatureResponse)

    def InvertRepresentation(
        self, request: gradient_pb2.InvertRepresentationRequest, context: Context
    ) -> AsyncIterator[gradient_pb2.InvertRepresentationResponse]:
        """Pictures with a given representation."""
        return self._methods.run("invert_representation", request, gradient_pb2.InvertRepresentationResponse)

    def DeepDream(
        self, request: gradient_pb2.DeepDreamRequest, context: Context
    ) -> AsyncIterator[gradient_pb2.DeepDreamResponse]:
        """A dream."""
        return self._methods.run("deep_dream", request, gradient_pb2.DeepDreamResponse)

    def CreateAdversarial(
        self, request: gradient_pb2.CreateAdversarialRequest, context: Context
    ) -> AsyncIterator[gradient_pb2.CreateAdversarialResponse]:
        """Adversarial examples."""
        return self._methods.run("create_adversarial", request, gradient_pb2.CreateAdversarialResponse)

    def CreateFoolingImage(
        self, request: gradient_pb2.CreateFoolingImageRequest, context: Context
    ) -> AsyncIterator[gradient_pb2.CreateFoolingImageResponse]:
        """Fooling pictures."""
        return self._methods.run("create_fooling_image", request, gradient_pb2.CreateFoolingImageResponse)

    def Attribute(
        self, request: gradient_pb2.AttributeRequest, context: Context
    ) -> AsyncIterator[gradient_pb2.AttributeResponse]:
        """What in a picture spoke for a class."""
        return self._methods.run("attribute", request, gradient_pb2.AttributeResponse)

    def _prepare(self, technique: str, prepare: Prepare, request: Any) -> tuple[Ticket, Start]:
        model = self._models.get(resource_id(request.model, "models", "model"))
        streaming.preview_every(request.options)

        def check() -> tuple[Subject, Prepared]:
            subject = make_subject(model, request, self._device, self._joiner)
            return subject, prepare(model, subject, request)

        subject, prepared = self._jobs.run(check)
        bytes_needed = prepared.batch.memory(model, subject)
        self._models.budget.check(bytes_needed, technique)
        settings = json_format.MessageToDict(
            preprocessing.to_message(subject.preprocessing), preserving_proto_field_name=True
        )
        ticket = Ticket(
            technique,
            f"models/{model.name}",
            model.graph.fingerprint,
            {**prepared.parameters, "preprocessing": settings},
            request.seed,
            prepared.total,
        )
        device = f"{self._device}, steps joined with other jobs'" if self._joiner else str(self._device)
        made = provenance(technique, ticket.model, ticket.fingerprint, ticket.parameters, ticket.seed, device)

        def start(memory: Memory) -> Work:
            with self._models.budget.lent(bytes_needed, technique):
                result = yield from prepared.start(memory)
            return prepared.to_result(result, made)

        return ticket, start
