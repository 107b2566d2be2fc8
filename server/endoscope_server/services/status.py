"""Errors as gRPC statuses with google.rpc details, for every method alike."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any, NoReturn

import grpc
import grpc.aio
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from endoscope_server.errors import (
    AlreadyExists,
    Cancelled,
    EndoscopeError,
    Forbidden,
    InvalidInput,
    LimitExceeded,
    NotFound,
    PreconditionFailed,
    Unauthenticated,
    Unavailable,
    Unsupported,
    of_the_disk,
)
from endoscope_server.services.interception import Continuation, parsing, wrapped

logger = logging.getLogger(__name__)

DOMAIN = "endoscope"

_CODES: tuple[tuple[type[EndoscopeError], grpc.StatusCode], ...] = (
    (InvalidInput, grpc.StatusCode.INVALID_ARGUMENT),
    (NotFound, grpc.StatusCode.NOT_FOUND),
    (AlreadyExists, grpc.StatusCode.ALREADY_EXISTS),
    (PreconditionFailed, grpc.StatusCode.FAILED_PRECONDITION),
    (LimitExceeded, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (Cancelled, grpc.StatusCode.CANCELLED),
    (Unauthenticated, grpc.StatusCode.UNAUTHENTICATED),
    (Forbidden, grpc.StatusCode.PERMISSION_DENIED),
    (Unavailable, grpc.StatusCode.UNAVAILABLE),
    (Unsupported, grpc.StatusCode.UNIMPLEMENTED),
)

Context = grpc.aio.ServicerContext[Any, Any]


def code_of(error: EndoscopeError) -> grpc.StatusCode:
    """The status code that an error stands for."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), grpc.StatusCode.INTERNAL)


def details_of(error: EndoscopeError) -> status_pb2.Status:
    """The error as google.rpc.Status, with ErrorInfo, BadRequest if a field is at fault, and RetryInfo."""
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)
    parts: list[Message] = [info]
    if error.field:
        request = error_details_pb2.BadRequest()
        request.field_violations.add(field=error.field, description=error.message, reason=error.reason)
        parts.append(request)
    if error.retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(1000 * error.retry_after))
        parts.append(error_details_pb2.RetryInfo(retry_delay=delay))
    details = []
    for part in parts:
        details.append(any_pb2.Any())
        details[-1].Pack(part)
    code = code_of(error).value[0]
    return status_pb2.Status(code=code, message=_sentence(error), details=details)


async def abort(context: Context, error: EndoscopeError) -> NoReturn:
    """End the call with the error's status."""
    before = context.trailing_metadata() or ()
    metadata = (*before, ("grpc-status-details-bin", details_of(error).SerializeToString()))
    await context.abort(code_of(error), _sentence(error), metadata)


class StatusInterceptor(grpc.aio.ServerInterceptor):
    """Turns what a method raises into a status; what nobody foresaw is logged, and told without its trace."""

    async def intercept_service(
        self,
        continuation: Continuation,
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wrap the method that is called."""
        handler: Any = await continuation(handler_call_details)
        if handler is None:
            return None
        return wrapped(parsing(handler), lambda context: _telling(context, str(handler_call_details.method)))


@contextlib.asynccontextmanager
async def _telling(context: Context, name: str) -> AsyncIterator[None]:
    try:
        yield
    except Exception as error:
        await _abort_any(context, error, name)


async def _abort_any(context: Context, error: Exception, name: str) -> NoReturn:
    if isinstance(error, (grpc.aio.AbortError, asyncio.CancelledError)):
        raise error
    if isinstance(error, EndoscopeError):
        await abort(context, error)
    if isinstance(error, OSError) and (foreseen := of_the_disk(error)):
        logger.error("%s: %s", name, error)
        await abort(context, foreseen)
    logger.error("%s failed inside", name, exc_info=error)
    await abort(context, EndoscopeError(f"{name} failed inside the server: {type(error).__name__}"))


def _sentence(error: EndoscopeError) -> str:
    return f"{error.field}: {error.message}" if error.field else error.message
