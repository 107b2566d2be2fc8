"""Calls beyond the limits are refused with the time to try again; those within go on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

import endoscope
from endoscope.errors import ResourceExhausted
from endoscope.v1 import gradient_pb2, gradient_pb2_grpc, job_pb2, model_pb2, model_pb2_grpc


@pytest.fixture(scope="module")
def small(start_server, digits_models, tmp_path_factory) -> Iterator[Any]:
    """A server that takes three calls at once, two of them of one client, and has little memory."""
    options = ("--max-calls", "3", "--client-calls", "2", "--memory-budget", str(64 * 2**20))
    with start_server(tmp_path_factory.mktemp("small"), digits_models, *options) as running:
        yield running


@contextlib.contextmanager
def running_job(channel: grpc.Channel) -> Iterator[Any]:
    request = gradient_pb2.VisualizeClassRequest(
        model="models/digits-cnn",
        classes=[1],
        steps=100_000,
        options=job_pb2.JobOptions(preview_every=0),
    )
    stream = gradient_pb2_grpc.GradientServiceStub(channel).VisualizeClass(request)
    next(stream)
    try:
        yield stream
    finally:
        stream.cancel()


def retry_of(error: Any) -> float:
    content = dict(error.trailing_metadata())["grpc-status-details-bin"]
    retry = error_details_pb2.RetryInfo()
    (found,) = [part for part in status_pb2.Status.FromString(content).details if part.Unpack(retry)]
    assert found.Is(error_details_pb2.RetryInfo.DESCRIPTOR)
    return retry.retry_delay.ToMilliseconds() / 1000


def test_a_client_has_its_share(small, failure) -> None:
    stub = model_pb2_grpc.ModelServiceStub(small.channel)
    with running_job(small.channel), running_job(small.channel):
        code, _, reason, sentence = failure(lambda: stub.ListModels(model_pb2.ListModelsRequest()))
        assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_CALLS")
        assert "2 calls of this client" in sentence
        with pytest.raises(grpc.RpcError) as caught:
            stub.ListModels(model_pb2.ListModelsRequest())
        assert retry_of(caught.value) > 0
        health = health_pb2_grpc.HealthStub(small.channel).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.SERVING
    deadline = 50
    for _ in range(deadline):
        with contextlib.suppress(grpc.RpcError):
            assert stub.ListModels(model_pb2.ListModelsRequest(), timeout=5).models
            return
    raise AssertionError("calls that ended are still counted")


def test_the_client_library_tells_when_to_try_again(small) -> None:
    with running_job(small.channel), running_job(small.channel), endoscope.connect(small.target) as client:
        with pytest.raises(ResourceExhausted) as caught:
            client.list_models()
        assert caught.value.retry_after == 1.0


def test_a_job_that_can_not_fit_is_refused_before_it_begins(small, failure) -> None:
    request = gradient_pb2.VisualizeClassRequest(
        model="models/digits-cnn", classes=range(10), height=4096, width=4096, steps=1
    )
    stub = gradient_pb2_grpc.GradientServiceStub(small.channel)
    code, _, reason, sentence = failure(lambda: list(stub.VisualizeClass(request)))
    assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "MEMORY_BUDGET")
    assert "expected at most 64 MiB" in sentence
    request.height = request.width = 16
    assert list(stub.VisualizeClass(request))[-1].HasField("result")
