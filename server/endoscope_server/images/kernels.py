"""The two passes of a resampling of 8-bit pixels, and what is done without one, compiled for this processor.

All numbers are of 32 bits, lest the compiler widen them; other threads run meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from endoscope_server.images.resampling import PRECISION

_HALF, _SHIFT = np.int32(1 << (PRECISION - 1)), np.int32(PRECISION)
_LOW, _HIGH = np.int32(0), np.int32(255)
_GREEN, _BLUE = np.int32(8), np.int32(16)
_BLOCK = 64

_OPTIONS: dict[str, Any] = {"nogil": True, "boundscheck": False, "error_model": "numpy"}
_compiled: Callable[[Callable[..., Any]], Callable[..., Any]] = numba.njit(**_OPTIONS)
_PIXELS = numba.types.Array(numba.uint8, 3, "A", readonly=True)
_TABLE = numba.types.Array(numba.float32, 2, "C", readonly=True)
_PLANES = numba.types.Array(numba.float32, 3, "A")


def _clipped(value: Any) -> Any:
    return min(max(value >> _SHIFT, _LOW), _HIGH)


_clip = _compiled(_clipped)


def _accumulate(pixels: Any, weight: Any, count: Any, sums: Any) -> None:
    red, green, blue = sums[0], sums[1], sums[2]
    for i in range(count):
        pixel = pixels[i]
        red[i] += weight * (pixel & _HIGH)
        green[i] += weight * ((pixel >> _GREEN) & _HIGH)
        blue[i] += weight * ((pixel >> _BLUE) & _HIGH)


_add = _compiled(_accumulate)


def _across(
    words: Any, first: Any, count: Any, weights: Any, left: Any, top: Any, turned: Any, middle: Any, sums: Any
) -> None:
    # A column's pixels one behind the other can be summed many at a time; as many as the cache has room for.
    columns, height = turned.shape
    red, green, blue = sums[0], sums[1], sums[2]
    for begin in range(0, middle.shape[0], height):
        rows = min(height, middle.shape[0] - begin)
        for block in range(0, columns, _BLOCK):
            for row in range(rows):
                line = words[top + begin + row]
                for column in range(block, min(columns, block + _BLOCK)):
                    turned[column, row] = line[left + column]
        for x in range(first.size):
            sums[:] = _HALF
            for tap in range(count[x]):
                _add(turned[first[x] - left + tap], weights[x, tap], rows, sums)
            for row in range(rows):
                red[row] = _clip(red[row]) | (_clip(green[row]) << _GREEN) | (_clip(blue[row]) << _BLUE)
            for row in range(rows):
                middle[begin + row, x] = red[row]


def _down(
    middle: Any, first: Any, count: Any, weights: Any, top: Any, table: Any, planes: Any, sums: Any
) -> None:
    width = middle.shape[1]
    for y in range(first.size):
        sums[:] = _HALF
        for tap in range(count[y]):
            _add(middle[first[y] - top + tap], weights[y, tap], width, sums)
        for channel in range(3):
            own, levels, found = sums[channel], table[channel], planes[channel, y]
            for x in range(width):
                found[x] = levels[_clip(own[x])]


def _look_up(pixels: Any, table: Any, planes: Any) -> None:
    rows, columns, channels = pixels.shape
    for channel in range(channels):
        levels = table[channel]
        for y in range(rows):
            for x in range(columns):
                planes[channel, y, x] = levels[pixels[y, x, channel]]


across = _compiled(_across)
"""From words by way of turned (columns x some rows) to middle (rows x results)."""

down = _compiled(_down)
"""From middle to planes (3 x results x width), through the table."""

# Compiled once for all layouts, and when this module is loaded.
look_up = numba.njit(numba.void(_PIXELS, _TABLE, _PLANES), **_OPTIONS)(_look_up)
"""From pixels (results x width x channels) to planes (channels x results x width), through the table."""
