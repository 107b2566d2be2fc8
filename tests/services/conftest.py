"""Messages that many tests of the services send."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from PIL import Image

from endoscope.v1 import image_pb2

MODEL = "models/efficientnet-lite0"


def as_message(picture: Image.Image) -> image_pb2.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return image_pb2.Image(encoded=buffer.getvalue())


@pytest.fixture(scope="session")
def photo(photos: dict[str, Image.Image]) -> Callable[[str], image_pb2.Image]:
    """A photo as a message, by name."""
    return lambda name: as_message(photos[name])
