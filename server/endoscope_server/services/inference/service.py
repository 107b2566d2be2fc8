"""GRPCInferenceService."""

from __future__ import annotations

from collections.abc import AsyncIterator
from importlib.metadata import version

from endoscope_server.errors import Unsupported
from endoscope_server.models import Repository
from endoscope_server.protocols import grpc_service_pb2 as pb
from endoscope_server.protocols import grpc_service_pb2_grpc
from endoscope_server.services.calls import Workers
from endoscope_server.services.inference import regions, statistics
from endoscope_server.services.inference.availability import Availability, model_of
from endoscope_server.services.inference.inferring import Inferring
from endoscope_server.services.inference.metadata import VERSION, configuration, metadata
from endoscope_server.services.inference.streaming import answers
from endoscope_server.services.inference.wire import InferRequest
from endoscope_server.services.status import Context
from endoscope_server.serving import Batcher, SharedMemory, Statistics

EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "statistics",
)

SHARED_MEMORY = "system_shared_memory"
"""The extension that there is where the operator allows it."""

IGNORED = frozenset({"unload_dependents"})
"""Parameters of loading and unloading that change nothing here."""


class InferenceService(grpc_service_pb2_grpc.GRPCInferenceServiceServicer):
    """See ``grpc_service.proto``.

    Args:
        models: The repository.
        batcher: Runs them.
        workers: Threads for short work.
        shared: Where tensors may lie; None for messages alone.
    """

    def __init__(
        self, models: Repository, batcher: Batcher, workers: Workers, shared: SharedMemory | None = None
    ) -> None:
        self._availability = Availability(models)
        self._batcher = batcher
        self._workers = workers
        self._shared = shared
        self._inferring = Inferring(self._availability, batcher, workers, shared)
        self._ready = True

    def drain(self) -> None:
        """Say from now on that the server is not ready."""
        self._ready = False

    async def ServerLive(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:
        """It answers, so it lives."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:
        """Until it stops."""
        return pb.ServerReadyResponse(ready=self._ready)

    async def ModelReady(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:
        """Whether a model is there and was not unloaded; it comes into memory when it is asked for."""
        ready = await self._workers.run(lambda: self._availability.is_ready(request.name, request.version))
        return pb.ModelReadyResponse(ready=self._ready and ready)

    async def ServerMetadata(
        self, request: pb.ServerMetadataRequest, context: Context
    ) -> pb.ServerMetadataResponse:
        """Name, version, extensions."""
        shared = () if self._shared is None else (SHARED_MEMORY,)
        return pb.ServerMetadataResponse(
            name="endoscope", version=version("endoscope"), extensions=EXTENSIONS + shared
        )

    async def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: Context
    ) -> pb.ModelMetadataResponse:
        """Inputs and outputs."""
        return metadata(await self._inferring.model(request.name, request.version, "name"))

    async def ModelConfig(self, request: pb.ModelConfigRequest, context: Context) -> pb.ModelConfigResponse:
        """As Triton would be told."""
        model = await self._inferring.model(request.name, request.version, "name")
        return pb.ModelConfigResponse(config=configuration(model, self._batcher))

    async def ModelInfer(  # type: ignore[override]  # see WireInterceptor
        self, request: InferRequest, context: Context
    ) -> pb.ModelInferResponse:
        """Values of the graph."""
        return await self._inferring.answer(request)

    async def ModelStreamInfer(  # type: ignore[override]  # see WireInterceptor
        self, request: AsyncIterator[InferRequest], context: Context
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        """The same for many requests."""
        async for response in answers(self._inferring, request):
            yield response

    async def ModelStatistics(
        self, request: pb.ModelStatisticsRequest, context: Context
    ) -> pb.ModelStatisticsResponse:
        """Of one model, or of all that were asked for anything."""
        counted = self._batcher.statistics
        if request.name:
            await self._inferring.model(request.name, request.version, "name")
            found = {request.name: counted.get(request.name, Statistics())}
        else:
            found = dict(sorted(counted.items()))
        return pb.ModelStatisticsResponse(
            model_stats=[statistics.to_message(name, VERSION, counts) for name, counts in found.items()]
        )

    async def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest, context: Context
    ) -> pb.RepositoryIndexResponse:
        """The models on disk."""
        if request.repository_name:
            raise Unsupported("there is one repository only, expected no name", field="repository_name")
        return await self._workers.run(lambda: self._availability.index(ready_only=request.ready))

    async def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, context: Context
    ) -> pb.RepositoryModelLoadResponse:
        """Load, or serve again."""
        name = _only_known(request)
        await self._workers.run(lambda: self._availability.load(name))
        return pb.RepositoryModelLoadResponse(model_name=name, is_loaded=True)

    async def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, context: Context
    ) -> pb.RepositoryModelUnloadResponse:
        """Free memory, and serve no more."""
        name = _only_known(request)
        await self._workers.run(lambda: self._availability.unload(name))
        return pb.RepositoryModelUnloadResponse(model_name=name, is_unloaded=True)

    async def SystemSharedMemoryStatus(
        self, request: pb.SystemSharedMemoryStatusRequest, context: Context
    ) -> pb.SystemSharedMemoryStatusResponse:
        """The regions that there are."""
        return regions.status(self._regions(context), request.name)

    async def SystemSharedMemoryRegister(
        self, request: pb.SystemSharedMemoryRegisterRequest, context: Context
    ) -> pb.SystemSharedMemoryRegisterResponse:
        """A further region."""
        self._regions(context).register(request.name, request.key, request.offset, request.byte_size)
        return pb.SystemSharedMemoryRegisterResponse()

    async def SystemSharedMemoryUnregister(
        self, request: pb.SystemSharedMemoryUnregisterRequest, context: Context
    ) -> pb.SystemSharedMemoryUnregisterResponse:
        """A region less, or none any more."""
        self._regions(context).unregister(request.name)
        return pb.SystemSharedMemoryUnregisterResponse()

    def _regions(self, context: Context) -> SharedMemory:
        """The regions of callers on this machine."""
        if self._shared is None:
            raise regions.refused()
        regions.check_local(context.peer())
        return self._shared


def _only_known(request: pb.RepositoryModelLoadRequest | pb.RepositoryModelUnloadRequest) -> str:
    """The model's name, if there is no parameter that would change what is loaded."""
    unknown = sorted(set(request.parameters) - IGNORED)
    if unknown:
        raise Unsupported(
            f"there is no parameter {unknown[0][:140]!r}; models are loaded as they lie on disk",
            field="parameters",
        )
    return model_of(request)
