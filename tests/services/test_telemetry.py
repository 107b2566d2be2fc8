"""Logs, metrics and traces of a server process, by those who collect them."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import pytest
from click.testing import CliRunner
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from endoscope.v1 import (
    dataset_pb2,
    dataset_pb2_grpc,
    gradient_pb2,
    gradient_pb2_grpc,
    job_pb2,
    job_service_pb2,
    job_service_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
)
from endoscope_server.commands import serve
from endoscope_server.protocols import grpc_service_pb2, grpc_service_pb2_grpc
from endoscope_server.telemetry import call, logs
from tests.services.metrics import Metrics, metrics_port, read_metrics

LIST = "/endoscope.v1.ModelService/ListModels"
GET = "/endoscope.v1.ModelService/GetModel"
VISUALIZE = "/endoscope.v1.GradientService/VisualizeClass"
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@dataclass
class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Collects traces, as OpenTelemetry's own collector does."""

    spans: list[Any] = field(default_factory=list)
    resources: list[dict[str, str]] = field(default_factory=list)

    def Export(self, request: Any, context: Any) -> Any:
        for group in request.resource_spans:
            self.resources.append(_attributes(group.resource.attributes))
            self.spans += [span for scope in group.scope_spans for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


@dataclass(frozen=True)
class Observed:
    """A server that is observed.

    Attributes:
        channel: A channel to it.
        collector: What its traces go to.
        log: Its log so far, line by line.
        metrics: Its metrics now, by name and labels.
    """

    channel: grpc.Channel
    collector: Collector
    log: Callable[[], list[dict[str, Any]]]
    metrics: Callable[[], Metrics]

    def value(self, name: str, **labels: str) -> float:
        return self.metrics().get((name, frozenset(labels.items())), 0.0)


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def observed(start_server, digits_cnn_path, album, tmp_path_factory) -> Iterator[Observed]:
    collector = Collector()
    state = tmp_path_factory.mktemp("observed")
    receiver = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, receiver)
    port = receiver.add_insecure_port("127.0.0.1:0")
    receiver.start()
    options = ("--metrics-listen", "127.0.0.1:0", "--otlp-endpoint", f"http://127.0.0.1:{port}")
    options += ("--log-format", "json", "--datasets-root", str(album.parent))
    with (
        _environment(OTEL_BSP_SCHEDULE_DELAY="100"),
        start_server(state, digits_cnn_path.parent, *options) as running,
    ):
        port = metrics_port(running.state / "log")
        yield Observed(
            running.channel,
            collector,
            lambda: [json.loads(line) for line in (state / "log").read_text().splitlines()],
            lambda: read_metrics(port),
        )
    receiver.stop(None)


def _models(observed: Observed) -> model_pb2_grpc.ModelServiceStub:
    return model_pb2_grpc.ModelServiceStub(observed.channel)


def _visualize(observed: Observed, steps: int, **arguments: Any) -> Any:
    request = gradient_pb2.VisualizeClassRequest(model="digits-cnn", classes=[3], steps=steps)
    stub = gradient_pb2_grpc.GradientServiceStub(observed.channel)
    return stub.VisualizeClass(request, **{"timeout": 60, **arguments})


def _eventually(true: Callable[[], Any], patience: float = 10.0) -> Any:
    """What is at last true: the end of a call is told after the client has its answer."""
    deadline = time.monotonic() + patience
    while not (found := true()):
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.05)
    return found


def test_a_request_id_goes_back_and_into_the_log(observed: Observed) -> None:
    metadata = [("x-request-id", "my-request:1")]
    _, done = _models(observed).ListModels.with_call(model_pb2.ListModelsRequest(), 10, metadata)
    assert dict(done.trailing_metadata())["x-request-id"] == "my-request:1"
    line = _eventually(lambda: [one for one in observed.log() if one.get("request_id") == "my-request:1"])[0]
    assert (line["method"], line["code"], line["level"]) == (LIST, "OK", "INFO")
    assert line["seconds"] < 10


