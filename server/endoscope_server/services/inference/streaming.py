"""Inference over a stream: answers in the order of the requests, which are computed together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

from endoscope_server.errors import EndoscopeError
from endoscope_server.protocols import grpc_service_pb2 as pb
from endoscope_server.services.inference.inferring import Inferring
from endoscope_server.services.inference.wire import InferRequest
from endoscope_server.services.status import details_of

logger = logging.getLogger(__name__)

IN_FLIGHT = 32
"""Requests of one stream that are taken in before the first of them is answered."""

WANTS_FINAL = "triton_enable_empty_final_response"
FINAL = "triton_final_response"


async def answers(
    inferring: Inferring, requests: AsyncIterator[InferRequest]
) -> AsyncIterator[pb.ModelStreamInferResponse]:
    """An answer for each request; one that fails gets its error, and the stream goes on."""
    under_way: asyncio.Queue[asyncio.Task[pb.ModelStreamInferResponse] | None] = asyncio.Queue(IN_FLIGHT)

    async def take_in() -> None:
        try:
            async for request in requests:
                await under_way.put(asyncio.create_task(_answer(inferring, request)))
        finally:
            await under_way.put(None)

    feeder = asyncio.create_task(take_in())
    try:
        while (task := await under_way.get()) is not None:
            yield await task
        await feeder
    finally:
        feeder.cancel()
        while not under_way.empty():
            if (task := under_way.get_nowait()) is not None:
                task.cancel()


async def _answer(inferring: Inferring, request: InferRequest) -> pb.ModelStreamInferResponse:
    asked = request.message
    try:
        response = await inferring.answer(request)
    except EndoscopeError as error:
        return _failed(asked, details_of(error).message)
    except Exception as error:
        logger.error("inference in a stream failed inside", exc_info=error)
        return _failed(asked, f"inference failed inside the server: {type(error).__name__}")
    if WANTS_FINAL in asked.parameters and asked.parameters[WANTS_FINAL].bool_param:
        response.parameters[FINAL].bool_param = True
    return pb.ModelStreamInferResponse(infer_response=response)


def _failed(request: pb.ModelInferRequest, message: str) -> pb.ModelStreamInferResponse:
    """An error with the request's identifier, by which clients tell whose it is."""
    return pb.ModelStreamInferResponse(
        error_message=message,
        infer_response=pb.ModelInferResponse(
            model_name=request.model_name, model_version=request.model_version, id=request.id
        ),
    )
