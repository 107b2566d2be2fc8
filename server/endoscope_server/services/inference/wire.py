"""Requests for inference as they come over the wire.

Nearly all of such a message is tensors as raw bytes. Parsed like any other field they are copied twice; here
they stay where gRPC has put them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from endoscope_server.protocols import grpc_service_pb2 as pb
from endoscope_server.services.interception import Continuation

METHODS = frozenset(f"/inference.GRPCInferenceService/{name}" for name in ("ModelInfer", "ModelStreamInfer"))

_RAW = pb.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER
_LARGE = 2**15
"""Bytes of a message from which on looking for its raw contents takes less than copying them."""
_VARINT, _FIXED_64, _DELIMITED, _FIXED_32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A request and its raw contents.

    Attributes:
        message: The request; its own ``raw_input_contents`` are empty.
        raws: They, as bytes.
    """

    message: pb.ModelInferRequest
    raws: Sequence[memoryview]

    @classmethod
    def parse(cls, content: bytes) -> InferRequest:
        """The request in an encoded message.

        Raises:
            DecodeError: if it is none.
        """
        found = _split(content) if len(content) >= _LARGE else None
        if found is not None:
            rest, raws = found
            return cls(pb.ModelInferRequest.FromString(rest), raws)
        message = pb.ModelInferRequest.FromString(content)
        raws = [memoryview(raw) for raw in message.raw_input_contents]
        message.ClearField("raw_input_contents")
        return cls(message, raws)


class WireInterceptor(grpc.aio.ServerInterceptor):
    """Lets the methods for inference have :class:`InferRequest`; the innermost interceptor."""

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        """Change how requests are parsed."""
        handler: Any = await continuation(handler_call_details)
        if handler is None or handler_call_details.method not in METHODS:
            return handler
        return handler._replace(request_deserializer=InferRequest.parse)


def _split(content: bytes) -> tuple[bytes, list[memoryview]] | None:
    """The message without its raw contents, and those; None for a message that only a parser understands."""
    view, rest, raws = memoryview(content), [], []
    position = 0
    try:
        while position < len(content):
            begin = position
            tag, position = _varint(content, position)
            kind = tag & 7
            if kind == _DELIMITED:
                length, position = _varint(content, position)
                start, position = position, position + length
                if tag >> 3 == _RAW and position <= len(content):
                    raws.append(view[start:position])
                    continue
            elif kind == _VARINT:
                _, position = _varint(content, position)
            elif kind in (_FIXED_32, _FIXED_64):
                position += 4 if kind == _FIXED_32 else 8
            else:
                return None
            rest.append(view[begin:position])
    except (IndexError, OverflowError):
        return None
    return (b"".join(rest), raws) if position == len(content) else None


def _varint(content: bytes, position: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends.

    Raises:
        IndexError: if it goes beyond the content's end.
        OverflowError: if it has more than 64 bits.
    """
    value = 0
    for shift in range(0, 70, 7):
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise OverflowError
