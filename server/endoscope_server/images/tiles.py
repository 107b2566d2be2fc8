"""Many small pictures on one: grids, sheets with captions, heat maps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from endoscope_server.errors import LimitExceeded

MAX_PIXELS = 64_000_000

# Black, purple, orange, pale yellow: lightness rises evenly, so that the map reads without colour too.
_HEAT = np.array(
    [
        [0, 0, 4],
        [40, 11, 84],
        [101, 21, 110],
        [159, 42, 99],
        [212, 72, 66],
        [245, 125, 21],
        [250, 193, 39],
        [252, 255, 164],
    ],
    np.float64,
)


def square_columns(count: int) -> int:
    """How many columns make a grid of ``count`` tiles about square."""
    return max(1, math.ceil(math.sqrt(count)))


def signed(values: NDArray[np.generic], axes: tuple[int, ...]) -> NDArray[np.float32]:
    """Values with zero at mid-grey (0.5), scaled by the largest magnitude over ``axes`` to [0, 1]."""
    finite = np.nan_to_num(values.astype(np.float32))
    largest = np.abs(finite).max(axis=axes, keepdims=True)
    scaled: NDArray[np.float32] = finite / np.maximum(largest, np.finfo(np.float32).tiny)
    centred: NDArray[np.float32] = np.float32(0.5) + np.float32(0.5) * scaled
    return centred


def enlarge(batch: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """A batch (... x h x w) at another size by nearest neighbour, so that single weights stay visible."""
    rows = np.arange(height) * batch.shape[-2] // height
    columns = np.arange(width) * batch.shape[-1] // width
    return batch[..., rows[:, None], columns[None, :]]


def tile(batch: NDArray[np.float32], columns: int = 0, gap: int = 1, background: float = 1.0) -> Image.Image:
    """A batch of pictures as one.

    Args:
        batch: tiles x channels x height x width in [0, 1], with 1 or 3 channels; row by row.
        columns: Tiles in a row; 0 makes the picture about square.
        gap: Pixels between tiles.
        background: Grey level of the gaps, in [0, 1].

    Raises:
        LimitExceeded: if the picture would have more than 64 million pixels.
    """
    count, channels, height, width = batch.shape
    columns = min(columns or square_columns(count), count)
    rows = math.ceil(count / columns)
    total_height, total_width = rows * (height + gap) - gap, columns * (width + gap) - gap
    if total_height * total_width > MAX_PIXELS:
        raise LimitExceeded(
            f"{count} tiles of {height} x {width} make {total_height} x {total_width} pixels, "
            f"expected at most {MAX_PIXELS} in all",
            reason="IMAGE_TOO_LARGE",
        )
    shape = rows * columns, channels, height + gap, width + gap
    cells = np.full(shape, background, np.float32)
    cells[:count, :, :height, :width] = batch
    grid = cells.reshape(rows, columns, *shape[1:]).transpose(2, 0, 3, 1, 4)
    canvas = grid.reshape(channels, rows * (height + gap), columns * (width + gap))
    pixels = np.rint(np.clip(canvas[:, :total_height, :total_width], 0, 1) * 255).astype(np.uint8)
    return Image.fromarray(pixels[0] if channels == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def thumbnail(picture: Image.Image, side: int) -> Image.Image:
    """The picture in RGB, its longer side brought to ``side``, centred on a white square."""
    picture = picture.convert("RGB")
    ratio = side / max(picture.size)
    size = max(1, round(picture.width * ratio)), max(1, round(picture.height * ratio))
    # A patch of a few pixels is shown as the pixels it has.
    smooth = Image.Resampling.NEAREST if max(picture.size) * 3 <= side else Image.Resampling.LANCZOS
    canvas = Image.new("RGB", (side, side), (255, 255, 255))
    canvas.paste(picture.resize(size, smooth), ((side - size[0]) // 2, (side - size[1]) // 2))
    return canvas


def reduced(picture: Image.Image, side: int) -> Image.Image:
    """The picture in RGB, its longer side at most ``side``; a small one stays as it is."""
    picture = picture.convert("RGB")
    ratio = min(1.0, side / max(picture.size))
    size = max(1, round(picture.width * ratio)), max(1, round(picture.height * ratio))
    return picture if size == picture.size else picture.resize(size, Image.Resampling.LANCZOS)


def sheet(
    rows: Sequence[Sequence[Image.Image]],
    side: int,
    captions: Sequence[Sequence[str]] = (),
    titles: Sequence[str] = (),
) -> Image.Image:
    """Rows of thumbnails, with a caption under each and a title before each row.

    Args:
        rows: The pictures; rows may differ in length.
        side: Of a thumbnail, in pixels.
        captions: One for each picture, or nothing at all.
        titles: One for each row, or nothing at all.

    Raises:
        LimitExceeded: if the picture would have more than 64 million pixels.
    """
    letters = max(9, min(14, side // 7))
    font = ImageFont.load_default(letters)
    line = round(letters * 1.4)
    gap = 4
    left = max((math.ceil(font.getlength(title)) for title in titles), default=0)
    left += 2 * gap if left else gap
    cell_height = side + gap + (line if captions else 0)
    width = left + max((len(row) for row in rows), default=0) * (side + gap)
    height = gap + len(rows) * cell_height
    if width * height > MAX_PIXELS:
        raise LimitExceeded(
            f"the sheet would have {width} x {height} pixels, expected at most {MAX_PIXELS} in all",
            reason="IMAGE_TOO_LARGE",
        )
    canvas = Image.new("RGB", (width, height), (255, 255, 255))
    draw = ImageDraw.Draw(canvas)
    for y, row in enumerate(rows):
        top = gap + y * cell_height
        if titles:
            draw.text((gap, top + side / 2), titles[y], fill=(0, 0, 0), font=font, anchor="lm")
        for x, picture in enumerate(row):
            corner = left + x * (side + gap), top
            canvas.paste(thumbnail(picture, side), corner)
            if captions:
                text = _shortened(captions[y][x], font, side)
                place = corner[0] + side / 2, top + side + line / 2
                draw.text(place, text, fill=(60, 60, 60), font=font, anchor="mm")
    return canvas


def heat(values: NDArray[np.floating]) -> NDArray[np.float32]:
    """Colours (... x 3 in [0, 1]) for values in [0, 1], from black through purple and orange to yellow."""
    place = np.clip(np.nan_to_num(values), 0, 1) * (len(_HEAT) - 1)
    anchors = np.arange(len(_HEAT))
    channels = [np.interp(place, anchors, _HEAT[:, channel]) for channel in range(3)]
    return (np.stack(channels, axis=-1) / 255).astype(np.float32)


def overlay(picture: Image.Image, values: NDArray[np.floating], opacity: float = 0.75) -> Image.Image:
    """The picture in grey under a heat map.

    Args:
        picture: Any; it is shown in grey, so that colour is the map's alone.
        values: height x width of the picture, in [0, 1].
        opacity: Of the map where it is 1; where it is 0 the picture shows through.
    """
    grey = np.asarray(picture.convert("L"), np.float32)[..., None] / 255
    alpha = opacity * (0.35 + 0.65 * np.clip(values, 0, 1))[..., None]
    mixed = (1 - alpha) * grey + alpha * heat(values)
    return Image.fromarray(np.rint(np.clip(mixed, 0, 1) * 255).astype(np.uint8))


def _shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
