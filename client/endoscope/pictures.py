"""Pictures between people's files and messages."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from endoscope.errors import invalid
from endoscope.tensors import to_array, to_tensor
from endoscope.v1 import image_pb2

PictureLike: TypeAlias = Image.Image | str | Path | bytes | NDArray[Any]
"""A PIL image; the path of a file; a file's bytes; or an array of height x width x channels,
channels x height x width or height x width, ``uint8`` in [0, 255] or floating-point in [0, 1]."""

TEXT_KEY = "endoscope"
"""The PNG text chunk in which the server tells how a picture was made, as JSON."""

_SENDABLE_MODES = frozenset({"1", "L", "LA", "I;16", "P", "RGB", "RGBA"})
"""What a PNG can hold as it is."""
_ENCODINGS = {"JPG": "JPEG"}


class Picture(Image.Image):
    """A PIL image that remembers the file it came in.

    It is a PIL image in every respect, and what PIL makes of it (``resize``, ``crop``, ...) is a plain one.
    Saved in its own format it is the server's file, byte for byte, with the provenance in it.

    Attributes:
        encoded: The file's bytes.
    """

    def __init__(self, encoded: bytes) -> None:
        super().__init__()
        with Image.open(io.BytesIO(encoded)) as opened:
            opened.load()
            self.im = opened.im
            self._mode = opened.mode
            self._size = opened.size
            self.info = dict(opened.info)
            self.palette = opened.palette
            self._encoding = opened.format or "PNG"
        self.encoded = encoded

    @property
    def encoding(self) -> str:
        """The file's format as PIL calls it, such as ``PNG``."""
        return self._encoding

    @property
    def provenance(self) -> dict[str, Any] | None:
        """How the picture was made: technique, model, parameters, seed, versions; None if it does not say."""
        return read_provenance(self)

    def save(self, fp: Any, format: str | None = None, **params: Any) -> None:  # noqa: A002  # PIL's own name
        """Write the file, as it came if the format is its own; otherwise as PIL does."""
        path = Path(fp) if isinstance(fp, (str, Path)) else None
        wanted = (format or (path.suffix[1:] if path else "") or self._encoding).upper()
        if params or _ENCODINGS.get(wanted, wanted) != self._encoding:
            super().save(fp, format, **params)
        elif path:
            path.write_bytes(self.encoded)
        else:
            fp.write(self.encoded)


def read_provenance(picture: Image.Image) -> dict[str, Any] | None:
    """What a picture's file says of how it was made; None if it says nothing."""
    text = picture.info.get(TEXT_KEY)
    told = json.loads(text) if isinstance(text, str) else None
    return told if isinstance(told, dict) else None


def to_picture(message: image_pb2.Image) -> Picture | None:
    """A picture of a response; None if it is not there."""
    if message.encoded:
        return Picture(message.encoded)
    pixels = to_array(message.pixels) if message.HasField("pixels") else None
    return None if pixels is None else Picture(_png(Image.fromarray(pixels)))


def to_message(picture: PictureLike | image_pb2.Image, field: str) -> image_pb2.Image:
    """A picture of a request. Files are sent as they are; PIL images as PNG, turned as their EXIF says.

    Raises:
        InvalidArgument: for a file that can't be read, or an array that is no picture.
    """
    match picture:
        case image_pb2.Image():
            return picture
        case Picture():
            return image_pb2.Image(encoded=picture.encoded)
        case Image.Image():
            return image_pb2.Image(encoded=_png(ImageOps.exif_transpose(picture)))
        case bytes() | bytearray() | memoryview():
            return image_pb2.Image(encoded=bytes(picture))
        case str() | Path():
            try:
                return image_pb2.Image(encoded=Path(picture).read_bytes())
            except OSError as error:
                raise invalid(f"can't read {str(picture)!r}: {error.strerror}", field) from error
        case _:
            return image_pb2.Image(pixels=to_tensor(_pixels(picture, field), field))


def _pixels(picture: Any, field: str) -> NDArray[Any]:
    pixels = np.asarray(picture)
    fits = pixels.ndim == 2 or (
        pixels.ndim == 3 and (pixels.shape[-1] in (1, 3) or pixels.shape[0] in (1, 3))
    )
    if not fits:
        raise invalid(
            f"an array of shape {pixels.shape} is no picture, expected height x width x channels, "
            "channels x height x width or height x width",
            field,
        )
    if pixels.dtype == np.uint8:
        return pixels
    if not np.issubdtype(pixels.dtype, np.floating):
        raise invalid(f"pixels of {pixels.dtype}, expected uint8 in [0, 255] or floats in [0, 1]", field)
    if not (pixels.size and pixels.min() >= 0 and pixels.max() <= 1):
        raise invalid("pixels out of range, expected floats in [0, 1]", field)
    return pixels.astype(np.float32, copy=False)


def _png(picture: Image.Image) -> bytes:
    sendable = picture if picture.mode in _SENDABLE_MODES else picture.convert("RGB")
    buffer = io.BytesIO()
    sendable.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
