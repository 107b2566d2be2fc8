"""What a call is, before anybody carries it out."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from endoscope.messages import decode
from endoscope.v1 import job_service_pb2, job_service_pb2_grpc

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Unary(Generic[T]):
    """A call with one answer.

    Attributes:
        stub: The generated class of the service's stubs.
        method: The method's name.
        request: The request, or an iterable of requests.
        read: Makes the result of the answer.
    """

    stub: type[Any]
    method: str
    request: Any
    read: Callable[[Any], T]


@dataclass(frozen=True, slots=True)
class Paged(Generic[T]):
    """A call whose answer comes in pages.

    Attributes:
        stub: The generated class of the service's stubs.
        method: The method's name.
        request: The request of the first page.
        field: The field of the answer that has the items.
        kind: What each item becomes.
    """

    stub: type[Any]
    method: str
    request: Any
    field: str
    kind: type[T]

    def read(self, response: Any) -> list[T]:
        """The items of one page."""
        return [decode(item, self.kind) for item in getattr(response, self.field)]

    def turn(self, response: Any) -> bool:
        """Make the request that of the page after ``response``; False if there is none."""
        self.request.page_token = response.next_page_token
        return bool(response.next_page_token)


@dataclass(frozen=True, slots=True)
class Streaming(Generic[T]):
    """A call that is a job: a header, steps, one result.

    Attributes:
        stub: The generated class of the service's stubs.
        method: The method's name.
        request: The request.
        kind: What the result becomes; ``object`` for whatever it is.
    """

    stub: type[Any]
    method: str
    request: Any
    kind: type[T]

    @property
    def resumable(self) -> bool:
        """Whether the job goes on without its client, so that its stream can be taken up again."""
        return self.method == "WatchJob" or bool(self.request.options.detached)


def watching(job: str, after_step: int) -> Streaming[object]:
    """The call that takes up a job's stream."""
    request = job_service_pb2.WatchJobRequest(name=job, after_step=after_step)
    return Streaming(job_service_pb2_grpc.JobServiceStub, "WatchJob", request, object)


def cancelling(job: str) -> Unary[None]:
    """The call that stops a job."""
    request = job_service_pb2.CancelJobRequest(name=job)
    return Unary(job_service_pb2_grpc.JobServiceStub, "CancelJob", request, lambda _response: None)


def set_signature(method: Any, build: Callable[..., Any], stream: str) -> None:
    """Let ``help`` show what the method takes and gives.

    Args:
        method: The method.
        build: The function that it was made of.
        stream: What it calls a stream.
    """
    signature = inspect.signature(build)
    kind, _, inner = str(signature.return_annotation).partition("[")
    returns = {"Unary": inner[:-1], "Paged": f"list[{inner}", "Streaming": f"{stream}[{inner}"}[kind]
    first = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    parameters = [first, *signature.parameters.values()]
    method.__signature__ = signature.replace(parameters=parameters, return_annotation=returns)
