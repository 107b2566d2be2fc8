"""A job as it runs, for the sync client."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import grpc

from endoscope.calls.call import Streaming, cancelling
from endoscope.errors import from_rpc
from endoscope.following import Following
from endoscope.results.audit import AuditFinding
from endoscope.results.jobs import Header, Step

if TYPE_CHECKING:
    from endoscope.client import Client

T = TypeVar("T")


class Stream(Generic[T]):
    """A job as it runs: iterate for its steps, then ask for its :meth:`result`.

    Leaving the ``with`` block, or dropping the stream, cancels the job within one step, unless it is
    detached. The stream of a detached job goes on where it was after the connection is lost.

    ::

        with client.visualize_class("efficientnet-lite0", 967) as stream:
            for step in stream:
                print(step.index, step.losses["total"])
        stream.result().save("out")
    """

    def __init__(self, client: Client, call: Streaming[T]) -> None:
        self._client = client
        self._following = Following(call, client.connection)
        self._responses: Any = client.start(call)

    @property
    def header(self) -> Header:
        """What the job is; waits for it."""
        while self._following.header is None:
            self._receive()
        return self._following.header

    @property
    def job(self) -> str:
        """The job's resource name, ``jobs/{job}``; waits for it."""
        return self.header.job

    @property
    def findings(self) -> list[AuditFinding]:
        """The chapters of an audit that are done by now."""
        return self._following.findings

    def __iter__(self) -> Iterator[Step]:
        return self

    def __next__(self) -> Step:
        while not self._following.ended:
            step = self._receive()
            if step is not None:
                return step
        raise StopIteration

    def result(self) -> T:
        """The result; reads the stream to its end.

        Raises:
            Cancelled: if the job was cancelled.
            EndoscopeError: if it failed.
        """
        for _ in self:
            pass
        return self._following.require_result()

    def cancel(self) -> None:
        """Stop the job within one step."""
        header = self._following.header
        if header is None:
            self.close()
        elif not self._following.ended:
            self._client.call(cancelling(header.job))

    def close(self) -> None:
        """Stop listening. A job that is not detached is cancelled by that."""
        self._responses.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._following.ended:
            self.close()

    def _receive(self) -> Step | None:
        try:
            response = next(self._responses, None)
        except grpc.RpcError as error:
            time.sleep(self._following.lost(from_rpc(error, self._client.connection.target)))
            self._responses = self._client.start(self._following.call)
            return None
        if response is None:
            self._following.ended = True
            return None
        return self._following.take(response)
