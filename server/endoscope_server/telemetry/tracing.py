"""Traces for OpenTelemetry, sent to a collector. Needs the extra ``telemetry``."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from endoscope_server.errors import InvalidInput

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span

NAME = "endoscope"


class Tracing:
    """Makes spans, and sends them from a thread of its own.

    Headers, sampling, timeouts and the like are OpenTelemetry's own environment variables
    (``OTEL_EXPORTER_OTLP_HEADERS``, ``OTEL_TRACES_SAMPLER``, …).

    Args:
        endpoint: ``http://host:4317`` of a collector that takes OTLP over gRPC; ``https`` for TLS.
        version: This server's.

    Raises:
        InvalidInput: if the endpoint is no such address, or OpenTelemetry is not installed.
    """

    def __init__(self, endpoint: str, version: str) -> None:
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidInput(
                f"{endpoint!r} is no collector, expected http://host:4317 or https", field="otlp_endpoint"
            )
        try:
            from opentelemetry import context, trace
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError as error:
            raise InvalidInput(
                "traces need OpenTelemetry: pip install 'endoscope[telemetry]'", field="otlp_endpoint"
            ) from error
        name = os.environ.get("OTEL_SERVICE_NAME") or NAME
        resource = Resource.create({"service.name": name, "service.version": version})
        self._provider = TracerProvider(resource=resource)
        self._exporter = OTLPSpanExporter(endpoint=endpoint, insecure=parts.scheme == "http")
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer(NAME, version)
        self._propagator = TraceContextTextMapPropagator()
        self._context, self._trace = context, trace

    def begin_call(self, method: str, metadata: Mapping[str, str]) -> Span:
        """A span for a call; spans that begin later in this task are its children.

        Args:
            method: The full name of the method, such as ``/endoscope.v1.ModelService/GetModel``.
            metadata: The call's; with ``traceparent`` the span belongs to the client's.
        """
        service, _, name = method.strip("/").partition("/")
        span = self._tracer.start_span(
            method.strip("/"),
            context=self._propagator.extract(metadata),
            kind=self._trace.SpanKind.SERVER,
            attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": name},
        )
        # It is never detached: the context ends with the task, and a stream that is left half-way is closed
        # in another one.
        self._context.attach(self._trace.set_span_in_context(span))
        return span

    def end_call(self, span: Span, code: str, number: int, request_id: str) -> None:
        """The call has ended.

        Args:
            span: Its span.
            code: The status code's name.
            number: The status code's number.
            request_id: The call's.
        """
        span.set_attributes({"rpc.grpc.status_code": number, "endoscope.request_id": request_id})
        if code not in ("OK", "CANCELLED"):
            span.set_status(self._trace.StatusCode.ERROR, code)
        span.end()

    def begin_job(self, identifier: str, technique: str, *, taken_up: bool = False) -> Span:
        """A span for a job that the current call submits, or that the server before has left."""
        parent: Context = self._context.get_current()
        return self._tracer.start_span(
            f"job {technique}",
            context=parent,
            attributes={
                "endoscope.job_id": identifier,
                "endoscope.technique": technique,
                "endoscope.taken_up": taken_up,
            },
        )

    def end_job(self, span: Span, state: str, steps: int) -> None:
        """The job has ended, or is left to the next server."""
        span.set_attributes({"endoscope.job_state": state, "endoscope.steps": steps})
        if state == "failed":
            span.set_status(self._trace.StatusCode.ERROR, "the job failed")
        span.end()

    def shut_down(self, patience: float) -> None:
        """Send what is left, and end; a collector that does not answer is given up after so many seconds."""
        giving_up = threading.Timer(patience, self._exporter.shutdown)
        giving_up.start()
        try:
            self._provider.shutdown()
        finally:
            giving_up.cancel()
