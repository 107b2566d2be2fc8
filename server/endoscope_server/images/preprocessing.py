"""How a picture becomes a model's input: size, resize mode, range, mean, deviation, order, layout."""

from __future__ import annotations

import enum
import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from endoscope_server.errors import InvalidInput
from endoscope_server.images.decoding import channels_last, from_pixels
from endoscope_server.images.resampling import Box, look_up, resample, resized


class ResizeMode(enum.Enum):
    """How a picture is brought to the model's size."""

    CROP = "crop"
    """The shorter side is scaled to ``size / crop_fraction``, then the centre is cut out."""
    STRETCH = "stretch"
    """Both sides are scaled, whatever that does to the proportions."""
    PAD = "pad"
    """The longer side is scaled to the size, and the rest is filled with grey."""


class ChannelOrder(enum.Enum):
    """The order of the colour channels in the model's input."""

    RGB = "rgb"
    BGR = "bgr"
    GREY = "grey"


class Layout(enum.Enum):
    """The order of the axes of the model's input."""

    NCHW = "nchw"
    NHWC = "nhwc"


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What stands between a picture and a model's input.

    Pixels in [0, 1] are multiplied by ``scale``, the mean is subtracted, and the difference divided
    by the deviation: ``(scale * pixel - mean) / std``, channel by channel, in the model's own order.

    Attributes:
        height: Rows of the input, in pixels.
        width: Columns of the input, in pixels.
        resize: How a picture of another size is brought to it.
        crop_fraction: With ``ResizeMode.CROP``, the share of the shorter side that is kept, in (0, 1].
        scale: The value of a white pixel before the mean is subtracted; usually 1 or 255.
        mean: One value a channel, on the scale of ``scale``.
        std: One value a channel, positive.
        channel_order: RGB, BGR or grey.
        layout: NCHW or NHWC.

    Raises:
        InvalidInput: for a value out of its range.
    """

    height: int
    width: int
    resize: ResizeMode = ResizeMode.CROP
    crop_fraction: float = 0.875
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    channel_order: ChannelOrder = ChannelOrder.RGB
    layout: Layout = Layout.NCHW

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            if not 1 <= getattr(self, name) <= 16384:
                raise InvalidInput(f"{name} is {getattr(self, name)}, expected 1 to 16384", field=name)
        if not 0 < self.crop_fraction <= 1:
            raise InvalidInput(
                f"crop_fraction is {self.crop_fraction}, expected a number in (0, 1]", field="crop_fraction"
            )
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise InvalidInput(f"scale is {self.scale}, expected a positive finite number", field="scale")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) != self.channels or not all(map(math.isfinite, values)):
                raise InvalidInput(
                    f"{name} is {list(values)}, expected {self.channels} finite numbers", field=name
                )
        if min(self.std) <= 0:
            raise InvalidInput(f"std is {list(self.std)}, expected positive numbers", field="std")

    @property
    def channels(self) -> int:
        """How many channels the model's input has."""
        return 1 if self.channel_order is ChannelOrder.GREY else 3

    @property
    def shape(self) -> tuple[int, int, int]:
        """The model's input for one picture, without a batch axis."""
        channels, (width, height) = self.channels, self._size
        return (channels, height, width) if self.layout is Layout.NCHW else (height, width, channels)

    def fit(self, picture: Image.Image) -> Image.Image:
        """The picture in the model's size and colours (RGB or grey), resized as ``resize`` says."""
        mode = "L" if self.channel_order is ChannelOrder.GREY else "RGB"
        picture = picture if picture.mode == mode else picture.convert(mode)
        box = self._box(picture)
        if box is None:
            return self._pad(picture)
        if whole := self._whole(box):
            return picture if picture.size == self._size else picture.crop(whole)
        return resized(picture, box, self._size)

    def pixels(self, picture: Image.Image) -> NDArray[np.float32]:
        """The fitted picture as channels x height x width in [0, 1], red first."""
        values = np.asarray(self.fit(picture), dtype=np.float32) / np.float32(255)
        return values[None] if values.ndim == 2 else np.ascontiguousarray(values.transpose(2, 0, 1))

    def normalize(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """The model's input for a batch of pixels.

        Args:
            pixels: batch x channels x height x width in [0, 1], red first. Any height and width.

        Returns:
            float32 in the model's layout and channel order.
        """
        if self.channel_order is ChannelOrder.BGR:
            pixels = pixels[:, ::-1]
        mean = np.asarray(self.mean, np.float32).reshape(-1, 1, 1)
        std = np.asarray(self.std, np.float32).reshape(-1, 1, 1)
        # In place: fetching fresh memory would take longer than the arithmetic.
        values = np.multiply(pixels, np.float32(self.scale), dtype=np.float32)
        values -= mean
        values /= std
        if self.layout is Layout.NHWC:
            values = values.transpose(0, 2, 3, 1)
        return np.ascontiguousarray(values)

    def prepare(self, picture: Image.Image) -> NDArray[np.float32]:
        """The model's input for one picture, with a batch axis of 1."""
        return self.normalize(self.pixels(picture)[None])

    def write(self, picture: Image.Image, planes: NDArray[np.float32]) -> None:
        """Write the model's input for one picture where it belongs: what :meth:`prepare` gives, bit for bit.

        Args:
            picture: Of any size.
            planes: float32 of the input's shape without its batch axis; any strides.
        """
        box = self._box(picture)
        if self.channels == 3 and box is not None and self._whole(box) is None:
            colours = picture if picture.mode == "RGB" else picture.convert("RGB")
            resample(colours, box, _levels(self), self._red_first(planes))
            return
        pixels = np.asarray(self.fit(picture))
        self._look_up(pixels.reshape(self.height, self.width, self.channels), planes)

    def write_pixels(self, pixels: NDArray[np.uint8], planes: NDArray[np.float32]) -> None:
        """The same for the picture in an array; without Pillow where it has the model's size and colours.

        Raises:
            InvalidInput: for a shape that is none of those of :func:`from_pixels`.
        """
        pixels = channels_last(pixels)
        if pixels.shape == (self.height, self.width, self.channels):
            self._look_up(pixels, planes)
        else:
            self.write(from_pixels(pixels), planes)

    def _look_up(self, pixels: NDArray[np.uint8], planes: NDArray[np.float32]) -> None:
        look_up(pixels, _levels(self), self._red_first(planes))

    def _red_first(self, planes: NDArray[np.float32]) -> NDArray[np.float32]:
        """The input of one picture, seen as channels x height x width, red first."""
        planes = planes.transpose(2, 0, 1) if self.layout is Layout.NHWC else planes
        return planes[::-1] if self.channel_order is ChannelOrder.BGR else planes

    def _box(self, picture: Image.Image) -> Box | None:
        """The part of a picture that fills the input; None if the input has room beside the picture."""
        if self.resize is ResizeMode.STRETCH or picture.size == self._size:
            return 0.0, 0.0, float(picture.width), float(picture.height)
        if self.resize is ResizeMode.PAD:
            return None
        ratio = max(self.width / picture.width, self.height / picture.height)
        width = self.width / ratio * self.crop_fraction
        height = self.height / ratio * self.crop_fraction
        # Rounding must not lead out of the picture.
        left, top = max(0.0, (picture.width - width) / 2), max(0.0, (picture.height - height) / 2)
        return left, top, min(left + width, picture.width), min(top + height, picture.height)

    def _whole(self, box: Box) -> tuple[int, int, int, int] | None:
        """A box that holds the input's own pixels, so that nothing is to be resized; else None."""
        left, top, right, bottom = map(round, box)
        exact = (left, top, right, bottom) == box
        return (left, top, right, bottom) if exact and (right - left, bottom - top) == self._size else None

    @property
    def _size(self) -> tuple[int, int]:
        return self.width, self.height

    def _pad(self, picture: Image.Image) -> Image.Image:
        ratio = min(self.width / picture.width, self.height / picture.height)
        size = max(1, round(picture.width * ratio)), max(1, round(picture.height * ratio))
        grey = 128 if picture.mode == "L" else (128, 128, 128)
        canvas = Image.new(picture.mode, self._size, grey)
        corner = (self.width - size[0]) // 2, (self.height - size[1]) // 2
        canvas.paste(resized(picture, (0, 0, *picture.size), size), corner)
        return canvas


@functools.lru_cache(maxsize=64)
def _levels(preprocessing: Preprocessing) -> NDArray[np.float32]:
    """What becomes of each 8-bit level, for red, green and blue, or for grey: channels x 256."""
    levels = np.arange(256, dtype=np.float32) / np.float32(255)
    values = preprocessing.normalize(np.broadcast_to(levels, (1, preprocessing.channels, 1, 256)))
    table = values[0, 0].T if preprocessing.layout is Layout.NHWC else values[0, :, 0]
    return np.ascontiguousarray(table[::-1] if preprocessing.channel_order is ChannelOrder.BGR else table)
