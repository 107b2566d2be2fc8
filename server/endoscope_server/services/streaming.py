"""Jobs as streams: header, steps, one result."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from endoscope.v1 import image_pb2, job_pb2
from endoscope_server.errors import Cancelled, InvalidInput
from endoscope_server.images.encoding import ImageFormat, to_picture
from endoscope_server.jobs import Job, JobManager, JobState, Priority, Progress
from endoscope_server.jobs.job import Work
from endoscope_server.services.tensors import image_format, to_image

ResponseT = TypeVar("ResponseT")

DEFAULT_PREVIEW_EVERY = 10

_STATES = {state: job_pb2.JobState.Value(f"JOB_STATE_{state.name}") for state in JobState}


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a job tells of itself before it begins.

    Attributes:
        technique: Such as ``visualize_class``.
        model: The model's resource name; empty for none.
        fingerprint: Of the model.
        parameters: Every parameter as it is used.
        seed: Of all random numbers.
        total: Steps; 0 if that is not known.
    """

    technique: str
    model: str
    fingerprint: str
    parameters: Mapping[str, Any]
    seed: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class _Header:
    message: job_pb2.JobHeader
    previews: ImageFormat


def preview_every(options: job_pb2.JobOptions) -> int:
    """Every how many steps a preview is due; 0 for never.

    Raises:
        InvalidInput: if it is negative.
    """
    every = options.preview_every if options.HasField("preview_every") else DEFAULT_PREVIEW_EVERY
    if every < 0:
        raise InvalidInput(f"preview_every is {every}, expected 0 or more", field="options.preview_every")
    return every


def submit(jobs: JobManager, ticket: Ticket, start: Callable[[], Work], options: job_pb2.JobOptions) -> Job:
    """Queue the job of a streaming call."""
    previews = image_format(options.preview_format, ImageFormat.JPEG, "options.preview_format")
    message = job_pb2.JobHeader(
        model=ticket.model,
        model_fingerprint=ticket.fingerprint,
        technique=ticket.technique,
        seed=ticket.seed,
        total_steps=ticket.total,
    )
    message.parameters.update(dict(ticket.parameters))

    def header(identifier: str) -> _Header:
        message.job = f"jobs/{identifier}"
        return _Header(message, previews)

    batch = options.priority == job_pb2.JOB_PRIORITY_BATCH
    return jobs.submit(ticket.technique, header, start, Priority.BATCH if batch else Priority.INTERACTIVE)


async def stream(
    job: Job, response: type[ResponseT], *, after_step: int = 0, wrap: Callable[[Any], Any] | None = None
) -> AsyncIterator[ResponseT]:
    """A job's header, its steps as they come, and its result.

    Args:
        job: The job.
        response: The response message; its fields are ``header``, ``step`` and ``result``.
        after_step: Only steps after this one.
        wrap: What becomes of the job's result; by default it is the ``result`` field as it is.
    """
    make: Any = response
    yield make(header=job.header.message)
    # A generator that is left half-way must still sign its watcher off.
    async with contextlib.aclosing(job.watch(after_step)) as steps:  # type: ignore[type-var]
        async for progress in steps:
            yield make(step=await _step(progress, job.header.previews))
    result = _result(job)
    yield make(result=wrap(result) if wrap else result)


def _result(job: Job) -> Any:
    if job.state is JobState.CANCELLED:
        raise Cancelled(f"jobs/{job.identifier} was cancelled", reason="JOB_CANCELLED")
    if job.error is not None:
        raise job.error
    return job.result


async def complete(jobs: JobManager, ticket: Ticket, start: Callable[[], Work]) -> Any:
    """A job's result, for a call that streams nothing; the job is cancelled when the call is."""
    job = submit(jobs, ticket, start, job_pb2.JobOptions())
    try:
        async for _ in job.watch():
            pass
    finally:
        job.cancel()
    return _result(job)


async def run(
    jobs: JobManager,
    ticket: Ticket,
    start: Callable[[], Work],
    options: job_pb2.JobOptions,
    response: type[ResponseT],
) -> AsyncIterator[ResponseT]:
    """Queue a job and stream it; it is cancelled when the stream is left early, unless it is detached."""
    job = submit(jobs, ticket, start, options)
    try:
        async for message in stream(job, response):
            yield message
    finally:
        if not options.detached:
            job.cancel()


def describe(job: Job) -> job_pb2.Job:
    """A job as a message, without pictures."""
    message = job_pb2.Job(
        name=f"jobs/{job.identifier}",
        state=job_pb2.JobState.ValueType(_STATES[job.state]),
        header=job.header.message,
    )
    message.create_time.FromNanoseconds(int(job.created * 1e9))
    if job.ended is not None:
        message.end_time.FromNanoseconds(int(job.ended * 1e9))
    latest = job.latest
    if latest is not None:
        message.latest_step.CopyFrom(_numbers(latest))
    return message


def _numbers(progress: Progress) -> job_pb2.JobStep:
    message = job_pb2.JobStep(
        index=progress.index, total=progress.total, losses=progress.losses, stage=progress.stage
    )
    message.elapsed.FromNanoseconds(int(progress.elapsed * 1e9))
    return message


async def _step(progress: Progress, encoding: ImageFormat) -> job_pb2.JobStep:
    message = _numbers(progress)
    if progress.images is not None:
        message.previews.extend(await asyncio.to_thread(_encode, progress.images, encoding))
    return message


def _encode(images: Any, encoding: ImageFormat) -> list[image_pb2.Image]:
    return [to_image(to_picture(pixels), encoding) for pixels in images]
