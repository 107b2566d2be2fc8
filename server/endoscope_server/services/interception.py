"""What interceptors have in common: they put something around each method, or do its parsing."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from endoscope_server.errors import InvalidInput

_KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")

Around = Callable[["grpc.aio.ServicerContext[Any, Any]"], AbstractAsyncContextManager[None]]
"""What is put around a call."""

Continuation = Callable[[grpc.HandlerCallDetails], Awaitable["grpc.RpcMethodHandler[Any, Any] | None"]]
"""Finds the handler of a call."""


def wrapped(handler: Any, around: Around) -> Any:
    """A method's handler whose calls run within ``around``, whatever streams."""
    kind = next(name for name in _KINDS if getattr(handler, name) is not None)
    method: Any = getattr(handler, kind)

    async def unary(request: Any, context: Any) -> Any:
        async with around(context):
            return await method(request, context)

    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
        async with around(context):
            responses = method(request, context)
            if inspect.isawaitable(responses):
                # The other way to stream: it writes to the context.
                await responses
                return
            async for response in responses:
                yield response

    return handler._replace(**{kind: stream if handler.response_streaming else unary})


def parsing(handler: Any) -> Any:
    """The same handler, but its requests are parsed within its method.

    Where gRPC does it, a request that can't be parsed ends as UNKNOWN, with a trace in the log. Within the
    method it raises InvalidInput.
    """
    parse = handler.request_deserializer
    if parse is None:
        return handler

    def parsed(request: bytes) -> Any:
        try:
            return parse(request)
        except DecodeError as error:
            raise InvalidInput(
                f"{len(request)} bytes are no message that this method takes", reason="MALFORMED_REQUEST"
            ) from error

    async def each(requests: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        async for request in requests:
            yield parsed(request)

    kind = next(name for name in _KINDS if getattr(handler, name) is not None)
    method: Any = getattr(handler, kind)
    read: Any = each if handler.request_streaming else parsed
    changed = {kind: lambda request, context: method(read(request), context)}
    return handler._replace(request_deserializer=None, **changed)
