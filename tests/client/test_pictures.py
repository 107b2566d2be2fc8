"""Pictures and requests, before anything is sent."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import endoscope
from endoscope import objectives
from endoscope.messages import encode
from endoscope.pictures import Picture, to_message
from endoscope.tensors import to_array, to_tensor
from endoscope.v1 import gradient_pb2


def decoded(message) -> Image.Image:
    return Image.open(io.BytesIO(message.encoded))


def test_files_are_sent_as_they_are(photo_files, photos) -> None:
    path = photo_files["coffee"]
    content = path.read_bytes()
    for given in (path, str(path), content, Picture(content)):
        assert to_message(given, "image").encoded == content
    np.testing.assert_array_equal(decoded(to_message(photos["coffee"], "image")), photos["coffee"])


def test_pil_images_are_turned_as_their_exif_says(photos) -> None:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    photos["chelsea"].save(buffer, "JPEG", exif=exif, quality=100)
    opened = Image.open(buffer)
    assert decoded(to_message(opened, "image")).size == (opened.height, opened.width)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "YCbCr", "F", "1"])
def test_every_mode_can_be_sent(photos, mode: str) -> None:
    assert decoded(to_message(photos["rocket"].convert(mode), "image")).size == photos["rocket"].size


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 3), (3, 4, 6), (1, 4, 6)])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64", "float16"])
def test_arrays_are_sent_as_pixels(shape: tuple[int, ...], dtype: str) -> None:
    pixels = np.ones(shape, dtype)
    sent = to_array(to_message(pixels, "image").pixels)
    assert sent.dtype == ("uint8" if dtype == "uint8" else "float32")
    np.testing.assert_array_equal(sent, pixels)


@pytest.mark.parametrize(
    "pixels", [np.zeros((2, 2, 2, 3)), np.zeros((4, 4, 2)), np.full((4, 4), 2.0), np.zeros((4, 4), "int64")]
)
def test_arrays_that_are_no_pictures(pixels) -> None:
    with pytest.raises(endoscope.errors.InvalidArgument, match="expected"):
        to_message(pixels, "image")


def test_file_that_is_not_there() -> None:
    with pytest.raises(endoscope.errors.InvalidArgument) as caught:
        encode(gradient_pb2.CreateAdversarialRequest, images=["there is none.png"])
    assert caught.value.field == "images[0]"


def test_picture_keeps_its_file(photo_files, tmp_path: Path) -> None:
    content = photo_files["rocket"].read_bytes()
    picture = Picture(content)
    picture.save(tmp_path / "same.png")
    picture.save(tmp_path / "other.jpg")
    picture.save(buffer := io.BytesIO())
    assert (tmp_path / "same.png").read_bytes() == content == buffer.getvalue()
    assert Image.open(tmp_path / "other.jpg").format == "JPEG"
    assert isinstance(picture, Image.Image)
    assert type(picture.resize((8, 8))) is Image.Image
    assert picture.provenance is None


@pytest.mark.parametrize("dtype", ["float16", "float64", "int8", "uint64", "bool", "complex64", ">f4"])
def test_tensors_go_and_come_back(dtype: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype)
    message = to_tensor(array, "tensor")
    np.testing.assert_array_equal(to_array(message), array)
    assert len(message.data) == array.nbytes


def test_request_from_what_people_have() -> None:
    request = encode(
        gradient_pb2.VisualizeClassRequest,
        model="m",
        classes=np.array([3, 4]),
        preset="fourier",
        steps=None,
        optimizer={"adam": {"learning_rate": 0.1}, "schedule": "cosine"},
        transforms=[{"jitter": {"pixels": 8}}],
    )
    assert list(request.classes) == [3, 4]
    assert request.preset == gradient_pb2.CLASS_PRESET_FOURIER
    assert not request.HasField("steps")
    assert request.optimizer.schedule == 3
    assert request.transforms.transforms[0].jitter.pixels == 8


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"preset": "pretty"}, "preset"),
        ({"classes": [1, "two"]}, "classes[1]"),
        ({"optimizer": {"adam": {"rate": 1}}}, "optimizer.adam.rate"),
        ({"transforms": [{"jitter": {"pixels": "x"}}]}, "transforms.transforms[0].jitter.pixels"),
        ({"regularizers": 3}, "regularizers"),
        ({"steps": 2**40}, "steps"),
    ],
)
def test_request_that_does_not_fit_names_its_field(fields, field: str) -> None:
    with pytest.raises(endoscope.errors.InvalidArgument) as caught:
        encode(gradient_pb2.VisualizeClassRequest, **fields)
    assert caught.value.field == field


def test_objectives_in_one_word() -> None:
    assert objectives.parse("967") == objectives.class_logit(967)
    assert objectives.parse("a.b") == objectives.layer("a.b")
    assert objectives.parse("a:b:7") == objectives.channel("a:b", 7)
    assert objectives.parse("a:7@2,3") == objectives.unit("a", 7, 2, 3)
    with pytest.raises(ValueError, match="LAYER:CHANNEL"):
        objectives.parse("a:seven")
    total = objectives.total((1, objectives.channel("a", 1)), (-0.5, objectives.direction("b", [1.0, 2.0])))
    assert total.sum.terms[1].weight == -0.5
    np.testing.assert_array_equal(to_array(total.sum.terms[1].objective.direction.direction), [1.0, 2.0])
