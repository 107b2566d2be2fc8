"""Connect and gRPC-Web over HTTP: the same services, errors, limits and cancellation."""

from __future__ import annotations

import base64
import http.client
import json
import signal
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from endoscope.v1 import (
    activation_pb2,
    gradient_pb2,
    job_pb2,
    job_service_pb2,
    job_service_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
)

MODELS = "/endoscope.v1.ModelService"
GRADIENTS = "/endoscope.v1.GradientService"
MODEL = "models/efficientnet-lite0"


def post(port: int, path: str, body: bytes, kind: str, **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("POST", path, body, {"Content-Type": kind, **named})
    return connection.getresponse()


def enveloped(*messages: Any) -> bytes:
    parts = [message.SerializeToString() for message in messages]
    return b"".join(struct.pack(">BI", 0, len(part)) + part for part in parts)


def frames(response: http.client.HTTPResponse) -> Iterator[tuple[int, bytes]]:
    while head := response.read(5):
        flags, size = struct.unpack(">BI", head)
        yield flags, response.read(size)


def test_unary_answers_as_over_grpc(site) -> None:
    request = model_pb2.GetModelRequest(name=MODEL)
    answer = post(site.port, f"{MODELS}/GetModel", request.SerializeToString(), "application/proto")
    assert answer.status == 200
    stub = model_pb2_grpc.ModelServiceStub(site.server.channel)
    assert model_pb2.GetModelResponse.FromString(answer.read()) == stub.GetModel(request, timeout=30)


def test_json(site) -> None:
    answer = post(site.port, f"{MODELS}/ListModels", b"{}", "application/json")
    assert MODEL in [model["name"] for model in json.loads(answer.read())["models"]]


def test_grpc_web(site) -> None:
    body = enveloped(model_pb2.GetModelRequest(name=MODEL, view=model_pb2.MODEL_VIEW_BASIC))
    answer = post(site.port, f"{MODELS}/GetModel", body, "application/grpc-web+proto", x_grpc_web="1")
    (first, message), (last, trailers) = frames(answer)
    assert (first, last) == (0, 0x80)
    assert model_pb2.GetModelResponse.FromString(message).model.name == MODEL
    assert b"grpc-status: 0" in trailers.lower()


def test_errors_keep_code_words_and_details(site) -> None:
    answer = post(site.port, f"{MODELS}/GetModel", b'{"name": "models/none"}', "application/json")
    assert answer.status == 404
    told = json.loads(answer.read())
    stub = model_pb2_grpc.ModelServiceStub(site.server.channel)
    with pytest.raises(grpc.RpcError) as caught:
        stub.GetModel(model_pb2.GetModelRequest(name="models/none"), timeout=10)
    error: Any = caught.value
    assert told["code"] == "not_found"
    assert told["message"] == error.details()
    details = {one["type"]: base64.b64decode(one["value"] + "==") for one in told["details"]}
    info = error_details_pb2.ErrorInfo.FromString(details["google.rpc.ErrorInfo"])
    assert info.reason == "UNKNOWN_MODEL"
    violations = error_details_pb2.BadRequest.FromString(details["google.rpc.BadRequest"]).field_violations
    assert [one.field for one in violations] == ["model"]


def test_streams_begin_with_the_header_and_end_with_the_result(site) -> None:
    request = gradient_pb2.VisualizeClassRequest(model=MODEL, classes=[967], steps=3, height=64, width=64)
    request.options.preview_every = 1
    answer = post(site.port, f"{GRADIENTS}/VisualizeClass", enveloped(request), "application/connect+proto")
    *messages, (flags, end) = frames(answer)
    assert flags == 2
    assert json.loads(end) == {}
    events = [gradient_pb2.VisualizeClassResponse.FromString(message) for _, message in messages]
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds == ["header", "step", "step", "step", "result"]
    assert all(event.step.previews for event in events[1:4])


def test_a_stream_that_fails_says_why_at_its_end(site) -> None:
    request = gradient_pb2.VisualizeClassRequest(model=MODEL, classes=[1000])
    answer = post(site.port, f"{GRADIENTS}/VisualizeClass", enveloped(request), "application/connect+proto")
    ((flags, end),) = frames(answer)
    error = json.loads(end)["error"]
    assert flags == 2
    assert error["code"] == "invalid_argument"
    assert "classes[0]" in error["message"]


@pytest.mark.parametrize("detached", [False, True])
def test_a_visitor_who_leaves_stops_the_job_unless_it_is_detached(site, detached: bool) -> None:
    request = gradient_pb2.VisualizeClassRequest(model=MODEL, classes=[1], steps=100_000, height=64, width=64)
    request.options.detached = detached
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=120)
    kind = {"Content-Type": "application/connect+proto"}
    connection.request("POST", f"{GRADIENTS}/VisualizeClass", enveloped(request), kind)
    answer = connection.getresponse()
    _, message = next(frames(answer))
    name = gradient_pb2.VisualizeClassResponse.FromString(message).header.job
    answer.close()
    connection.close()
    stub = job_service_pb2_grpc.JobServiceStub(site.server.channel)
    deadline = time.monotonic() + (1.5 if detached else 60)
    state = job_pb2.JOB_STATE_RUNNING
    while state in (job_pb2.JOB_STATE_RUNNING, job_pb2.JOB_STATE_QUEUED) and time.monotonic() < deadline:
        time.sleep(0.1)
        state = stub.GetJob(job_service_pb2.GetJobRequest(name=name), timeout=10).job.state
    stub.CancelJob(job_service_pb2.CancelJobRequest(name=name), timeout=10)
    assert state == (job_pb2.JOB_STATE_RUNNING if detached else job_pb2.JOB_STATE_CANCELLED)


