"""Jobs as streams: header, steps, one result."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from google.protobuf.message import Message

from endoscope.v1 import image_pb2, job_pb2, job_service_pb2
from endoscope_server.errors import Cancelled, EndoscopeError, InvalidInput, PreconditionFailed, Unavailable
from endoscope_server.images.encoding import ImageFormat, to_picture
from endoscope_server.jobs import Job, JobManager, JobState, Order, Priority, Progress, Start, Work
from endoscope_server.services.calls import Workers
from endoscope_server.services.tensors import image_format, to_image
from endoscope_server.techniques.parts.memory import Memory
from endoscope_server.telemetry import call

ResponseT = TypeVar("ResponseT")

DEFAULT_PREVIEW_EVERY = 10

SOURCE = "source_sha256"
"""The parameter that tells which file a technique is from, if it is one of a file of its own."""

_RESULT_FIELDS = {
    field.message_type.full_name: field.name  # type: ignore[union-attr]  # all of them are messages
    for field in job_service_pb2.JobResult.DESCRIPTOR.oneofs_by_name["result"].fields
}
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


Prepare = Callable[[Any], tuple[Ticket, Start]]
"""Checks a request; the work that is started returns the result's message."""


class Methods:
    """The streaming methods of a service. Their jobs outlive the server.

    Args:
        jobs: What runs them.
        workers: What checks requests.
    """

    def __init__(self, jobs: JobManager, workers: Workers) -> None:
        self._jobs = jobs
        self._workers = workers
        self._methods: dict[str, Prepare] = {}

    def add(self, technique: str, request: type[Message], prepare: Prepare) -> None:
        """Name what checks a technique's requests, when they come and when their jobs are taken up again."""

        def revive(content: bytes, header: bytes) -> Start:
            ticket, start = prepare(request.FromString(content))
            before = job_pb2.JobHeader.FromString(header)
            if ticket.fingerprint != before.model_fingerprint:
                raise PreconditionFailed(
                    f"{ticket.model} is another model than when the job began: its fingerprint was "
                    f"{before.model_fingerprint}, and is {ticket.fingerprint}",
                    field="model",
                    reason="MODEL_CHANGED",
                )
            # The technique of a file may be another one since, and could not go on with that one's memory.
            source = ticket.parameters.get(SOURCE, "")
            told = dict(before.parameters).get(SOURCE, "")
            if source != told:
                raise PreconditionFailed(
                    f"the technique's file is another than when the job began: its SHA-256 was {told}, "
                    f"and is {source}",
                    field="technique",
                    reason="TECHNIQUE_CHANGED",
                )
            return _packed(start)

        self._methods[technique] = prepare
        self._jobs.revive_with(technique, revive)

    async def run(
        self, technique: str, request: Any, response: type[ResponseT], *, prepare: Prepare | None = None
    ) -> AsyncIterator[ResponseT]:
        """Queue a job and stream it.

        It is cancelled when the stream is left early, unless it is detached.

        Args:
            technique: As it was added.
            request: Its ``options`` say how it is run.
            response: The response message; its fields are ``header``, ``step`` and ``result``.
            prepare: Checks this request instead of what was added, for a caller that listens to its work.
        """
        check = prepare or self._methods[technique]
        ticket, start = await self._workers.run(lambda: check(request))
        job = await self._workers.run(lambda: submit(self._jobs, ticket, start, request.options, request))
        try:
            if job.order.detached:
                # Whoever knows the job's name can rely on it.
                await asyncio.wrap_future(job.stored)
            async for message in stream(job, response):
                yield message
        finally:
            if not job.order.detached and not job.suspended:
                self._jobs.cancel(job)


def preview_every(options: job_pb2.JobOptions) -> int:
    """Every how many steps a preview is due; 0 for never.

    Raises:
        InvalidInput: if it is negative.
    """
    every = options.preview_every if options.HasField("preview_every") else DEFAULT_PREVIEW_EVERY
    if every < 0:
        raise InvalidInput(f"preview_every is {every}, expected 0 or more", field="options.preview_every")
    return every