@pytest.mark.parametrize("given", [None, "a b", "x" * 200, "ü"[:0]])
def test_a_request_id_that_is_none_is_made(observed: Observed, given: str | None) -> None:
    metadata = [] if given is None else [("x-request-id", given)]
    _, done = _models(observed).ListModels.with_call(model_pb2.ListModelsRequest(), 10, metadata)
    assert re.fullmatch("[0-9a-f]{16}", dict(done.trailing_metadata())["x-request-id"])


def test_errors_have_their_request_id_and_their_details(observed: Observed) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        _models(observed).GetModel(model_pb2.GetModelRequest(name="none"), 10, [("x-request-id", "wrong-1")])
    trailing = dict(caught.value.trailing_metadata())
    assert trailing["x-request-id"] == "wrong-1"
    assert trailing["grpc-status-details-bin"]
    line = _eventually(lambda: [one for one in observed.log() if one.get("request_id") == "wrong-1"])[0]
    assert line["code"] == "NOT_FOUND"


def test_calls_are_counted_by_method_and_code(observed: Observed) -> None:
    def counts() -> tuple[float, ...]:
        return (
            observed.value("endoscope_requests_total", method=LIST, code="OK"),
            observed.value("endoscope_request_seconds_count", method=LIST),
            observed.value("endoscope_requests_total", method=GET, code="NOT_FOUND"),
            observed.value("endoscope_requests_total", method="unknown", code="UNIMPLEMENTED"),
        )

    before = counts()
    for _ in range(3):
        _models(observed).ListModels(model_pb2.ListModelsRequest(), timeout=10)
    for call_that_fails in (
        lambda: _models(observed).GetModel(model_pb2.GetModelRequest(name="none"), timeout=10),
        lambda: observed.channel.unary_unary("/made.up/Name")(b"", timeout=10),
    ):
        with pytest.raises(grpc.RpcError):
            call_that_fails()
    _eventually(lambda: counts() == tuple(one + more for one, more in zip(before, (3, 3, 1, 1), strict=True)))
    assert not any("made.up" in str(labels) for _, labels in observed.metrics())
    assert observed.value("endoscope_requests_in_progress", method=LIST) == 0


def test_a_job_is_counted_with_its_steps_and_told_in_the_log(observed: Observed) -> None:
    def counts() -> tuple[float, ...]:
        return (
            observed.value("endoscope_jobs_submitted_total", technique="visualize_class"),
            observed.value("endoscope_jobs_ended_total", technique="visualize_class", state="succeeded"),
            observed.value("endoscope_steps_total", technique="visualize_class"),
            observed.value("endoscope_jobs", state="succeeded"),
        )

    before = counts()
    header, *_, last = _visualize(observed, 4, metadata=[("x-request-id", "job-1")])
    assert last.HasField("result")
    _eventually(lambda: counts() == tuple(one + more for one, more in zip(before, (1, 1, 4, 1), strict=True)))
    lines = _eventually(
        lambda: (
            [one for one in observed.log() if one.get("request_id") == "job-1"][2:]
            and [one for one in observed.log() if one.get("request_id") == "job-1"]
        )
    )
    name = header.header.job.removeprefix("jobs/")
    assert {line.get("job_id") for line in lines} == {name}
    assert any("succeeded after 4 steps" in line["message"] for line in lines)
    assert observed.value("endoscope_models_loaded") >= 1
    assert observed.value("endoscope_model_file_bytes", model="digits-cnn") > 100_000
    assert observed.value("process_resident_memory_bytes") > 10**8
    budget = observed.value("endoscope_memory_budget_bytes")
    assert 0 < observed.value("endoscope_memory_granted_bytes") < budget


def test_a_stream_that_is_left_and_one_that_is_late_have_their_codes(observed: Observed) -> None:
    def counts() -> tuple[float, float, float]:
        return (
            observed.value("endoscope_requests_total", method=VISUALIZE, code="CANCELLED"),
            observed.value("endoscope_requests_total", method=VISUALIZE, code="DEADLINE_EXCEEDED"),
            observed.value("endoscope_jobs_ended_total", technique="visualize_class", state="cancelled"),
        )

    before = counts()
    stream = _visualize(observed, 100_000)
    next(stream)
    assert _eventually(lambda: observed.value("endoscope_jobs", state="running")) == 1
    assert observed.value("endoscope_requests_in_progress", method=VISUALIZE) == 1
    stream.cancel()
    _eventually(lambda: counts() == (before[0] + 1, before[1], before[2] + 1))
    late = _visualize(observed, 100_000, timeout=2)
    next(late)
    with pytest.raises(grpc.RpcError):
        list(late)
    _eventually(lambda: counts() == (before[0] + 1, before[1] + 1, before[2] + 2))


