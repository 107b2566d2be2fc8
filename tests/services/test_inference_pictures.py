"""Pictures instead of numbers over the Open Inference Protocol, by Triton's own client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from PIL import Image

from endoscope_server.graph import Graph
from endoscope_server.images.decoding import decode
from endoscope_server.images.encoding import ImageFormat, encode
from endoscope_server.models.card import make_card
from tests.services.triton_process import Triton, TritonError

LITE0, DIGITS = "efficientnet-lite0", "digits-cnn"


@pytest.fixture(scope="module")
def models(lite0_path: Path, digits_cnn_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real models, and one each whose input is 8-bit pixels by itself and 16-bit floats in NHWC."""
    folder = tmp_path_factory.mktemp("models")
    for path in (lite0_path, digits_cnn_path):
        (folder / path.name).symlink_to(path)
    for name, tensor in {"pixels": "uint8[n, h, w, 3]", "half": "float16[n, 8, 12, 3]"}.items():
        head = f'<ir_version: 9, opset_import: ["": 18]> {name} ({tensor} x) => ({tensor} y)'
        onnx.save(onnx.parser.parse_model(head + " { y = Identity(x) }"), folder / f"{name}.onnx")
    return folder


@pytest.fixture(scope="module")
def triton(start_server, models: Path, tmp_path_factory) -> Iterator[Any]:
    with start_server(tmp_path_factory.mktemp("state"), models) as server:
        client = Triton(server.target)
        yield client
        client.close()
        assert "Traceback" not in (server.state / "log").read_text()


@pytest.fixture(scope="module")
def expected(models: Path) -> Any:
    """What ONNX Runtime answers to pictures that Pillow and numpy have prepared."""

    def run(model: str, pictures: list[Image.Image]) -> np.ndarray:
        path = models / f"{model}.onnx"
        preprocessing = make_card(Graph.from_file(path), {}).preprocessing
        session = ort.InferenceSession(path)
        [told] = session.get_inputs()
        ready = np.concatenate([preprocessing.prepare(picture) for picture in pictures])
        ready = ready.astype(np.float16 if told.type == "tensor(float16)" else np.float32)
        return session.run(None, {told.name: ready})[0]

    return run


def files(*contents: bytes) -> np.ndarray:
    found = np.empty(len(contents), object)
    found[:] = contents
    return found


def answer(triton: Any, model: str, array: np.ndarray, name: str = "input") -> np.ndarray:
    [value] = triton.infer(model, {name: array})["values"].values()
    return value


@pytest.mark.parametrize("size", [(224, 224), (451, 300), (64, 48)])
def test_pixels_are_fitted_and_normalised(triton, expected, photos, size: tuple[int, int]) -> None:
    """Of any size, channels last or first, one or several at a time."""
    pictures = [photos[name].convert("RGB").resize(size) for name in ("chelsea", "coffee", "rocket")]
    pixels = np.stack([np.asarray(picture) for picture in pictures])
    logits = expected(LITE0, pictures)
    assert len(set(logits.argmax(axis=1))) == 3
    for given in (pixels, np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))):
        assert np.allclose(answer(triton, LITE0, given), logits, atol=1e-3)
        assert np.allclose(answer(triton, LITE0, given[:1]), logits[:1], atol=1e-3)


def test_files_are_decoded(triton, expected, photos) -> None:
    contents = [encode(photos["chelsea"], ImageFormat.JPEG), encode(photos["coffee"])]
    logits = expected(LITE0, [decode(content) for content in contents])
    assert np.allclose(answer(triton, LITE0, files(*contents)), logits, atol=1e-3)
    column = files(*contents)[:, None]
    assert np.allclose(answer(triton, LITE0, column), logits, atol=1e-3)


def test_what_is_no_picture_fails_alone_in_a_stream(triton, expected, photos) -> None:
    """The others of it are answered."""
    picture = photos["astronaut"].convert("RGB").resize((224, 224))
    logits = expected(LITE0, [picture])
    requests = [{"input": np.asarray(picture)[None]}, {"input": files(b"none")}] * 8
    found = triton.stream(LITE0, requests)
    assert len(found) == 16
    for one in found[::2]:
        assert np.allclose(one["values"]["logits"], logits, atol=1e-3)
    assert all("inputs[input][0]" in one and "no picture" in one for one in found[1::2])


def test_a_model_for_grey_pictures(triton, expected, photos) -> None:
    picture = photos["coffee"]
    logits = expected(DIGITS, [picture])
    colours = np.asarray(picture.convert("RGB"))[None]
    grey = np.asarray(picture.convert("L"))[None, ..., None]
    for given in (colours, grey, files(encode(picture))):
        assert np.allclose(answer(triton, DIGITS, given), logits, atol=1e-3)


def test_other_types_and_layouts(triton, expected, photos) -> None:
    picture = photos["rocket"].convert("RGB")
    found = answer(triton, "half", np.asarray(picture)[None], "x")
    assert found.dtype == np.float16
    assert np.array_equal(found, expected("half", [picture]))
    pixels = np.asarray(picture.resize((9, 7)))[None]
    assert np.array_equal(answer(triton, "pixels", pixels, "x"), pixels)  # its own type is left alone


WRONG = {
    "rank": (np.zeros((8, 8, 3), np.uint8), "inputs[input].shape", "pictures x height"),
    "channels": (np.zeros((1, 8, 8, 2), np.uint8), "inputs[input][0]", "1 or 3 channels"),
    "no pixels": (np.zeros((1, 0, 8, 3), np.uint8), "inputs[input][0]", "[0, 8, 3]"),
    "none": (np.zeros((0, 8, 8, 3), np.uint8), "inputs[input]", "at least one"),
    "too many": (np.zeros((500, 1, 1, 3), np.uint8), "inputs[input]", "at most 445"),
    "no picture": (files(b"GIF"), "inputs[input][0]", "no picture"),
    "cut": (
        files(encode(Image.new("RGB", (9, 9))), encode(Image.effect_noise((99, 99), 50))[:500]),
        "inputs[input][1]",
        "broken",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_picture_is_told_by_its_place(triton, case: str) -> None:
    array, field, words = WRONG[case]
    with pytest.raises(TritonError) as caught:
        triton.infer(LITE0, {"input": array})
    assert caught.value.status == "INVALID_ARGUMENT"
    assert caught.value.message.startswith(field)
    assert words in caught.value.message


def test_a_bomb_is_refused_on_the_word_of_its_header(triton) -> None:
    bomb = encode(Image.new("1", (20_000, 20_000)))
    with pytest.raises(TritonError, match="20000 x 20000") as caught:
        triton.infer(LITE0, {"input": files(bomb)})
    assert caught.value.status == "RESOURCE_EXHAUSTED"


def test_many_files_may_be_large_only_together(triton) -> None:
    large = encode(Image.new("1", (8_000, 8_000)))
    with pytest.raises(TritonError, match=r"inputs\[input\]\[4\]") as caught:
        triton.infer(LITE0, {"input": files(*[large] * 6)})
    assert caught.value.status == "RESOURCE_EXHAUSTED"
