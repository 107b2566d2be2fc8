"""The sync client."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, overload

import grpc

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
from endoscope.calls.call import Paged, Streaming, Unary, set_signature
from endoscope.connection import Connection, connection
from endoscope.errors import Unreachable, from_rpc
from endoscope.streams import Stream

P = ParamSpec("P")
T = TypeVar("T")


@overload
def _method(build: Callable[P, Unary[T]]) -> Callable[Concatenate[Client, P], T]: ...
@overload
def _method(build: Callable[P, Paged[T]]) -> Callable[Concatenate[Client, P], list[T]]: ...
@overload
def _method(build: Callable[P, Streaming[T]]) -> Callable[Concatenate[Client, P], Stream[T]]: ...
def _method(build: Callable[..., Any]) -> Callable[..., Any]:
    """The method that carries out what ``build`` describes."""

    @functools.wraps(build)
    def method(self: Client, *args: Any, **kwargs: Any) -> Any:
        call = build(*args, **kwargs)
        match call:
            case Streaming():
                return Stream(self, call)
            case Paged():
                return self.call_pages(call)
            case _:
                return self.call(call)

    set_signature(method, build, "Stream")
    return method


class Client:
    """Calls a server. Made by :func:`connect`; safe to share between threads.

    Streaming methods return a :class:`~endoscope.streams.Stream` at once; all others return their result.
    Every method may raise an :class:`~endoscope.errors.EndoscopeError`.
    """

    def __init__(self, connection: Connection, channel: Any = None) -> None:
        self.connection = connection
        self._owns_channel = channel is None
        self._channel: grpc.Channel = connection.channel(grpc) if channel is None else channel

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

    def within(self, timeout: float | None) -> Client:
        """The same client, with another number of seconds for each call; it shares the connection."""
        return Client(self.connection.within(timeout), self._channel)

    def wait_until_ready(self, timeout: float = 10.0) -> None:
        """Wait until the server answers.

        Args:
            timeout: Seconds.

        Raises:
            Unreachable: if it does not in that time.
        """
        try:
            grpc.channel_ready_future(self._channel).result(timeout)
        except grpc.FutureTimeoutError:
            raise Unreachable(f"no server answers at {self.connection.target}") from None

    def close(self) -> None:
        """Close the connection; jobs that are not detached end."""
        if self._owns_channel:
            self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def call(self, call: Unary[T]) -> T:
        """Carry out a call with one answer."""
        return call.read(self._send(call))

    def call_pages(self, call: Paged[T]) -> list[T]:
        """Carry out a call whose answer comes in pages."""
        items: list[T] = []
        more = True
        while more:
            response = self._send(call)
            items += call.read(response)
            more = call.turn(response)
        return items

    def start(self, call: Unary[Any] | Paged[Any] | Streaming[Any]) -> Any:
        """What gRPC gives for a call: the answer, or an iterator of answers."""
        method = getattr(call.stub(self._channel), call.method)
        return method(call.request, **self.connection.arguments())

    def _send(self, call: Unary[Any] | Paged[Any]) -> Any:
        try:
            return self.start(call)
        except grpc.RpcError as error:
            raise from_rpc(error, self.connection.target) from None


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
) -> Client:
    """A client of the server at ``target``; it connects with its first call.

    Args:
        target: ``host:port``, or ``unix:PATH``. Default: what ``ENDOSCOPE_SERVER`` says, or
            127.0.0.1:50051.
        tls: True: the server is asked to prove who it is, by the system's authorities or these:
        root_certificates: PEM, or its file; implies ``tls``.
        client_key: PEM of the client's own key, or its file, for servers that ask for it.
        client_certificate: PEM of the client's own certificate, or its file; implies ``tls``.
        token: Sent as ``authorization: Bearer``; only over TLS or within this machine.
        timeout: Seconds that each call has, a stream as a whole; None: as long as it takes.
        reconnect_for: Seconds for which a lost stream of a detached job is taken up again.
    """
    return Client(
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