def test_scanned_pictures_are_counted(observed: Observed, album) -> None:
    stub = dataset_pb2_grpc.DatasetServiceStub(observed.channel)
    stub.CreateDataset(dataset_pb2.CreateDatasetRequest(dataset_id="album", path=str(album)), timeout=30)
    request = dataset_pb2.ExtractFeaturesRequest(dataset="album", model="digits-cnn")
    for _ in range(2):
        *_, last = stub.ExtractFeatures(request, timeout=60)
        assert last.HasField("result")
    assert observed.value("endoscope_images_scanned_total") == 40, "the second time nothing was left to do"


def test_inferred_rows_and_their_batches_are_counted(observed: Observed) -> None:
    stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(observed.channel)
    wanted = stub.ModelMetadata(grpc_service_pb2.ModelMetadataRequest(name="digits-cnn"), timeout=30).inputs[
        0
    ]
    request = grpc_service_pb2.ModelInferRequest(model_name="digits-cnn")
    shape = [3, *wanted.shape[1:]]
    request.inputs.add(name=wanted.name, datatype=wanted.datatype, shape=shape)
    request.raw_input_contents.append(bytes(4 * math.prod(shape)))
    for _ in range(2):
        stub.ModelInfer(request, timeout=30)
    assert observed.value("endoscope_inference_rows_total", model="digits-cnn") == 6
    assert observed.value("endoscope_inference_runs_total", model="digits-cnn") == 2


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core has no second set of sessions")
def test_sessions_of_inference_are_counted_and_given_back(observed: Observed) -> None:
    models = model_pb2_grpc.ModelServiceStub(observed.channel)
    stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(observed.channel)

    def granted() -> float:
        return observed.value("endoscope_memory_granted_bytes")

    models.UnloadModel(model_pb2.UnloadModelRequest(name="models/digits-cnn"), timeout=30)
    before = granted()
    models.LoadModel(model_pb2.LoadModelRequest(name="models/digits-cnn"), timeout=30)
    loaded = granted()
    assert loaded > before
    pixels = np.zeros((400, 1, 32, 32), np.float32)
    request = grpc_service_pb2.ModelInferRequest(
        model_name="digits-cnn", raw_input_contents=[pixels.tobytes()]
    )
    request.inputs.add(name="input", datatype="FP32", shape=pixels.shape)
    calls = [stub.ModelInfer.future(request, timeout=60) for _ in range(6)]
    assert all(call.result().outputs for call in calls)
    assert granted() > loaded
    models.UnloadModel(model_pb2.UnloadModelRequest(name="models/digits-cnn"), timeout=30)
    assert granted() == before


def test_calls_and_jobs_are_spans_of_the_clients_trace(observed: Observed) -> None:
    metadata = [("traceparent", f"00-{TRACE}-{SPAN}-01"), ("x-request-id", "traced-1")]
    header, *_ = _visualize(observed, 3, metadata=metadata)

    def traced() -> list[Any]:
        return [span for span in observed.collector.spans if span.trace_id.hex() == TRACE]

    server, job = sorted(
        _eventually(lambda: len(traced()) == 2 and traced(), 20), key=lambda span: -span.kind
    )
    assert server.name == VISUALIZE[1:]
    assert server.parent_span_id.hex() == SPAN
    told = _attributes(server.attributes)
    assert told["rpc.system"] == "grpc"
    assert told["rpc.grpc.status_code"] == 0
    assert told["endoscope.request_id"] == "traced-1"
    assert job.name == "job visualize_class"
    assert job.parent_span_id == server.span_id
    told = _attributes(job.attributes)
    assert told["endoscope.job_id"] == header.header.job.removeprefix("jobs/")
    assert (told["endoscope.job_state"], told["endoscope.steps"]) == ("succeeded", 3)
    assert server.start_time_unix_nano <= job.start_time_unix_nano < job.end_time_unix_nano
    assert observed.collector.resources[0]["service.name"] == "endoscope"


