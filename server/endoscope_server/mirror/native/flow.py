"""Gradients on their way back through layers."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from endoscope_server.mirror.compiling.arena import View
from endoscope_server.mirror.kernels.activation import Activated
from endoscope_server.mirror.kernels.convolution import Convolution
from endoscope_server.mirror.kernels.elementwise import Sum
from endoscope_server.mirror.kernels.layout import Concatenation
from endoscope_server.mirror.kernels.pooling import MaxPool
from endoscope_server.mirror.native import tables
from endoscope_server.mirror.native.emitter import (
    Bounds,
    Emitter,
    End,
    backward_weights,
    depthwise_weights,
    phased_weights,
)
from endoscope_server.mirror.native.forward import Forward, geometry_of
from endoscope_server.mirror.native.support import Layer, bounds, is_depthwise


class Flow:
    """Emits the operations of a backward pass.

    Gradients that meet are added, and masked by the function that they go through, by the kernel that
    computes the last of them.

    Args:
        emitter: Gets the operations.
        forward: The forward pass.
        given: Slots of results of which there are gradients.

    Attributes:
        results: Gradients of the inputs.
    """

    def __init__(self, emitter: Emitter, forward: Forward, given: Sequence[int]) -> None:
        self._emitter, self._forward, self._image = emitter, forward, -1
        self.results: dict[int, View] = {}
        self._gradients: defaultdict[int, list[View]] = defaultdict(list)
        self._left: defaultdict[int, int] = defaultdict(int)
        self._limits: dict[int, Bounds | None] = {
            layer.output: bounds(layer.kernel) for layer in forward.layers
        }
        self._reached = self._reach(given)
        self._shift_limits()

    def of_image(self, number: int) -> Flow:
        """What goes on from here for one image alone."""
        flow = copy.copy(self)
        flow._start(number, self._left, self._gradients)  # noqa: SLF001
        return flow

    def _start(self, image: int, left: Mapping[int, int], gradients: Mapping[int, Sequence[View]]) -> None:
        self._image, self._left, self._gradients = image, defaultdict(int, left), defaultdict(list)
        for slot, views in gradients.items():
            self._gradients[slot] = [view.image(image) for view in views]

    def emit(self, layers: Sequence[Layer]) -> None:
        """Takes gradients back through layers, the last one first."""
        for layer in reversed(layers):
            if layer in self._reached:
                self._emit(layer, self._gradients[layer.output][0])

    def contribute(self, slot: int, view: View) -> None:
        """Adds a gradient that lies somewhere already."""
        self._left[slot] -= 1
        found = self._gradients[slot]
        found.append(view)
        if self._left[slot]:
            return
        done = len(found) == 1 and self._limits.get(slot) is None and not self._is_input(slot)
        while not done:
            source, other = found.pop(), found.pop() if found else None
            done = not found
            out = self._out(slot) if done else self._map(slot)
            self._emitter.sum(source, self._end(slot, out, other, done))
            found.append(out)

    def _compute(self, slot: int, emit: Callable[[End], None]) -> None:
        """Adds a gradient that ``emit`` computes."""
        found = self._gradients[slot]
        if self._left[slot] == 1 and len(found) > 1:
            out = self._map(slot)
            emit(End(out))
            self.contribute(slot, out)
            return
        self._left[slot] -= 1
        other, last = found.pop() if found else None, not self._left[slot]
        out = self._out(slot) if last else self._map(slot)
        emit(self._end(slot, out, other, last))
        found.append(out)

    def _is_input(self, slot: int) -> bool:
        return slot < len(self._forward.inputs)

    def _map(self, slot: int) -> View:
        images, *rest = self._forward.shapes[slot]
        return self._emitter.map((images if self._image < 0 else 1, *rest))

    def _out(self, slot: int) -> View:
        """Where a whole gradient goes."""
        return self._result(slot, self._forward.shapes[slot]) if self._is_input(slot) else self._map(slot)

    def _result(self, slot: int, shape: Sequence[int]) -> View:
        if slot not in self.results:
            self.results[slot] = self._emitter.map(shape)
        return self.results[slot] if self._image < 0 else self.results[slot].image(self._image)

    def _kept(self, view: View) -> View:
        return view if self._image < 0 else view.image(self._image)

    def _reach(self, given: Sequence[int]) -> set[Layer]:
        """The layers that gradients pass; counts how many will meet at each slot."""
        for slot in given:
            self._left[slot] += 1
        reached = set()
        for layer in reversed(self._forward.layers):
            if self._left[layer.output] and True in layer.needs:
                reached.add(layer)
                for slot, need in zip(layer.inputs, layer.needs, strict=True):
                    self._left[slot] += need
        return reached

    def _shift_limits(self) -> None:
        """Masks what is concatenated at once, where all parts are clipped alike and go nowhere else."""
        maps = self._forward.maps
        for layer in reversed(self._forward.layers):
            if layer not in self._reached or not isinstance(layer.kernel, Concatenation):
                continue
            limits = {self._limits.get(slot) for slot in layer.inputs}
            whole = maps[layer.output].buffer
            alone = all(self._left[slot] == 1 and maps[slot].buffer is whole for slot in layer.inputs)
            if len(limits) == 1 and None not in limits and alone and all(layer.needs):
                self._limits[layer.output] = limits.pop()
                for slot in layer.inputs:
                    self._limits[slot] = None

    def _end(self, slot: int, out: View, other: View | None, last: bool) -> End:
        if not last or self._limits.get(slot) is None:
            return End(out, other)
        return End(out, other, mask=self._kept(self._forward.marks[slot]))

    def _emit(self, layer: Layer, gradient: View) -> None:
        kernel, slot = layer.kernel, layer.inputs[0]
        if isinstance(kernel, Concatenation):
            first = 0
            for part, need in zip(layer.inputs, layer.needs, strict=True):
                channels = self._forward.shapes[part][1]
                if need:
                    self.contribute(part, gradient.part(first, channels))
                first += channels
            return
        # What is added or clipped gets the gradient as it is, masked before.
        first_added = 0 if isinstance(kernel, (Activated, Sum)) else 1
        for other, need in zip(layer.inputs[first_added:], layer.needs[first_added:], strict=True):
            if need:
                self.contribute(other, gradient)
        if not layer.needs[0]:
            return
        if isinstance(kernel, MaxPool):
            chosen, geometry = self._kept(self._forward.chosen[layer]), geometry_of(layer)
            self._compute(slot, lambda end: self._emitter.max_pool_backward(gradient, chosen, geometry, end))
        elif isinstance(kernel, Convolution):
            if self._forward.is_surrounded(slot):
                self._emit_phases(layer, kernel, gradient)
            else:
                self._compute(slot, lambda end: self._emit_convolution(layer, kernel, gradient, end))

    def _emit_convolution(self, layer: Layer, kernel: Convolution, gradient: View, end: End) -> None:
        emitter, weights = self._emitter, kernel.weights
        if is_depthwise(kernel):
            sweeps = tables.swept_back(geometry_of(layer))
            for index, sweep in enumerate(sweeps, 1):
                factors = depthwise_weights(emitter.machine, weights, sweep.taps)
                emitter.depthwise(gradient, factors, None, sweep, end, wait=index == len(sweeps))
            return
        phases = tables.backward(geometry_of(layer))
        digits = emitter.cut(gradient, weights) if emitter.in_tiles(weights) else None
        for index, phase in enumerate(phases, 1):
            last, (taps, table, places) = index == len(phases), (phase.taps, phase.table, phase.places)
            # A phase without taps gets zeros.
            if digits is not None and taps:
                emitter.convolve(digits, weights, taps, table, places, end, last)
            else:
                packed = backward_weights(emitter.machine, weights, taps)
                emitter.dense(gradient, packed, None, table, places, weights.shape[0], end, last)

    def _emit_phases(self, layer: Layer, kernel: Convolution, gradient: View) -> None:
        """Few channels: those of all phases at once."""
        emitter, geometry = self._emitter, geometry_of(layer)
        phases = tables.phased(geometry)
        packed = phased_weights(emitter.machine, kernel.weights, geometry)
        channels = phases.sides[0] * phases.sides[1] * kernel.weights.shape[1]
        out = self._result(layer.inputs[0], (layer.shape[0], channels, *phases.counts))
        places = tables.all_places(phases.counts[0] * phases.counts[1])
        emitter.dense(gradient, packed, None, phases.table, places, kernel.weights.shape[0], End(out))
