"""Pictures to bytes; the same picture always gives the same bytes."""

from __future__ import annotations

import enum
import io
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo


class ImageFormat(enum.Enum):
    """How a picture is encoded."""

    PNG = "PNG"
    JPEG = "JPEG"
    WEBP = "WEBP"

    @property
    def lossless(self) -> bool:
        """Whether it keeps every pixel."""
        return self is not ImageFormat.JPEG


def encode(
    picture: Image.Image, image_format: ImageFormat = ImageFormat.PNG, text: Mapping[str, str] | None = None
) -> bytes:
    """The picture as a file.

    Args:
        picture: RGB or grey.
        image_format: PNG and WebP are lossless; JPEG has quality 92 without subsampled colours.
        text: Stored in a PNG as text; other formats leave it out.
    """
    buffer = io.BytesIO()
    if image_format is ImageFormat.PNG:
        info = PngInfo()
        for key, value in (text or {}).items():
            info.add_itxt(key, value)
        picture.save(buffer, "PNG", pnginfo=info)
    elif image_format is ImageFormat.JPEG:
        picture.save(buffer, "JPEG", quality=92, subsampling=0)
    else:
        picture.save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


def to_picture(pixels: NDArray[np.generic]) -> Image.Image:
    """A channels x height x width array in [0, 1] (1 or 3 channels) as an 8-bit picture, clipped."""
    rounded = np.rint(np.clip(pixels.astype(np.float64), 0, 1) * 255).astype(np.uint8)
    return from_array(rounded)


def as_filed(pictures: NDArray[np.uint8], image_format: ImageFormat) -> NDArray[np.uint8]:
    """What somebody who decodes the pictures' files sees.

    Args:
        pictures: batch x channels x height x width.
        image_format: How they are encoded.

    Returns:
        The same shape; the same pixels, if the format is lossless.
    """
    if image_format.lossless:
        return pictures
    found = []
    for pixels in pictures:
        picture = from_array(pixels)
        values = np.asarray(Image.open(io.BytesIO(encode(picture, image_format))).convert(picture.mode))
        found.append(values[None] if values.ndim == 2 else values.transpose(2, 0, 1))
    return np.stack(found)


def from_array(pixels: NDArray[np.uint8]) -> Image.Image:
    """A picture of channels x height x width (1 or 3 channels) in 8 bits."""
    return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0).copy())
