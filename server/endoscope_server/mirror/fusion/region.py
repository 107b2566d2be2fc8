"""Stretches of kernels as one differentiable function.

Within a region autograd records nothing: the kernels' backward passes are run in turn, gradients that meet
are summed in place, and memory that nobody else holds is used again. To autograd the region is one node. What
is run again and again for inputs of one form is replayed (:mod:`endoscope_server.mirror.fusion.replay`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from endoscope_server.errors import EndoscopeError
from endoscope_server.mirror.compiling.machine import machine
from endoscope_server.mirror.fusion.replay import Form, Replay, are_distinct, form_of
from endoscope_server.mirror.kernels import Kernel
from endoscope_server.mirror.kernels.convolution import Convolution
from endoscope_server.mirror.native.stretch import Stretch
from endoscope_server.mirror.native.support import is_supported
from endoscope_server.mirror.plan import Step, failed

# Forms for which what was worked out is kept: so many of the inputs, and so many of the gradients.
_CASES = 16
# Programs take and give maps of their own layout, and are worth it for so many convolutions.
_LEAST = 4


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
        self.places: list[tuple[Any, tuple[int, ...], int]] = [
            (step.function, tuple(slots[name] for name in step.inputs), slots[step.outputs[0]])
            for step in steps
        ]
        self.results = tuple(slots[name] for name in outputs)
        self._schedules: dict[tuple[bool, ...], tuple[_Call, ...]] = {}
        self._cases: dict[tuple[tuple[bool, ...], tuple[Form | None, ...]], _Case] = {}

    def __call__(self, *values: Tensor) -> tuple[Tensor, ...]:
        """The values of ``outputs`` from those of ``inputs``."""
        if torch.is_grad_enabled():
            needs = tuple([value.requires_grad for value in values])
            if True in needs:
                return _Run.apply(self, needs, *values)  # type: ignore[no-untyped-call]
        return tuple(self.case((False,) * len(values), values).forward(values))  # type: ignore[arg-type]

    def case(self, needs: tuple[bool, ...], values: Sequence[Tensor]) -> _Case:
        """How the region runs for inputs like ``values`` if gradients of some of them are asked for."""
        forms = tuple([form_of(value) for value in values])
        if None in forms or not are_distinct(values):
            return _Case(self, needs)
        case = self._cases.get((needs, forms))
        if case is None:
            if len(self._cases) >= _CASES:
                self._cases.clear()
            case = self._cases[needs, forms] = _Case(self, needs)
        return case

    def schedule(self, needs: tuple[bool, ...]) -> tuple[_Call, ...]:
        """The calls to make if gradients of some of the inputs are asked for."""
        calls = self._schedules.get(needs)
        if calls is None:
            calls = self._schedules[needs] = self._make_schedule(needs)
        return calls

    def _make_schedule(self, needs: tuple[bool, ...]) -> tuple[_Call, ...]:
        varies = [*needs, *[False] * (self._size - len(needs))]
        last = {
            slot: place for place, (_, inputs, output) in enumerate(self.places) for slot in (*inputs, output)
        }
        frees: list[list[int]] = [[] for _ in self.places]
        for slot, place in last.items():
            if slot not in self.results:
                frees[place].append(slot)
        calls = []
        for place, (kernel, inputs, output) in enumerate(self.places):
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
        return tuple([frame[slot] for slot in self.results])

    def differentiate(
        self, calls: Sequence[_Call], saved: Sequence[Any], gradients: Sequence[Tensor | None], count: int
    ) -> list[Tensor | None]:
        """Gradients of the ``count`` inputs from those of the outputs."""
        held: list[Tensor | None] = [None] * self._size
        owned = [False] * self._size
        for slot, gradient in zip(self.results, gradients, strict=True):
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


class _Case:
    """Runs of a region with inputs of one form.

    Args:
        region: The region.
        needs: For each input, whether its gradient is asked for.
    """

    def __init__(self, region: Region, needs: tuple[bool, ...]) -> None:
        self._region, self._inputs = region, len(needs)
        self._calls = region.schedule(needs)
        self._saves = True in needs
        self._saved: list[tuple[list[int], Any]] = []
        self._backwards: dict[tuple[tuple[bool, ...], tuple[Form | None, ...]], Replay] = {}
        self.forward = Replay(self._forward)
        """From the inputs to the outputs and what the backward pass needs."""

    def _forward(self, values: Sequence[Tensor]) -> list[Tensor]:
        saved: list[Any] | None = [] if self._saves else None
        results = self._region.run(values, self._calls, saved)
        kept: dict[int, tuple[int, Tensor]] = {}
        self._saved = [
            ([kept.setdefault(id(tensor), (len(kept), tensor))[0] for tensor in tensors], facts)
            for tensors, facts in saved or ()
        ]
        return [*results, *[tensor for _, tensor in kept.values()]]

    def backward(self, gradients: Sequence[Tensor | None], kept: Sequence[Tensor]) -> Sequence[Tensor | None]:
        """Gradients of the inputs from those of the outputs and what was kept."""
        present = tuple([gradient is not None for gradient in gradients])
        there = [gradient for gradient in gradients if gradient is not None]
        forms = tuple([form_of(gradient) for gradient in there])
        if None in forms:
            return self._backward(present, [*there, *kept])
        replay = self._backwards.get((present, forms))
        if replay is None:
            if len(self._backwards) >= _CASES:
                self._backwards.clear()
            replay = Replay(lambda tensors: self._backward(present, tensors))
            self._backwards[present, forms] = replay
        return replay([*there, *kept])

    def _backward(self, present: Sequence[bool], tensors: Sequence[Tensor]) -> list[Tensor | None]:
        rest = iter(tensors)
        gradients = [next(rest) if there else None for there in present]
        kept = list(rest)
        saved = [(tuple([kept[place] for place in places]), facts) for places, facts in self._saved]
        return self._region.differentiate(self._calls, saved, gradients, self._inputs)


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, region: Region, needs: tuple[bool, ...], *values: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        case = ctx.case = region.case(needs, values)
        results: Any = case.forward(values)
        count = len(region.outputs)
        ctx.save_for_backward(*results[count:])
        return tuple(results[:count])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        return None, None, *ctx.case.backward(gradients, ctx.saved_tensors)


def group(steps: Sequence[Step], wanted: Set[str]) -> list[Step]:
    """The steps with stretches of kernels in programs, where they can be, or in regions.

    A region ends with a value that is wanted, so that what follows can be differentiated with respect to it.
    """
    result: list[Step] = []
    stretch: list[Step] = []
    read_later = _readers_after(steps)

    def close() -> None:
        for part, programmed in _divided(stretch):
            result.append(_region(part, wanted, read_later, programmed))
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


def _region(
    stretch: Sequence[Step], wanted: Set[str], last_reader: dict[str, Step], programmed: bool
) -> Step:
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
    region = Region(stretch, inputs, outputs)
    function = Stretch(region.places, len(inputs), region.results, region) if programmed else region
    return Step(nodes, function, tuple(inputs), tuple(outputs))


def _divided(stretch: Sequence[Step]) -> list[tuple[list[Step], bool]]:
    """Parts of a stretch, and whether each is worth a program of its own."""
    possible = machine() is not None
    parts: list[tuple[list[Step], bool]] = []
    for fits, run in itertools.groupby(stretch, lambda step: possible and is_supported(step.function)):
        steps = list(run)
        worth = fits and sum(isinstance(step.function, Convolution) for step in steps) >= _LEAST
        if not worth and parts and not parts[-1][1]:
            parts[-1][0].extend(steps)
        else:
            parts.append((steps, worth))
    return parts
