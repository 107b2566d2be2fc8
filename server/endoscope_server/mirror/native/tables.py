"""Which pixel of a map each tap of a kernel meets, forward and back.

Maps are numbered row by row; -1 stands for padding.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pair = tuple[int, int]
Table = NDArray[np.int32]
_Whole = NDArray[Any]


@dataclass(frozen=True)
class Geometry:
    """A window that moves over a map.

    Attributes:
        size: The map's height and width.
        result: The result's.
        kernel: The kernel's.
        strides: Between windows.
        dilations: Between taps.
        starts: Padding before the map.
    """

    size: Pair
    result: Pair
    kernel: Pair
    strides: Pair
    dilations: Pair
    starts: Pair


@dataclass(frozen=True, eq=False)
class Phase:
    """Places of a map that the same taps lead to.

    Attributes:
        taps: Numbers of the kernel's taps.
        table: Places x taps: pixels of the result.
        places: Their pixels.
    """

    taps: tuple[int, ...]
    table: Table
    places: Table


@functools.lru_cache(maxsize=64)
def all_places(pixels: int) -> Table:
    """Pixels in their order."""
    return np.arange(pixels, dtype=np.int32)


@functools.lru_cache(maxsize=64)
def forward(geometry: Geometry) -> Table:
    """The result's pixels x the kernel's taps: pixels of the map."""
    rows, columns = (
        np.arange(geometry.result[axis])[:, None] * geometry.strides[axis]
        + np.arange(geometry.kernel[axis]) * geometry.dilations[axis]
        - geometry.starts[axis]
        for axis in (0, 1)
    )
    return _combined(rows, columns, geometry.size)


@functools.lru_cache(maxsize=64)
def backward(geometry: Geometry) -> tuple[Phase, ...]:
    """The map's pixels, by the phase of the stride that they are in: pixels of the result for each tap."""
    phases = []
    for first in range(geometry.strides[0]):
        for second in range(geometry.strides[1]):
            found = [_back(geometry, axis, phase) for axis, phase in enumerate((first, second))]
            (places, taps, rows), (others, other_taps, columns) = found
            if not len(places) or not len(others):
                continue
            numbers = [int(a) * geometry.kernel[1] + int(b) for a in taps for b in other_taps]
            pixels = (places[:, None] * geometry.size[1] + others).reshape(-1).astype(np.int32)
            phases.append(Phase(tuple(numbers), _combined(rows, columns, geometry.result), pixels))
    return tuple(phases)


def _back(geometry: Geometry, axis: int, phase: int) -> tuple[_Whole, _Whole, _Whole]:
    """Places along an axis, the taps that lead to them, and for both the result's places."""
    stride = geometry.strides[axis]
    places = np.arange(phase, geometry.size[axis], stride)
    taps = np.arange(geometry.kernel[axis])
    reached = phase + geometry.starts[axis] - taps * geometry.dilations[axis]
    taps = taps[reached % stride == 0]
    moved = places[:, None] + geometry.starts[axis] - taps * geometry.dilations[axis]
    return places, taps, moved // stride


def _combined(rows: _Whole, columns: _Whole, size: Pair) -> Table:
    """Places x taps of two axes from those of each."""
    rows, columns = rows[:, None, :, None], columns[None, :, None, :]
    inside = (rows >= 0) & (rows < size[0]) & (columns >= 0) & (columns < size[1])
    table = np.where(inside, rows * size[1] + columns, -1)
    return np.ascontiguousarray(table.reshape(table.shape[0] * table.shape[1], -1), dtype=np.int32)


def repeated(table: Table, images: int, pixels: int) -> Table:
    """The table for several images in a row, of so many pixels each."""
    shifts = np.arange(images, dtype=np.int32)[:, None] * pixels
    flat = table.reshape(1, -1)
    return np.where(flat < 0, flat, flat + shifts).reshape(images * len(table), *table.shape[1:])


@functools.lru_cache(maxsize=64)
def gathered(geometry: Geometry) -> Table:
    """The map's pixels x all of the kernel's taps: pixels of the result."""
    pixels, taps = geometry.size[0] * geometry.size[1], geometry.kernel[0] * geometry.kernel[1]
    table = np.full((pixels, taps), -1, np.int32)
    for phase in backward(geometry):
        table[np.ix_(phase.places, np.array(phase.taps, np.int32))] = phase.table
    return table


@dataclass(frozen=True, eq=False)
class Phases:
    """All phases of a stride at once, and those of some places side by side.

    Row ``stride * n * i + a`` of the map meets row ``n * i + m`` of the result through row
    ``a + start - stride * m`` of the kernel, where ``n`` places are taken together.

    Attributes:
        sides: How many phases ``a`` each axis has.
        counts: How many places ``i``.
        table: Places x steps ``m`` of both axes: pixels of the result.
        rows: Phases x steps: rows of the kernel, some outside of it.
        columns: The same for columns.
    """

    sides: Pair
    counts: Pair
    table: Table
    rows: _Whole
    columns: _Whole


@functools.lru_cache(maxsize=64)
def phased(geometry: Geometry) -> Phases:
    """The phases of a window without dilation."""
    places, kernel, sides = [], [], []
    together = 2 if geometry.strides == (1, 1) else 1
    for axis in (0, 1):
        stride, start = geometry.strides[axis], geometry.starts[axis]
        side = stride * together
        steps = np.arange(-((geometry.kernel[axis] - 1 - start) // stride), (side - 1 + start) // stride + 1)
        count = -(-geometry.size[axis] // side)
        places.append(together * np.arange(count)[:, None] + steps)
        kernel.append(np.arange(side)[:, None] + start - stride * steps)
        sides.append(side)
    counts, table = (len(places[0]), len(places[1])), _combined(places[0], places[1], geometry.result)
    return Phases((sides[0], sides[1]), counts, table, kernel[0], kernel[1])
