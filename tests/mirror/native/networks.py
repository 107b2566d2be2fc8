"""Random networks of small integers, whose sums are exact in any order and precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from endoscope_server.mirror.compiling.machine import Machine
from endoscope_server.mirror.kernels import Kernel
from endoscope_server.mirror.kernels.activation import Activated, Activation, clip, relu
from endoscope_server.mirror.kernels.convolution import Convolution
from endoscope_server.mirror.kernels.elementwise import Sum
from endoscope_server.mirror.kernels.layout import Concatenation
from endoscope_server.mirror.kernels.pooling import MaxPool
from endoscope_server.mirror.kernels.weights import Weights
from endoscope_server.mirror.native.stretch import Place, Stretch
from endoscope_server.mirror.spatial import Window


@dataclass
class Network:
    """Layers as a stretch, and the same by torch's functions.

    Attributes:
        inputs: Shapes of the inputs.
        places: The layers.
        shapes: Of all values.
        results: Slots of the values wanted.
    """

    inputs: list[tuple[int, ...]]
    places: list[Place] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    results: list[int] = field(default_factory=list)
    _same: list[Callable[..., Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.shapes = list(self.inputs)

    def add(self, kernel: Kernel, inputs: Sequence[int], same: Callable[..., Tensor]) -> int:
        """A layer; returns the slot of its result."""
        blank = [torch.zeros(self.shapes[slot], dtype=torch.float64) for slot in inputs]
        self.shapes.append(tuple(same(*blank).shape))
        self.places.append((kernel, tuple(inputs), len(self.shapes) - 1))
        self._same.append(same)
        return len(self.shapes) - 1

    def convolution(
        self,
        random: np.random.Generator,
        slot: int,
        out: int,
        kernel: tuple[int, int] = (3, 3),
        strides: tuple[int, int] = (1, 1),
        dilations: tuple[int, int] = (1, 1),
        pads: tuple[tuple[int, int], tuple[int, int]] = ((1, 1), (1, 1)),
        depthwise: bool = False,
        activation: Activation | None = relu,
        other: int | None = None,
    ) -> int:
        """A convolution of small integers."""
        into = self.shapes[slot][1]
        out, groups = (into, into) if depthwise else (out, 1)
        weight = _integers(random, (out, into // groups, *kernel))
        bias = _integers(random, (out,)) if random.random() < 0.7 else None
        window = Window(kernel, strides, dilations, pads, "NOTSET", False)

        def same(x: Tensor, added: Tensor | None = None) -> Tensor:
            x = functional.pad(x, (*pads[1], *pads[0]))
            double = None if bias is None else bias.double()
            y = functional.conv2d(x, weight.double(), double, strides, 0, dilations, groups)
            y = y if added is None else y + added
            return y if activation is None else activation.apply(y)

        made = Convolution(Weights(weight, bias), window, groups, activation)
        return self.add(made, [slot] if other is None else [slot, other], same)

    def max_pool(self, slot: int, kernel: int, stride: int, padding: int, ceil: bool) -> int:
        """The largest elements of windows."""
        made = MaxPool([kernel] * 2, [stride] * 2, [padding] * 2, [1, 1], ceil)
        return self.add(
            made, [slot], lambda x: functional.max_pool2d(x, kernel, stride, padding, ceil_mode=ceil)
        )

    def sum(self, first: int, second: int, activation: Activation | None) -> int:
        """The sum of two values."""

        def same(a: Tensor, b: Tensor) -> Tensor:
            return a + b if activation is None else activation.apply(a + b)

        return self.add(Sum(activation), [first, second], same)

    def activated(self, slot: int, activation: Activation) -> int:
        """An activation function by itself."""
        return self.add(Activated(activation), [slot], activation.apply)

    def concatenate(self, slots: Sequence[int]) -> int:
        """Values joined along the channels."""
        return self.add(Concatenation(1), slots, lambda *parts: torch.cat(parts, 1))

    def stretch(self, otherwise: Callable[..., Any] | None = None) -> Stretch:
        """The layers as one callable; fails where it doesn't make a program."""

        def never(*values: Tensor) -> tuple[Tensor, ...]:
            raise AssertionError("no program was made")

        return Stretch(self.places, len(self.inputs), self.results, otherwise or never)

    def exact(self, *values: Tensor) -> tuple[Tensor, ...]:
        """The results by torch's own functions."""
        known = list(values)
        for (_, inputs, _), same in zip(self.places, self._same, strict=True):
            known.append(same(*[known[slot] for slot in inputs]))
        return tuple(known[slot] for slot in self.results)

    def values(self, random: np.random.Generator) -> list[Tensor]:
        """Inputs of small integers."""
        return [_integers(random, shape) for shape in self.inputs]


