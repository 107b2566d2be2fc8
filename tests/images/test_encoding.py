"""Pictures as files and back."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from endoscope_server.images.encoding import ImageFormat, as_filed, encode, from_array


def decoded(pixels: np.ndarray, image_format: ImageFormat) -> np.ndarray:
    """Channels x height x width of a picture's file."""
    picture = from_array(pixels)
    values = np.asarray(Image.open(io.BytesIO(encode(picture, image_format))).convert(picture.mode))
    return values[None] if values.ndim == 2 else values.transpose(2, 0, 1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("image_format", ImageFormat)
def test_what_is_filed_is_what_its_file_shows(image_format: ImageFormat, channels: int) -> None:
    pictures = np.random.default_rng(channels).integers(0, 256, (2, channels, 37, 53), np.uint8)
    filed = as_filed(pictures, image_format)
    assert filed.dtype == np.uint8
    for pixels, found in zip(pictures, filed, strict=True):
        np.testing.assert_array_equal(found, decoded(pixels, image_format))
    assert np.array_equal(filed, pictures) == image_format.lossless
