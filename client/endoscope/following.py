"""What both kinds of streams know of the job that they follow."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Generic, TypeVar, cast

from endoscope.calls.call import Streaming, watching
from endoscope.connection import Connection
from endoscope.errors import EndoscopeError, Unreachable
from endoscope.messages import decode
from endoscope.results.audit import AuditFinding, AuditReport
from endoscope.results.datasets import ExtractedFeatures
from endoscope.results.gradients import (
    Adversarials,
    Attributions,
    ClassVisualization,
    Dream,
    FeatureVisualization,
    FoolingImages,
    Inversion,
)
from endoscope.results.jobs import Header, Step
from endoscope.results.searches import ActivatingPatches, Embedding, Neighbors
from endoscope.results.techniques import TechniqueResult

T = TypeVar("T")

_KINDS: Mapping[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        ActivatingPatches,
        Adversarials,
        Attributions,
        AuditReport,
        ClassVisualization,
        Dream,
        Embedding,
        ExtractedFeatures,
        FeatureVisualization,
        FoolingImages,
        Inversion,
        TechniqueResult,
    )
} | {"FindNeighborsResponse": Neighbors}
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 2.0


class Following(Generic[T]):
    """A job as it was told so far, and whether a lost stream can be taken up again.

    Attributes:
        call: What was asked for.
        header: The stream's header; None before it came.
        last_step: The index of the newest step; 0 before the first.
        result: None before it came.
        findings: The chapters of an audit that are done.
        ended: Whether nothing more comes.
    """

    def __init__(self, call: Streaming[T], connection: Connection) -> None:
        self.call: Streaming[Any] = call
        self.header: Header | None = None
        self.last_step = 0
        self.result: T | None = None
        self.findings: list[AuditFinding] = []
        self.ended = False
        self._connection = connection
        self._lost_since: float | None = None
        self._pause = _FIRST_PAUSE

    def take(self, response: Any) -> Step | None:
        """Take a message in; the step if it is one."""
        self._lost_since, self._pause = None, _FIRST_PAUSE
        match response.WhichOneof("event"):
            case "header":
                self.header = decode(response.header, Header)
            case "step":
                step = decode(response.step, Step)
                self.last_step = step.index
                return step
            case "finding":
                self.findings.append(decode(response.finding, AuditFinding))
            case "result":
                self.result = cast(T, read_result(response.result))
                self.ended = True
        return None

    def lost(self, error: EndoscopeError) -> float:
        """How many seconds to wait before the stream is taken up again, after this error.

        Raises:
            EndoscopeError: the same, if it can't be.
        """
        now = time.monotonic()
        self._lost_since = self._lost_since or now
        too_late = now - self._lost_since > self._connection.reconnect_for
        if not isinstance(error, Unreachable) or self.header is None or not self.call.resumable or too_late:
            self.ended = True
            raise error
        self.call = watching(self.header.job, self.last_step)
        pause, self._pause = self._pause, min(2 * self._pause, _LONGEST_PAUSE)
        return pause

    def require_result(self) -> T:
        """The result.

        Raises:
            EndoscopeError: if the stream ended without one.
        """
        if self.result is None:
            raise EndoscopeError("the stream ended without a result")
        return self.result


def read_result(message: Any) -> object:
    """The result of any technique, as it is or as JobService wraps it."""
    if message.DESCRIPTOR.name == "JobResult":
        message = getattr(message, message.WhichOneof("result"))
    return decode(message, _KINDS[message.DESCRIPTOR.name])
