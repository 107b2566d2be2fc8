"""The server as a process: reflection, health, what is not there, and its end."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2 as v1alpha
from grpc_reflection.v1alpha import reflection_pb2_grpc as v1alpha_grpc

from endoscope.v1 import gradient_pb2, gradient_pb2_grpc

SERVICES = {f"endoscope.v1.{name}Service" for name in ("Model", "Dataset", "Activation", "Gradient", "Job")}


def test_reflection_lists_and_describes_the_services(server) -> None:
    stub = v1alpha_grpc.ServerReflectionStub(server.channel)
    requests = [
        v1alpha.ServerReflectionRequest(list_services=""),
        v1alpha.ServerReflectionRequest(file_containing_symbol="endoscope.v1.GradientService"),
    ]
    listing, file = stub.ServerReflectionInfo(iter(requests), timeout=10)
    assert {service.name for service in listing.list_services_response.service} >= SERVICES
    assert file.file_descriptor_response.file_descriptor_proto


def test_buf_curl_calls_the_server_through_reflection(server) -> None:
    """v1 of the reflection protocol, by a client that knows nothing of the contract."""
    buf = Path(sys.executable).parent / "buf"
    command = [str(buf), "curl", "--protocol", "grpc", "--http2-prior-knowledge", "--reflect-protocol"]
    command += ["grpc-v1", "-d", '{"model": "efficientnet-lite0", "classes": [967], "steps": 2}']
    command += [f"http://{server.target}/endoscope.v1.GradientService/VisualizeClass"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert '"totalSteps": "2"' in done.stdout.replace('":"', '": "')
    assert "espresso" in done.stdout


def test_health_knows_each_service(server) -> None:
    health = health_pb2_grpc.HealthStub(server.channel)
    for name in ("", *SERVICES):
        answer = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as caught:
        health.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=10)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_sigterm_ends_running_work_and_the_server_with_0(start_server, lite0_path, tmp_path) -> None:
    with start_server(tmp_path, lite0_path.parent, "--grace", "1") as running:
        stub = gradient_pb2_grpc.GradientServiceStub(running.channel)
        request = gradient_pb2.VisualizeClassRequest(model="efficientnet-lite0", classes=[967], steps=100_000)
        stream = stub.VisualizeClass(request, timeout=120)
        next(stream)
        next(stream)
        codes: list[grpc.StatusCode] = []

        def read() -> None:
            try:
                for _ in stream:
                    pass
            except grpc.RpcError as error:
                codes.append(error.code())

        reader = threading.Thread(target=read)
        reader.start()
        began = time.monotonic()
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(20) == 0
        assert time.monotonic() - began < 15
        reader.join(10)
        assert codes
        assert codes[0] in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)
        assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_port_that_is_taken_is_a_clear_error(server, tmp_path) -> None:
    command = [sys.executable, "-c", "from endoscope_server.commands import serve; serve()"]
    command += ["--listen", server.target, "--state", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert server.target in done.stderr
    assert "Traceback" not in done.stderr


def test_the_start_waits_for_no_library_that_only_some_requests_need() -> None:
    slow = {"matplotlib", "numba", "skimage", "sklearn", "scipy.stats", "pandas"}
    code = "import sys, endoscope_server.services.server; print(*sys.modules, sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert "torch" in done.stdout.split()
    assert not slow & set(done.stdout.split())
