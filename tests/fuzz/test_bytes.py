"""Bytes that began as a picture or a model and were damaged are understood or refused, and nothing else."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper, parser
from PIL import Image, features

from endoscope_server.errors import EndoscopeError, InvalidInput, LimitExceeded
from endoscope_server.graph import Graph, Limits
from endoscope_server.images.decoding import decode
from endoscope_server.models import Repository

FUZZ = settings(
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.function_scoped_fixture,
    ],
)

_NUMBERS = (0, 1, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1)


@st.composite
def damaged(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """One of the seeds after a few accidents: bytes changed, cut out, doubled or put in, the end lost."""
    content = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(content) - 1, 0)))
        match draw(st.sampled_from(("change", "change", "number", "cut", "double", "insert", "end"))):
            case "change":
                content[place : place + 1] = bytes([draw(st.integers(0, 255))])
            case "number":
                size = draw(st.sampled_from((2, 4, 8)))
                number = draw(st.sampled_from(_NUMBERS)) % 2 ** (8 * size)
                content[place : place + size] = number.to_bytes(
                    size, draw(st.sampled_from(("little", "big")))
                )
            case "cut":
                del content[place : place + draw(st.integers(1, 64))]
            case "double":
                content[place:place] = content[place : place + draw(st.integers(1, 64))]
            case "insert":
                content[place:place] = draw(st.binary(min_size=1, max_size=16))
            case "end":
                del content[place:]
    return bytes(content)


def picture(format_name: str, mode: str = "RGB", **options: object) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 4), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, format_name, **options)
    return buffer.getvalue()


def animation(format_name: str) -> bytes:
    frames = [Image.new("RGB", (8, 8), (40 * index, 0, 90)) for index in range(3)]
    buffer = io.BytesIO()
    frames[0].save(buffer, format_name, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


PICTURES = (
    picture("PNG"),
    picture("PNG", "P"),
    picture("PNG", "RGBA"),
    picture("PNG", "LA"),
    picture("JPEG"),
    picture("JPEG", "CMYK"),
    picture(
        "JPEG",
        progressive=True,
        exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00",
    ),
    picture("WEBP"),
    picture("WEBP", lossless=True),
    picture("GIF", "P"),
    picture("BMP"),
    picture("TIFF"),
    picture("TIFF", compression="tiff_lzw"),
    picture("TIFF", compression="tiff_deflate"),
    picture("TIFF", compression="jpeg") if features.check("libtiff") else picture("TIFF", "L"),
    animation("GIF"),
    animation("PNG"),
)


@settings(FUZZ, max_examples=5000)
@given(damaged(PICTURES))
def test_a_damaged_picture(content: bytes) -> None:
    try:
        found = decode(content, max_pixels=1_000_000)
    except (InvalidInput, LimitExceeded):
        return
    assert found.mode in ("RGB", "L")
    assert found.width * found.height <= 1_000_000


@settings(FUZZ, max_examples=500)
@given(st.binary(max_size=200))
def test_bytes_of_no_kind(content: bytes) -> None:
    with pytest.raises(InvalidInput):
        decode(content)


def model() -> bytes:
    made = parser.parse_model("""
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N,3,8,8] x) => (float[N,4] y)
    {
        a = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(x, w)
        b = Relu(a)
        c = GlobalAveragePool(b)
        shape = Constant<value_ints=[0,-1]>()
        y = Reshape(c, shape)
    }
    """)
    weights = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    made.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    return made.SerializeToString()


def branching() -> bytes:
    made = parser.parse_model("""
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[1,3,8,8] x, bool flag) => (float[1,3,8,8] y)
    {
        y = If (flag) <
            then_branch = t () => (float[1,3,8,8] p) { p = Relu(x) },
            else_branch = e () => (float[1,3,8,8] q) { q = Neg(x) }
        >
    }
    """)
    return made.SerializeToString()


MODELS = (model(), branching())
LIMITS = Limits(tensor_bytes=2**26, nodes=1000)


@settings(FUZZ, max_examples=2500)
@given(damaged(MODELS))
def test_a_damaged_model(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = Path(tmp_path_factory.getbasetemp()) / "damaged.onnx"
    path.write_bytes(content)
    try:
        graph = Graph.from_file(path, limits=LIMITS)
    except EndoscopeError as error:
        assert error.reason != "INTERNAL"
        return
    assert graph.fingerprint


@settings(FUZZ, max_examples=300)
@given(damaged(MODELS))
def test_a_damaged_upload(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """Checked, verified and run in both engines, or refused; nothing half-written stays."""
    state = Path(tmp_path_factory.getbasetemp()) / "uploads"
    repository = Repository(state, threads=1)
    try:
        repository.add("damaged", [content], {})
    except EndoscopeError as error:
        assert error.reason != "INTERNAL"
        assert repository.files() == []
    else:
        repository.delete("damaged")
    assert list((state / "staging").iterdir()) == []


def test_the_seeds_are_right() -> None:
    for content in PICTURES:
        assert decode(content).size in ((12, 9), (9, 12), (8, 8))
    for content in MODELS:
        onnx.checker.check_model(onnx.load_from_string(content))
