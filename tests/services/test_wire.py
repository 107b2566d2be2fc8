"""Requests parsed without copies of their tensors, beside protobuf's own parser."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from endoscope_server.protocols import grpc_service_pb2 as pb
from endoscope_server.services.inference.wire import InferRequest

LARGE = 40_000


@st.composite
def messages(draw: st.DrawFn) -> pb.ModelInferRequest:
    """Messages with a few of everything, one of them large enough to be split."""
    message = pb.ModelInferRequest(model_name=draw(st.text(max_size=5)), id=draw(st.text(max_size=5)))
    for size in draw(st.lists(st.sampled_from([0, 1, 200, LARGE]), max_size=3)):
        message.raw_input_contents.append(bytes([draw(st.integers(0, 255))]) * size)
    for name in draw(st.lists(st.text(max_size=3), max_size=3)):
        tensor = message.inputs.add(
            name=name, shape=draw(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3))
        )
        tensor.contents.int_contents.extend(draw(st.lists(st.integers(0, 9), max_size=3)))
        tensor.parameters["one"].int64_param = 1
    return message


def whole(request: InferRequest) -> pb.ModelInferRequest:
    """The message again."""
    assert not request.message.raw_input_contents
    message = pb.ModelInferRequest()
    message.CopyFrom(request.message)
    message.raw_input_contents.extend(bytes(raw) for raw in request.raws)
    return message


@settings(max_examples=300, deadline=None)
@given(messages(), st.binary(max_size=20))
def test_a_message_is_what_protobuf_says(message: pb.ModelInferRequest, unknown: bytes) -> None:
    content = message.SerializeToString()
    assert whole(InferRequest.parse(content)) == message
    # In any order, with fields that nobody knows: numbers of all kinds of encoding.
    others = b"\xa0\x06\x96\x01" + b"\xa5\x06abcd" + b"\xa1\x06abcdefgh" + b"\xa2\x06" + bytes([len(unknown)])
    mixed = content + others + unknown + content
    expected = pb.ModelInferRequest.FromString(mixed)
    assert whole(InferRequest.parse(mixed)) == expected


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=30), st.binary(max_size=30), st.integers(0, LARGE + 8))
def test_what_is_no_message_is_none(before: bytes, after: bytes, cut: int) -> None:
    raw = pb.ModelInferRequest(raw_input_contents=[bytes(LARGE)]).SerializeToString()
    for content in (before + raw + after, (before + raw)[:cut]):
        try:
            expected = pb.ModelInferRequest.FromString(content)
        except DecodeError:
            with pytest.raises(DecodeError):
                InferRequest.parse(content)
        else:
            assert whole(InferRequest.parse(content)) == expected


def test_numbers_without_end_take_no_time() -> None:
    with pytest.raises(DecodeError):
        InferRequest.parse(b"\x80" * 2**22)


def test_tensors_are_not_copied() -> None:
    content = pb.ModelInferRequest(raw_input_contents=[bytes(LARGE)]).SerializeToString()
    [raw] = InferRequest.parse(content).raws
    assert raw.obj is content
