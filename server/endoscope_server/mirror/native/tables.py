"""Which pixel of a map each tap of a kernel meets, forward and back.

Maps are numbered row by row; -1 stands for padding. Tables are taps x places, so that what places lie side by
side is read together.
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ParamSpec, TypeVar

import cachetools
import cachetools.keys
import numpy as np
from numpy.typing import NDArray

Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")

Pair = tuple[int, int]
Table = NDArray[np.int32]
_Whole = NDArray[Any]
_Axis = tuple[_Whole, _Whole]

# What is remembered has so many bytes together at most.
_REMEMBERED = 32 << 20


def _bytes(value: Any) -> int:
    """About how much memory a result holds."""
    if isinstance(value, tuple):
        return sum(map(_bytes, value))
    parts = vars(value).values() if hasattr(value, "__dict__") else [value]
    return 1000 + sum(part.nbytes for part in parts if isinstance(part, np.ndarray))


_cache: cachetools.LRUCache[Any, Any] = cachetools.LRUCache(_REMEMBERED, _bytes)
_lock = threading.RLock()


def _remembered(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """The same, computed once while others don't need the room."""
    key = functools.partial(cachetools.keys.hashkey, function.__name__)
    remembering: Callable[[Any], Callable[Arguments, Result]] = cachetools.cached(_cache, key, _lock)
    return remembering(function)


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
        table: Taps x places: pixels of the result.
        places: Their pixels.
    """

    taps: tuple[int, ...]
    table: Table
    places: Table


@dataclass(frozen=True, eq=False)
class Sweep:
    """Rows of a map over which the same taps go, step by step.

    Attributes:
        taps: Numbers of the kernel's taps, row by row.
        step: Columns of the table from one place of a row to the next.
        offsets: The columns of a row's taps, from a place's first.
        table: Rows x rows of taps x columns: pixels of the other map.
        places: The first pixel of each row.
        apart: Pixels from one place of a row to the next.
        count: Places of a row.
    """

    taps: tuple[int, ...]
    step: int
    offsets: tuple[int, ...]
    table: Table
    places: Table
    apart: int
    count: int

    def rows(self, first: int, last: int) -> Sweep:
        """Some of the rows, whose places begin with the first one's."""
        return replace(self, table=self.table[first:last], places=self.places[: last - first])


@_remembered
def swept(geometry: Geometry, ring: int = 0) -> Sweep:
    """The result's rows; ``ring`` as for :func:`forward`."""
    rows = _reached(geometry, 0)
    offsets = np.arange(geometry.kernel[1]) * geometry.dilations[1]
    first, last = -geometry.starts[1], int(_reached(geometry, 1).max())
    places = np.arange(geometry.result[0], dtype=np.int32) * geometry.result[1]
    return Sweep(
        tuple(range(geometry.kernel[0] * geometry.kernel[1])),
        geometry.strides[1],
        tuple(offsets.tolist()),
        _columns(rows, np.arange(first, last + 1), geometry.size, ring),
        places,
        1,
        geometry.result[1],
    )


@_remembered
def swept_back(geometry: Geometry) -> tuple[Sweep, ...]:
    """The map's rows, by the phase of the stride that their places are in."""
    return tuple(_sweep_of(geometry, *phase) for phase in _phases(geometry))


def _sweep_of(geometry: Geometry, taps: tuple[int, ...], vertical: _Axis, horizontal: _Axis) -> Sweep:
    (places, rows), (others, columns) = vertical, horizontal
    first, last = (int(columns.min()), int(columns.max())) if columns.size else (0, -1)
    return Sweep(
        taps,
        1,
        tuple((columns[0] - first).tolist()),
        _columns(rows, np.arange(first, last + 1), geometry.result),
        (places * geometry.size[1] + others[0]).astype(np.int32),
        geometry.strides[1],
        len(others),
    )


def _columns(rows: _Whole, columns: _Whole, size: Pair, ring: int = 0) -> Table:
    """Places x taps of rows, and all columns."""
    return _pixels(rows[..., None], columns, size, ring)


def in_order(places: Table) -> bool:
    """Whether places are all of a map's, one after the other."""
    return int(places[-1]) == len(places) - 1


