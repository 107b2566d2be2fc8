"""What goes wrong around a server: full disks, spoiled files, floods of connections, its end under load."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from PIL import Image

import endoscope
from endoscope import errors
from endoscope.v1 import gradient_pb2, gradient_pb2_grpc

MODEL = "digits-cnn"
CONNECTIONS = 1000


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    folder.mkdir()
    return folder


@pytest.fixture
def running(start_server, state: Path, digits_models: Path) -> Iterator[Any]:
    with start_server(state, digits_models) as made:
        yield made
        assert made.process.poll() is None, "the server died"
        assert "Traceback" not in (state / "log").read_text()


@contextlib.contextmanager
def no_room(process: subprocess.Popen[str]) -> Iterator[None]:
    """No file of the process can grow: what a full disk does to it, by another error number."""
    before = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, before)


def refused(call: Callable[[], Any]) -> errors.EndoscopeError:
    with pytest.raises(errors.EndoscopeError) as caught:
        call()
    return caught.value


def test_a_full_disk_refuses_uploads_and_lets_work_go_on(running, digits_cnn_path: Path) -> None:
    with endoscope.connect(running.target) as client:
        client.get_model(MODEL)
        client.verify_model(MODEL)
        with no_room(running.process):
            error = refused(lambda: client.upload_model(digits_cnn_path, "mine"))
            assert error.code == "RESOURCE_EXHAUSTED"
            assert "disk" in error.message
            assert client.classify(MODEL, Image.new("L", (8, 8), 90))[0].top
        assert [model.model_id for model in client.list_models()] == [MODEL]
        assert client.upload_model(digits_cnn_path, "mine").model_id == "mine"
        assert client.visualize_class(MODEL, 3, steps=2).result().pictures


def test_a_model_that_is_spoiled_on_disk(running, state: Path, digits_cnn_path: Path) -> None:
    with endoscope.connect(running.target) as client:
        client.upload_model(digits_cnn_path, "spoiled")
        client.unload_model("spoiled")
        (state / "models" / "spoiled" / "model.onnx").write_bytes(b"\x00" * 1000)
        error = refused(lambda: client.visualize_class("spoiled", 3, steps=1).result())
        assert (error.code, error.field) == ("INVALID_ARGUMENT", "model")
        assert client.visualize_class(MODEL, 3, steps=1).result().pictures
        client.delete_model("spoiled")
        assert [model.model_id for model in client.list_models()] == [MODEL]


@pytest.fixture
def read_only(state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """``with read_only():`` makes the state's file system read-only for servers that start after this."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("a file system can be made to fail only with a C compiler")
    library, flag = tmp_path / "read_only.so", tmp_path / "flag"
    source = Path(__file__).with_name("read_only.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True, timeout=60)
    monkeypatch.setenv("LD_PRELOAD", str(library))
    monkeypatch.setenv("READ_ONLY_FOLDER", f"{state}{os.sep}")
    monkeypatch.setenv("READ_ONLY_FLAG", str(flag))

    @contextlib.contextmanager
    def on() -> Iterator[None]:
        flag.touch()
        yield
        flag.unlink()

    return on


def wait_for(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_state_that_turns_read_only_under_a_running_server(
    start_server, state: Path, read_only, digits_models: Path, digits_cnn_path: Path
) -> None:
    log = state / "log"
    options = ("--checkpoint-interval", "0")
    steps = 100
    with start_server(state, digits_models, *options) as running, endoscope.connect(running.target) as client:
        client.upload_model(digits_cnn_path, "mine")
        before = client.visualize_class(MODEL, 3, steps=8, detached=True)
        expected = before.result().pictures[0].pixels
        long = client.visualize_class(MODEL, 3, steps=steps, preset="fourier", detached=True)
        next(iter(long))
        with read_only():
            # What runs goes on in memory, and what begins does too.
            indices = [step.index for step in long]
            assert indices[-1] == steps
            undisturbed = long.result().pictures[0].pixels
            assert client.visualize_class(MODEL, 5, steps=3).result().pictures
            kept_in_memory = client.visualize_class("mine", 5, steps=6, detached=True)
            assert kept_in_memory.result().pictures
            # What is there can still be read.
            assert {model.model_id for model in client.list_models()} == {MODEL, "mine"}
            assert client.get_model("mine").model_id == "mine"
            assert client.classify(MODEL, Image.new("L", (8, 8), 90))[0].top
            assert client.watch_job(before.job).result().pictures[0].pixels.tobytes() == expected.tobytes()
            assert {job.state for job in client.list_jobs()} == {"succeeded"}
            # What must be written is refused, and changes nothing.
            for write in (
                lambda: client.upload_model(digits_cnn_path, "another"),
                lambda: client.delete_model("mine"),
                lambda: client.verify_model(MODEL),
            ):
                error = refused(write)
                assert (error.code, error.reason) == ("UNAVAILABLE", "STATE_READ_ONLY")
            assert {model.model_id for model in client.list_models()} == {MODEL, "mine"}
            wait_for(lambda: "jobs can't be written" in log.read_text())
        wait_for(lambda: "jobs are written again" in log.read_text())
        assert client.upload_model(digits_cnn_path, "another").model_id == "another"
        after = client.visualize_class(MODEL, 3, steps=8, detached=True)
        assert after.result().pictures[0].pixels.tobytes() == expected.tobytes()
        running.process.kill()
        running.process.wait(10)
        assert "Traceback" not in log.read_text()
    with contextlib.closing(sqlite3.connect(state / "jobs" / "jobs.sqlite3")) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    with start_server(state, digits_models, *options) as running, endoscope.connect(running.target) as client:
        assert {model.model_id for model in client.list_models()} == {MODEL, "mine", "another"}
        for job, pixels in ((before, expected), (long, undisturbed), (after, expected)):
            assert client.watch_job(job.job).result().pictures[0].pixels.tobytes() == pixels.tobytes()
        assert client.watch_job(kept_in_memory.job).result().pictures
        assert "Traceback" not in log.read_text()


def test_a_state_that_can_not_be_written_ends_the_server_with_a_sentence(digits_models: Path) -> None:
    command = [sys.executable, "-c", "from endoscope_server.commands import serve; serve()"]
    command += ["--listen", "127.0.0.1:0", "--state", "/proc/endoscope", "--models", str(digits_models)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "/proc/endoscope" in done.stderr
    assert "Traceback" not in done.stderr


def test_connections_that_say_nothing(running) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 4 * CONNECTIONS), hard), hard))
    host, _, port = running.target.rpartition(":")
    held: list[socket.socket] = []
    try:
        for index in range(CONNECTIONS):
            held.append(socket.create_connection((host, int(port)), timeout=20))
            if index % 2:
                held[-1].sendall(b"PRI * HTTP/2.0\r\n")
        with endoscope.connect(running.target, timeout=30) as client:
            assert client.list_models()
            assert client.visualize_class(MODEL, 3, steps=1).result().pictures
    except OSError as error:
        if error.errno == errno.EMFILE:
            pytest.skip("this machine allows too few open files")
        raise
    finally:
        for connection in held:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_end_under_load(start_server, state: Path, digits_models: Path) -> None:
    with start_server(state, digits_models, "--grace", "1") as running:
        stub = gradient_pb2_grpc.GradientServiceStub(running.channel)
        request = gradient_pb2.VisualizeClassRequest(model=MODEL, classes=[3], steps=100_000)
        codes: list[grpc.StatusCode] = []
        started = threading.Barrier(9)

        def follow() -> None:
            stream = stub.VisualizeClass(request, timeout=120)
            next(stream)
            started.wait(60)
            try:
                for _ in stream:
                    pass
            except grpc.RpcError as error:
                codes.append(error.code())

        followers = [threading.Thread(target=follow) for _ in range(8)]
        for follower in followers:
            follower.start()
        started.wait(60)
        running.process.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.VisualizeClass(request, timeout=30))
        assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        assert running.process.wait(30) == 0
        for follower in followers:
            follower.join(10)
        assert len(codes) == 8
        assert set(codes) <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
        assert "Traceback" not in (state / "log").read_text()


def test_the_end_within_a_long_step(start_server, state: Path, lite0_path: Path) -> None:
    """A model is being verified, which nothing can stop, when the server must end."""
    with start_server(state, lite0_path.parent, "--grace", "0.1") as running:
        stub = gradient_pb2_grpc.GradientServiceStub(running.channel)
        request = gradient_pb2.VisualizeClassRequest(model="efficientnet-lite0", classes=[3], steps=100)
        call = stub.VisualizeClass(request, timeout=60)
        time.sleep(1)
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(30) == 0
        call.cancel()
        assert "terminate called" not in (state / "log").read_text()
