"""What a job is made of: plain data, in memory and on disk alike."""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from endoscope_server import errors
from endoscope_server.errors import EndoscopeError


class JobState(enum.Enum):
    """How a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self not in (JobState.QUEUED, JobState.RUNNING)


class Priority(enum.IntEnum):
    """Whose turn it is: batch jobs advance when no interactive one does."""

    INTERACTIVE = 0
    BATCH = 1


@dataclass(frozen=True, slots=True)
class Order:
    """What is wanted of a job.

    Attributes:
        technique: Such as ``visualize_class``.
        request: The request as bytes, from which the work can be prepared again.
        owner: Who asked for it; empty if that is not known.
        priority: Whose turn it is.
        detached: Whether it goes on when nobody watches.
        encoding: Of previews; opaque here.
        durable: Whether it is to outlive the server.
    """

    technique: str
    request: bytes = b""
    owner: str = ""
    priority: Priority = Priority.INTERACTIVE
    detached: bool = False
    encoding: str = ""
    durable: bool = True


@dataclass(frozen=True, slots=True)
class Progress:
    """One step as watchers see it.

    Attributes:
        index: From 1.
        total: 0 if it is not known.
        losses: Every term by name.
        stage: What the work is at, in a few words.
        elapsed: Seconds of work until then.
        images: Batch x channels x height x width in [0, 1] if a preview is due and still the latest one.
    """

    index: int
    total: int
    losses: Mapping[str, float]
    stage: str
    elapsed: float
    images: Any = None

    def to_json(self) -> str:
        """All but index and images, as text."""
        return json.dumps([self.total, dict(self.losses), self.stage, self.elapsed], separators=(",", ":"))

    @classmethod
    def from_json(cls, index: int, text: str) -> Progress:
        """The step that :meth:`to_json` told."""
        total, losses, stage, elapsed = json.loads(text)
        return cls(index, total, losses, stage, elapsed)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where work can be taken up.

    Attributes:
        told: How many steps it had told.
        content: All else, for :class:`Memory`, and the preview of that moment.
    """

    told: int
    content: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Record:
    """A job as it is stored.

    Attributes:
        identifier: The last part of its resource name.
        order: What was wanted, without the request.
        header: What the service said of it first; opaque here.
        state: How it stood.
        error: Why it failed.
        created: Seconds since 1970.
        ended: Likewise; None before.
        checkpoint: The file that it can go on from; empty for none.
        latest: Its newest step.
    """

    identifier: str
    order: Order
    header: bytes
    state: JobState
    error: EndoscopeError | None
    created: float
    ended: float | None
    checkpoint: str
    latest: Progress | None


def error_to_json(error: EndoscopeError) -> str:
    """An error as text."""
    told = [type(error).__name__, error.message, error.field, error.reason, dict(error.metadata)]
    return json.dumps([*told, error.retry_after])


def error_from_json(text: str) -> EndoscopeError:
    """The error that :func:`error_to_json` told."""
    # Older servers did not keep the time to try again.
    name, message, field, reason, metadata, *rest = json.loads(text)
    kind: type[EndoscopeError] = getattr(errors, name, EndoscopeError)
    retry_after = rest[0] if rest else None
    return kind(message, field=field, reason=reason, metadata=metadata, retry_after=retry_after)