def submit(
    jobs: JobManager, ticket: Ticket, start: Start, options: job_pb2.JobOptions, request: Message | None
) -> Job:
    """Queue the job of a call; without a request it can't outlive the server."""
    previews = image_format(options.preview_format, ImageFormat.JPEG, "options.preview_format")
    batch = options.priority == job_pb2.JOB_PRIORITY_BATCH
    order = Order(
        ticket.technique,
        request.SerializeToString() if request is not None else b"",
        owner=call.current().caller,
        priority=Priority.BATCH if batch else Priority.INTERACTIVE,
        detached=options.detached,
        encoding=previews.name,
        durable=request is not None,
    )

    def header(identifier: str) -> bytes:
        message = job_pb2.JobHeader(
            job=f"jobs/{identifier}",
            model=ticket.model,
            model_fingerprint=ticket.fingerprint,
            technique=ticket.technique,
            seed=ticket.seed,
            total_steps=ticket.total,
        )
        message.parameters.update(dict(ticket.parameters))
        return message.SerializeToString()

    return jobs.submit(order, header, _packed(start))


async def stream(
    job: Job, response: type[ResponseT], *, after_step: int = 0, wrapped: bool = False
) -> AsyncIterator[ResponseT]:
    """A job's header, its steps as they come, and its result.

    Args:
        job: The job.
        response: The response message; its fields are ``header``, ``step`` and ``result``.
        after_step: Only steps after this one.
        wrapped: Whether the ``result`` field is a :class:`JobResult`.
    """
    make: Any = response
    call.name_job(job.identifier)
    yield make(header=_header(job))
    encoding = ImageFormat[job.order.encoding]
    # A generator that is left half-way must still sign its watcher off.
    async with contextlib.aclosing(job.watch(after_step)) as steps:  # type: ignore[type-var]
        async for progress in steps:
            yield make(step=await _step(progress, encoding))
    result = await asyncio.to_thread(_result, job)
    yield make(result=result if wrapped else _unwrapped(result))


async def complete(jobs: JobManager, ticket: Ticket, start: Start) -> Any:
    """A job's result, for a call that streams nothing; the job is cancelled when the call is."""
    job = submit(jobs, ticket, start, job_pb2.JobOptions(), None)
    call.name_job(job.identifier)
    try:
        async for _ in job.watch():
            pass
    finally:
        job.cancel()
    return _unwrapped(_result(job))


def describe(job: Job) -> job_pb2.Job:
    """A job as a message, without pictures."""
    message = job_pb2.Job(
        name=f"jobs/{job.identifier}",
        state=job_pb2.JobState.ValueType(_STATES[job.state]),
        header=_header(job),
    )
    message.create_time.FromNanoseconds(int(job.created * 1e9))
    if job.ended is not None:
        message.end_time.FromNanoseconds(int(job.ended * 1e9))
    latest = job.latest
    if latest is not None:
        message.latest_step.CopyFrom(_numbers(latest))
    return message


def _packed(start: Start) -> Start:
    """The same work, whose result is a serialised :class:`JobResult`."""

    def work(memory: Memory) -> Work:
        result = yield from start(memory)
        field = _RESULT_FIELDS[result.DESCRIPTOR.full_name]
        return job_service_pb2.JobResult(**{field: result}).SerializeToString(deterministic=True)

    return work


def _header(job: Job) -> job_pb2.JobHeader:
    return job_pb2.JobHeader.FromString(job.header)


def _result(job: Job) -> job_service_pb2.JobResult:
    if job.suspended:
        raise Unavailable(
            f"the server is stopping; jobs/{job.identifier} goes on when it is back", reason="STOPPING"
        )
    if job.state is JobState.CANCELLED:
        raise Cancelled(f"jobs/{job.identifier} was cancelled", reason="JOB_CANCELLED")
    if job.error is not None:
        raise job.error
    content = job.result()
    if content is None:
        raise EndoscopeError(f"jobs/{job.identifier} has no result any more", reason="DATA_LOSS")
    return job_service_pb2.JobResult.FromString(content)


def _unwrapped(result: job_service_pb2.JobResult) -> Any:
    return getattr(result, str(result.WhichOneof("result")))


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
