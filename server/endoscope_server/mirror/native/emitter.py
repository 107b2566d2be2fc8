"""Layers as operations: kernels, their work divided in units, and constants packed for them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from endoscope_server.mirror.compiling.arena import Buffer, View
from endoscope_server.mirror.compiling.machine import Machine
from endoscope_server.mirror.compiling.program import UNITS, Field, Operation, shared
from endoscope_server.mirror.compiling.writing import mark_bytes
from endoscope_server.mirror.kernels.weights import Weights
from endoscope_server.mirror.native import dense, depthwise, entering, means, pooling, sums, tables, tiled
from endoscope_server.mirror.native.tables import Geometry, Pair, Sweep, Table

# Tiles that use the same weights one after the other.
_TILES = 8
# So many places of taps at most a block notes, if a tile doesn't have more.
_NOTED = 1 << 12
# So many pixels of pooled or summed maps are taken together at most.
_BLOCK = 64
# Images of few pixels are taken together, so that blocks of pixels are full.
_TOGETHER = 4096

Bounds = tuple[float, float]
"""What an activation function clips to."""

UNBOUNDED: Bounds = (-math.inf, math.inf)


@dataclass(frozen=True, eq=False)
class End:
    """What happens to results on their way.

    Attributes:
        out: Where they go.
        other: What is added.
        bounds: What the sum is clipped to.
        marks: Gets a bit for each element, whether it is within the bounds.
        mask: Such bits of elements that are kept, where others become zero.
    """

    out: View
    other: View | None = None
    bounds: Bounds = UNBOUNDED
    marks: View | None = None
    mask: View | None = None

    def fields(self) -> dict[str, Field]:
        """Fields of the operation."""
        low, high = self.bounds
        maps = {"out": self.out, "other": self.other, "mask": self.mask, "marks": self.marks}
        rows: dict[str, Field] = {f"{name}_row": view.row if view else 0 for name, view in maps.items()}
        # Nothing is above what is not a number: where no bound is, infinity passes.
        mark_high = math.nan if high == math.inf else float(high)
        return {**maps, **rows, "low": float(low), "high": float(high), "mark_high": mark_high}


class Emitter:
    """Collects operations.

    Args:
        machine: The processor.
        backward: Whether buffers belong to a backward pass.
        tiles: Whether convolutions may be computed in integer tiles.
    """

    def __init__(self, machine: Machine, backward: bool, tiles: bool = False) -> None:
        self.machine, self.backward, self.tiles = machine, backward, tiles
        self.operations: list[Operation] = []

    def map(self, shape: Sequence[int]) -> View:
        """A new map; its rows are filled up to whole vectors."""
        images, channels, height, width = shape
        row = self.padded(channels)
        buffer = Buffer(images * height * width * row, self.backward)
        return View(buffer, (images, channels, height, width), row)

    def marks(self, shape: Sequence[int]) -> View:
        """A bit for each element of a new map, to be kept."""
        images, channels, height, width = shape
        vectors = self.padded(channels) // self.machine.lanes
        return self._kept((images, vectors, height, width), vectors, mark_bytes(self.machine))

    def bytes(self, shape: Sequence[int]) -> View:
        """A new map of small integers, to be kept."""
        images, channels, height, width = shape
        return self._kept((images, channels, height, width), self.padded(channels), 1)

    def _kept(self, shape: tuple[int, int, int, int], row: int, size: int) -> View:
        """A new map to be kept, whose elements have so many bytes."""
        images, _, height, width = shape
        buffer = Buffer(-(-images * height * width * row * size // 4), self.backward, kept=True)
        return View(buffer, shape, row, width=size)

    def padded(self, channels: int) -> int:
        """Channels up to whole vectors."""
        return -(-channels // self.machine.lanes) * self.machine.lanes

    def dense(
        self,
        x: View,
        packed: Sequence[tuple[int, int, Tensor]],
        bias: Tensor | None,
        table: Table,
        places: Table,
        channels: int,
        end: End,
        wait: bool = True,
    ) -> None:
        """Products with gathered rows.

        Args:
            x: The input.
            packed: Weights, see :func:`endoscope_server.mirror.native.dense.pack`.
            bias: One for each output channel.
            table: Taps x the result's pixels: pixels of an image of the input.
            places: Where in an image of the result its pixels are.
            channels: How many numbers are read at each tap.
            end: What happens to the result.
            wait: Whether what follows needs it.
        """
        images, table, places, spans = self._together(x, end.out, table, places)
        column, in_order = 0, tables.in_order(places)
        for index, (vectors, panels, weights) in enumerate(packed):
            width = vectors * self.machine.lanes
            height = dense.heights(self.machine, vectors)[0]
            block = self._block(len(places), height, len(table))
            chunk = shared(panels, self._units(images, places, block), panels)
            chunks = -(-panels // chunk)
            slices = dense.slices(len(table), channels, width)
            fields: dict[str, Field] = {
                "units": self._units(images, places, block) * chunks,
                "blocks": -(-len(places) // block),
                "block": block,
                "chunks": chunks,
                "chunk": chunk,
                "panels": panels,
                "column": column,
                "pixels": len(places),
                "taps": len(table),
                "channels": channels,
                "input": x,
                "input_row": x.row,
                **tables.table_fields(table),
                "zeros": zeros(max(channels, width)),
                "weights": weights,
                "bias": self._bias(bias, end.out.shape[1]),
                "slices": slices,
                "slice_count": len(slices),
                "places": places,
                **spans,
                **end.fields(),
            }
            last = index == len(packed) - 1
            self._add(dense.build, (vectors, in_order), dense.FIELDS, fields, wait and last)
            column += panels * width

    def in_tiles(self, weights: Weights) -> bool:
        """Whether a dense convolution is computed in tiles."""
        return self.tiles and tiled.takes(self.machine, weights)

    def cut(self, x: View, weights: Weights) -> tiled.Digits:
        """Cuts what a convolution reads, or the gradient that goes back through it."""
        factors = tiled.factors(weights, self.backward)
        digits, operations = tiled.cut(x, factors, self.backward)
        self.operations.extend(operations)
        return digits

    def convolve(
        self,
        x: tiled.Digits,
        weights: Weights,
        taps: Sequence[int],
        table: Table,
        places: Table,
        end: End,
        wait: bool = True,
    ) -> None:
        """A dense convolution in tiles, or the gradient of its input; of some taps, else as for ``dense``."""
        packed = tiled.pack(weights, self.backward, taps)
        bias = None if self.backward else weights.bias
        fields: dict[str, Field] = {
            "bias": self._bias(bias, end.out.shape[1]),
            "out_image": end.out.pixels,
            **end.fields(),
        }
        images = end.out.shape[0]
        self.operations.append(tiled.convolve(x, packed, table, places, images, fields, wait))

    def depthwise(
        self, x: View, packed: Tensor, bias: Tensor | None, sweep: Sweep, end: End, wait: bool = True
    ) -> None:
        """Each channel with its own kernel; other arguments as for ``dense``."""
        rows, taps, span = sweep.table.shape
        segments = -(-sweep.count // depthwise.SEGMENT)
        fields: dict[str, Field] = {
            "units": x.shape[0] * rows * segments,
            "rows": rows,
            "columns": sweep.count,
            "segments": segments,
            "segment": -(-sweep.count // segments),
            "span": span,
            "vectors": self.padded(x.shape[1]) // self.machine.lanes,
            "input": x,
            "input_row": x.row,
            "input_image": x.pixels * x.row,
            "table": sweep.table,
            "zeros": zeros(x.row),
            "weights": packed,
            "bias": self._bias(bias, x.shape[1]),
            "places": sweep.places,
            "apart": sweep.apart,
            "out_image": end.out.pixels,
            **end.fields(),
        }
        most = depthwise.height(-(-sweep.count // segments))
        self._add(depthwise.build, (most, taps, sweep.step, *sweep.offsets), depthwise.FIELDS, fields, wait)

    def max_pool(self, x: View, chosen: View | None, table: Table, end: End) -> None:
        """The largest elements of windows, and in ``chosen`` the taps where they are."""
        self._pool(pooling.build, x, chosen, table, least(x.row), end)

    def max_pool_backward(self, gradient: View, chosen: View, geometry: Geometry, end: End) -> None:
        """The gradient of max pooling's input."""
        table = tables.gathered(geometry)
        self._pool(pooling.build_backward, gradient, chosen, table, zeros(gradient.row), end)

    def sum(self, x: View, end: End) -> None:
        """A map copied, or whatever ``end`` makes of it."""
        pixels = x.shape[0] * x.pixels
        fields: dict[str, Field] = {
            "input": x,
            "input_row": x.row,
            "vectors": self.padded(x.shape[1]) // self.machine.lanes,
            **self._blocks(1, pixels),
            **end.fields(),
        }
        self._add(sums.build, (), sums.FIELDS, fields)

    def mean(self, x: View, end: End) -> None:
        """The mean over each image's pixels."""
        vectors = self.padded(x.shape[1]) // self.machine.lanes
        groups = max(1, min(vectors, -(-UNITS // x.shape[0])))
        group = -(-vectors // groups)
        groups = -(-vectors // group)
        fields: dict[str, Field] = {
            "units": x.shape[0] * groups,
            "groups": groups,
            "group": group,
            "vectors": vectors,
            "pixels": x.pixels,
            "input": x,
            "input_row": x.row,
            "input_image": x.pixels * x.row,
            "count": float(x.pixels),
            **end.fields(),
        }
        self._add(means.build, (), means.FIELDS, fields)

    def enter(self, x: View, size: Pair, starts: Pair, out: View) -> None:
        """Pictures with zeros around them.

        Args:
            x: The pictures, each plane by plane.
            size: Their height and width.
            starts: Rows above and columns before them.
            out: Where they go, without gaps between pixels.
        """
        images, channels, rows, columns = out.shape
        plane = size[0] * size[1]
        fields: dict[str, Field] = {
            "units": images * rows,
            "input": x,
            "input_image": channels * plane,
            "plane": plane,
            "height": size[0],
            "width": size[1],
            "top": starts[0],
            "left": starts[1],
            "out": out,
            "out_rows": rows,
            "out_columns": columns,
        }
        self._add(entering.build, (channels,), entering.FIELDS, fields)

    def _pool(
        self,
        build: Callable[..., object],
        x: View,
        chosen: View | None,
        table: Table,
        padding: Tensor,
        end: End,
    ) -> None:
        fields: dict[str, Field] = {
            "input": x,
            "input_row": x.row,
            "input_image": x.pixels * x.row,
            **tables.table_fields(table),
            "zeros": padding,
            "taps_chosen": chosen,
            "taps_row": chosen.row if chosen else 0,
            "vectors": self.padded(x.shape[1]) // self.machine.lanes,
            "out_image": end.out.pixels,
            **self._blocks(x.shape[0], table.shape[1]),
            **end.fields(),
        }
        self._add(build, (len(table),), pooling.FIELDS, fields)

    def _add(
        self,
        build: Callable[..., object],
        arguments: tuple[int, ...],
        names: Sequence[str],
        fields: dict[str, Field],
        wait: bool = True,
    ) -> None:
        self.operations.append(Operation(build, arguments, names, fields, wait))

    def _together(
        self, x: View, out: View, table: Table, places: Table
    ) -> tuple[int, Table, Table, dict[str, Field]]:
        """Tables for all images at once if they are small; how many are left, and how far they are apart."""
        images = x.shape[0]
        if images > 1 and images * table.size <= _TOGETHER * 4 and images * len(places) <= _TOGETHER:
            table = tables.repeated(table, images, x.pixels)
            places = tables.repeated(places, images, out.pixels)
            images = 1
        return images, table, places, {"input_image": x.pixels * x.row, "out_image": out.pixels}

    @staticmethod
    def _block(pixels: int, height: int, taps: int) -> int:
        """How many pixels are taken together: whole tiles, blocks about alike."""
        tiles = max(1, min(_TILES, _NOTED // max(1, height * taps)))
        blocks = max(1, round(pixels / (tiles * height)))
        return math.ceil(pixels / blocks / height) * height

    @staticmethod
    def _units(images: int, places: Table, block: int) -> int:
        return images * -(-len(places) // block)

    def _blocks(self, images: int, pixels: int) -> dict[str, Field]:
        block = max(1, min(_BLOCK, images * pixels // UNITS))
        blocks = -(-pixels // block)
        return {"units": images * blocks, "blocks": blocks, "block": block, "pixels": pixels}

    def _bias(self, bias: Tensor | None, channels: int) -> Tensor:
        size = self.padded(channels)
        if bias is None:
            return zeros(size)
        return torch.nn.functional.pad(bias.detach().float(), (0, size - len(bias)))


@functools.lru_cache(maxsize=64)
def zeros(size: int) -> Tensor:
    """Zeros, to be read only."""
    return torch.zeros(size)


@functools.lru_cache(maxsize=64)
def least(size: int) -> Tensor:
    """Numbers below all others, to be read only."""
    return torch.full((size,), -math.inf)


def forward_weights(machine: Machine, weights: Weights) -> list[tuple[int, int, Tensor]]:
    """A dense convolution's weights."""
    return weights.packed(
        ("dense", machine), lambda: dense.pack(machine, weights.fold().flatten(2).permute(2, 1, 0))
    )


def backward_weights(
    machine: Machine, weights: Weights, taps: tuple[int, ...]
) -> list[tuple[int, int, Tensor]]:
    """The same for the gradient of its input, of some taps."""
    return weights.packed(
        ("dense", machine, taps),
        lambda: dense.pack(machine, weights.fold().flatten(2)[:, :, list(taps)].permute(2, 0, 1)),
    )


def depthwise_weights(machine: Machine, weights: Weights, taps: tuple[int, ...]) -> Tensor:
    """A depthwise convolution's weights, of some taps; alike forward and back."""
    return weights.packed(
        ("depthwise", machine, taps),
        lambda: depthwise.pack(machine, weights.fold().flatten(1)[:, list(taps)].t()),
    )


def rows_of_taps(machine: Machine, weights: Weights) -> list[tuple[int, int, Tensor]]:
    """A dense convolution's weights whose taps are the kernel's rows, of columns and channels together."""
    return weights.packed(
        ("rows", machine),
        lambda: dense.pack(machine, weights.fold().permute(2, 3, 1, 0).flatten(1, 2)),
    )


def phased_weights(machine: Machine, weights: Weights, geometry: Geometry) -> list[tuple[int, int, Tensor]]:
    """Weights for the gradient of all phases at once, see :class:`tables.Phases`."""
    return weights.packed(("phased", machine, geometry), lambda: _phased(machine, weights, geometry))


def _phased(machine: Machine, weights: Weights, geometry: Geometry) -> list[tuple[int, int, Tensor]]:
    phases = tables.phased(geometry)
    weight = weights.spread(torch.from_numpy(phases.rows), torch.from_numpy(phases.columns))
    return dense.pack(machine, weight.permute(3, 5, 0, 2, 4, 1).flatten(3).flatten(0, 1))
