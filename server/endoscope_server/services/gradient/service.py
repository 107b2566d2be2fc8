"""GradientService."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from functools import partial

from google.protobuf.message import Message

from endoscope.v1 import gradient_pb2, gradient_pb2_grpc
from endoscope_server.jobs import JobManager
from endoscope_server.services.calls import Workers
from endoscope_server.services.gradient import (
    adversarial,
    attribution,
    class_visualization,
    deep_dream,
    feature_visualization,
    fooling,
    inversion,
)
from endoscope_server.services.gradient.prepared import Prepare
from endoscope_server.services.gradient.work import MirrorWork
from endoscope_server.services.status import Context
from endoscope_server.services.streaming import Methods

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
        work: What prepares work on a model.
        jobs: What runs the methods.
        workers: What checks their requests.
    """

    def __init__(self, work: MirrorWork, jobs: JobManager, workers: Workers) -> None:
        self._methods = Methods(jobs, workers)
        for technique, (request, prepare) in _METHODS.items():
            self._methods.add(technique, request, partial(work.prepare, technique, prepare))

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