def table_fields(table: Table) -> dict[str, Any]:
    """Fields of an operation that tell where a table is, or some columns of one."""
    return {"table": table, "table_row": table.strides[0] // table.itemsize}


@_remembered
def all_places(pixels: int) -> Table:
    """Pixels in their order."""
    return np.arange(pixels, dtype=np.int32)


@_remembered
def forward(geometry: Geometry, ring: int = 0) -> Table:
    """The kernel's taps x the result's pixels: pixels of the map.

    Args:
        geometry: How the window moves.
        ring: How many rows of the map are kept, each in the place of the one that many before; 0 for all.
    """
    return _combined(_reached(geometry, 0), _reached(geometry, 1), geometry.size, ring)


def _reached(geometry: Geometry, axis: int) -> _Whole:
    """Places of the result along an axis x taps: places of the map."""
    places = np.arange(geometry.result[axis])[:, None] * geometry.strides[axis]
    return places + np.arange(geometry.kernel[axis]) * geometry.dilations[axis] - geometry.starts[axis]


@_remembered
def backward(geometry: Geometry) -> tuple[Phase, ...]:
    """The map's pixels, by the phase of the stride that they are in: pixels of the result for each tap."""
    phases = []
    for taps, (places, rows), (others, columns) in _phases(geometry):
        pixels = (places[:, None] * geometry.size[1] + others).reshape(-1).astype(np.int32)
        phases.append(Phase(taps, _combined(rows, columns, geometry.result), pixels))
    return tuple(phases)


def _phases(geometry: Geometry) -> Iterator[tuple[tuple[int, ...], _Axis, _Axis]]:
    """The phases of a stride that have places: their taps, and for rows and columns places of both maps."""
    for pair in itertools.product(*map(range, geometry.strides)):
        (places, taps, rows), (others, other_taps, columns) = (
            _back(geometry, axis, phase) for axis, phase in enumerate(pair)
        )
        if len(places) and len(others):
            numbers = tuple(int(a) * geometry.kernel[1] + int(b) for a in taps for b in other_taps)
            yield numbers, (places, rows), (others, columns)


def _back(geometry: Geometry, axis: int, phase: int) -> tuple[_Whole, _Whole, _Whole]:
    """Places along an axis, the taps that lead to them, and for both the result's places."""
    stride = geometry.strides[axis]
    places = np.arange(phase, geometry.size[axis], stride)
    taps = np.arange(geometry.kernel[axis])
    reached = phase + geometry.starts[axis] - taps * geometry.dilations[axis]
    taps = taps[reached % stride == 0]
    moved = places[:, None] + geometry.starts[axis] - taps * geometry.dilations[axis]
    return places, taps, moved // stride


def _combined(rows: _Whole, columns: _Whole, size: Pair, ring: int = 0) -> Table:
    """Taps x places of two axes from places x taps of each."""
    table = _pixels(rows.T[:, None, :, None], columns.T[None, :, None, :], size, ring)
    return table.reshape(rows.shape[1] * columns.shape[1], len(rows) * len(columns))


def _pixels(rows: _Whole, columns: _Whole, size: Pair, ring: int) -> Table:
    """Pixels of a map, -1 for those outside."""
    inside = (rows >= 0) & (rows < size[0]) & (columns >= 0) & (columns < size[1])
    return np.where(inside, rows % (ring or size[0]) * size[1] + columns, -1).astype(np.int32, order="C")


def repeated(table: Table, images: int, pixels: int) -> Table:
    """The table, or row of one, for several images in a row, of so many pixels each."""
    shifts = np.arange(images, dtype=np.int32)[:, None] * pixels
    apart = table[..., None, :]
    return np.where(apart < 0, apart, apart + shifts).reshape(*table.shape[:-1], images * table.shape[-1])


@_remembered
def gathered(geometry: Geometry) -> Table:
    """All of the kernel's taps x the map's pixels: pixels of the result."""
    pixels, taps = geometry.size[0] * geometry.size[1], geometry.kernel[0] * geometry.kernel[1]
    table = np.full((taps, pixels), -1, np.int32)
    for phase in backward(geometry):
        table[np.ix_(np.array(phase.taps, np.int32), phase.places)] = phase.table
    return table


@dataclass(frozen=True, eq=False)
class Phases:
    """All phases of a stride at once, and those of some places side by side.

    Row ``stride * n * i + a`` of the map meets row ``n * i + m`` of the result through row
    ``a + start - stride * m`` of the kernel, where ``n`` places are taken together.

    Attributes:
        sides: How many phases ``a`` each axis has.
        counts: How many places ``i``.
        table: Steps ``m`` of both axes x places: pixels of the result.
        rows: Phases x steps: rows of the kernel, some outside of it.
        columns: The same for columns.
    """

    sides: Pair
    counts: Pair
    table: Table
    rows: _Whole
    columns: _Whole


@_remembered
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
