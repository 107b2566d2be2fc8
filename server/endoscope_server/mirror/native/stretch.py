"""A stretch of layers as one differentiable function, by programs made for each form of its inputs."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from endoscope_server.mirror.compiling.machine import machine
from endoscope_server.mirror.kernels import Kernel
from endoscope_server.mirror.native.backward import Backward
from endoscope_server.mirror.native.forward import Forward
from endoscope_server.mirror.native.support import Layer, Misfit, Shape, layer

_UNKNOWN: Any = object()
# Programs of the process are kept while their tables take no more bytes together.
_KEPT = 128 << 20
_kept: deque[weakref.ref[_Case]] = deque()
_kept_lock = threading.Lock()

Place = tuple[Kernel, tuple[int, ...], int]
"""A kernel, the slots of its inputs and of its result."""


class Stretch:
    """Layers in order as one callable.

    Args:
        places: The layers.
        inputs: How many values come from outside; theirs are the first slots.
        results: Slots of the values that are needed outside.
        otherwise: Computes the same for inputs that programs aren't made for.
    """

    def __init__(
        self,
        places: Sequence[Place],
        inputs: int,
        results: Sequence[int],
        otherwise: Callable[..., tuple[Tensor, ...]],
    ) -> None:
        self._places, self._inputs, self._results = tuple(places), inputs, tuple(results)
        self._otherwise = otherwise
        self._lock = threading.Lock()
        self._cases: dict[Any, _Case | None] = {}

    def __call__(self, *values: Tensor) -> tuple[Tensor, ...]:
        """The results."""
        needs = tuple([value.requires_grad for value in values])
        if not torch.is_grad_enabled():
            needs = (False,) * len(values)
        case = self._case(needs, values)
        if case is None:
            return self._otherwise(*values)
        if True in needs:
            return _Run.apply(case, *values)  # type: ignore[no-untyped-call]
        return tuple(case.forward.run(values)[0])

    def _case(self, needs: tuple[bool, ...], values: Sequence[Tensor]) -> _Case | None:
        """Programs for such inputs; None if they are none for programs."""
        for value in values:
            if value.dtype != torch.float32 or value.device.type != "cpu" or value.dim() != 4:
                return None
            if type(value) is not Tensor and type(value) is not torch.nn.Parameter:
                return None
        key = needs, tuple([value.shape for value in values])
        with self._lock:
            # Another stretch may take it away meanwhile.
            case = self._cases.get(key, _UNKNOWN)
            if case is _UNKNOWN:
                case = self._cases[key] = self._make_case(key[1], needs)
            return case

    def _make_case(self, shapes: Sequence[Sequence[int]], needs: tuple[bool, ...]) -> _Case | None:
        try:
            layers = self._layers(shapes, needs)
            case = _Case(weakref.ref(self), layers, shapes, self._results, needs)
        except Misfit:
            return None
        _keep(case)
        return case

    def forget(self, case: _Case) -> None:
        """Lets programs go; they are made again when they are needed."""
        # Who makes a program now must not wait for who makes room for another.
        for key in [key for key, value in list(self._cases.items()) if value is case]:
            self._cases.pop(key, None)

    def _layers(self, shapes: Sequence[Sequence[int]], needs: Sequence[bool]) -> list[Layer]:
        known: dict[int, Shape] = {slot: tuple(shape) for slot, shape in enumerate(shapes)}  # type: ignore[misc]
        if any(min(shape) < 1 for shape in known.values()):
            raise Misfit
        varies = dict(enumerate(needs))
        layers = []
        for kernel, inputs, output in self._places:
            needed = tuple(varies[slot] for slot in inputs)
            made = layer(kernel, inputs, output, needed, [known[slot] for slot in inputs])
            known[output], varies[output] = made.shape, True in needed
            layers.append(made)
        return layers


class _Case:
    """Programs for inputs of one form."""

    def __init__(
        self,
        stretch: weakref.ref[Stretch],
        layers: Sequence[Layer],
        shapes: Any,
        results: Sequence[int],
        needs: tuple[bool, ...],
    ) -> None:
        processor = machine()
        assert processor is not None
        self.stretch = stretch
        self._machine, self._needs = processor, needs
        self._lock = threading.Lock()
        self._backwards: dict[tuple[bool, ...], Backward] = {}
        self.forward = Forward(processor, layers, shapes, results, True in needs, tiles=True)

    @property
    def size(self) -> int:
        """Bytes of the programs' tables."""
        return self.forward.program.size + sum(made.program.size for made in list(self._backwards.values()))

    def backward(self, present: tuple[bool, ...]) -> Backward:
        """The program for gradients of some of the results."""
        with self._lock:
            if present not in self._backwards:
                self._backwards[present] = Backward(self._machine, self.forward, present, self._needs)
            return self._backwards[present]


def _keep(case: _Case) -> None:
    """Keeps programs, and lets the oldest go for which there is no room."""
    with _kept_lock:
        _kept.append(weakref.ref(case))
        alive = [one for ref in _kept if (one := ref()) is not None]
        room = _KEPT - sum(one.size for one in alive)
        while room < 0 and len(alive) > 1:
            oldest = alive.pop(0)
            room += oldest.size
            if (stretch := oldest.stretch()) is not None:
                stretch.forget(oldest)
        _kept.clear()
        _kept.extend(weakref.ref(one) for one in alive)


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, case: _Case, *values: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.case = case
        results, kept = case.forward.run(values)
        ctx.save_for_backward(*kept)
        return tuple(results)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        program = ctx.case.backward(tuple([gradient is not None for gradient in gradients]))
        given = [gradient for gradient in gradients if gradient is not None]
        return None, *program.run(ctx.saved_tensors, given)
