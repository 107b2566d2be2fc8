"""Stretches of kernels as one differentiable function.

Within a region nothing is recorded: the kernels' backward passes are run in turn, gradients that meet are
summed in place, and memory that nobody else holds is used again. To autograd the region is one node.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from endoscope_server.errors import EndoscopeError
from endoscope_server.mirror.kernels import Kernel
from endoscope_server.mirror.plan import Step, failed


@dataclass(frozen=True)
class _Call:
    kernel: Any
    inputs: tuple[int, ...]
    output: int
    needs: tuple[bool, ...]
    frees: tuple[int, ...]


class Region:
    """Steps that are kernels, in order, as one callable.

    Args:
        steps: The steps.
        inputs: Names of the values that come from outside, each once.
        outputs: Names of the values that are needed outside.
    """

    def __init__(self, steps: Sequence[Step], inputs: Sequence[str], outputs: Sequence[str]) -> None:
        self.steps, self.inputs, self.outputs = tuple(steps), tuple(inputs), tuple(outputs)
        slots = {name: index for index, name in enumerate(inputs)}
        for step in steps:
            slots.setdefault(step.outputs[0], len(slots))
        self._size = len(slots)
        self._places = [
            (step.function, tuple(slots[name] for name in step.inputs), slots[step.outputs[0]])
            for step in steps
        ]
        self._results = tuple(slots[name] for name in outputs)
        self._schedules: dict[tuple[bool, ...], tuple[_Call, ...]] = {}

    def __call__(self, *values: Tensor) -> tuple[Tensor, ...]:
        """The values of ``outputs`` from those of ``inputs``."""
        if torch.is_grad_enabled():
            needs = tuple([value.requires_grad for value in values])
            if True in needs:
                return _Run.apply(self, needs, *values)  # type: ignore[no-untyped-call]
        return self.run(values, self.schedule((False,) * len(values)), None)

    def schedule(self, needs: tuple[bool, ...]) -> tuple[_Call, ...]:
        """The calls to make if gradients of some of the inputs are asked for."""
        calls = self._schedules.get(needs)
        if calls is None:
            calls = self._schedules[needs] = self._make_schedule(needs)
        return calls

    def _make_schedule(self, needs: tuple[bool, ...]) -> tuple[_Call, ...]:
        varies = [*needs, *[False] * (self._size - len(needs))]
        last = {
            slot: place
            for place, (_, inputs, output) in enumerate(self._places)
            for slot in (*inputs, output)
        }
        frees: list[list[int]] = [[] for _ in self._places]
        for slot, place in last.items():
            if slot not in self._results:
                frees[place].append(slot)
        calls = []
        for place, (kernel, inputs, output) in enumerate(self._places):
            needed = tuple(varies[slot] for slot in inputs)
            varies[output] = True in needed
            calls.append(_Call(kernel, inputs, output, needed, tuple(frees[place])))
        return tuple(calls)

    def run(
        self, values: Sequence[Tensor], calls: Sequence[_Call], saved: list[Any] | None
    ) -> tuple[Tensor, ...]:
        """Computes the outputs.

        Args:
            values: Of the inputs.
            calls: The schedule.
            saved: Gets what each call's backward pass needs.
        """
        frame: list[Any] = [*values, *[None] * (self._size - len(values))]
        for place, call in enumerate(calls):
            try:
                result, kept = call.kernel.forward([frame[slot] for slot in call.inputs], call.needs)
            except EndoscopeError:
                raise
            except Exception as error:
                raise failed(self.steps[place].nodes[0], error) from error
            frame[call.output] = result
            if saved is not None:
                saved.append(kept)
            for slot in call.frees:
                frame[slot] = None
        return tuple([frame[slot] for slot in self._results])

    def differentiate(
        self, calls: Sequence[_Call], saved: Sequence[Any], gradients: Sequence[Tensor | None], count: int
    ) -> list[Tensor | None]:
        """Gradients of the ``count`` inputs from those of the outputs."""
        held: list[Tensor | None] = [None] * self._size
        owned = [False] * self._size
        for slot, gradient in zip(self._results, gradients, strict=True):
            held[slot] = gradient
        for call, kept in zip(reversed(calls), reversed(saved), strict=True):
            output, needs = call.output, call.needs
            gradient = held[output]
            if gradient is None or True not in needs:
                continue
            held[output] = partial = None
            first = call.inputs[0]
            if call.kernel.accumulates and needs[0] and owned[first]:
                partial, held[first] = held[first], None
            results = call.kernel.backward((gradient, owned[output]), kept, needs, partial)
            owned[output] = False
            for slot, result in zip(call.inputs, results, strict=True):
                if result is None:
                    continue
                value, mine = result
                before = held[slot]
                if before is None:
                    held[slot], owned[slot] = value, mine
                elif owned[slot]:
                    before.add_(value)
                elif mine:
                    held[slot], owned[slot] = value.add_(before), True
                else:
                    held[slot], owned[slot] = before + value, True
        return held[:count]


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, region: Region, needs: tuple[bool, ...], *values: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        calls = region.schedule(needs)
        saved: list[Any] = []
        results = region.run(values, calls, saved)
        ctx.save_for_backward(*[tensor for tensors, _ in saved for tensor in tensors])
        ctx.region, ctx.calls = region, calls
        ctx.facts = [(len(tensors), facts) for tensors, facts in saved]
        ctx.count = len(values)
        return results

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        saved, start = [], 0
        for count, facts in ctx.facts:
            saved.append((tensors[start : start + count], facts))
            start += count
        return None, None, *ctx.region.differentiate(ctx.calls, saved, gradients, ctx.count)


def group(steps: Sequence[Step], wanted: Set[str]) -> list[Step]:
    """The steps with stretches of kernels in regions.

    A region ends with a value that is wanted, so that what follows can be differentiated with respect to it.
    """
    result: list[Step] = []
    stretch: list[Step] = []
    read_later = _readers_after(steps)

    def close() -> None:
        if stretch:
            result.append(_region(stretch, wanted, read_later))
            stretch.clear()

    for step in steps:
        if not isinstance(step.function, Kernel):
            close()
            result.append(step)
            continue
        stretch.append(step)
        if step.outputs[0] in wanted:
            close()
    close()
    return result


def _readers_after(steps: Sequence[Step]) -> dict[str, Step]:
    """The last step that reads each value."""
    return {name: step for step in steps for name in step.inputs if name}


def _region(stretch: Sequence[Step], wanted: Set[str], last_reader: dict[str, Step]) -> Step:
    within = set(stretch)
    computed = [step.outputs[0] for step in stretch]
    inputs = list(
        dict.fromkeys(name for step in stretch for name in step.inputs if name not in set(computed))
    )
    outputs = [
        name
        for name in computed
        if name in wanted or (name in last_reader and last_reader[name] not in within)
    ]
    nodes = tuple(node for step in stretch for node in step.nodes)
    return Step(nodes, Region(stretch, inputs, outputs), tuple(inputs), tuple(outputs))
