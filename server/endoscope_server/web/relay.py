"""Connect and gRPC-Web in front of the gRPC server.

Every method of a service is found by its descriptor and passed on to the gRPC server, so that the same
servicers answer, behind the same interceptors and limits, and nothing here knows any method.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import grpc
import grpc.aio
from connectrpc.code import Code
from connectrpc.compat import google_protobuf_codecs
from connectrpc.errors import ConnectError, ErrorDetail
from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
from connectrpc.request import RequestContext
from connectrpc.server import ConnectASGIApplication, Endpoint
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass
from google.rpc import status_pb2
from protobuf.wkt import Any as AnyMessage

PASSED_ON = ("authorization", "traceparent", "tracestate", "x-request-id")
"""The request headers that become metadata of the relayed call."""

_CODES: dict[grpc.StatusCode, Code] = {
    status: Code("canceled" if status is grpc.StatusCode.CANCELLED else status.name.lower())
    for status in grpc.StatusCode
    if status is not grpc.StatusCode.OK
}

Context = RequestContext[Any, Any]


class Relay(ConnectASGIApplication[grpc.aio.Channel]):
    """An ASGI application that passes calls on to a gRPC server.

    Args:
        channel: To the server.
        services: What is passed on; every method of them.
        read_max_bytes: The largest request message.
    """

    def __init__(
        self, channel: grpc.aio.Channel, services: Iterable[ServiceDescriptor], read_max_bytes: int
    ) -> None:
        methods = [method for service in services for method in service.methods]
        self.paths = frozenset(_path(method) for method in methods)
        super().__init__(
            service=channel,
            endpoints=lambda channel: {_path(method): _endpoint(channel, method) for method in methods},
            read_max_bytes=read_max_bytes,
            # Pictures and weights shrink no further, and the way is short.
            compressions=(),
            codecs=google_protobuf_codecs(),
        )

    @property
    def path(self) -> str:
        """Where the application is mounted."""
        return "/"


def _path(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


def _endpoint(channel: grpc.aio.Channel, method: MethodDescriptor) -> Any:
    request: Any = GetMessageClass(method.input_type)
    response: Any = GetMessageClass(method.output_type)
    streams, streamed = method.client_streaming, method.server_streaming
    kind = f"{'stream' if streams else 'unary'}_{'stream' if streamed else 'unary'}"
    call = getattr(channel, kind)(
        _path(method),
        request_serializer=request.SerializeToString,
        response_deserializer=response.FromString,
    )
    shapes: dict[str, tuple[Any, StreamType]] = {
        "unary_unary": (Endpoint.unary, StreamType.UNARY),
        "stream_unary": (Endpoint.client_stream, StreamType.CLIENT_STREAM),
        "unary_stream": (Endpoint.server_stream, StreamType.SERVER_STREAM),
        "stream_stream": (Endpoint.bidi_stream, StreamType.BIDI_STREAM),
    }
    make, stream_type = shapes[kind]
    info = MethodInfo(
        name=method.name,
        service_name=method.containing_service.full_name,
        input=request,
        output=response,
        idempotency_level=IdempotencyLevel.UNKNOWN,
        stream_type=stream_type,
    )
    function: Any = _many(call) if streamed else _upload(call) if streams else _one(call)
    return make(info, function)


def _one(call: Callable[..., Any]) -> Callable[[Any, Context], Any]:
    async def function(request: Any, context: Context) -> Any:
        try:
            return await call(request, **_conditions(context))
        except grpc.aio.AioRpcError as error:
            raise to_connect(error) from None

    return function


def _upload(call: Callable[..., Any]) -> Callable[[AsyncIterator[Any], Context], Any]:
    async def function(request: AsyncIterator[Any], context: Context) -> Any:
        messages: asyncio.Queue[Any] = asyncio.Queue(maxsize=2)

        async def feed() -> AsyncIterator[Any]:
            while (message := await messages.get()) is not None:
                yield message

        async def ask() -> Any:
            return await call(feed(), **_conditions(context))

        answered = asyncio.create_task(ask())

        async def hand(message: Any) -> None:
            handed = asyncio.create_task(messages.put(message))
            await asyncio.wait({handed, answered}, return_when=asyncio.FIRST_COMPLETED)
            handed.cancel()

        try:
            # Once there is an answer the rest is read and let go: a browser that has not sent all of it
            # would hear of a broken connection, not of the answer.
            async for message in request:
                if not answered.done():
                    await hand(message)
            await hand(None)
            return await answered
        except grpc.aio.AioRpcError as error:
            raise to_connect(error) from None
        finally:
            answered.cancel()

    return function


def _many(call: Callable[..., Any]) -> Callable[[Any, Context], AsyncIterator[Any]]:
    async def function(request: Any, context: Context) -> AsyncIterator[Any]:
        answers = call(request, **_conditions(context))
        try:
            async for answer in answers:
                yield answer
        except grpc.aio.AioRpcError as error:
            raise to_connect(error) from None
        finally:
            # Whoever asked may have gone; the server must hear of it.
            answers.cancel()

    return function


def _conditions(context: Context) -> dict[str, Any]:
    headers = context.request_headers
    left = context.timeout_ms
    return {
        "metadata": tuple((name, headers[name]) for name in PASSED_ON if name in headers),
        "timeout": None if left is None else max(left, 0.0) / 1000,
    }


def to_connect(error: grpc.aio.AioRpcError) -> ConnectError:
    """The same error, with its code, its sentence and its details, in Connect's words."""
    status = status_pb2.Status()
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            status.MergeFromString(value)
    details = [
        ErrorDetail(AnyMessage(type_url=detail.type_url, value=detail.value)) for detail in status.details
    ]
    return ConnectError(_CODES.get(error.code(), Code.UNKNOWN), error.details() or "", details)
