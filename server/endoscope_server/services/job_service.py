"""JobService."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from endoscope.v1 import job_service_pb2, job_service_pb2_grpc
from endoscope_server.errors import EndoscopeError, InvalidInput
from endoscope_server.jobs import Job, JobManager
from endoscope_server.services.calls import page, resource_id
from endoscope_server.services.status import Context, code_of
from endoscope_server.services.streaming import describe, stream


class JobService(job_service_pb2_grpc.JobServiceServicer):
    """See ``job_service.proto``."""

    def __init__(self, jobs: JobManager) -> None:
        self._jobs = jobs

    async def ListJobs(
        self, request: job_service_pb2.ListJobsRequest, context: Context
    ) -> job_service_pb2.ListJobsResponse:
        """The jobs, newest first."""
        messages = [_describe(job) for job in self._jobs.list()]
        wanted = [message for message in messages if not request.states or message.state in request.states]
        jobs, token = page(wanted, request.page_size, request.page_token)
        return job_service_pb2.ListJobsResponse(jobs=jobs, next_page_token=token)

    async def GetJob(
        self, request: job_service_pb2.GetJobRequest, context: Context
    ) -> job_service_pb2.GetJobResponse:
        """One job."""
        return job_service_pb2.GetJobResponse(job=_describe(self._get(request.name)))

    async def WatchJob(
        self, request: job_service_pb2.WatchJobRequest, context: Context
    ) -> AsyncIterator[job_service_pb2.WatchJobResponse]:
        """A job's stream, from a step on."""
        if request.after_step < 0:
            raise InvalidInput(f"after_step is {request.after_step}, expected 0 or more", field="after_step")
        job = self._get(request.name)
        responses = stream(job, job_service_pb2.WatchJobResponse, after_step=request.after_step, wrapped=True)
        async for response in responses:
            yield response

    async def CancelJob(
        self, request: job_service_pb2.CancelJobRequest, context: Context
    ) -> job_service_pb2.CancelJobResponse:
        """Stop a job."""
        job = self._get(request.name)
        self._jobs.cancel(job)
        return job_service_pb2.CancelJobResponse(job=_describe(job))

    async def DeleteJob(
        self, request: job_service_pb2.DeleteJobRequest, context: Context
    ) -> job_service_pb2.DeleteJobResponse:
        """Forget a job that ended."""
        self._jobs.delete(resource_id(request.name, "jobs", "name"))
        return job_service_pb2.DeleteJobResponse()

    def _get(self, name: str) -> Job:
        return self._jobs.get(resource_id(name, "jobs", "name"))


def _describe(job: Job) -> Any:
    message = describe(job)
    error: EndoscopeError | None = job.error
    if error is not None:
        message.error.code = code_of(error).value[0]
        message.error.message = error.message
        message.error.reason = error.reason
        message.error.field = error.field
    return message
