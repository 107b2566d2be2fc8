"""The forward pass of layers as a program."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from endoscope_server.mirror.compiling.arena import Buffer, View
from endoscope_server.mirror.compiling.machine import Machine
from endoscope_server.mirror.compiling.program import Program
from endoscope_server.mirror.kernels.activation import Activated
from endoscope_server.mirror.kernels.convolution import Convolution
from endoscope_server.mirror.kernels.elementwise import Sum
from endoscope_server.mirror.kernels.layout import Concatenation
from endoscope_server.mirror.kernels.pooling import MaxPool, Mean
from endoscope_server.mirror.native import tables
from endoscope_server.mirror.native.bands import Band, schedule
from endoscope_server.mirror.native.emitter import (
    UNBOUNDED,
    Emitter,
    End,
    depthwise_weights,
    forward_weights,
    rows_of_taps,
)
from endoscope_server.mirror.native.support import (
    FEW_CHANNELS,
    Layer,
    Misfit,
    Shape,
    bounds,
    early,
    is_depthwise,
)
from endoscope_server.mirror.native.tables import Geometry


@dataclass(frozen=True, eq=False)
class Surrounded:
    """An input of few channels with its padding around it, so that a row of taps is one stretch of memory.

    Attributes:
        view: The padded map.
        geometry: Of the convolution that reads it.
    """

    view: View
    geometry: Geometry

    def image(self, number: int | None) -> View:
        """The map of an image, which may be the only one there is at a time; or of all."""
        return self.view if number is None or self.view.shape[0] == 1 else self.view.image(number)

    def fill(self, memory: Sequence[Tensor], value: Tensor) -> None:
        """Writes the input and zeros around it."""
        whole = self.view.of(memory)
        whole.zero_()
        (top, left), (height, width) = self.geometry.starts, self.geometry.size
        whole[:, :, top : top + height, left : left + width] = value


class Forward:
    """The program that computes layers.

    Args:
        machine: The processor.
        layers: In order.
        shapes: Of the inputs, whose slots are the first ones.
        results: Slots of the values that are wanted.
        keeps: Whether what a backward pass needs is kept.
        banded: Whether large layers are taken band by band, which is good for one thread: several wait for
            each other more often.
        outside: Whether the input, pictures of few channels, is read where it is, plane by plane.
        tiles: Whether convolutions may be computed in integer tiles, which gives other bytes where layers are
            taken band by band.

    Attributes:
        early: How many of the layers are computed image by image, before all others.
        shapes: Of each slot's value.
        maps: Where each slot's value lies, if it does for all images at once.
        marks: For slots whose values are clipped, which of them lie within the bounds.
        chosen: For each layer that pools, where the taps it chose lie.
    """

    def __init__(
        self,
        machine: Machine,
        layers: Sequence[Layer],
        shapes: Sequence[Shape],
        results: Sequence[int],
        keeps: bool,
        banded: bool = False,
        outside: bool = False,
        tiles: bool = False,
    ) -> None:
        self.layers, self.results, self._keeps, self.tiles = layers, results, keeps, tiles
        self._emitter = Emitter(machine, False, tiles)
        self.early = early(layers, banded)
        self.shapes = {**dict(enumerate(shapes)), **{layer.output: layer.shape for layer in layers}}
        self.maps: dict[int, View] = {}
        self._passing: dict[int, View] = {}
        self.marks: dict[int, View] = {}
        self.chosen: dict[Layer, View] = {}
        self._pictures: View | None = None
        self.inputs: list[View | Surrounded] = [self._input(slot, shape) for slot, shape in enumerate(shapes)]
        if outside:
            self._read_outside(shapes)
        self._join(machine.lanes)
        for slot in self._lasting():
            self.maps.setdefault(slot, self._emitter.map(self.shapes[slot]))
        plan = schedule(layers[: self.early], set(self.maps), banded)
        self._rings = plan.rings
        for image in range(shapes[0][0] if self.early else 0):
            self._passing.clear()
            self._enter(image)
            for band in plan.bands:
                self._emit_band(band, image)
        if not self.early:
            self._enter(None)
        for layer in layers[self.early :]:
            self._emit(layer, None, 0, layer.shape[2])
        given = [] if outside else [self._buffer(place) for place in self.inputs]
        taken = [self.maps[slot].buffer for slot in results]
        self.program = Program(machine, self._emitter.operations, given, taken)

    def run(self, values: Sequence[Tensor]) -> tuple[list[Tensor], Sequence[Tensor]]:
        """The results, and the memory that a backward pass reads."""
        memory = self.program.allocate()
        for place, value in zip(self.inputs, values, strict=True):
            if isinstance(place, Surrounded):
                place.fill(memory, value)
            else:
                place.of(memory).copy_(value)
        self.program.run(memory)
        results = [self.maps[slot].of(memory).clone() for slot in self.results]
        return results, self.program.kept(memory)

    def run_outside(self, pictures: NDArray[np.float32], threads: int) -> list[NDArray[np.float32]]:
        """The results for pictures that are read where they are.

        Args:
            pictures: Without gaps.
            threads: How many compute.
        """
        memory = self.program.allocate()
        self.program.run(memory, outside=[pictures.ctypes.data], threads=threads)
        return [self.maps[slot].of(memory).numpy().copy(order="C") for slot in self.results]

    def is_surrounded(self, slot: int) -> bool:
        """Whether a slot is an input with its padding."""
        return slot < len(self.inputs) and isinstance(self.inputs[slot], Surrounded)

    def _read_outside(self, shapes: Sequence[Shape]) -> None:
        """Lets the program bring pictures to their map, one after the other if layers take them so."""
        if len(shapes) != 1 or not isinstance(place := self.inputs[0], Surrounded):
            raise Misfit
        [shape] = shapes
        self._pictures = View(Buffer(math.prod(shape), outside=True), shape, shape[1])
        if self.early:
            self.inputs[0] = self._surrounded((1, *shape[1:]), place.geometry)

    def _enter(self, image: int | None) -> None:
        """Emits what brings pictures to their map."""
        if self._pictures is not None and isinstance(place := self.inputs[0], Surrounded):
            x = self._pictures if image is None else self._pictures.image(image)
            self._emitter.enter(x, place.geometry.size, place.geometry.starts, place.view)

    @staticmethod
    def _buffer(place: View | Surrounded) -> Buffer:
        return place.view.buffer if isinstance(place, Surrounded) else place.buffer

    def _input(self, slot: int, shape: Shape) -> View | Surrounded:
        readers = [layer for layer in self.layers if slot in layer.inputs]
        if len(readers) == 1 and slot not in self.results and shape[1] <= FEW_CHANNELS:
            (reader,) = readers
            geometry, kernel = reader.geometry, reader.kernel
            dense = isinstance(kernel, Convolution) and kernel.groups == 1
            if dense and geometry is not None and geometry.dilations == (1, 1) and reader.inputs == (slot,):
                return self._surrounded(shape, geometry)
        self.maps[slot] = view = self._emitter.map(shape)
        return view

    @staticmethod
    def _surrounded(shape: Shape, geometry: Geometry) -> Surrounded:
        images, channels, *size = shape
        height, width = (
            max(start + length, (result - 1) * stride + taps)
            for start, length, result, stride, taps in zip(
                geometry.starts, size, geometry.result, geometry.strides, geometry.kernel, strict=True
            )
        )
        buffer = Buffer(images * channels * height * width)
        return Surrounded(View(buffer, (images, channels, height, width), channels), geometry)

    def _join(self, lanes: int) -> None:
        """Places what is concatenated where it will be needed."""
        produced = {layer.output: layer for layer in self.layers}
        for layer in reversed(self.layers):
            if not isinstance(layer.kernel, Concatenation):
                continue
            sizes = [self._channels(slot, produced) for slot in layer.inputs]
            if any(size % lanes for size in sizes[:-1]):
                raise Misfit
            whole = self.maps.setdefault(layer.output, self._emitter.map(layer.shape))
            marks = self.marks.setdefault(layer.output, self._emitter.marks(layer.shape))
            first = 0
            for slot, size in zip(layer.inputs, sizes, strict=True):
                if slot in produced and slot not in self.maps:
                    self.maps[slot] = whole.part(first, size)
                    self.marks[slot] = marks.part(first // lanes, -(-size // lanes))
                first += size

    def _channels(self, slot: int, produced: Mapping[int, Layer]) -> int:
        if slot in produced:
            return produced[slot].shape[1]
        if self.is_surrounded(slot):
            raise Misfit
        return self.maps[slot].shape[1]

    def _lasting(self) -> set[int]:
        """Slots of values that are needed for all images at once."""
        late = self.layers[self.early :]
        lasting = {*self.results, *(layer.output for layer in late)}
        lasting.update(slot for layer in late for slot in layer.inputs if not self.is_surrounded(slot))
        return lasting

    def _marks(self, layer: Layer, image: int | None) -> View | None:
        """Where it is marked what of a layer's result a backward pass passes on."""
        if not self._keeps or bounds(layer.kernel) is None or True not in layer.needs:
            return None
        if layer.output not in self.marks:
            self.marks[layer.output] = self._emitter.marks(layer.shape)
        whole = self.marks[layer.output]
        return whole if image is None else whole.image(image)

    def _map(self, slot: int, image: int | None) -> View:
        """Where a value lies, or that of one image."""
        if image is None:
            return self.maps[slot]
        if slot in self.maps:
            return self.maps[slot].image(image)
        if slot not in self._passing:
            _, channels, _, width = self.shapes[slot]
            self._passing[slot] = self._emitter.map((1, channels, self._rings[slot], width))
        return self._passing[slot]

    def _ring(self, slot: int, image: int | None) -> int:
        """How many rows of a value are kept."""
        return self.shapes[slot][2] if image is None or slot in self.maps else self._rings[slot]

    def _rows(self, slot: int, image: int | None, first: int, last: int) -> View:
        """Where rows of a value lie."""
        start = first % self._ring(slot, image)
        return self._map(slot, image).rows(start, start + last - first)

    def _emit_band(self, band: Band, image: int) -> None:
        """Emits rows of a layer, in parts none of which is at the end and the beginning of a ring."""
        layer, kernel = band.layer, band.layer.kernel
        windowed = isinstance(kernel, (Convolution, MaxPool, Mean))
        slots = [layer.output, *layer.inputs[1 if windowed else 0 :]]
        rings = [self._ring(slot, image) for slot in slots]
        cuts = {row for ring in rings for row in range(band.first, band.last) if row % ring == 0}
        for first, last in itertools.pairwise(sorted({band.first, *cuts, band.last})):
            self._emit(layer, image, first, last)

    def _emit(self, layer: Layer, image: int | None, first: int, last: int) -> None:
        """Emits rows of a layer, of one image or all rows of all."""
        kernel = layer.kernel
        if isinstance(kernel, Concatenation):
            self._emit_concatenation(layer, image, first, last)
            return
        limits, marks = bounds(kernel) or UNBOUNDED, self._marks(layer, image)
        out = self._rows(layer.output, image, first, last)
        end = End(out, bounds=limits, marks=marks and marks.rows(first, last))
        if isinstance(kernel, Convolution):
            if len(layer.inputs) > 1:
                end = replace(end, other=self._rows(layer.inputs[1], image, first, last))
            self._emit_convolution(layer, kernel, end, image, range(first, last))
        elif isinstance(kernel, MaxPool):
            slot, chosen, width = layer.inputs[0], self._chosen(layer, image), layer.shape[3]
            table = tables.forward(geometry_of(layer), self._ring(slot, image))
            table = table[:, first * width : last * width]
            self._emitter.max_pool(self._map(slot, image), chosen and chosen.rows(first, last), table, end)
        elif isinstance(kernel, Mean):
            self._emitter.mean(self._map(layer.inputs[0], image), end)
        else:
            assert isinstance(kernel, (Activated, Sum))
            x, *others = (self._rows(slot, image, first, last) for slot in layer.inputs)
            self._emitter.sum(x, replace(end, other=others[0] if others else None))

    def _chosen(self, layer: Layer, image: int | None) -> View | None:
        if not self._keeps or not layer.needs[0]:
            return None
        if layer not in self.chosen:
            self.chosen[layer] = self._emitter.bytes(layer.shape)
        return self.chosen[layer] if image is None else self.chosen[layer].image(image)

    def _emit_convolution(
        self, layer: Layer, kernel: Convolution, end: End, image: int | None, rows: range
    ) -> None:
        emitter, geometry, weights = self._emitter, geometry_of(layer), kernel.weights
        slot = layer.inputs[0]
        place = self.inputs[slot] if slot < len(self.inputs) else None
        width = geometry.result[1]
        pixels = slice(rows.start * width, rows.stop * width)
        places = tables.all_places(len(rows) * width)
        if isinstance(place, Surrounded):
            kernel_size, size = (geometry.kernel[0], 1), place.view.shape[2:]
            moved = replace(geometry, size=size, kernel=kernel_size, starts=(0, 0))
            packed = rows_of_taps(emitter.machine, weights)
            line = geometry.kernel[1] * weights.shape[1]
            emitter.dense(
                place.image(image), packed, weights.bias, tables.forward(moved)[:, pixels], places, line, end
            )
            return
        x, ring = self._map(slot, image), self._ring(slot, image)
        if is_depthwise(kernel):
            sweep = tables.swept(geometry, ring)
            taps = depthwise_weights(emitter.machine, weights, sweep.taps)
            emitter.depthwise(x, taps, weights.bias, sweep.rows(rows.start, rows.stop), end)
        else:
            table = tables.forward(geometry, ring)[:, pixels]
            if emitter.in_tiles(weights):
                emitter.convolve(emitter.cut(x, weights), weights, range(len(table)), table, places, end)
                return
            packed = forward_weights(emitter.machine, weights)
            emitter.dense(x, packed, weights.bias, table, places, weights.shape[1], end)

    def _emit_concatenation(self, layer: Layer, image: int | None, first: int, last: int) -> None:
        whole, channel = self._rows(layer.output, image, first, last), 0
        for slot in layer.inputs:
            source = self._rows(slot, image, first, last)
            channels = source.shape[1]
            part = whole.part(channel, channels)
            if source.buffer is not part.buffer or source.first != part.first:
                self._emitter.sum(source, End(part))
            channel += channels


def geometry_of(layer: Layer) -> Geometry:
    """The geometry of a layer that has a window."""
    assert layer.geometry is not None
    return layer.geometry
