"""Tensors in shared memory: what requests say of them, and the regions that there are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from endoscope_server.errors import Forbidden, InvalidInput, Unsupported
from endoscope_server.protocols import grpc_service_pb2 as pb
from endoscope_server.security.addresses import is_peer_of_this_machine
from endoscope_server.serving import SharedMemory

Asked = pb.ModelInferRequest.InferInputTensor | pb.ModelInferRequest.InferRequestedOutputTensor

_REGION, _SIZE, _OFFSET = "shared_memory_region", "shared_memory_byte_size", "shared_memory_offset"


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a region, for one tensor.

    Attributes:
        shared: The regions.
        region: Its name.
        offset: Bytes of the region before it.
        size: Its bytes.
        field: What names it in the request.
    """

    shared: SharedMemory
    region: str
    offset: int
    size: int
    field: str

    def __len__(self) -> int:
        return self.size

    def read(self) -> NDArray[np.uint8]:
        """A copy of its bytes; raises as :meth:`SharedMemory.read`."""
        return self.shared.read(self.region, self.offset, self.size, self.field)

    def write(self, content: bytes, tensor: pb.ModelInferResponse.InferOutputTensor) -> None:
        """Put bytes at its start, and say in the response's tensor where they are.

        Raises:
            InvalidInput: if they are too many, and as :meth:`SharedMemory.write`.
        """
        if len(content) > self.size:
            raise InvalidInput(
                f"the output has {len(content)} bytes, expected at most the {self.size} that {_SIZE} says",
                field=self.field,
                reason="OUTPUT_TOO_LARGE",
            )
        self.shared.write(self.region, self.offset, content, self.field)
        tensor.parameters[_REGION].string_param = self.region
        tensor.parameters[_SIZE].int64_param = len(content)
        if self.offset:
            tensor.parameters[_OFFSET].int64_param = self.offset


def size_of(tensor: Asked) -> int:
    """The bytes that a tensor has in shared memory, by its own word; 0 if it is in the message."""
    # Looking a parameter up would make it.
    if _REGION not in tensor.parameters or _SIZE not in tensor.parameters:
        return 0
    return tensor.parameters[_SIZE].int64_param


def part_of(tensor: Asked, shared: SharedMemory | None, field: str) -> Part | None:
    """Where in shared memory a tensor is; None if it is in the message.

    Raises:
        InvalidInput: if its size or offset is none.
        Unsupported: if this server takes no shared memory.
    """
    if _REGION not in tensor.parameters:
        return None
    path = f"{field}.parameters"
    if shared is None:
        raise refused(path)
    offset = tensor.parameters[_OFFSET].int64_param if _OFFSET in tensor.parameters else 0
    size = size_of(tensor)
    if size < 0 or offset < 0 or _SIZE not in tensor.parameters:
        raise InvalidInput(
            f"{_SIZE} is {size} and {_OFFSET} is {offset}, expected a number of bytes, and no negative one",
            field=path,
        )
    return Part(shared, tensor.parameters[_REGION].string_param, offset, size, path)


def refused(field: str = "") -> Unsupported:
    """What this server says where it takes no shared memory."""
    return Unsupported(
        "this server takes no tensors in shared memory, expected them in the message; its operator may allow "
        "it by --shared-memory",
        field=field,
        reason="SHARED_MEMORY",
    )


def status(shared: SharedMemory, name: str) -> pb.SystemSharedMemoryStatusResponse:
    """The regions; raises as :meth:`SharedMemory.regions`."""
    response = pb.SystemSharedMemoryStatusResponse()
    for region in shared.regions(name).values():
        response.regions[region.name].CopyFrom(
            pb.SystemSharedMemoryStatusResponse.RegionStatus(
                name=region.name, key=region.key, offset=region.offset, byte_size=region.size
            )
        )
    return response


def check_local(peer: str) -> None:
    """Refuse a caller from elsewhere, who has no memory to share.

    Args:
        peer: As gRPC tells it, such as ``ipv4:127.0.0.1:5``.

    Raises:
        Forbidden: for another machine.
    """
    if not is_peer_of_this_machine(peer):
        raise Forbidden(
            "shared memory is for callers on the server's own machine", reason="CALLER_IS_ELSEWHERE"
        )
