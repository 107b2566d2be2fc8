"""Calls beyond the limits are refused with the time to try again; those within go on."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image

import endoscope
from endoscope.errors import ResourceExhausted
from endoscope.v1 import (
    audit_pb2,
    audit_pb2_grpc,
    dataset_pb2,
    dataset_pb2_grpc,
    gradient_pb2,
    gradient_pb2_grpc,
    image_pb2,
    job_pb2,
    job_service_pb2,
    job_service_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    optimization_pb2,
    tensor_pb2,
)
from endoscope_server.protocols import grpc_service_pb2 as inference_pb2
from endoscope_server.protocols import grpc_service_pb2_grpc as inference_pb2_grpc


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


def details_of(error: Any) -> tuple[error_details_pb2.ErrorInfo, float | None]:
    """What programs are told of an error, and the seconds after which to try again."""
    content = dict(error.trailing_metadata())["grpc-status-details-bin"]
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    retry_after = None
    for part in status_pb2.Status.FromString(content).details:
        part.Unpack(info)
        if part.Unpack(retry):
            retry_after = retry.retry_delay.ToMilliseconds() / 1000
    return info, retry_after


def retry_of(error: Any) -> float:
    retry_after = details_of(error)[1]
    assert retry_after is not None
    return retry_after


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
            assert stub.ListModels(model_pb2.ListModelsRequest(), timeout=20).models
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
    request.height = request.width = 128
    assert list(stub.VisualizeClass(request))[-1].HasField("result")
    # Each picture becomes 64.
    crops = optimization_pb2.RandomCrops(count=64, minimum=0.2, maximum=0.25)
    request.transforms.transforms.add(crops=crops)
    code, _, reason, _ = failure(lambda: list(stub.VisualizeClass(request)))
    assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "MEMORY_BUDGET")


def inference(rows: int) -> inference_pb2.ModelInferRequest:
    pixels = np.full((rows, 1, 32, 32), 0.5, np.float32)
    request = inference_pb2.ModelInferRequest(model_name="digits-cnn", raw_input_contents=[pixels.tobytes()])
    request.inputs.add(name="input", datatype="FP32", shape=pixels.shape)
    return request


def test_inference_beyond_the_queue_is_told_when_to_try_again(start_server, digits_models, tmp_path) -> None:
    options = ("--max-calls", "2000", "--client-calls", "2000", "--max-queue", "2")
    with start_server(tmp_path, digits_models, *options) as running:
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(running.channel)
        assert stub.ModelInfer(inference(1), timeout=30).outputs
        calls = [stub.ModelInfer.future(inference(4000), timeout=100) for _ in range(16)]
        calls += [stub.ModelInfer.future(inference(1), timeout=100) for _ in range(1200)]
        errors = [error for error in (call.exception() for call in calls) if error is not None]
        # Sixteen of them come faster than two are run; but some of all are answered.
        assert 10 <= len(errors) < len(calls)
        for error in errors:
            info, retry_after = details_of(error)
            assert (error.code(), info.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
            assert retry_after == 1.0
        assert stub.ModelInfer(inference(1), timeout=30).outputs


def test_jobs_that_fill_the_disks_quota_are_named_with_the_time_to_try_again(
    start_server, digits_models, tmp_path
) -> None:
    quota = 2**20

    def request(size: int) -> gradient_pb2.CreateAdversarialRequest:
        pixels = np.random.default_rng(0).integers(0, 256, size, np.uint8)
        tensor = tensor_pb2.Tensor(
            data_type=tensor_pb2.DATA_TYPE_UINT8, shape=[size // 64, 64], data=pixels.tobytes()
        )
        return gradient_pb2.CreateAdversarialRequest(
            model="models/digits-cnn",
            images=[image_pb2.Image(pixels=tensor)],
            method=gradient_pb2.ATTACK_METHOD_PGD,
            confidence=1e4,
            steps=1000,
            restarts=100,
            options=job_pb2.JobOptions(detached=True, preview_every=0),
        )

    def refusal(size: int) -> tuple[error_details_pb2.ErrorInfo, float | None]:
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.CreateAdversarial(request(size)))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        return details_of(caught.value)

    with start_server(tmp_path, digits_models, "--job-quota", str(quota)) as running:
        stub = gradient_pb2_grpc.GradientServiceStub(running.channel)
        jobs = job_service_pb2_grpc.JobServiceStub(running.channel)
        name = next(stub.CreateAdversarial(request(640_000))).header.job
        info, retry_after = refusal(300_032)
        assert (info.reason, info.metadata["largest_job"], retry_after) == ("DISK_QUOTA", name, 30.0)
        # Nobody need wait for what will never fit.
        info, retry_after = refusal(quota)
        assert (info.reason, retry_after) == ("DISK_QUOTA", None)
        jobs.CancelJob(job_service_pb2.CancelJobRequest(name=name))
        deadline = time.monotonic() + 20
        while any((tmp_path / "jobs" / "files" / name[5:]).glob("request")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert next(stub.CreateAdversarial(request(300_032))).header.job


def test_an_audit_that_can_not_fit_is_refused_before_it_begins(
    start_server, digits_models, tmp_path, failure
) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for index in range(30):
        Image.new("L", (32, 32), 8 * index).save(pictures / f"{index}.png")
    options = ("--datasets-root", str(tmp_path), "--memory-budget", str(2 * 2**20))
    with start_server(tmp_path, digits_models, *options) as running:
        dataset = dataset_pb2.CreateDatasetRequest(dataset_id="grey", path=str(pictures))
        dataset_pb2_grpc.DatasetServiceStub(running.channel).CreateDataset(dataset, timeout=30)
        stub = audit_pb2_grpc.AuditServiceStub(running.channel)
        request = audit_pb2.RunAuditRequest(model="digits-cnn", dataset="grey", attack_steps=1)
        code, _, reason, sentence = failure(lambda: list(stub.RunAudit(request, timeout=60)))
        assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "MEMORY_BUDGET")
        assert re.match(r"run_audit takes about \d+ MiB of memory, expected at most 2 MiB", sentence)
        # Without gradients it fits.
        request.chapters.extend([audit_pb2.AUDIT_CHAPTER_PARITY, audit_pb2.AUDIT_CHAPTER_ACCURACY])
        assert list(stub.RunAudit(request, timeout=60))[-1].result.html
