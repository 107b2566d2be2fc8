"""What every streaming call tells: its header, its steps, and what made its result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from endoscope.pictures import Picture

ENDED = frozenset({"succeeded", "failed", "cancelled"})
"""The states after which nothing more comes of a job."""


@dataclass(frozen=True, slots=True)
class Header:
    """The first thing that a stream tells.

    Attributes:
        job: The job's resource name, ``jobs/{job}``.
        model: The model's resource name; empty for a job without one.
        model_fingerprint: SHA-256 of the model's content, in hexadecimal.
        technique: Such as ``visualize_class``.
        parameters: Every parameter as it is used, defaults filled in.
        seed: The seed of all random numbers of the job.
        total_steps: How many steps there will be; 0 if that is not known.
    """

    job: str
    model: str
    model_fingerprint: str
    technique: str
    parameters: Mapping[str, Any]
    seed: int
    total_steps: int

    @property
    def title(self) -> str:
        """The technique for people: of ``run_technique`` the one that it runs."""
        return str(self.parameters.get("technique", self.technique))


@dataclass(frozen=True, slots=True)
class Step:
    """One step of iterative work.

    Attributes:
        index: From 1.
        total: How many steps there will be; 0 if that is not known.
        losses: Every term of the loss by name, summed over the batch.
        elapsed: Seconds since the job began to run.
        previews: The pictures as they stand, where a preview was due.
        stage: What the work is at, in a few words; may be empty.
    """

    index: int
    total: int
    losses: Mapping[str, float]
    elapsed: float
    previews: tuple[Picture, ...]
    stage: str


@dataclass(frozen=True, slots=True)
class Provenance:
    """What made a result, so that it can be made again.

    Attributes:
        technique: Such as ``visualize_class``.
        model: The model's resource name.
        model_fingerprint: SHA-256 of the model's content, in hexadecimal.
        parameters: Every parameter as it was used.
        seed: The seed.
        versions: Library versions by name.
        device: Where gradients were computed, such as ``cpu``.
    """

    technique: str
    model: str
    model_fingerprint: str
    parameters: Mapping[str, Any]
    seed: int
    versions: Mapping[str, str]
    device: str


@dataclass(frozen=True, slots=True)
class JobFailure:
    """Why a job failed.

    Attributes:
        code: The number of a gRPC status.
        message: One sentence for people.
        reason: An UPPER_SNAKE_CASE word for programs.
        field: The path of the request's field at fault; empty if no field is.
    """

    code: int
    message: str
    reason: str
    field: str


@dataclass(frozen=True, slots=True)
class Job:
    """A piece of long work.

    Attributes:
        name: ``jobs/{job}``.
        state: ``queued``, ``running``, ``succeeded``, ``failed`` or ``cancelled``.
        header: The first message of its stream.
        latest_step: The newest step that was done; None before the first.
        error: Why it failed; None if it did not.
        create_time: When it was asked for.
        end_time: When it ended; None before.
    """

    name: str
    state: str
    header: Header
    latest_step: Step | None
    error: JobFailure | None
    create_time: datetime | None
    end_time: datetime | None
