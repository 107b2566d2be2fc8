"""JobService."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from endoscope.calls.call import Paged, Streaming, Unary, watching
from endoscope.messages import decode, encode
from endoscope.results.jobs import Job
from endoscope.v1 import job_service_pb2, job_service_pb2_grpc

_STUB = job_service_pb2_grpc.JobServiceStub

State: TypeAlias = Literal["queued", "running", "succeeded", "failed", "cancelled"]


def list_jobs(states: State | Sequence[State] = ()) -> Paged[Job]:
    """The jobs, newest first.

    Args:
        states: Only jobs in one of these states. Default: all.
    """
    request = encode(job_service_pb2.ListJobsRequest, states=states)
    return Paged(_STUB, "ListJobs", request, "jobs", Job)


def get_job(name: str) -> Unary[Job]:
    """One job.

    Args:
        name: ``jobs/{job}``, or the last part alone.
    """
    return Unary(_STUB, "GetJob", encode(job_service_pb2.GetJobRequest, name=name), _job)


def watch_job(name: str, after_step: int = 0) -> Streaming[object]:
    """Take up a job's stream. Its result is the technique's own, such as ``Dream``.

    Args:
        name: ``jobs/{job}``, or the last part alone.
        after_step: Only steps after this one come.
    """
    return watching(name, after_step)


def cancel_job(name: str) -> Unary[Job]:
    """Stop a job within one step. A job that had ended is left as it was.

    Args:
        name: ``jobs/{job}``, or the last part alone.
    """
    return Unary(_STUB, "CancelJob", encode(job_service_pb2.CancelJobRequest, name=name), _job)


def delete_job(name: str) -> Unary[None]:
    """Forget a job that ended, and its result.

    Args:
        name: ``jobs/{job}``, or the last part alone.

    Raises:
        FailedPrecondition: if it still runs.
    """
    request = encode(job_service_pb2.DeleteJobRequest, name=name)
    return Unary(_STUB, "DeleteJob", request, lambda _response: None)


def _job(response: Any) -> Job:
    return decode(response.job, Job)
