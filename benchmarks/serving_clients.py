"""Eight clients that send single images, one after the other, and wait for each answer.

They are coroutines of one process, so that they take as little from the server's cores as clients in Python
can. Each has a connection of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from multiprocessing.shared_memory import SharedMemory

import grpc
import grpc.aio
import numpy as np

from endoscope_server.protocols import grpc_service_pb2 as pb
from endoscope_server.protocols import grpc_service_pb2_grpc

CLIENTS = 8
_SERVICE = "/inference.GRPCInferenceService"

Ask = Callable[[int], Awaitable[bytes]]
"""Sends the picture of a client, and gives the answer."""


class Load:
    """Clients that send their pictures in messages.

    Args:
        target: The server's address.
        model: The model's name.
        name: Its input's.
        image: One, as a batch; all send the same.
        stream: Whether each client has one call for all its pictures, and not one for each.
    """

    def __init__(
        self, target: str, model: str, name: str, image: np.ndarray, *, stream: bool = False
    ) -> None:
        self.stream = stream
        self._target = target
        request = pb.ModelInferRequest(model_name=model, raw_input_contents=[image.tobytes()])
        request.inputs.add(name=name, datatype="FP32", shape=image.shape)
        self._requests = [request.SerializeToString()] * CLIENTS

    def once(self) -> pb.ModelInferResponse:
        """One answer; the server may still be starting."""
        with grpc.insecure_channel(self._target) as channel:
            self.prepare(0)
            call = channel.unary_unary(f"{_SERVICE}/ModelInfer")
            return pb.ModelInferResponse.FromString(call(self._requests[0], wait_for_ready=True, timeout=120))

    def prepare(self, client: int) -> None:
        """Whatever a client does with its picture before it asks."""

    def __call__(self, seconds: float) -> tuple[float, list[float]]:
        """A round: images a second, and each request's seconds."""
        return asyncio.run(self._round(seconds))

    def close(self) -> None:
        """Give back what is held."""

    async def _round(self, seconds: float) -> tuple[float, list[float]]:
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [grpc.aio.insecure_channel(self._target, options) for _ in range(CLIENTS)]
        for channel in channels:
            await channel.channel_ready()
        latencies: list[float] = []
        started = time.perf_counter()
        work = self._streaming if self.stream else self._calling
        clients = [
            work(channel, client, started + seconds, latencies) for client, channel in enumerate(channels)
        ]
        await asyncio.gather(*clients)
        speed = len(latencies) / (time.perf_counter() - started)
        for channel in channels:
            await channel.close()
        return speed, latencies

    async def _calling(
        self, channel: grpc.aio.Channel, client: int, until: float, latencies: list[float]
    ) -> None:
        call = channel.unary_unary(f"{_SERVICE}/ModelInfer")
        while (begun := time.perf_counter()) < until:
            self.prepare(client)
            await call(self._requests[client], timeout=60)
            latencies.append(time.perf_counter() - begun)

    async def _streaming(
        self, channel: grpc.aio.Channel, client: int, until: float, latencies: list[float]
    ) -> None:
        call = channel.stream_stream(f"{_SERVICE}/ModelStreamInfer")()
        while (begun := time.perf_counter()) < until:
            self.prepare(client)
            await call.write(self._requests[client])
            answer = await call.read()
            latencies.append(time.perf_counter() - begun)
            # Field 1 is an error's message.
            if answer[:1] == b"\x0a":
                raise RuntimeError(pb.ModelStreamInferResponse.FromString(answer).error_message)
        await call.done_writing()


class SharedLoad(Load):
    """Clients that leave their pictures in shared memory; the server was started with ``--shared-memory``."""

    def __init__(
        self, target: str, model: str, name: str, image: np.ndarray, *, stream: bool = False
    ) -> None:
        super().__init__(target, model, name, image, stream=stream)
        self._image = image
        self._memories = [SharedMemory(create=True, size=image.nbytes) for _ in range(CLIENTS)]
        self._tensors = [np.ndarray(image.shape, image.dtype, memory.buf) for memory in self._memories]
        self._requests = []
        with grpc.insecure_channel(target) as channel:
            stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
            for memory in self._memories:
                region = {"name": memory.name, "key": memory.name, "byte_size": image.nbytes}
                asked = pb.SystemSharedMemoryRegisterRequest(**region)
                stub.SystemSharedMemoryRegister(asked, wait_for_ready=True, timeout=120)
                request = pb.ModelInferRequest(model_name=model)
                tensor = request.inputs.add(name=name, datatype="FP32", shape=image.shape)
                tensor.parameters["shared_memory_region"].string_param = memory.name
                tensor.parameters["shared_memory_byte_size"].int64_param = image.nbytes
                self._requests.append(request.SerializeToString())

    def prepare(self, client: int) -> None:
        """A client writes its picture anew each time."""
        self._tensors[client][:] = self._image

    def close(self) -> None:
        """Give the memory back."""
        self._tensors.clear()
        for memory in self._memories:
            memory.close()
            memory.unlink()
