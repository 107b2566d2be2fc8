"""Pictures from untrusted bytes and arrays."""

from __future__ import annotations

import io
import warnings
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from endoscope_server.errors import InvalidInput, LimitExceeded

Scalar = TypeVar("Scalar", bound=np.generic)

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")

DEFAULT_MAX_PIXELS = 64_000_000
"""The largest picture that is decoded, in pixels: 192 MB as RGB."""

# The header is checked against our own limit before any pixel is decoded, so Pillow's guess of a
# decompression bomb has nothing to add.
Image.MAX_IMAGE_PIXELS = None

# The memory of a few pictures is kept for the next: fetching it anew takes a third of the time of decoding a
# photo of 500 x 375. Each is of 16 MB at most.
Image.core.set_blocks_max(8)  # type: ignore[attr-defined]  # documented, but not in its stubs


def decode(content: bytes, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image:
    """The picture in an encoded file, upright, in 8-bit RGB or grey.

    Args:
        content: A whole PNG, JPEG, WebP, GIF, BMP or TIFF file; of an animated one the first frame counts.
        max_pixels: What is larger is refused on the word of its header.

    Raises:
        InvalidInput: if it is no such file, or a broken one.
        LimitExceeded: if it is too large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture = Image.open(io.BytesIO(content), formats=FORMATS)
            if picture.width * picture.height > max_pixels:
                raise LimitExceeded(
                    f"the picture has {picture.width} x {picture.height} pixels, "
                    f"expected at most {max_pixels} in all",
                    reason="IMAGE_TOO_LARGE",
                )
            picture.load()
            ImageOps.exif_transpose(picture, in_place=True)
            return to_8_bit(picture)
    except UnidentifiedImageError as error:
        raise InvalidInput(
            f"the {len(content)} bytes are no picture, expected a {', '.join(FORMATS)} file",
            reason="NOT_AN_IMAGE",
        ) from error
    except (OSError, ValueError, SyntaxError, EOFError, ArithmeticError, IndexError, TypeError) as error:
        raise InvalidInput(f"the picture is broken: {error}", reason="BROKEN_IMAGE") from error


def to_8_bit(picture: Image.Image) -> Image.Image:
    """The picture in RGB or, where it has no colours, in 8-bit grey; 16 bits are scaled, not clipped."""
    if picture.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.mode in {"I", "F"}:
        return Image.fromarray(_stretch(np.asarray(picture, np.float64)))
    return picture if picture.mode in {"L", "RGB"} else picture.convert("RGB")


def from_pixels(pixels: NDArray[np.generic]) -> Image.Image:
    """The picture in an array.

    Args:
        pixels: channels x height x width or height x width x channels with 1 or 3 channels, or height x
            width; uint8, or floats in [0, 1].

    Raises:
        InvalidInput: for another shape, type or range.
    """
    pixels = channels_last(pixels)
    if pixels.dtype != np.uint8:
        if pixels.dtype.kind != "f":
            raise InvalidInput(
                f"the pixels are {pixels.dtype}, expected uint8 or float32", reason="WRONG_DTYPE"
            )
        if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
            raise InvalidInput("the pixels go beyond [0, 1]", reason="OUT_OF_RANGE")
        pixels = np.rint(pixels.astype(np.float64) * 255).astype(np.uint8)
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else np.ascontiguousarray(pixels))


def channels_last(pixels: NDArray[Scalar]) -> NDArray[Scalar]:
    """The array of a picture as height x width x channels, without a copy.

    Raises:
        InvalidInput: for a shape that is none of those of :func:`from_pixels`.
    """
    shape = list(pixels.shape)
    if pixels.ndim == 3 and shape[0] in (1, 3) and shape[2] not in (1, 3):
        pixels = pixels.transpose(1, 2, 0)
    elif pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or 0 in pixels.shape:
        raise InvalidInput(
            f"the pixels have the shape {shape}, expected 1 or 3 channels, first or last",
            reason="WRONG_SHAPE",
        )
    return pixels


def _stretch(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Grey levels of unknown range: 16-bit ones by their range, others from smallest to largest."""
    low, high = float(values.min()), float(values.max())
    if low >= 0 and 255 < high <= 65535:
        low, high = 0.0, 65535.0
    elif low >= 0 and high <= 255:
        low, high = 0.0, 255.0
    return np.rint((values - low) / max(high - low, 1e-12) * 255).astype(np.uint8)
