"""Tells of every call: its request id, a line in the log, metrics, a span."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from endoscope_server.services.interception import Continuation, wrapped
from endoscope_server.services.roles import OPEN
from endoscope_server.telemetry import call
from endoscope_server.telemetry.metrics import REQUEST_SECONDS, REQUESTS, REQUESTS_IN_PROGRESS
from endoscope_server.telemetry.tracing import Tracing

logger = logging.getLogger(__name__)

REQUEST_ID = "x-request-id"
"""The metadata that names a call: a client may send it, and gets it back at the end."""

INFERENCE = "/inference.GRPCInferenceService/ModelInfer"
"""Comes by the hundred a second, as probes come every few: the metrics count these calls, and only those that
fail have a line in the log at its usual level."""

_NEXT_TO_NOTHING = 0.1
"""Seconds: a client's own clock runs ahead of the server's by the time that the call was under way."""


class ObservingInterceptor(grpc.aio.ServerInterceptor):
    """Tells of every call; the outermost interceptor, so that it sees how each one ends.

    Args:
        tracing: Where spans go; None for nowhere.
    """

    def __init__(self, tracing: Tracing | None = None) -> None:
        self._tracing = tracing

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        """Wrap the method that is called."""
        metadata = {
            key: value
            for key, value in handler_call_details.invocation_metadata or ()
            if isinstance(value, str)
        }
        call.begin(metadata.get(REQUEST_ID, ""))
        handler = await continuation(handler_call_details)
        if handler is None:
            # Whoever calls what is not there must not be able to make up names of metrics.
            REQUESTS.labels("unknown", "UNIMPLEMENTED").inc()
            return None
        method = str(handler_call_details.method)
        return wrapped(handler, lambda context: self._observe(context, method, metadata))

    @contextlib.asynccontextmanager
    async def _observe(self, context: Any, method: str, metadata: dict[str, str]) -> AsyncIterator[None]:
        identifier = call.current().request_id
        context.set_trailing_metadata(((REQUEST_ID, identifier),))
        span = self._tracing.begin_call(method, metadata) if self._tracing else None
        in_progress = REQUESTS_IN_PROGRESS.labels(method)
        began = time.perf_counter()
        in_progress.inc()
        code = grpc.StatusCode.OK
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):
            left = context.time_remaining()
            late = left is not None and left < _NEXT_TO_NOTHING
            code = grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
            raise
        except BaseException:
            code = _code(context)
            raise
        finally:
            seconds = time.perf_counter() - began
            in_progress.dec()
            REQUESTS.labels(method, code.name).inc()
            REQUEST_SECONDS.labels(method).observe(seconds)
            if span is not None and self._tracing is not None:
                self._tracing.end_call(span, code.name, code.value[0], identifier)
            frequent = method in OPEN or (method == INFERENCE and code is grpc.StatusCode.OK)
            level = logging.DEBUG if frequent else logging.INFO
            if logger.isEnabledFor(level):
                fields = {"method": method, "code": code.name, "seconds": round(seconds, 6)}
                logger.log(level, "%s %s %.3f s", method, code.name, seconds, extra={"fields": fields})


def _code(context: Any) -> grpc.StatusCode:
    """The code that a call was aborted with."""
    code = context.code()
    if isinstance(code, grpc.StatusCode):
        return code
    return next((one for one in grpc.StatusCode if one.value[0] == code), grpc.StatusCode.UNKNOWN)
