"""The backward pass of layers as a program."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from endoscope_server.mirror.compiling.arena import View
from endoscope_server.mirror.compiling.machine import Machine
from endoscope_server.mirror.compiling.program import Program
from endoscope_server.mirror.native import tables
from endoscope_server.mirror.native.emitter import Emitter
from endoscope_server.mirror.native.flow import Flow
from endoscope_server.mirror.native.forward import Forward


class Backward:
    """The program that computes gradients of inputs from those of results.

    Args:
        machine: The processor.
        forward: The forward pass.
        present: For each of its results, whether there is a gradient.
        needs: For each of its inputs, whether the gradient is asked for.
    """

    def __init__(
        self, machine: Machine, forward: Forward, present: Sequence[bool], needs: Sequence[bool]
    ) -> None:
        self._forward, emitter = forward, Emitter(machine, True, forward.tiles)
        given = [slot for slot, there in zip(forward.results, present, strict=True) if there]
        self._given = [(slot, emitter.map(forward.shapes[slot])) for slot in given]
        layers = forward.layers
        flow = Flow(emitter, forward, given)
        for slot, view in self._given:
            flow.contribute(slot, view)
        flow.emit(layers[forward.early :])
        for image in range(layers[0].shape[0] if forward.early else 0):
            flow.of_image(image).emit(layers[: forward.early])
        self._found = [flow.results.get(slot) if need else None for slot, need in enumerate(needs)]
        buffers = [view.buffer for _, view in self._given]
        taken = [view.buffer for view in flow.results.values()]
        self.program = Program(machine, emitter.operations, buffers, taken, forward.program)

    def run(self, kept: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor | None]:
        """Gradients of the inputs.

        Args:
            kept: The forward pass's memory.
            gradients: Of those results that have one.
        """
        memory = self.program.allocate()
        for (_, view), gradient in zip(self._given, gradients, strict=True):
            view.of(memory).copy_(gradient)
        self.program.run(memory, kept)
        return [
            None if view is None else self._result(slot, view.of(memory))
            for slot, view in enumerate(self._found)
        ]

    def _result(self, slot: int, found: Tensor) -> Tensor:
        place = self._forward.inputs[slot]
        if isinstance(place, View):
            return found.clone()
        (height, width), (first, second) = place.geometry.size, tables.phased(place.geometry).sides
        images, _, rows, columns = found.shape
        channels = place.view.shape[1]
        phases = found.permute(0, 2, 3, 1).view(images, rows, columns, first, second, channels)
        whole = phases.permute(0, 5, 1, 3, 2, 4).reshape(images, channels, rows * first, columns * second)
        return whole[:, :, :height, :width].contiguous()
