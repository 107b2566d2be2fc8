"""Tensors in shared memory: by Triton's own client, and what may go wrong."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime as ort
import pytest

from endoscope_server.protocols import grpc_service_pb2 as pb
from endoscope_server.protocols import grpc_service_pb2_grpc
from tests.services.triton_process import Triton

BYTES = 64


@pytest.fixture(scope="module")
def models(digits_cnn_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    (folder / digits_cnn_path.name).symlink_to(digits_cnn_path)
    return folder


@pytest.fixture(scope="module")
def running(start_server, models: Path, tmp_path_factory) -> Iterator[Any]:
    with start_server(tmp_path_factory.mktemp("state"), models, "--shared-memory") as server:
        yield server
        assert server.process.poll() is None, "the server died in the tests"
        assert "Traceback" not in (server.state / "log").read_text()


@pytest.fixture(scope="module")
def stub(running) -> grpc_service_pb2_grpc.GRPCInferenceServiceStub:
    return grpc_service_pb2_grpc.GRPCInferenceServiceStub(running.channel)


@pytest.fixture(scope="module")
def session(digits_cnn_path: Path) -> ort.InferenceSession:
    return ort.InferenceSession(digits_cnn_path)


@pytest.fixture
def memory() -> Iterator[SharedMemory]:
    """An object of some bytes."""
    found = SharedMemory(create=True, size=BYTES)
    yield found
    found.close()
    found.unlink()


@pytest.fixture
def region(stub, memory: SharedMemory) -> Iterator[str]:
    """The name under which all of the object is registered."""
    name = str(uuid.uuid4())
    stub.SystemSharedMemoryRegister(register(name, memory.name, BYTES), timeout=10)
    yield name
    stub.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest(name=name), timeout=10)


def register(name: str, key: str, size: int, offset: int = 0) -> pb.SystemSharedMemoryRegisterRequest:
    return pb.SystemSharedMemoryRegisterRequest(name=name, key=key, byte_size=size, offset=offset)


def digits(session: ort.InferenceSession, rows: int = 3) -> np.ndarray:
    shape = [rows, *session.get_inputs()[0].shape[1:]]
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def shared_request(
    session: ort.InferenceSession, shape: list[int], region: str, size: int, offset: int = 0
) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="digits-cnn")
    tensor = request.inputs.add(name=session.get_inputs()[0].name, datatype="FP32", shape=shape)
    tensor.parameters["shared_memory_region"].string_param = region
    tensor.parameters["shared_memory_byte_size"].int64_param = size
    tensor.parameters["shared_memory_offset"].int64_param = offset
    return request


def code_of(call: Any, request: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=20)
    return caught.value.code(), caught.value.details()


def test_tritons_client_passes_tensors_in_shared_memory(running, session) -> None:
    triton = Triton(running.target)
    assert "system_shared_memory" in triton.get_server_metadata()["extensions"]
    values, output = digits(session), session.get_outputs()[0].name
    [expected] = session.run([output], {session.get_inputs()[0].name: values})
    found, size, contents, status = triton.shared_infer(
        "digits-cnn", session.get_inputs()[0].name, values, output, expected.nbytes
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert size == expected.nbytes
    assert contents == [b""]
    assert int(status["regions"]["region"]["byte_size"]) == values.nbytes + 64 + expected.nbytes
    assert not triton.get_system_shared_memory_status().get("regions")
    triton.close()


def test_an_input_beside_one_in_the_message_and_an_output_too_large(stub, session, memory, region) -> None:
    output = session.get_outputs()[0].name
    values = digits(session, 1)
    request = pb.ModelInferRequest(model_name="digits-cnn", raw_input_contents=[values.tobytes()])
    request.inputs.add(name=session.get_inputs()[0].name, datatype="FP32", shape=values.shape)
    wanted = request.outputs.add(name=output)
    wanted.parameters["shared_memory_region"].string_param = region
    wanted.parameters["shared_memory_byte_size"].int64_param = BYTES
    stub.ModelInfer(request, timeout=20)
    [expected] = session.run([output], {session.get_inputs()[0].name: values})
    np.testing.assert_allclose(np.frombuffer(memory.buf, np.float32, 10), expected[0], atol=1e-5)
    wanted.parameters["shared_memory_byte_size"].int64_param = 8
    code, details = code_of(stub.ModelInfer, request)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "40 bytes" in details


@pytest.mark.parametrize(
    ("key", "size", "offset", "words"),
    [
        ("nothing-of-that-name", 8, 0, "can't be opened"),
        ("../../etc/passwd", 8, 0, "expected the name"),
        ("/", 8, 0, "expected the name"),
        ("..", 8, 0, "expected the name"),
        ("a\0b", 8, 0, "expected the name"),
        ("{own}", BYTES + 1, 0, "expected at most"),
        ("{own}", 8, BYTES, "expected at most"),
        ("{own}", 8, 2**64 - 1, "expected at most"),
        ("{own}", 0, 0, "at least one"),
    ],
)
def test_regions_that_are_none(stub, memory, key: str, size: int, offset: int, words: str) -> None:
    request = register("bad", key.replace("{own}", memory.name), size, offset)
    code, details = code_of(stub.SystemSharedMemoryRegister, request)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert words in details


def test_what_is_no_object_is_no_region(stub, tmp_path: Path) -> None:
    """Links lead out of the folder, and a pipe would keep whoever opens it waiting."""
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(100))
    link, pipe = Path("/dev/shm", uuid.uuid4().hex), Path("/dev/shm", uuid.uuid4().hex)
    link.symlink_to(secret)
    os.mkfifo(pipe)
    try:
        for path in (link, pipe):
            code, _ = code_of(stub.SystemSharedMemoryRegister, register("bad", path.name, 8))
            assert code is grpc.StatusCode.INVALID_ARGUMENT
    finally:
        link.unlink()
        pipe.unlink()


def test_names_of_regions(stub, memory, region) -> None:
    assert code_of(stub.SystemSharedMemoryRegister, register(region, memory.name, 8))[0] is (
        grpc.StatusCode.ALREADY_EXISTS
    )
    assert code_of(stub.SystemSharedMemoryRegister, register("", memory.name, 8))[0] is (
        grpc.StatusCode.INVALID_ARGUMENT
    )
    nobody = pb.SystemSharedMemoryStatusRequest(name="nobody")
    assert code_of(stub.SystemSharedMemoryStatus, nobody)[0] is grpc.StatusCode.NOT_FOUND
    # As with Triton, forgetting what is not known is no error.
    stub.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest(name="nobody"), timeout=10)


@pytest.mark.parametrize(
    ("size", "offset", "name", "code"),
    [
        (BYTES, 0, "{region}", grpc.StatusCode.INVALID_ARGUMENT),
        (2**40, 0, "{region}", grpc.StatusCode.INVALID_ARGUMENT),
        (-4, 0, "{region}", grpc.StatusCode.INVALID_ARGUMENT),
        (4096, 0, "{region}", grpc.StatusCode.INVALID_ARGUMENT),
        (4096, -8, "{region}", grpc.StatusCode.INVALID_ARGUMENT),
        (4096, 0, "nobody", grpc.StatusCode.NOT_FOUND),
    ],
)
def test_parts_that_are_none(stub, session, region, size: int, offset: int, name: str, code: Any) -> None:
    request = shared_request(session, [1, 1, 32, 32], name.replace("{region}", region), size, offset)
    found, details = code_of(stub.ModelInfer, request)
    assert found is code, details


def test_an_object_that_shrinks_kills_nobody(stub, session) -> None:
    values = digits(session, 1)
    memory = SharedMemory(create=True, size=values.nbytes)
    stub.SystemSharedMemoryRegister(register("shrinking", memory.name, values.nbytes), timeout=10)
    request = shared_request(session, list(values.shape), "shrinking", values.nbytes)
    stub.ModelInfer(request, timeout=20)
    os.truncate(f"/dev/shm/{memory.name}", 100)
    code, details = code_of(stub.ModelInfer, request)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "smaller" in details
    wanted = request.outputs.add(name=session.get_outputs()[0].name)
    wanted.parameters["shared_memory_region"].string_param = "shrinking"
    wanted.parameters["shared_memory_byte_size"].int64_param = values.nbytes
    del request.inputs[0].parameters["shared_memory_region"]
    request.raw_input_contents.append(values.tobytes())
    wanted.parameters["shared_memory_offset"].int64_param = 90
    wanted.parameters["shared_memory_byte_size"].int64_param = 40
    assert code_of(stub.ModelInfer, request)[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert Path(f"/dev/shm/{memory.name}").stat().st_size == 100
    stub.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest(), timeout=10)
    assert not stub.SystemSharedMemoryStatus(pb.SystemSharedMemoryStatusRequest(), timeout=10).regions
    memory.close()
    memory.unlink()


def test_descriptors_are_given_back(stub, running, memory) -> None:
    def count() -> int:
        return len(list(Path(f"/proc/{running.process.pid}/fd").iterdir()))

    before = count()
    for index in range(100):
        stub.SystemSharedMemoryRegister(register(f"r{index}", memory.name, 8), timeout=10)
    assert count() > before + 80
    stub.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest(), timeout=10)
    assert count() < before + 20


@pytest.mark.parametrize(
    ("peer", "local"),
    [
        ("ipv4:127.0.0.1:5", True),
        ("ipv6:%5B::1%5D:5", True),
        ("ipv6:[::1]:5", True),
        ("unix:", True),
        ("unix:/run/endoscope", True),
        ("ipv4:10.0.0.7:5", False),
        ("ipv6:%5B2001:db8::1%5D:5", False),
        ("vsock:2:5", False),
    ],
)
def test_callers_from_elsewhere_have_no_memory_to_share(peer: str, local: bool) -> None:
    from endoscope_server.security.addresses import is_peer_of_this_machine

    assert is_peer_of_this_machine(peer) is local
