"""What interceptors have in common: they put something around each method."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import grpc
import grpc.aio

Around = Callable[["grpc.aio.ServicerContext[Any, Any]"], AbstractAsyncContextManager[None]]
"""What is put around a call."""

Continuation = Callable[[grpc.HandlerCallDetails], Awaitable["grpc.RpcMethodHandler[Any, Any] | None"]]
"""Finds the handler of a call."""


def wrapped(handler: Any, around: Around) -> Any:
    """A method's handler whose calls run within ``around``, whatever streams."""
    kind = f"{'stream' if handler.request_streaming else 'unary'}_" + (
        "stream" if handler.response_streaming else "unary"
    )
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

    make: Any = getattr(grpc, f"{kind}_rpc_method_handler")
    return make(
        stream if handler.response_streaming else unary,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )
