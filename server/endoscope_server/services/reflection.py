"""Server reflection, version 1. The answers are grpcio-reflection's, which itself speaks version 1alpha."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any

from grpc_reflection.v1alpha.reflection import ReflectionServicer
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest as AlphaRequest

from endoscope_server.protocols import reflection_pb2, reflection_pb2_grpc
from endoscope_server.services.status import Context


class ReflectionService(reflection_pb2_grpc.ServerReflectionServicer):
    """The two versions have the same messages but for their package, so bytes are passed on.

    Args:
        services: Full names of the services that are told.
    """

    def __init__(self, services: Iterable[str]) -> None:
        self._alpha: Any = ReflectionServicer(services)

    async def ServerReflectionInfo(
        self, request: AsyncIterator[reflection_pb2.ServerReflectionRequest], context: Context
    ) -> AsyncIterator[reflection_pb2.ServerReflectionResponse]:
        """Answers in order."""
        async for question in request:
            asked = [AlphaRequest.FromString(question.SerializeToString())]
            for answer in self._alpha.ServerReflectionInfo(iter(asked), None):
                yield reflection_pb2.ServerReflectionResponse.FromString(answer.SerializeToString())
