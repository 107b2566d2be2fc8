"""Requests of every method with any values at all get an answer or a refusal, and the server goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import message_factory, struct_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from endoscope.v1 import (
    activation_pb2,
    audit_pb2,
    dataset_pb2,
    gradient_pb2,
    job_service_pb2,
    model_pb2,
    technique_pb2,
)
from endoscope_server.protocols import grpc_service_pb2

MODEL = "models/digits-cnn"

METHODS: list[MethodDescriptor] = [
    method
    for module in (
        model_pb2,
        dataset_pb2,
        activation_pb2,
        gradient_pb2,
        technique_pb2,
        job_service_pb2,
        audit_pb2,
        grpc_service_pb2,
    )
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]

DEFECTS = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS}
"""What no request may bring about."""

_WORDS = (
    "",
    MODEL,
    "digits-cnn",
    "FP32",
    "datasets/none",
    "jobs/none",
    "caricature",
    "image",
    "input",
    "*",
    "../x",
    "\x00",
    "é" * 300,
)
_PARAMETERS = ("steps", "layers", "cosine_power", "transforms", "seed", "")
_WHOLE = (0, 1, 2, 3, 7, 64, 1000)
_TEXT = st.sampled_from(_WORDS) | st.text(max_size=12)
_FLOATS = st.sampled_from((0.0, 0.5, 1.0, -1.0, 1e30, 1e-30, float("nan"), float("inf"))) | st.floats(
    width=32
)
_DEPTH = 4


def _integers(bits: int, signed: bool) -> st.SearchStrategy[int]:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return st.sampled_from((*_WHOLE, low, high)) | st.integers(low, high)


_SCALARS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.TYPE_STRING: _TEXT,
    FieldDescriptor.TYPE_BYTES: st.binary(max_size=64),
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_FLOAT: _FLOATS,
    FieldDescriptor.TYPE_DOUBLE: _FLOATS,
    FieldDescriptor.TYPE_ENUM: st.integers(0, 12),
    FieldDescriptor.TYPE_INT32: _integers(32, True),
    FieldDescriptor.TYPE_INT64: _integers(64, True),
    FieldDescriptor.TYPE_UINT32: _integers(32, False),
    FieldDescriptor.TYPE_UINT64: _integers(64, False),
}


@st.composite
def messages(draw: st.DrawFn, kind: Descriptor, depth: int = 0) -> Message:
    """Any message: a few fields, of a oneof the last one that was drawn."""
    made = message_factory.GetMessageClass(kind)()
    for field in kind.fields:
        if not draw(st.booleans()) or (field.message_type and depth == _DEPTH):
            continue
        if (
            field.name in ("model", "name", "model_name")
            and not field.is_repeated
            and draw(st.integers(0, 3))
        ):
            setattr(made, field.name, MODEL if field.name != "model_name" else "digits-cnn")
        elif field.message_type is not None and field.message_type.GetOptions().map_entry:
            continue
        elif field.is_repeated:
            for _ in range(draw(st.integers(0, 3))):
                if field.message_type is None:
                    getattr(made, field.name).append(draw(_SCALARS[field.type]))
                else:
                    getattr(made, field.name).append(draw(_inner(field.message_type, depth + 1)))
        elif field.message_type is not None:
            getattr(made, field.name).CopyFrom(draw(_inner(field.message_type, depth + 1)))
        else:
            setattr(made, field.name, draw(_SCALARS[field.type]))
    return made


@st.composite
def structs(draw: st.DrawFn, depth: int) -> Message:
    """Any object of JSON, and what is none: infinite numbers, values without a kind."""
    made = struct_pb2.Struct()
    for name in draw(st.lists(st.sampled_from(_PARAMETERS), max_size=3)):
        made.fields[name].CopyFrom(draw(messages(struct_pb2.Value.DESCRIPTOR, depth + 1)))
    return made


def _inner(kind: Descriptor, depth: int) -> st.SearchStrategy[Message]:
    return structs(depth) if kind.full_name == "google.protobuf.Struct" else messages(kind, depth)


@pytest.fixture(scope="module")
def target(start_server, digits_models, tmp_path_factory) -> Iterator[grpc.Channel]:
    with start_server(tmp_path_factory.mktemp("fuzz"), digits_models) as running:
        yield running.channel
        assert running.process.poll() is None, "the server died"


def send(channel: grpc.Channel, method: MethodDescriptor, requests: list[Message]) -> grpc.StatusCode:
    """The status of a call of which no more than two answers are awaited."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    answer = message_factory.GetMessageClass(method.output_type).FromString
    serialize = message_factory.GetMessageClass(method.input_type).SerializeToString
    try:
        if method.client_streaming and not method.server_streaming:
            channel.stream_unary(path, serialize, answer)(iter(requests), timeout=5)
        elif method.server_streaming:
            if method.client_streaming:
                stream = channel.stream_stream(path, serialize, answer)(iter(requests), timeout=5)
            else:
                stream = channel.unary_stream(path, serialize, answer)(requests[0], timeout=5)
            with contextlib.suppress(StopIteration):
                next(stream)
                next(stream)
            stream.cancel()
        else:
            channel.unary_unary(path, serialize, answer)(requests[0], timeout=5)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        assert code not in DEFECTS, f"{requests}: {error.details()}"
        assert "Traceback" not in (error.details() or "")
        return code
    return grpc.StatusCode.OK


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_any_request(target: grpc.Channel, method: MethodDescriptor) -> None:
    @settings(
        derandomize=True,
        deadline=None,
        database=None,
        max_examples=60,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(messages(method.input_type), min_size=1, max_size=3))
    def check(requests: list[Message]) -> None:
        send(target, method, requests)

    check()
    health = health_pb2_grpc.HealthStub(target)
    answer = health.Check(health_pb2.HealthCheckRequest(), timeout=10)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
