"""Pillow's bicubic resampling: by Pillow, or bit for bit the same straight into a model's input.

A scan resizes every picture of a dataset, and beside a small network that is a large part of the work. Pillow
computes one pixel at a time; here the same whole numbers are computed many at a time, and each result goes
through a table of 256 entries, so that what would follow (conversion, division, mean, deviation, order of the
axes) costs nothing more. The kernels are compiled at their first use, which takes about a second.
"""

from __future__ import annotations

import functools
import sys
import threading
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

Box = tuple[float, float, float, float]

PRECISION = 22
"""Bits behind the point of a weight: 32, less 8 for a pixel, a sign, and one for overshoot."""

_CACHED = 2**17
"""Pixels that a processor's cache has room for: half a megabyte."""
_FEWEST_ROWS = 64
_SUPPORT = 2.0
_A = -0.5


@dataclass(frozen=True, slots=True)
class Taps:
    """The weights of one axis.

    Attributes:
        first: For each result, the first pixel that it is made of.
        count: How many pixels it is made of.
        weights: results x most pixels, whole numbers of 2^-22.
    """

    first: NDArray[np.int64]
    count: NDArray[np.int64]
    weights: NDArray[np.int32]

    @property
    def start(self) -> int:
        """The first pixel that any result needs."""
        return int(self.first[0])

    @property
    def length(self) -> int:
        """How many pixels from there on are needed."""
        return int(self.first[-1] + self.count[-1]) - self.start


@functools.lru_cache(maxsize=256)
def taps(size: int, low: float, high: float, results: int) -> Taps:
    """The weights that Pillow gives the pixels between two places, which need not be whole numbers.

    Args:
        size: Pixels along the axis.
        low: Where the first result begins.
        high: Where the last one ends.
        results: How many there are.
    """
    # Pillow has the two places in 32 bits, and the rest in 64.
    begins, ends = np.float32(low), np.float32(high)
    low, scale = float(begins), float(ends - begins) / results
    stretch = max(scale, 1.0)
    reach = _SUPPORT * stretch
    first = np.zeros(results, np.int64)
    count = np.zeros(results, np.int64)
    weights = np.zeros((results, int(np.ceil(reach)) * 2 + 1), np.int32)
    for index in range(results):
        centre = low + (index + 0.5) * scale
        # int() rounds towards zero, as C does.
        begin = max(int(centre - reach + 0.5), 0)
        end = min(int(centre + reach + 0.5), size)
        own = [_cubic((place - centre + 0.5) * (1.0 / stretch)) for place in range(begin, end)]
        total = 0.0
        for weight in own:
            total += weight
        if total != 0.0:
            own = [weight * (1.0 / total) for weight in own]
        first[index], count[index] = begin, end - begin
        weights[index, : end - begin] = [
            int(weight * (1 << PRECISION) + (-0.5 if weight < 0 else 0.5)) for weight in own
        ]
    return Taps(first, count, weights)


def _cubic(x: float) -> float:
    """The cubic convolution kernel (Keys 1981)."""
    x = abs(x)
    if x < 1.0:
        return ((_A + 2.0) * x - (_A + 3.0)) * x * x + 1
    if x < 2.0:
        return (((x - 5) * x + 8) * x - 4) * _A
    return 0.0


def resized(picture: Image.Image, box: Box, size: tuple[int, int]) -> Image.Image:
    """A part of a picture, resized.

    Pillow's releases differ in whether they begin with the rows or the columns, and so in the last bits of
    what is rounded between; asked for one after the other, all do the same.

    Args:
        picture: RGB or grey.
        box: Left, top, right and bottom of the part, inside the picture.
        size: Width and height of the result.
    """
    left, top, right, bottom = box
    bicubic = Image.Resampling.BICUBIC
    across = picture.resize((size[0], picture.height), bicubic, box=(left, 0, right, picture.height))
    return across.resize(size, bicubic, box=(0, top, size[0], bottom))


def resample(picture: Image.Image, box: Box, table: NDArray[np.float32], planes: NDArray[np.float32]) -> None:
    """Resize a part of a picture as :func:`resized` does, and write what a table makes of the pixels.

    Args:
        picture: RGB.
        box: Left, top, right and bottom of the part, inside the picture.
        table: 3 x 256, for red, green and blue: what each 8-bit level becomes.
        planes: 3 x height x width of the result, for red, green and blue; any strides.
    """
    words = _words(picture)
    height, width = planes.shape[1:]
    columns = taps(picture.width, box[0], box[2], width)
    rows = taps(picture.height, box[1], box[3], height)
    # At their first use: the import takes half a second, compiling one more.
    from endoscope_server.images.kernels import across, down

    turned, middle, sums = _SCRATCH.arrays(columns.length, rows.length, width)
    across(
        words, columns.first, columns.count, columns.weights, columns.start, rows.start, turned, middle, sums
    )
    down(middle, rows.first, rows.count, rows.weights, rows.start, table, planes, sums)


def look_up(pixels: NDArray[np.uint8], table: NDArray[np.float32], planes: NDArray[np.float32]) -> None:
    """Write what a table makes of pixels that need no resizing.

    Args:
        pixels: height x width x channels; any strides.
        table: channels x 256: what each 8-bit level becomes.
        planes: channels x height x width; any strides.
    """
    from endoscope_server.images import kernels

    kernels.look_up(pixels, table, planes)


def are_kernels_loaded() -> bool:
    """Whether what is done next need not wait for a compiler."""
    return "endoscope_server.images.kernels" in sys.modules


def _words(picture: Image.Image) -> NDArray[np.int32]:
    """The pixels of a picture (height x width), red in the lowest byte; without a copy where possible."""
    try:
        flat = pa.array(picture).flatten().to_numpy(zero_copy_only=True)
    except (ValueError, AttributeError, pa.ArrowException):
        # A large picture lies in several pieces.
        flat = np.asarray(picture.convert("RGBX")).reshape(-1)
    return flat.view("<i4").reshape(picture.height, picture.width)


class _Scratch(threading.local):
    """Memory between two passes, kept by each thread: fetching it anew takes longer than filling it."""

    def __init__(self) -> None:
        self._words = np.empty(0, np.int32)
        self._sums = np.empty((3, 0), np.int32)

    def arrays(
        self, columns: int, rows: int, width: int
    ) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
        """Arrays of columns x some rows, of rows x width, and of 3 x the larger of those and the width."""
        some = min(rows, max(_FEWEST_ROWS, _CACHED // columns // _FEWEST_ROWS * _FEWEST_ROWS))
        cut, needed = columns * some, columns * some + rows * width
        if needed > self._words.size:
            self._words = np.empty(needed, np.int32)
        if max(some, width) > self._sums.shape[1]:
            self._sums = np.empty((3, max(some, width)), np.int32)
        turned = self._words[:cut].reshape(columns, some)
        return turned, self._words[cut:needed].reshape(rows, width), self._sums


_SCRATCH = _Scratch()