def test_a_unary_call_that_is_left_stops_too(site) -> None:
    request = activation_pb2.FindNeighborsRequest(
        model=MODEL, dataset="datasets/album", layer="_conv_stem", items=[0], k=1, pixel_space=True
    )
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=120)
    kind = {"Content-Type": "application/proto"}
    path = "/endoscope.v1.ActivationService/FindNeighbors"
    connection.request("POST", path, request.SerializeToString(), kind)
    stub = job_service_pb2_grpc.JobServiceStub(site.server.channel)

    def jobs() -> list[Any]:
        listed = stub.ListJobs(job_service_pb2.ListJobsRequest(), timeout=10).jobs
        return [job for job in listed if job.header.technique == "find_neighbors"]

    deadline = time.monotonic() + 60
    while not jobs() and time.monotonic() < deadline:
        time.sleep(0.02)
    connection.close()
    while jobs()[0].state == job_pb2.JOB_STATE_RUNNING and time.monotonic() < deadline:
        time.sleep(0.05)
    assert jobs()[0].state == job_pb2.JOB_STATE_CANCELLED


def test_a_deadline_is_kept(site) -> None:
    request = gradient_pb2.VisualizeClassRequest(model=MODEL, classes=[1], steps=100_000, height=64, width=64)
    began = time.monotonic()
    answer = post(
        site.port,
        f"{GRADIENTS}/VisualizeClass",
        enveloped(request),
        "application/connect+proto",
        Connect_Timeout_Ms="1500",
    )
    *_, (flags, end) = frames(answer)
    assert flags == 2
    assert json.loads(end)["error"]["code"] == "deadline_exceeded"
    assert time.monotonic() - began < 60


def test_a_model_is_uploaded_in_chunks(site, digits_cnn_path: Path) -> None:
    content = digits_cnn_path.read_bytes()
    header = model_pb2.UploadModelRequest(header={"model_id": "digits-uploaded", "size_bytes": len(content)})
    chunks = [content[at : at + 65536] for at in range(0, len(content), 65536)]
    body = enveloped(header, *(model_pb2.UploadModelRequest(chunk=chunk) for chunk in chunks))
    answer = post(site.port, f"{MODELS}/UploadModel", body, "application/connect+proto")
    (_, message), (_, end) = frames(answer)
    assert json.loads(end) == {}
    assert model_pb2.UploadModelResponse.FromString(message).model.name == "models/digits-uploaded"
    again = post(site.port, f"{MODELS}/UploadModel", body, "application/connect+proto")
    ((_, end),) = frames(again)
    assert json.loads(end)["error"]["code"] == "already_exists"


def test_an_upload_that_is_refused_at_once_hears_why(site) -> None:
    header = model_pb2.UploadModelRequest(header={"model_id": "not a name"})
    chunk = model_pb2.UploadModelRequest(chunk=bytes(2**20))
    body = enveloped(header, *[chunk] * 48)
    answer = post(site.port, f"{MODELS}/UploadModel", body, "application/connect+proto")
    ((_, end),) = frames(answer)
    error = json.loads(end)["error"]
    assert error["code"] == "invalid_argument"
    assert "not a name" in error["message"]


def test_an_upload_that_is_broken_off_leaves_nothing(site) -> None:
    header = model_pb2.UploadModelRequest(header={"model_id": "half", "size_bytes": 2**22})
    body = enveloped(header, model_pb2.UploadModelRequest(chunk=bytes(2**20)))
    with socket.create_connection(("127.0.0.1", site.port)) as connection:
        head = f"POST {MODELS}/UploadModel HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        head += f"Content-Type: application/connect+proto\r\nContent-Length: {4 * len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        time.sleep(0.5)
    staging = site.server.state / "staging"
    deadline = time.monotonic() + 30
    while staging.exists() and list(staging.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not (staging.exists() and list(staging.iterdir()))
    stub = model_pb2_grpc.ModelServiceStub(site.server.channel)
    listed = stub.ListModels(model_pb2.ListModelsRequest(), timeout=10).models
    assert "models/half" not in [model.name for model in listed]


def test_only_our_own_page_is_answered(site) -> None:
    own = f"http://127.0.0.1:{site.port}"
    for headers, status in (
        ({"Origin": own}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": f"evil.example:{site.port}"}, 403),
        ({"Host": f"localhost:{site.port}"}, 200),
    ):
        assert post(site.port, f"{MODELS}/ListModels", b"{}", "application/json", **headers).status == status


def test_other_paths_are_files_or_nothing(site) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=30)
    for path, status in (("/", 200), ("/nothing", 404), (f"{MODELS}/Nothing", 404), ("/../page.py", 404)):
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == status, path
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_a_server_with_an_open_page_ends_in_time(start_server, address, lite0_path, tmp_path: Path) -> None:
    with start_server(tmp_path, lite0_path.parent, "--web", "127.0.0.1:0", "--grace", "1") as running:
        port = int(address(tmp_path).rstrip("/").rpartition(":")[2])
        request = gradient_pb2.VisualizeClassRequest(model=MODEL, classes=[1], steps=100_000)
        answer = post(port, f"{GRADIENTS}/VisualizeClass", enveloped(request), "application/connect+proto")
        told = frames(answer)
        next(told)
        next(told)  # The first step; the job is at work.
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(60) == 0
        assert "Traceback" not in (tmp_path / "log").read_text()
