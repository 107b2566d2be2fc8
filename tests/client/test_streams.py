"""Streams that are cancelled, left, and cut off."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest

import endoscope
from endoscope import errors
from endoscope.v1 import model_pb2, model_pb2_grpc

MODEL = "efficientnet-lite0"
FOREVER = 100_000


def wait_for_end(client: endoscope.Client, name: str) -> str:
    deadline = time.monotonic() + 10
    while (state := client.get_job(name).state) in ("queued", "running"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return state


class Wire:
    """A TCP relay that can be cut."""

    def __init__(self, target: str) -> None:
        host, port = target.split(":")
        self._there = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.target = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        for end in self._open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def close(self) -> None:
        # Closing alone would not wake the thread that accepts, and would leave the port open.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._there)
                self._open += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._relay, args=(source, sink), daemon=True).start()

    @staticmethod
    def _relay(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


@pytest.fixture
def wire(server) -> Iterator[Wire]:
    made = Wire(server.target)
    yield made
    made.close()


def test_cancelling_stops_the_job(client) -> None:
    stream = client.visualize_class(MODEL, 1, steps=FOREVER)
    assert next(stream).index == 1
    stream.cancel()
    with pytest.raises(errors.Cancelled):
        stream.result()
    assert wait_for_end(client, stream.job) == "cancelled"


def test_leaving_the_block_stops_the_job(client) -> None:
    with client.visualize_class(MODEL, 1, steps=FOREVER) as stream:
        name = stream.job
    assert wait_for_end(client, name) == "cancelled"


def test_detached_job_goes_on_and_is_taken_up(client) -> None:
    with client.visualize_class(MODEL, 1, steps=30, detached=True) as stream:
        name = stream.job
        assert next(stream).index == 1
    watched = client.watch_job(name, after_step=10)
    assert [step.index for step in watched] == list(range(11, 31))
    assert watched.result().pictures[0].score.class_index == 1


def test_cut_stream_of_a_detached_job_loses_nothing(wire: Wire) -> None:
    with endoscope.connect(wire.target) as client:
        stream = client.visualize_class(MODEL, 1, steps=40, detached=True)
        indices = []
        for step in stream:
            indices.append(step.index)
            if step.index in (5, 15):
                wire.cut()
        assert indices == list(range(1, 41))
        assert stream.result().pictures[0].score.class_index == 1


async def test_cut_stream_is_taken_up_by_the_async_client_too(wire: Wire) -> None:
    async with endoscope.aio.connect(wire.target) as client:
        stream = client.visualize_class(MODEL, 1, steps=40, detached=True)
        indices = []
        async for step in stream:
            indices.append(step.index)
            if step.index == 5:
                wire.cut()
        assert indices == list(range(1, 41))
        assert (await stream.result()).pictures[0].score.class_index == 1


def test_cut_stream_of_a_job_of_ours_is_an_error(client, wire: Wire) -> None:
    with endoscope.connect(wire.target) as cut:
        stream = cut.visualize_class(MODEL, 1, steps=FOREVER)
        name = stream.job
        next(stream)
        wire.cut()
        with pytest.raises(errors.Unreachable):
            stream.result()
    assert wait_for_end(client, name) == "cancelled"


def test_server_that_stays_away_is_given_up(wire: Wire) -> None:
    with endoscope.connect(wire.target, reconnect_for=0.5) as cut:
        stream = cut.visualize_class(MODEL, 1, steps=FOREVER, detached=True)
        name = stream.job
        wire.close()
        began = time.monotonic()
        with pytest.raises(errors.Unreachable):
            stream.result()
        assert 0.5 <= time.monotonic() - began < 10
    with endoscope.connect("{}:{}".format(*wire._there)) as client:
        client.cancel_job(name)
        assert wait_for_end(client, name) == "cancelled"


async def test_async_client(server, photos) -> None:
    async with endoscope.aio.connect(server.target) as client:
        await client.wait_until_ready()
        assert MODEL in [model.model_id for model in await client.list_models()]
        (seen,) = await client.classify(MODEL, photos["coffee"])
        assert seen.top[0].class_index == 967
        async with client.visualize_class(MODEL, 3, steps=3) as stream:
            assert (await stream.header()).total_steps == 3
            assert [step.index async for step in stream] == [1, 2, 3]
            assert (await stream.result()).pictures[0].score.class_index == 3
        with pytest.raises(errors.NotFound):
            await client.get_model("nobody")
        forever = client.visualize_class(MODEL, 3, steps=FOREVER)
        name = await forever.job()
        await forever.cancel()
        with pytest.raises(errors.Cancelled):
            await forever.result()
        assert (await client.get_job(name)).header.technique == "visualize_class"
        async with client.visualize_class(MODEL, 3, steps=FOREVER) as left:
            await anext(left)
        left.close()
        with pytest.raises(errors.Cancelled):
            await left.result()


class _Guarded(model_pb2_grpc.ModelServiceServicer):
    """Tells the token that came as a model's name."""

    def ListModels(self, request, context):
        token = dict(context.invocation_metadata())["authorization"]
        return model_pb2.ListModelsResponse(models=[model_pb2.Model(name=token)])


def test_tls_and_token(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
    request += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*request, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    server = grpc.server(futures.ThreadPoolExecutor(2))
    model_pb2_grpc.add_ModelServiceServicer_to_server(_Guarded(), server)
    pair = (key.read_bytes(), certificate.read_bytes())
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    server.start()
    try:
        target = f"localhost:{port}"
        with endoscope.connect(target, root_certificates=certificate, token="secret") as client:
            assert client.list_models()[0].name == "Bearer secret"
        with endoscope.connect(target, tls=True) as distrustful, pytest.raises(errors.Unreachable):
            distrustful.list_models()
    finally:
        server.stop(None)


def test_token_never_travels_in_the_clear() -> None:
    with pytest.raises(errors.InvalidArgument, match="TLS"):
        endoscope.connect("example.org:50051", token="secret")
    endoscope.connect("[::1]:50051", token="secret").close()
    with pytest.raises(errors.InvalidArgument, match="timeout"):
        endoscope.connect("localhost:50051", timeout=0)
