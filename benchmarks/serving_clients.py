"""Eight clients that send single images, one after the other, and wait for each answer.

They are a program in C++ of their own (``serving_client.cpp``), since they share the cores with the server:
clients in Python would measure themselves. Building it needs g++ and Debian's ``libgrpc++-dev``.
"""

from __future__ import annotations

import functools
import shlex
import subprocess
import tempfile
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import grpc
import numpy as np

from endoscope_server.protocols import grpc_service_pb2 as pb
from endoscope_server.protocols import grpc_service_pb2_grpc

CLIENTS = 8
_DATATYPES = {"float32": "FP32", "uint8": "UINT8"}
_SOURCE = Path(__file__).with_name("serving_client.cpp")
_BUILT = Path(".cache/benchmarks/serving_client")


@functools.cache
def program() -> Path:
    """The built program."""
    if not _BUILT.is_file() or _BUILT.stat().st_mtime < _SOURCE.stat().st_mtime:
        _BUILT.parent.mkdir(parents=True, exist_ok=True)
        found = subprocess.run(
            ["pkg-config", "--cflags", "--libs", "grpc++"], capture_output=True, text=True, check=True
        )
        flags = [*shlex.split(found.stdout), "-lrt", "-lpthread"]
        subprocess.run(["g++", "-O2", "-std=c++17", _SOURCE, "-o", _BUILT, *flags], check=True)
    return _BUILT


class Load:
    """Clients that send their pictures in messages.

    Args:
        target: The server's address.
        model: The model's name.
        name: Its input's.
        image: One, as a batch, as numbers or as 8-bit pixels; all send the same.
        stream: Whether each client has one call for all its pictures, and not one for each.
    """

    def __init__(
        self, target: str, model: str, name: str, image: np.ndarray, *, stream: bool = False
    ) -> None:
        self._target, self._how = target, "stream" if stream else "call"
        request = pb.ModelInferRequest(model_name=model, raw_input_contents=[image.tobytes()])
        _add(request, name, image)
        self._requests = [request] * CLIENTS
        self._folder = tempfile.TemporaryDirectory()

    def once(self) -> pb.ModelInferResponse:
        """One answer; the server may still be starting."""
        with grpc.insecure_channel(self._target) as channel:
            stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
            return stub.ModelInfer(self._requests[0], wait_for_ready=True, timeout=120)

    def objects(self) -> list[str]:
        """The image, and where in shared memory each client puts it: further arguments of the program."""
        return []

    def __call__(self, seconds: float) -> tuple[float, list[float]]:
        """A round: images a second, and each request's seconds."""
        files = [Path(self._folder.name, str(client)) for client in range(CLIENTS)]
        for file, request in zip(files, self._requests, strict=True):
            if not file.is_file():
                file.write_bytes(request.SerializeToString())
        command = [program(), self._target, str(seconds), self._how, *files, *self.objects()]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        took, *latencies = map(float, done.stdout.split())
        return len(latencies) / took, latencies

    def close(self) -> None:
        """Give back what is held."""
        self._folder.cleanup()


class SharedLoad(Load):
    """Clients that leave their pictures in shared memory; the server was started with ``--shared-memory``."""

    def __init__(
        self, target: str, model: str, name: str, image: np.ndarray, *, stream: bool = False
    ) -> None:
        super().__init__(target, model, name, image, stream=stream)
        self._memories = [SharedMemory(create=True, size=image.nbytes) for _ in range(CLIENTS)]
        self._image = Path(self._folder.name, "image")
        self._image.write_bytes(image.tobytes())
        self._requests = []
        with grpc.insecure_channel(target) as channel:
            stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
            for memory in self._memories:
                memory.buf[: image.nbytes] = image.tobytes()
                region = {"name": memory.name, "key": memory.name, "byte_size": image.nbytes}
                asked = pb.SystemSharedMemoryRegisterRequest(**region)
                stub.SystemSharedMemoryRegister(asked, wait_for_ready=True, timeout=120)
                request = pb.ModelInferRequest(model_name=model)
                tensor = _add(request, name, image)
                tensor.parameters["shared_memory_region"].string_param = memory.name
                tensor.parameters["shared_memory_byte_size"].int64_param = image.nbytes
                self._requests.append(request)

    def objects(self) -> list[str]:
        """See :meth:`Load.objects`."""
        return ["--", str(self._image), *(f"/{memory.name}" for memory in self._memories)]

    def close(self) -> None:
        """Give the memory back."""
        super().close()
        for memory in self._memories:
            memory.close()
            memory.unlink()


def _add(
    request: pb.ModelInferRequest, name: str, image: np.ndarray
) -> pb.ModelInferRequest.InferInputTensor:
    return request.inputs.add(name=name, datatype=_DATATYPES[image.dtype.name], shape=image.shape)