def _integers(random: np.random.Generator, shape: Sequence[int]) -> Tensor:
    return torch.from_numpy(random.integers(-2, 3, tuple(shape)).astype(np.float32))


MACHINES = [Machine(16, 32), Machine(8, 16), Machine(4, 32)]
"""Processors that kernels are written for."""

ACTIVATIONS = (relu, clip(0.0, 6.0), clip(-3.0, 40.0), None)


def random_network(random: np.random.Generator) -> Network:
    """A few layers of any kind, with branches."""
    batch, height, width = (int(random.integers(low, high)) for low, high in ((1, 4), (5, 14), (5, 14)))
    channels = int(random.choice([1, 3, 4, 5, 16, 20, 33]))
    network = Network([(batch, channels, height, width)])
    for _ in range(int(random.integers(1, 6))):
        _add_layer(network, random)
    last = len(network.shapes) - 1
    network.results = sorted({last, int(random.integers(len(network.inputs), last + 1))})
    return network


def _add_layer(network: Network, random: np.random.Generator) -> None:
    slot = int(random.integers(max(0, len(network.shapes) - 3), len(network.shapes)))
    shape = network.shapes[slot]
    alike = [other for other, one in enumerate(network.shapes) if one == shape]
    around = [
        other
        for other, one in enumerate(network.shapes)
        if (one[0], *one[2:]) == (shape[0], *shape[2:]) and one[1] % 16 == 0
    ]
    kind = random.choice(["dense", "dense", "depthwise", "residual", "pool", "sum", "join", "clip"])
    activation = ACTIVATIONS[int(random.integers(len(ACTIVATIONS)))]
    if kind == "pool" and min(shape[2:]) >= 3:
        kernel = int(random.integers(2, 4))
        padding = int(random.integers(0, kernel // 2 + 1))
        network.max_pool(slot, kernel, int(random.integers(1, 3)), padding, bool(random.integers(2)))
    elif kind == "clip" and activation is not None:
        network.activated(slot, activation)
    elif kind == "sum" and len(alike) > 1:
        network.sum(slot, int(random.choice(alike)), activation)
    elif kind == "join" and around:
        network.concatenate([int(random.choice(around)) for _ in range(int(random.integers(1, 4)))] + [slot])
    elif kind == "residual":
        other = int(random.choice(alike))
        network.convolution(random, slot, shape[1], activation=activation, other=other)
    else:
        kernel = tuple(int(n) for n in random.integers(1, 4, 2))
        dilations = tuple(int(n) for n in random.integers(1, 3, 2))
        before, after = ([int(n) for n in random.integers(0, 3, 2)] for _ in range(2))
        sizes = [
            size + first + last - (taps - 1) * step
            for size, first, last, taps, step in zip(shape[2:], before, after, kernel, dilations, strict=True)
        ]
        if min(sizes) < 1:
            return
        network.convolution(
            random,
            slot,
            int(random.choice([1, 7, 16, 32, 48, 80])),
            kernel,
            tuple(int(n) for n in random.integers(1, 4, 2)),
            dilations,
            ((before[0], after[0]), (before[1], after[1])),
            depthwise=kind == "depthwise" and shape[1] > 1,
            activation=activation,
        )
