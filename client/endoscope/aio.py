"""The async client: ``async with endoscope.aio.connect(target) as client``."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

import grpc.aio

from endoscope.calls import (
    activations,
    audit,
    datasets,
    health,
    jobs,
    judging,
    models,
    replaying,
    searches,
    techniques,
    visualizing,
)
from endoscope.calls.call import Paged, Streaming, Unary, cancelling, set_signature
from endoscope.connection import Connection, connection
from endoscope.errors import Cancelled, Unreachable, from_rpc
from endoscope.following import Following
from endoscope.results.audit import AuditFinding
from endoscope.results.jobs import Header, Step

P = ParamSpec("P")
T = TypeVar("T")


class AsyncStream(Generic[T]):
    """A job as it runs: iterate for its steps, then await its :meth:`result`.

    The same as :class:`endoscope.streams.Stream`, with ``async with``, ``async for`` and ``await``.
    """

    def __init__(self, client: AsyncClient, call: Streaming[T]) -> None:
        self._client = client
        self._following = Following(call, client.connection)
        self._responses: Any = client.start(call)

    async def header(self) -> Header:
        """What the job is; waits for it."""
        while self._following.header is None:
            await self._receive()
        return self._following.header

    async def job(self) -> str:
        """The job's resource name, ``jobs/{job}``; waits for it."""
        return (await self.header()).job

    @property
    def findings(self) -> list[AuditFinding]:
        """The chapters of an audit that are done by now."""
        return self._following.findings

    def __aiter__(self) -> AsyncIterator[Step]:
        return self

    async def __anext__(self) -> Step:
        while not self._following.ended:
            step = await self._receive()
            if step is not None:
                return step
        raise StopAsyncIteration

    async def result(self) -> T:
        """The result; reads the stream to its end.

        Raises:
            Cancelled: if the job was cancelled.
            EndoscopeError: if it failed.
        """
        async for _ in self:
            pass
        return self._following.require_result()

    async def cancel(self) -> None:
        """Stop the job within one step."""
        header = self._following.header
        if header is None:
            self.close()
        elif not self._following.ended:
            await self._client.call(cancelling(header.job))

    def close(self) -> None:
        """Stop listening. A job that is not detached is cancelled by that."""
        self._responses.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._following.ended:
            self.close()

    async def _receive(self) -> Step | None:
        try:
            response = await self._responses.read()
        except grpc.aio.AioRpcError as error:
            await asyncio.sleep(self._following.lost(from_rpc(error, self._client.connection.target)))
            self._responses = self._client.start(self._following.call)
            return None
        except asyncio.CancelledError:
            if not self._responses.cancelled() or _task_is_cancelled():
                raise
            self._following.ended = True
            raise Cancelled("the stream was cancelled") from None
        if response is grpc.aio.EOF:
            self._following.ended = True
            return None
        return self._following.take(response)


@overload
def _method(build: Callable[P, Unary[T]]) -> Callable[Concatenate[AsyncClient, P], Awaitable[T]]: ...
@overload
def _method(build: Callable[P, Paged[T]]) -> Callable[Concatenate[AsyncClient, P], Awaitable[list[T]]]: ...
@overload
def _method(build: Callable[P, Streaming[T]]) -> Callable[Concatenate[AsyncClient, P], AsyncStream[T]]: ...
def _method(build: Callable[..., Any]) -> Callable[..., Any]:
    """The method that carries out what ``build`` describes."""

    @functools.wraps(build)
    def method(self: AsyncClient, *args: Any, **kwargs: Any) -> Any:
        call = build(*args, **kwargs)
        match call:
            case Streaming():
                return AsyncStream(self, call)
            case Paged():
                return self.call_pages(call)
            case _:
                return self.call(call)

    set_signature(method, build, "AsyncStream")
    return method


