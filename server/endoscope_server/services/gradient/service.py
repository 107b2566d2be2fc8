"""GradientService."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, TypeVar

import torch
from google.protobuf import json_format

from endoscope.v1 import gradient_pb2, gradient_pb2_grpc
from endoscope_server.jobs import JobManager
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
from endoscope_server.services.streaming import Ticket
from endoscope_server.techniques.parts.subject import Subject

ResponseT = TypeVar("ResponseT")


class GradientService(gradient_pb2_grpc.GradientServiceServicer):
    """See ``gradient.proto``."""

    def __init__(self, models: Repository, jobs: JobManager, workers: Workers) -> None:
        self._models = models
        self._jobs = jobs
        self._workers = workers
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def VisualizeClass(
        self, request: gradient_pb2.VisualizeClassRequest, context: Context
    ) -> AsyncIterator[gradient_pb2.VisualizeClassResponse]:
        """Pictures of classes."""
        return self._run(
            "visualize_class", class_visualization.prepare, request, gradient_pb2.VisualizeClassResponse
        )

    def VisualizeFeature(
        self, request: gradient_pb2.VisualizeFeatureRequest, context: Context
    ) -> AsyncIterator[gradient_pb2.VisualizeFeatureResponse]:
        """Pictures of units, channels, layers or directions."""
        return self._run(
            "visualize_feature", feature_visualization.prepare, request, gradient_pb2.VisualizeFeatureResponse
        )

    def InvertRepresentation(
        self, request: gradient_pb2.InvertRepresentationRequest, context: Context
    ) -> AsyncIterator[gradient_pb2.InvertRepresentationResponse]:
        """Pictures with a given representation."""
        return self._run(
            "invert_representation", inversion.prepare, request, gradient_pb2.InvertRepresentationResponse
        )

    def DeepDream(
        self, request: gradient_pb2.DeepDreamRequest, context: Context
    ) -> AsyncIterator[gradient_pb2.DeepDreamResponse]:
        """A dream."""
        return self._run("deep_dream", deep_dream.prepare, request, gradient_pb2.DeepDreamResponse)

    def CreateAdversarial(
        self, request: gradient_pb2.CreateAdversarialRequest, context: Context
    ) -> AsyncIterator[gradient_pb2.CreateAdversarialResponse]:
        """Adversarial examples."""
        return self._run(
            "create_adversarial", adversarial.prepare, request, gradient_pb2.CreateAdversarialResponse
        )

    def CreateFoolingImage(
        self, request: gradient_pb2.CreateFoolingImageRequest, context: Context
    ) -> AsyncIterator[gradient_pb2.CreateFoolingImageResponse]:
        """Fooling pictures."""
        return self._run(
            "create_fooling_image", fooling.prepare, request, gradient_pb2.CreateFoolingImageResponse
        )

    def Attribute(
        self, request: gradient_pb2.AttributeRequest, context: Context
    ) -> AsyncIterator[gradient_pb2.AttributeResponse]:
        """What in a picture spoke for a class."""
        return self._run("attribute", attribution.prepare, request, gradient_pb2.AttributeResponse)

    async def _run(
        self, technique: str, prepare: Prepare, request: Any, response: type[ResponseT]
    ) -> AsyncIterator[ResponseT]:
        ticket, prepared = await self._workers.run(lambda: self._prepare(technique, prepare, request))
        made = provenance(
            technique, ticket.model, ticket.fingerprint, ticket.parameters, ticket.seed, str(self._device)
        )

        def work() -> Any:
            result = yield from prepared.start()
            return prepared.to_result(result, made)

        async for message in streaming.run(self._jobs, ticket, work, request.options, response):
            yield message

    def _prepare(self, technique: str, prepare: Prepare, request: Any) -> tuple[Ticket, Prepared]:
        model = self._models.get(resource_id(request.model, "models", "model"))
        streaming.preview_every(request.options)

        def work() -> tuple[Subject, Prepared]:
            subject = make_subject(model, request, self._device)
            return subject, prepare(model, subject, request)

        subject, prepared = self._jobs.run(work)
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
        return ticket, prepared
