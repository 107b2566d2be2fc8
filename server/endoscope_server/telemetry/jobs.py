"""What becomes of jobs: in the log, in metrics, in traces."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from typing import Any

from endoscope_server.telemetry import call
from endoscope_server.telemetry.call import Call
from endoscope_server.telemetry.metrics import JOBS_ENDED, JOBS_SUBMITTED, STEPS
from endoscope_server.telemetry.tracing import Tracing

logger = logging.getLogger(__name__)


class JobObserver:
    """Is told of jobs. Each method may be called from any thread.

    Args:
        tracing: Where spans go; None for nowhere.
    """

    def __init__(self, tracing: Tracing | None = None) -> None:
        self._tracing = tracing
        self._calls: dict[str, Call] = {}
        self._spans: dict[str, Any] = {}

    def submitted(self, identifier: str, technique: str) -> None:
        """A job was queued by the current call."""
        JOBS_SUBMITTED.labels(technique).inc()
        self._calls[identifier] = call.name_job(identifier)
        if self._tracing is not None:
            self._spans[identifier] = self._tracing.begin_job(identifier, technique)
        logger.info("job %s (%s) is queued", identifier, technique)

    def taken_up(self, identifier: str, technique: str) -> None:
        """A job of the server before goes on here."""
        if self._tracing is not None:
            self._spans[identifier] = self._tracing.begin_job(identifier, technique, taken_up=True)

    def working(self, identifier: str) -> AbstractContextManager[None]:
        """What is logged in the block is about a job, and the call that submitted it."""
        return call.within(self._calls.get(identifier, Call(job_id=identifier)))

    @staticmethod
    def stepped(technique: str) -> None:
        """A job did a step."""
        STEPS.labels(technique).inc()

    def ended(self, identifier: str, technique: str, state: str, steps: int) -> None:
        """A job has ended: it succeeded, failed, or was cancelled."""
        JOBS_ENDED.labels(technique, state).inc()
        with self.working(identifier):
            logger.info("job %s (%s) %s after %d steps", identifier, technique, state, steps)
        self._close(identifier, state, steps)

    def left(self, identifier: str, steps: int) -> None:
        """A job will go on in the next server, where it is another span."""
        self._close(identifier, "suspended", steps)

    def _close(self, identifier: str, state: str, steps: int) -> None:
        self._calls.pop(identifier, None)
        span = self._spans.pop(identifier, None)
        if span is not None and self._tracing is not None:
            self._tracing.end_job(span, state, steps)
