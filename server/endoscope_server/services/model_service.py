"""ModelService."""

from __future__ import annotations

import asyncio
import math
import queue
from collections.abc import AsyncIterator, Iterator
from typing import Any

from endoscope.v1 import model_pb2, model_pb2_grpc
from endoscope_server.errors import InvalidInput
from endoscope_server.models import Repository
from endoscope_server.models.model import DEFAULT_TOLERANCE
from endoscope_server.services import preprocessing
from endoscope_server.services.calls import Workers, page, resource_id
from endoscope_server.services.model_messages import describe, describe_file, to_certificate
from endoscope_server.services.status import Context

_CARD_TEXTS = ("title", "image_input", "source", "license")


class ModelService(model_pb2_grpc.ModelServiceServicer):
    """See ``model.proto``."""

    def __init__(self, models: Repository, workers: Workers) -> None:
        self._models = models
        self._workers = workers

    async def ListModels(
        self,
        request: model_pb2.ListModelsRequest,
        context: Context,
    ) -> model_pb2.ListModelsResponse:
        """The models by name, without loading any."""

        def work() -> model_pb2.ListModelsResponse:
            files, token = page(self._models.files(), request.page_size, request.page_token)
            loaded = ((file, self._models.loaded(file.name)) for file in files)
            models = [describe(model, full=False) if model else describe_file(file) for file, model in loaded]
            return model_pb2.ListModelsResponse(models=models, next_page_token=token)

        return await self._workers.run(work)

    async def GetModel(
        self,
        request: model_pb2.GetModelRequest,
        context: Context,
    ) -> model_pb2.GetModelResponse:
        """One model, loaded if it was not."""
        name = resource_id(request.name, "models", "name")
        full = request.view != model_pb2.MODEL_VIEW_BASIC
        model = await self._workers.run(lambda: describe(self._models.get(name), full=full))
        return model_pb2.GetModelResponse(model=model)

    async def UploadModel(
        self,
        request: AsyncIterator[model_pb2.UploadModelRequest],
        context: Context,
    ) -> model_pb2.UploadModelResponse:
        """A new model; verified before it is there."""
        first = await anext(aiter(request), None)
        if first is None or first.WhichOneof("part") != "header":
            raise InvalidInput("the first message has no header, expected one", field="header")
        header = first.header
        chunks: queue.Queue[bytes | Exception | None] = queue.Queue(maxsize=4)

        def work() -> model_pb2.Model:
            model = self._models.add(
                header.model_id,
                _received(chunks),
                _facts(header.card),
                overwrite=header.overwrite,
                size=header.size_bytes,
            )
            return describe(model, full=False)

        task = self._workers.start(work)
        try:
            async for message in request:
                await self._workers.put(chunks, message.chunk, task)
        except BaseException:
            # Nobody awaits the work any more; it must still end, and leave nothing behind.
            task.add_done_callback(asyncio.Future.exception)
            chunks.queue.clear()
            chunks.put(InvalidInput("the upload was broken off", field="chunk", reason="CUT_OFF"))
            raise
        await self._workers.put(chunks, None, task)
        return model_pb2.UploadModelResponse(model=await task)

    async def LoadModel(
        self,
        request: model_pb2.LoadModelRequest,
        context: Context,
    ) -> model_pb2.LoadModelResponse:
        """Load, mirror included."""
        name = resource_id(request.name, "models", "name")

        def work() -> model_pb2.Model:
            model = self._models.get(name)
            _ = model.mirror
            return describe(model, full=False)

        return model_pb2.LoadModelResponse(model=await self._workers.run(work))

    async def UnloadModel(
        self,
        request: model_pb2.UnloadModelRequest,
        context: Context,
    ) -> model_pb2.UnloadModelResponse:
        """Free memory."""
        name = resource_id(request.name, "models", "name")

        def work() -> model_pb2.Model:
            self._models.unload(name)
            return describe_file(self._models.file(name))

        return model_pb2.UnloadModelResponse(model=await self._workers.run(work))

    async def DeleteModel(
        self,
        request: model_pb2.DeleteModelRequest,
        context: Context,
    ) -> model_pb2.DeleteModelResponse:
        """Delete an uploaded model."""
        name = resource_id(request.name, "models", "name")
        await self._workers.run(lambda: self._models.delete(name))
        return model_pb2.DeleteModelResponse()

    async def VerifyModel(
        self,
        request: model_pb2.VerifyModelRequest,
        context: Context,
    ) -> model_pb2.VerifyModelResponse:
        """A new certificate."""
        name = resource_id(request.name, "models", "name")
        tolerance = request.tolerance if request.HasField("tolerance") else DEFAULT_TOLERANCE
        if not (math.isfinite(tolerance) and tolerance > 0):
            raise InvalidInput(
                f"tolerance is {tolerance}, expected a positive finite number", field="tolerance"
            )
        if request.seed < 0:
            raise InvalidInput(f"seed is {request.seed}, expected 0 or more", field="seed")
        certificate = await self._workers.run(lambda: self._models.get(name).verify(tolerance, request.seed))
        return model_pb2.VerifyModelResponse(certificate=to_certificate(certificate))


def _received(chunks: queue.Queue[bytes | Exception | None]) -> Iterator[bytes]:
    while (chunk := chunks.get()) is not None:
        if isinstance(chunk, Exception):
            raise chunk
        yield chunk


def _facts(card: model_pb2.Model) -> dict[str, Any]:
    facts: dict[str, Any] = {name: getattr(card, name) for name in _CARD_TEXTS if getattr(card, name)}
    if card.labels:
        facts["labels"] = list(card.labels)
    if card.HasField("preprocessing"):
        facts["preprocessing"] = preprocessing.changes(card.preprocessing)
    return facts