class AsyncClient:
    """Calls a server. Made by :func:`connect` within a running event loop.

    The methods are those of :class:`endoscope.Client`: streaming ones return an :class:`AsyncStream` at once,
    all others are awaited.
    """

    def __init__(self, connection: Connection, channel: Any = None) -> None:
        self.connection = connection
        self._owns_channel = channel is None
        self._channel: grpc.aio.Channel = connection.channel(grpc.aio) if channel is None else channel

    list_models = _method(models.list_models)
    get_model = _method(models.get_model)
    upload_model = _method(models.upload_model)
    load_model = _method(models.load_model)
    unload_model = _method(models.unload_model)
    delete_model = _method(models.delete_model)
    verify_model = _method(models.verify_model)

    get_filters = _method(activations.get_filters)
    get_activations = _method(activations.get_activations)
    classify = _method(activations.classify)
    find_neighbors = _method(searches.find_neighbors)
    embed_features = _method(searches.embed_features)
    find_activating_patches = _method(searches.find_activating_patches)

    visualize_class = _method(visualizing.visualize_class)
    visualize_feature = _method(visualizing.visualize_feature)
    invert_representation = _method(visualizing.invert_representation)
    deep_dream = _method(visualizing.deep_dream)
    create_adversarial = _method(judging.create_adversarial)
    create_fooling_image = _method(judging.create_fooling_image)
    attribute = _method(judging.attribute)

    list_techniques = _method(techniques.list_techniques)
    run_technique = _method(techniques.run_technique)

    list_datasets = _method(datasets.list_datasets)
    get_dataset = _method(datasets.get_dataset)
    list_items = _method(datasets.list_items)
    create_dataset = _method(datasets.create_dataset)
    upload_images = _method(datasets.upload_images)
    delete_dataset = _method(datasets.delete_dataset)
    extract_features = _method(datasets.extract_features)

    list_jobs = _method(jobs.list_jobs)
    get_job = _method(jobs.get_job)
    watch_job = _method(jobs.watch_job)
    cancel_job = _method(jobs.cancel_job)
    delete_job = _method(jobs.delete_job)

    run_audit = _method(audit.run_audit)
    replay = _method(replaying.replay)

    check_health = _method(health.check_health)

    def within(self, timeout: float | None) -> AsyncClient:
        """The same client, with another number of seconds for each call; it shares the connection."""
        return AsyncClient(self.connection.within(timeout), self._channel)

    async def wait_until_ready(self, timeout: float = 10.0) -> None:
        """Wait until the server answers.

        Args:
            timeout: Seconds.

        Raises:
            Unreachable: if it does not in that time.
        """
        try:
            await asyncio.wait_for(self._channel.channel_ready(), timeout)
        except TimeoutError:
            raise Unreachable(f"no server answers at {self.connection.target}") from None

    async def close(self) -> None:
        """Close the connection; jobs that are not detached end."""
        if self._owns_channel:
            await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def call(self, call: Unary[T]) -> T:
        """Carry out a call with one answer."""
        return call.read(await self._send(call))

    async def call_pages(self, call: Paged[T]) -> list[T]:
        """Carry out a call whose answer comes in pages."""
        items: list[T] = []
        more = True
        while more:
            response = await self._send(call)
            items += call.read(response)
            more = call.turn(response)
        return items

    def start(self, call: Unary[Any] | Paged[Any] | Streaming[Any]) -> Any:
        """What gRPC gives for a call: something to await, or to read from."""
        method = getattr(call.stub(self._channel), call.method)
        return method(call.request, **self.connection.arguments())

    async def _send(self, call: Unary[Any] | Paged[Any]) -> Any:
        try:
            return await self.start(call)
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, self.connection.target) from None


def _task_is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def connect(
    target: str | None = None,
    *,
    tls: bool = False,
    root_certificates: str | Path | bytes | None = None,
    client_key: str | Path | bytes | None = None,
    client_certificate: str | Path | bytes | None = None,
    token: str | None = None,
    timeout: float | None = None,
    reconnect_for: float = 60.0,
) -> AsyncClient:
    """A client of the server at ``target``; the arguments are those of :func:`endoscope.connect`."""
    return AsyncClient(
        connection(
            target,
            tls=tls,
            root_certificates=root_certificates,
            client_key=client_key,
            client_certificate=client_certificate,
            token=token,
            timeout=timeout,
            reconnect_for=reconnect_for,
        )
    )