def test_a_job_that_goes_on_in_the_next_server_is_a_span_of_each(
    start_server, digits_models, tmp_path
) -> None:
    collector = Collector()
    receiver = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, receiver)
    endpoint = f"http://127.0.0.1:{receiver.add_insecure_port('127.0.0.1:0')}"
    receiver.start()
    request = gradient_pb2.VisualizeClassRequest(
        model="digits-cnn",
        classes=[3],
        steps=100_000,
        options=job_pb2.JobOptions(detached=True, preview_every=0),
    )

    def spans() -> list[tuple[str, bool]]:
        told = [_attributes(span.attributes) for span in collector.spans if span.name.startswith("job ")]
        return [
            (one["endoscope.job_state"], one["endoscope.taken_up"])
            for one in told
            if one["endoscope.job_id"] == job
        ]

    with start_server(tmp_path, digits_models, "--otlp-endpoint", endpoint) as running:
        stream = gradient_pb2_grpc.GradientServiceStub(running.channel).VisualizeClass(request, timeout=60)
        job = next(stream).header.job.removeprefix("jobs/")
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(30) == 0
        assert spans() == [("suspended", False)]
    with start_server(tmp_path, digits_models, "--otlp-endpoint", endpoint) as running:
        jobs = job_service_pb2_grpc.JobServiceStub(running.channel)
        jobs.CancelJob(job_service_pb2.CancelJobRequest(name=f"jobs/{job}"), timeout=30)
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(30) == 0
        assert spans() == [("suspended", False), ("cancelled", True)]
    receiver.stop(None)


def test_a_call_that_fails_is_an_error_span(observed: Observed) -> None:
    with pytest.raises(grpc.RpcError):
        _models(observed).GetModel(model_pb2.GetModelRequest(name="none"), 10, [("x-request-id", "failed-1")])

    def failed() -> list[Any]:
        return [
            span
            for span in observed.collector.spans
            if _attributes(span.attributes).get("endoscope.request_id") == "failed-1"
        ]

    span = _eventually(failed, 20)[0]
    assert (span.status.code, span.status.message) == (2, "NOT_FOUND")


def test_a_collector_that_is_not_there_neither_stops_nor_delays_the_server(
    start_server, digits_cnn_path, tmp_path
) -> None:
    options = ("--otlp-endpoint", "http://127.0.0.1:1", "--grace", "1")
    with start_server(tmp_path, digits_cnn_path.parent, *options) as running:
        stub = model_pb2_grpc.ModelServiceStub(running.channel)
        assert stub.ListModels(model_pb2.ListModelsRequest(), timeout=10).models
        began = time.monotonic()
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(20) == 0
        assert time.monotonic() - began < 10
        assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--otlp-endpoint", "localhost:4317"], ["localhost:4317", "expected http://"]),
        (["--metrics-listen", "nowhere"], ["nowhere", "expected a free host:port"]),
        (["--metrics-listen", "127.0.0.1:70000"], ["127.0.0.1:70000"]),
    ],
)
def test_addresses_that_can_not_be_are_clear_errors(tmp_path, arguments: list[str], words: list[str]) -> None:
    done = CliRunner().invoke(serve, [*arguments, "--listen", "127.0.0.1:0", "--state", str(tmp_path)])
    assert done.exit_code == 1, done.output
    assert all(word in done.stderr for word in words), done.stderr


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_a_client_sends_can_not_begin_a_line_of_the_log(form: str, monkeypatch, capsys) -> None:
    root, stream = logging.getLogger(), io.StringIO()
    kept, level = root.handlers[:], root.level
    monkeypatch.setattr("sys.stderr", stream)
    try:
        logs.configure(form, "info")
        with call.within(call.Call("an-id", "somebody", "a-job")):
            logging.getLogger("test").info("there is no model %s", "x\r\n2026 INFO all is well")
    finally:
        root.handlers[:] = kept
        root.setLevel(level)
        logging.captureWarnings(False)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 1
    assert all(word in lines[0] for word in ("an-id", "somebody", "a-job"))
